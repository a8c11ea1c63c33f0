"""Bases and commands that mean harm, or do it by mistake: the builder finishes or fails by name,
its own files are as before, and what a rung hides stays hidden."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.support import bundle
from tests.support.isolation_driver import busybox_tar
from tests.support.rungs import RUNGS, VOLUME, Agent, Containers, Rung, make_agent, run
from tests.support.tree_listing import differences

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman's --rootfs"),
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
    pytest.mark.xdist_group("hostile"),
]
every_rung = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.isolation)
SECRET = "dGhpcyBpcyBhIHNlY3JldA"


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    return Containers(tmp_path_factory.mktemp("containers"))


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return make_agent(tmp_path / "agent")


def member(name: str, kind: bytes, link: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    made.devmajor, made.devminor = 1, 3
    return made


def hostile_base() -> bytes:
    """On top of busybox: links, devices, whiteouts and names made to lead a builder astray."""
    buffer = io.BytesIO(busybox_tar())
    members = [
        member("kaniko", tarfile.SYMTYPE, "/"),
        member("kaniko.bak", tarfile.SYMTYPE, "kaniko/lib"),
        member("busybox", tarfile.SYMTYPE, "/dev/shm"),
        member("workspace", tarfile.REGTYPE),
        member("home", tarfile.SYMTYPE, "/proc/self/cwd"),
        member("var/run", tarfile.SYMTYPE, "../../../../kaniko"),
        member("var/run/written-through", tarfile.REGTYPE),
        member(".wh.proc", tarfile.REGTYPE),
        member("etc/.wh.hosts", tarfile.REGTYPE),
        member("dev/null", tarfile.REGTYPE),
        member("dev/sda", tarfile.BLKTYPE),
        member("opt/kmem", tarfile.CHRTYPE, mode=0o666),
        member("opt/suid", tarfile.REGTYPE, mode=0o6777),
        member("opt/a\nb\x1b[31m", tarfile.REGTYPE),
        member("opt/loop", tarfile.SYMTYPE, "loop"),
        member("sys", tarfile.SYMTYPE, "etc"),
        member("proc/sysrq-trigger", tarfile.REGTYPE),
    ]
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for one in members:
            archive.addfile(one, io.BytesIO(b""))
    return buffer.getvalue()


BASE = """\
FROM scratch AS base
ADD base.tar /
FROM base
RUN echo one > /tmp/made
FROM base
COPY src /opt/src
RUN echo two > /tmp/made
"""
AROUND = """
list before
build file > $out/log 2>&1
echo $? > $out/status
settled
list after
"""


def outcome(agent: Agent) -> tuple[int, str]:
    return int((agent.out / "status").read_text()), (agent.out / "log").read_text()


def changed(agent: Agent, rung: Rung) -> list[str]:
    """An ordinary user can't give back a group that it is not in."""
    own_groups = rung.isolation != "rootless"
    return differences(agent.out / "before", agent.out / "after", groups=own_groups)


@every_rung
def test_a_hostile_base_changes_nothing_of_the_container(
    containers: Containers, agent: Agent, rung: Rung
) -> None:
    agent.write(file=BASE)
    (agent.app / "base.tar").write_bytes(hostile_base())
    ran = run(containers, agent, rung, AROUND)
    assert ran.returncode == 0, ran.stderr
    status, log = outcome(agent)
    assert "error[bug]" not in log
    assert "Traceback" not in log
    assert "\x1b[31m" not in log
    assert status in (0, 1), log
    assert changed(agent, rung) == [], log


HARM = {
    "links": "ln -s / /tmp/all; for d in /opt/*; do ln -sf /kaniko $d/k; done; mv /opt /opt2",
    "daemon": "(setsid sh -c 'while :; do echo x >> /tmp/grows; sleep 0.05; done' &); sleep 0.3",
    "devices": "rm -rf /dev/null /dev/tty /dev/full; echo > /dev/null; mkdir dev/full; chmod 0 dev",
    "own-files": "for f in /kaniko/executor /kaniko/lib/*.so* /busybox/sh; do echo x >> $f; done; "
    "rm -rf /kaniko/lib/python3*/json /kaniko/.takeover; ln -s /etc /kaniko/new",
    "mode-of-root": "chmod 0 /; chmod 700 /etc /tmp; chown 1:1 /",
    "kill-parent": "kill -9 $PPID",
    "unmount": "umount /home/jenkins/agent; umount -l /proc; umount /dev",
    "remove-builder": "rm -rf /kaniko /busybox /bin /etc /var /tmp /opt 2> /dev/null",
}


@every_rung
@pytest.mark.parametrize("harm", HARM)
def test_a_hostile_command_leaves_the_container_as_it_was(
    containers: Containers, agent: Agent, rung: Rung, harm: str
) -> None:
    command = HARM[harm]
    agent.write(file=f"FROM scratch\nADD base.tar /\nRUN mkdir -p /opt/d; {command}; true\n"
                     "RUN echo still here\n")  # fmt: skip
    ran = run(containers, agent, rung, AROUND)
    assert ran.returncode == 0, ran.stderr
    status, log = outcome(agent)
    assert "error[bug]" not in log
    assert "Traceback" not in log
    assert status == 0 or "error[" in log
    found = changed(agent, rung)
    if rung.isolation == "rootless":  # podman's link there is root's, and was in the user's folder
        found = [line for line in found if not line.startswith(("/etc/mtab:", "/kaniko/work:"))]
    assert found == [], log
    if rung.isolation != "namespace" and harm == "remove-builder":
        assert status == 1
    if rung.isolation == "takeover" and harm == "own-files":
        assert "as they were again" in log
        assert "/kaniko/executor" in log


# All that can be killed is, the builder too where it is in sight; the first process stays, which
# here plays Jenkins' next step.
ALL_KILLED = """
list before
build file > $out/log 2>&1
echo $? > $out/status
i=0
while ps | grep -v grep | grep -q "sleep 7777" && test $i != 200; do i=$((i + 1)); sleep 0.1; done
build next > $out/log-2 2>&1 || exit 3
settled
list after
"""


@every_rung
def test_the_next_build_mends_what_a_kill_of_everything_leaves(
    containers: Containers, agent: Agent, rung: Rung
) -> None:
    agent.write(
        file="FROM scratch\nADD base.tar /\nRUN rm -rf /etc/*; kill -9 -1; sleep 1\n",
        next="FROM scratch\nADD base.tar /\nRUN echo next > /tmp/next\n",
    )
    ran = run(containers, agent, rung, ALL_KILLED)
    assert ran.returncode == 0, (ran.stderr, (agent.out / "log-2").read_text())
    assert changed(agent, rung) == []


@every_rung
def test_a_full_disk_is_told_as_one(containers: Containers, agent: Agent, rung: Rung) -> None:
    """The volume that RUNs write to is a small tmpfs; in place that is the container's own disk,
    which can't be filled here, so a folder of the image lies on the small one."""
    agent.write(
        file="FROM scratch\nADD base.tar /\nRUN cat /dev/zero > /tmp/fill; cat /dev/zero > /fill\n"
    )
    script = AROUND.replace("build file", "build file --kaniko-dir=/small/work")
    if rung.isolation != "namespace":
        script = script.replace("list before", "ulimit -f 60000\nlist before")
    options = ["--tmpfs=/small:rw,size=24m,mode=1777"]
    ran = run(containers, agent, rung, script, *options)
    assert ran.returncode == 0, ran.stderr
    status, log = outcome(agent)
    assert status != 0
    assert "error[" in log and "error[bug]" not in log
    if rung.isolation == "namespace":
        assert "disk-full" in log, log
    assert changed(agent, rung) == []


# By every path that one could think of. Names are cut so that the log's own line is no hit.
PLACES = (
    *("/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/fd/*"),
    *("/proc/[0-9]*/root/kaniko/.docker/*", f"/proc/[0-9]*/root{VOLUME}/workspace/app@tmp/*"),
    *("/proc/[0-9]*/cwd/base.tar", "/proc/[0-9]*/cwd/../app@tmp/secret", "/kaniko/.docker/*"),
    *(f"{VOLUME}/workspace/app@tmp/*", "/.old/*", "/mnt/*", "/run/secrets/*/*"),
)
SEARCH = f"""\
FROM scratch
ADD base.tar /
RUN <<END
for f in {" ".join(PLACES)}; do
    case $f in /proc/self/*|/proc/$$/*) continue;; esac
    busybox timeout 2 cat "$f" 2> /dev/null | head -c 20000
done > /tmp/found
grep -c -e dGhpcyBp"cyBh" -e "of a st"ep /tmp/found && echo FO"UND"
grep -e jenkins -e docker /proc/self/mountinfo && echo MOUN"TED"
ls / /proc/1/root /kaniko
true
END
"""


def test_a_run_in_a_namespace_sees_neither_credentials_nor_the_workspace(
    containers: Containers, agent: Agent
) -> None:
    agent.write(file=SEARCH)
    docker = agent.folder / "docker"
    docker.mkdir()
    (docker / "config.json").write_text(f'{{"auths": {{"r": {{"auth": "{SECRET}"}}}}}}')
    environment = {"GIT_PASSWORD": SECRET, "DOCKER_CONFIG": "/kaniko/.docker"}
    mount = f"--volume={docker}:/kaniko/.docker"
    script = "exec 7< /kaniko/.docker/config.json\n" + AROUND
    ran = run(containers, agent, RUNGS[0], script, mount, env=environment)
    status, log = outcome(agent)
    assert (ran.returncode, status) == (0, 0), (ran.stderr, log)
    assert "FOUND" not in log
    assert "MOUNTED" not in log
    assert SECRET not in log
    assert "| etc" in log  # it did look
    assert changed(agent, RUNGS[0]) == []
