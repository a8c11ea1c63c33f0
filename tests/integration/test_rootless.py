"""RUN in place by an ordinary user: Pod Security "restricted", and OpenShift's random user."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import bundle
from tests.support.bases import push_bases
from tests.support.oracle.flatten import Flattener
from tests.support.oracle.registry import running_registry
from tests.support.rootless import overlay_of, rootless_root

pytestmark = [
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
    pytest.mark.xdist_group("rootless"),
]
PODS = [bundle.Pod.RESTRICTED, bundle.Pod.RANDOM_USER]
EXECUTOR = Path(bundle.REPOSITORY / ".venv/bin/executor")


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with running_registry() as host:
        push_bases(host, ("busybox", "debian"))
        yield host


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rootless_root(tmp_path_factory.mktemp("container") / "made")


class Container:
    """One container of a root, in which builds are started one after the other."""

    def __init__(self, root: Path, workspace: Path, pod: bundle.Pod) -> None:
        self.workspace = workspace
        self.name = f"rootless-{time.time_ns()}"
        workspace.mkdir(exist_ok=True)
        workspace.chmod(0o777)
        command = bundle.container_command(
            root,
            ["/busybox/sleep", "1000"],
            pod=pod,
            volumes={str(workspace): "/workspace"},
            options=["--detach", f"--name={self.name}", "--timeout=900"],
            rootfs="",
        )
        subprocess.run(command, check=True, capture_output=True)

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        command = ["podman", "exec", self.name, "/busybox/sh", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def build(self, dockerfile: str, *flags: str) -> subprocess.CompletedProcess[str]:
        context = self.workspace / "context"
        context.mkdir(exist_ok=True)
        context.chmod(0o777)
        (context / "Dockerfile").write_text(dockerfile)
        words = ["--context=/workspace/context", "--insecure", "--isolation=auto", *flags]
        return self.sh(f"executor {' '.join(words)}")

    def remove(self) -> None:
        command = ["podman", "rm", "--force", "--time=0", self.name]
        subprocess.run(command, capture_output=True, check=False)


@contextmanager
def container(root: Path, folder: Path, pod: bundle.Pod) -> Iterator[Container]:
    with overlay_of(root, folder / "overlay") as whole:
        made = Container(whole, folder / "workspace", pod)
        try:
            yield made
        finally:
            made.remove()


@pytest.fixture(params=PODS, ids=lambda pod: pod.name.lower())
def pod(request: pytest.FixtureRequest) -> bundle.Pod:
    found: bundle.Pod = request.param
    return found


# A package that adds a user and gives it a folder, a file capability, COPY over what a RUN made,
# owners that stay over stages, a new folder at the top, and a mode that closes a file to root.
REAL = """
FROM {host}/base/debian:bookworm AS one
RUN mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin \\
 && printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' \\
    > /tmp/p/DEBIAN/control \\
 && printf '#!/bin/sh\\nuseradd -r svc; install -d -o svc -m 700 /var/lib/svc\\n' \\
    > /tmp/p/DEBIAN/postinst \\
 && echo program > /tmp/p/usr/bin/p && chmod 755 /tmp/p/DEBIAN/postinst /tmp/p/usr/bin/p \\
 && dpkg-deb -b /tmp/p /tmp/p.deb && dpkg -i /tmp/p.deb && test -z "$(dpkg --verify)" \\
 && rm -r /tmp/p /tmp/p.deb && chmod 1777 /tmp && chmod 700 /root
COPY file /app/
RUN echo more >> /app/file && chown www-data:33 /app/file && echo closed > /etc/closed \\
 && chmod 000 /etc/closed && mkdir /data && useradd -m bob && su bob -c 'touch /home/bob/x'
RUN echo again >> /etc/closed && mknod /srv/null c 1 3 && chmod 2755 /srv && touch /srv/x \\
 && rm -rf /var/log/* /var/cache/ldconfig
USER www-data
RUN test "$(id -un)" = www-data && touch /tmp/mine && test ! -e /data/x
FROM {host}/base/busybox
COPY --from=one /home/bob /data/bob
RUN ln -s ../usr/bin/env /bin/here && cp /etc/passwd /bin/copy && chmod 4755 /bin/copy \\
 && rm -r /var/www && rm /etc/shadow
COPY --from=one /etc /srv/etc/
COPY --from=one /var/lib /srv/lib/
COPY --from=one /app /tmp /srv /srv/
"""


@pytest.fixture(scope="module")
def expected(registry: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The layers that namespaces make of it, as root."""
    context = tmp_path_factory.mktemp("namespace")
    (context / "Dockerfile").write_text(REAL.format(host=registry))
    put_file(context)
    flags = ["--isolation=namespace", "--insecure", "--reproducible"]
    command = [str(EXECUTOR), f"--context={context}", f"--destination={registry}/real:0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return layers(registry, "0")


def layers(registry: str, tag: str) -> list[str]:
    found: list[str] = Flattener(registry).flatten("real", tag).config["rootfs"]["diff_ids"]
    return found


def put_file(context: Path) -> None:
    context.mkdir(exist_ok=True)
    (context / "file").write_text("content\n")
    (context / "file").chmod(0o644)


LEFT_OUT = ("/kaniko/work/*", "/proc", "/sys", "/dev", "/workspace")
PRUNED = " -o ".join(f"-path '{path}'" for path in LEFT_OUT)
LIST = (
    f"find / \\( {PRUNED} \\) -prune -o "
    "-exec stat -c '%n %f %u %s %Y' {} + | sed -r 's#^(/kaniko/work|/tmp) (.*) .*#\\1 \\2#' | sort"
)


def test_the_image_is_that_of_namespaces(
    root: Path, registry: str, expected: list[str], tmp_path: Path, pod: bundle.Pod
) -> None:
    """To the byte; and the container is as it was."""
    with container(root, tmp_path, pod) as pods:
        put_file(tmp_path / "workspace/context")
        before = pods.sh(LIST).stdout
        destination = f"--destination={registry}/real:{pod.name.lower()}"
        ran = pods.build(REAL.format(host=registry), destination, "--reproducible")
        assert ran.returncode == 0, ran.stderr
        assert "isolation rootless: as uid " in ran.stderr
        after = pods.sh(LIST).stdout
    image = Flattener(registry).flatten("real", pod.name.lower())
    assert image.config["rootfs"]["diff_ids"] == expected
    assert not [path for path in image.tree if path.startswith((".root", "kaniko", "busybox"))]
    assert differences(before, after) == []
    assert len(before.splitlines()) > 1000


def differences(before: str, after: str) -> list[str]:
    """Of two lists. A folder that is another user's can't get its time back, and one that had to
    be made again is this user's."""
    changed = set(before.splitlines()) ^ set(after.splitlines())
    known = re.compile(r"/var/run |.* 1000 4096 ")
    return sorted(line for line in changed if not known.match(line))


def test_a_killed_build_is_undone_by_the_next(
    root: Path, registry: str, tmp_path: Path, pod: bundle.Pod
) -> None:
    with container(root, tmp_path, pod) as pods:
        before = pods.sh(LIST).stdout
        (tmp_path / "workspace/context").mkdir()
        (tmp_path / "workspace/context/Dockerfile").write_text(
            f"FROM {registry}/base/busybox\n"
            "RUN mkdir /data; touch /data/x; chmod 000 /data; touch /workspace/on; sleep 77\n"
        )
        killed = pods.sh(
            "executor --context=/workspace/context --insecure --no-push --destination=a/b "
            ">/dev/null 2>&1 & builder=$!; n=0; "
            "while ! test -e /workspace/on && test $n -lt 600; do n=$((n + 1)); sleep 0.05; done; "
            "kill -KILL $builder; ls /etc"
        )
        assert "nsswitch.conf" not in killed.stdout.split()  # the container's own is aside
        ran = pods.build(f"FROM {registry}/base/busybox\nRUN test ! -e /data\n", "--no-push")
        assert ran.returncode == 0, ran.stderr
        assert differences(before, pods.sh(LIST).stdout) == []
        assert "sleep 77" not in pods.sh("ps").stdout


REFUSED = [
    pytest.param("RUN touch /neverheardof", "top-name-refused", "MORE_FOLDERS", id="made"),
    pytest.param("RUN rm -r /home", "top-name-refused", "empty it", id="removed"),
    pytest.param("RUN exit 3", "run-failed", "", id="another failure"),
    pytest.param("COPY file /new/\nRUN true", "top-name-missing", "MORE_FOLDERS", id="copied"),
    pytest.param("WORKDIR /new\nRUN true", "top-name-missing", "MORE_FOLDERS", id="workdir"),
    pytest.param(
        "RUN --mount=type=tmpfs,target=/new true", "top-name-missing", "MORE_FOLDERS", id="mounted"
    ),
    pytest.param(
        "RUN readlink -f /bin/sh >/srv/x", "root-path-kept", "--allow-root-path", id="own path"
    ),
    pytest.param("RUN --network=none true", "run-flag-unsupported", "doctor", id="network"),
]


@pytest.fixture(scope="module")
def busy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """For all builds that need no container of their own."""
    with container(root, tmp_path_factory.mktemp("busy"), bundle.Pod.RESTRICTED) as pods:
        put_file(pods.workspace / "context")
        yield pods


@pytest.mark.parametrize(("steps", "code", "cure"), REFUSED)
def test_what_can_not_be_right_is_refused_by_name(
    busy: Container, registry: str, steps: str, code: str, cure: str
) -> None:
    ran = busy.build(f"FROM {registry}/base/busybox\n{steps}\n", "--no-push")
    assert ran.returncode == (3 if "exit 3" in steps else 1), ran.stderr
    assert f"[{code}]" in ran.stderr
    assert cure in ran.stderr


BUILT = """
FROM {host}/base/busybox AS odd
COPY file /new/file
FROM odd
ENV APT_CONFIG=/etc/mine.conf GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=a.b GIT_CONFIG_VALUE_0=c
COPY --from=odd /new /another/
"""


def test_what_no_run_needs_is_done_without_the_disk(busy: Container, registry: str) -> None:
    flags = [f"--destination={registry}/odd:1"]
    ran = busy.build(BUILT.format(host=registry), *flags)
    assert ran.returncode == 0, ran.stderr
    image = Flattener(registry).flatten("odd", "1")
    assert image.tree["another/file"].content == image.tree["new/file"].content


def test_settings_are_the_runs_alone(busy: Container, registry: str) -> None:
    """Beside those that the Dockerfile makes; a base's odd names at the top are no obstacle."""
    dockerfile = BUILT.format(host=registry).replace("/new", "/data").replace("/another", "/srv")
    run = (
        "RUN test $GIT_CONFIG_COUNT = 2 && test $GIT_CONFIG_KEY_0 = a.b && "
        "test $GIT_CONFIG_KEY_1 = safe.directory && cat $APT_CONFIG >/srv/apt && id >/srv/id\n"
        "USER 1234:77\nRUN id >/tmp/id\n"
    )
    ran = busy.build(dockerfile + run, f"--destination={registry}/odd:2")
    assert ran.returncode == 0, ran.stderr
    image = Flattener(registry).flatten("odd", "2")
    assert '#include "/etc/mine.conf";' in image.tree["srv/apt"].content
    assert image.tree["srv/id"].content.startswith("uid=0(root) gid=0(root)")
    assert image.tree["tmp/id"].content.startswith("uid=1234 gid=77")
    assert (image.tree["tmp/id"].uid, image.tree["tmp/id"].gid) == (1234, 77)
    environment = image.config["config"]["Env"]
    assert {"APT_CONFIG=/etc/mine.conf", "GIT_CONFIG_COUNT=1"} <= set(environment)
    assert not [pair for pair in environment if "safe.directory" in pair]


def test_its_own_paths_can_be_accepted(busy: Container, registry: str) -> None:
    dockerfile = f"FROM {registry}/base/busybox\nRUN readlink -f /bin/sh >/srv/x\n"
    ran = busy.build(dockerfile, "--allow-root-path", f"--destination={registry}/odd:3")
    assert ran.returncode == 0, ran.stderr
    image = Flattener(registry).flatten("odd", "3")
    assert image.tree["srv/x"].content == "/.root/bin/sh\n"


def test_doctor_names_what_works(busy: Container) -> None:
    told = busy.sh("pybuild doctor").stdout
    assert "rootless     works  <- taken by --isolation=auto" in told
    assert "namespace    no" in told and "takeover     no" in told


def test_another_agent_image_is_told_from_one_made_for_it(tmp_path: Path) -> None:
    root = bundle.container_root(tmp_path / "root")
    ran = bundle.run_in_container(
        root, ["/kaniko/pybuild", "doctor"], pod=bundle.Pod.RESTRICTED, env={"TMPDIR": "/tmp"}
    )
    assert ran.returncode == 1
    assert "not made to be taken over" in ran.stdout
    assert "`rootless` target" in ran.stdout
