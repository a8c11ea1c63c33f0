"""RUN in namespaces: on this machine as root, and in a container as a default Pod's."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pybuild.image.digest import digest_of
from pybuild.isolation.command import Isolation, Network, Root, RunMount, Secret
from pybuild.isolation.mounts import Entering, Setup
from pybuild.isolation.namespace import Namespace
from pybuild.isolation.process import DOCKER_CAPABILITIES, Runner
from pybuild.rootfs.ids import Ids
from tests.support import bundle
from tests.support.isolation_driver import Image, busybox_tar, isolation, layer_tar, run

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/bin/busybox").exists(),
    reason="needs root and /bin/busybox (Debian: busybox-static)",
)


MOUNTS = Path("/proc/self/mountinfo")


def machine_state() -> tuple[object, ...]:
    """What no RUN may change: the machine's devices, configuration and mounts. Other tests mount
    below their own directories meanwhile."""

    def listing(directory: str) -> list[tuple[object, ...]]:
        found = []
        for path in sorted(Path(directory).iterdir()):
            info = path.lstat()
            found.append((path.name, info.st_mode, info.st_uid, info.st_gid, info.st_rdev))
        return found

    points = {line.split(" ")[4] for line in MOUNTS.read_text().splitlines()}
    own = sorted(point for point in points if re.match(r"/$|/(dev|etc|proc|sys|usr|bin)\b", point))
    return listing("/dev"), listing("/etc"), listing("/"), own


@pytest.fixture(scope="module")
def image() -> Image:
    return Image(busybox_tar())


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Isolation]:
    before = machine_state()
    workdir = tmp_path_factory.mktemp("namespace")
    with isolation("namespace", workdir) as chosen:
        yield chosen
    assert list(workdir.iterdir()) == []
    assert machine_state() == before
    assert str(workdir) not in MOUNTS.read_text()


@pytest.fixture
def root(namespace: Isolation, image: Image) -> Iterator[Root]:
    root = namespace.open_root()
    root.apply(image.layers)
    yield root
    root.close()


def test_status_streams_and_surroundings(root: Root) -> None:
    ran = run(root, "echo $GREETING; echo bad >&2; umask; pwd; cat; exit 7", cwd="/var/data")
    assert (ran.status, ran.out, ran.err) == (7, "hello\n0022\n/var/data\n", "bad\n")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(("nope",), "program-missing", id="not in PATH"),
        pytest.param(("/bin/nope",), "program-missing", id="not there"),
        pytest.param(("/etc/passwd",), "program-not-executable", id="no x bit"),
        pytest.param(("/etc",), "program-not-executable", id="a directory"),
    ],
)
def test_a_program_that_cannot_start_is_named(root: Root, argv: tuple[str, ...], code: str) -> None:
    ran = run(root, argv)
    assert ran.error == code
    assert argv[0] in ran.message


def test_a_working_directory_that_is_missing_is_named(root: Root) -> None:
    ran = run(root, "true", cwd="/no/such")
    assert ran.error == "working-directory-missing"
    assert "/no/such" in ran.message


def test_death_by_a_signal_is_128_and_its_number(root: Root) -> None:
    # the command itself is process 1, which no signal of its own kills, as in other builders
    assert run(root, "sh -c 'kill -TERM $$'; exit $?").status == 143


def test_only_own_processes_are_seen(root: Root) -> None:
    ran = run(root, "ps -o pid,comm; ls -d /proc/[0-9]* | wc -l; echo $$")
    names = {line.split()[1] for line in ran.out.splitlines() if len(line.split()) == 2}
    assert names <= {"COMMAND", "sh", "ps", "ls", "wc"}
    assert ran.out.split()[-1] == "1"


def test_nothing_of_the_builder_is_seen(root: Root, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    ran = run(
        root,
        f"ls -A /; test -e {secret} && echo LEAK; test -e /proc/1/root{secret} && echo LEAK; "
        "ls -l /proc/self/fd | wc -l; env | sort; grep -c . /proc/self/mountinfo",
    )
    lines = ran.out.split()
    assert "LEAK" not in lines
    top = {"bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"}
    assert set(lines[: len(top)]) == top
    assert str(Path(__file__).resolve().parents[2]) not in ran.out
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert names <= {"PATH", "HOME", "GREETING", "PWD", "SHLVL"}


def test_capabilities_are_dockers(root: Root) -> None:
    ran = run(root, "grep -E 'Cap(Prm|Eff|Bnd|Inh|Amb)|NoNew' /proc/self/status")
    values = dict(line.split(":\t") for line in ran.out.splitlines())
    full, none = f"{DOCKER_CAPABILITIES:016x}", "0" * 16
    assert full == "00000000a80425fb"
    assert values == {
        "CapPrm": full,
        "CapEff": full,
        "CapBnd": full,
        "CapInh": none,
        "CapAmb": none,
        "NoNewPrivs": "0",
    }


def test_another_user_has_no_capability_and_may_become_root_by_a_setuid_program(
    root: Root,
) -> None:
    bob = Ids(1000, 1001, (1001, 44), "/home/bob")
    ran = run(
        root,
        "id -u; id -G; grep CapEff /proc/self/status; echo out > /dev/stdout; "
        "cp /bin/busybox /x 2>/dev/null || echo refused",
        ids=bob,
    )
    assert ran.out.split() == ["1000", "1001", "44", "CapEff:", "0" * 16, "out", "refused"]
    suid = run(root, "ln -s suid-id /bin/x; /bin/suid-id true", ids=bob)
    assert suid.status is not None


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "hostname other",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "rm -f /etc/resolv.conf",
        "echo x >> /etc/hosts",
        "mkdir /sys/fs/cgroup/mine",
        "mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero",
        "mknod /dev/zero2 c 1 5 && head -c 1 /dev/zero2",
    ],
)
def test_the_machine_is_out_of_reach(root: Root, script: str) -> None:
    assert run(root, script).status != 0


def test_devices(root: Root) -> None:
    ran = run(
        root,
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %a %t:%T' $d; done; "
        "head -c 4 zero | wc -c; head -c 4 urandom | wc -c; echo x > null; "
        "readlink fd; readlink stdin; readlink ptmx; test -w /dev/shm && echo shm; stat -c %a null",
    )
    expected = "null 666 1:3 zero 666 1:5 full 666 1:7 random 666 1:8 urandom 666 1:9 "
    expected += "tty 666 5:0 4 4 /proc/self/fd /proc/self/fd/0 pts/ptmx shm 666"
    assert ran.out.split() == expected.split()
    assert run(root, "chmod 600 /dev/null").status != 0  # it is the machine's own


def test_changes_are_what_the_command_did_and_nothing_of_the_mounts(
    root: Root, image: Image
) -> None:
    ran = run(
        root,
        "mkdir /new; echo x > /new/file; rm /etc/kept; echo 2 > /var/data/two; touch /dev/shm/x; "
        "rm -r /run; echo y > /tmp/t; rm /tmp/t",
        below=image.tree,
    )
    assert ran.status == 0, ran
    wanted = {"directory new", "file new/file", "whiteout etc/kept", "file var/data/two"}
    assert wanted | {"whiteout run"} <= set(ran.changes)
    names = {change.split(" ", 1)[1] for change in ran.changes}
    assert names <= {"", "new", "new/file", "etc", "etc/kept", "var", "var/data", "run"} | {
        "var/data/two",
        "tmp",
    }


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("true", [], id="a command that does nothing"),
        pytest.param("echo mine > /a/b/own", ["directory a", "directory a/b", "file a/b/own"]),
        pytest.param("chmod 700 /etc", ["directory etc"], id="an attribute"),
    ],
)
def test_stubs_never_reach_a_layer(
    root: Root, image: Image, tmp_path: Path, script: str, expected: list[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("f")
    mounts = (
        RunMount("bind", "/a/b/c", source),
        RunMount("file", "/etc/secret", source / "f", read_only=True),
        RunMount("tmpfs", "/var/cache/x", size=1 << 20, uid=5, mode=0o700),
    )
    check = "cat /a/b/c/f /etc/secret; stat -c %u:%a /var/cache/x; touch /a/b/c/g; "
    ran = run(root, check + script, below=image.tree, mounts=mounts)
    assert (ran.status, ran.out) == (0, "ff5:700\n"), ran
    assert ran.changes == expected
    assert sorted(path.name for path in source.iterdir()) == ["f", "g"]


def test_a_stub_behind_a_link_that_leads_out_stays_inside(
    namespace: Isolation, image: Image, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    links = layer_tar({"out": (2, 0o777, str(outside)), "up": (2, 0o777, "../../../../tmp")})
    hostile = Image(busybox_tar(), links)
    root = namespace.open_root()
    root.apply(hostile.layers)
    source = tmp_path / "f"
    source.write_text("f")
    mounts = (RunMount("file", "/out/x", source), RunMount("file", "/up/y", source))
    ran = run(root, f"cat {outside}/x /tmp/y", mounts=mounts, below=hostile.tree)
    assert (ran.status, ran.out, ran.changes) == (0, "ff", []), ran
    assert list(outside.iterdir()) == []
    root.close()


def test_a_secret_lies_in_memory_and_leaves_no_trace(root: Root, image: Image) -> None:
    secret = RunMount("secret", "/run/secrets/s", uid=5, gid=6, data=Secret(b"hidden"))
    script = (
        "cat /run/secrets/s; stat -c ' %a %u:%g' /run/secrets/s; echo x > /run/secrets/s; "
        "grep /run/secrets /proc/self/mountinfo"
    )
    ran = run(root, script, below=image.tree, mounts=(secret, replace(secret, target="/run/t")))
    assert ran.out.startswith("hidden 400 5:6\n") and " tmpfs tmpfs " in ran.out
    assert "Read-only" in ran.err
    assert ran.changes == []
    assert "hidden" not in repr(secret)


def test_a_tmpfs_has_the_mode_of_what_it_hides(root: Root, image: Image) -> None:
    mounts = (
        RunMount("tmpfs", "/var/data"),
        RunMount("tmpfs", "/new"),
        RunMount("tmpfs", "/etc", read_only=True),
    )
    ran = run(root, "stat -c %a /var/data /new; touch /etc/x", below=image.tree, mounts=mounts)
    assert ran.out == "750\n1777\n"
    assert "Read-only" in ran.err
    assert ran.changes == []


def test_another_root_is_shown_and_not_changed(
    namespace: Isolation, root: Root, image: Image
) -> None:
    other = namespace.open_root()
    other.apply(image.layers)
    assert run(other, "echo new > /var/data/two; rm /etc/kept", below=image.tree).status == 0
    other.settle(digest_of(b"other"))
    mounts = (
        RunMount("root", "/all", root=other),
        RunMount("root", "/only", root=other, path="var/data", read_only=True),
        RunMount("root", "/file", root=other, path="var/data/two"),
    )
    script = (
        "ls /only; cat /file; ls /all/etc; rm /all/etc/passwd; echo x > /file; touch /only/x; "
        "cat /only/two"
    )
    ran = run(root, script, below=image.tree, mounts=mounts)
    assert ran.out == "one\ntwo\nnew\npasswd\nnew\n"
    assert "Read-only" in ran.err
    assert ran.changes == []
    assert run(other, "cat /etc/passwd | wc -l; cat /var/data/two").out == "2\nnew\n"
    other.close()


def test_a_read_only_mount_is(root: Root, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    ran = run(root, "touch /m/f", mounts=(RunMount("bind", "/m", tmp_path, read_only=True),))
    assert ran.status != 0
    assert "Read-only" in ran.err


def test_a_settled_run_is_a_layer_for_the_next_and_for_other_stages(
    namespace: Isolation, image: Image
) -> None:
    first = namespace.open_root()
    first.apply(image.layers)
    assert run(first, "echo 1 > /one; rm /etc/kept; rm -r /var/data; mkdir /var/data").status == 0
    kept = first.content("one")
    assert kept is not None and kept.read_text() == "1\n"
    assert first.content("etc/kept") is None
    first.settle(digest_of(b"chain one"))
    assert first.content("var/data/one") is None
    passwd = first.content("etc/passwd")
    assert passwd is not None and passwd.read_text().startswith("root:")
    assert run(first, "cat /one; ls /var/data; test -e /etc/kept").status == 1
    first.close()
    second = namespace.open_root()
    second.apply(image.layers)
    assert run(second, "ls /etc/kept && ! ls /one 2> /dev/null").status == 0
    second.close()


def test_no_network_but_loopback(root: Root) -> None:
    ran = run(root, "ip -o link | wc -l; ip -o addr show lo | head -n 1", network=Network.NONE)
    assert ran.out.startswith("1\n")
    assert "127.0.0.1/8" in ran.out


def test_hostname(root: Root) -> None:
    assert run(root, "hostname", hostname="builder").out == "builder\n"


# a length of sleep that no other worker of the same test run uses
NAP = str(1_000_000 + os.getpid())
DAEMONS = f"(setsid sleep {NAP} < /dev/null > /dev/null 2>&1 &); (sleep {NAP} &) & "


def sleepers() -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                arguments = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if arguments.rstrip(b"\0").endswith(f"sleep\0{NAP}".encode()):
                found.append(process.name)
    return found


def test_daemons_end_with_their_command(root: Root) -> None:
    ran = run(root, DAEMONS + "sleep 0.2; ps -o comm | grep -c '^sleep$'")
    assert (ran.status, ran.out) == (0, "2\n")
    assert sleepers() == []


def test_a_cancelled_command_ends_at_once_with_all_it_started(root: Root) -> None:
    cancelled = threading.Event()

    def on_output(_stream: int, _data: bytes) -> None:
        cancelled.set()

    start = time.monotonic()
    script = "trap '' TERM INT; " + DAEMONS + f"sleep 0.2; echo up; sleep {NAP}"
    ran = run(root, script, cancelled=cancelled, on_output=on_output)
    assert ran.status == 137
    assert time.monotonic() - start < 5
    assert sleepers() == []


def test_commands_run_side_by_side(namespace: Isolation, image: Image) -> None:
    roots = [namespace.open_root() for _ in range(3)]
    for root in roots:
        root.apply(image.layers)
    statuses: dict[int, int | None] = {}

    def work(number: int) -> None:
        # each waits for nothing but time: one after the other they would need three seconds
        statuses[number] = run(roots[number], f"sleep 1; exit {number}").status

    start = time.monotonic()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {0: 0, 1: 1, 2: 2}
    assert time.monotonic() - start < 2.5
    for root in roots:
        root.close()


def test_much_output_on_both_streams_comes_whole(root: Root) -> None:
    ran = run(root, "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2")
    assert (len(ran.out), len(ran.err)) == (3_000_000, 2_000_000)


def test_from_scratch_there_is_a_root_too(namespace: Isolation, image: Image) -> None:
    root = namespace.open_root()
    ran = run(root, ("/bin/sh",))
    assert ran.error == "program-missing"
    root.close()


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = bundle.missing_commands()
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    return bundle.container_root(tmp_path_factory.mktemp("container") / "root")


def test_in_a_default_pod(container: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    script = (
        "id -u; grep CapEff /proc/self/status; touch /made; chown 1234:99 /made; rm /etc/kept; "
        "rm -r /var/data; mkdir /var/data; ls -A /; test -e /workspace && echo LEAK; "
        "cat /proc/1/environ; ls /proc/1/root; chmod 0 /dev/null"
    )
    request = {
        "isolation": "auto",
        "workdir": "/workspace/.pybuild",
        "stages": [[script, "stat -c %u:%g /made; ls /var/data"]],
    }
    driver = Path(__file__).parents[1] / "support/isolation_driver.py"
    ran = bundle.run_in_container(
        container,
        [bundle.PYTHON, "-I", "/driver/isolation_driver.py"],
        pod=bundle.Pod.DEFAULT,
        volumes={str(tmp_path): "/workspace", str(driver.parent): "/driver"},
        env={"SECRET": "s3cret"},
        stdin=json.dumps(request),
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["name"] == "namespace"
    assert "new user namespace" in answer["reason"]
    first, second = answer["stages"][0]
    assert first["out"].startswith("0\nCapEff:\t00000000a80425fb\n")
    assert "LEAK" not in first["out"]
    assert "s3cret" not in first["out"]
    assert first["status"] != 0
    assert {"file made", "whiteout etc/kept", "directory var/data"} <= set(first["changes"])
    assert second["out"] == "1234:99\n"
    assert list((tmp_path / ".pybuild").iterdir()) == []


PARENTS = {"directory etc", "directory var", "directory var/data"}  # come along with a change


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(Setup(entering=Entering.MOVE), id="seccomp refuses pivot_root"),
        pytest.param(Setup(pid_namespace=False), id="no fresh proc"),
        pytest.param(Setup(overlay=False), id="no overlay"),
        pytest.param(Setup(user_namespace=True, user_xattrs=True), id="a user namespace"),
        pytest.param(
            Setup(
                user_namespace=True,
                user_xattrs=True,
                pid_namespace=False,
                entering=Entering.MOVE,
                overlay=False,
            ),
            id="least of all",
        ),
    ],
)
def test_each_way_gives_the_same(image: Image, tmp_path: Path, setup: Setup) -> None:
    before = machine_state()
    chosen = Namespace(tmp_path / "work", setup, Runner())
    try:
        root = chosen.open_root()
        root.apply(image.layers)
        script = (
            "id -u; echo 2 > /var/data/two; rm /etc/kept; touch /owned; chown 70:80 /owned; "
            f"test -e {tmp_path} && echo LEAK; cd /; ls -d /../work /../../usr; "
            + DAEMONS
            + "ls -l /proc/self/fd/1 > /dev/null && echo proc"
        )
        ran = run(root, script, below=image.tree)
        assert (ran.status, ran.out) == (0, "0\nproc\n"), ran
        wanted = {"file var/data/two", "whiteout etc/kept", "file owned"}
        assert wanted <= set(ran.changes) <= wanted | PARENTS
        root.settle(digest_of(b"settled"))
        again = run(root, "cat /var/data/*; stat -c %u:%g /owned; ls /etc/kept 2> /dev/null")
        assert again.out == "one\n2\n70:80\n"
        content = root.content("var/data/two")
        assert content is not None and content.read_text() == "2\n"
        assert root.content("etc/kept") is None
        root.close()
    finally:
        chosen.close()
    assert sleepers() == []
    assert list(tmp_path.iterdir()) == []
    assert machine_state() == before
