"""The ways that a RUN is confined, each with a container that stands for a Pod in which it is
taken, and a volume as the Kubernetes plugin of Jenkins mounts one."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import bundle
from tests.support.isolation_driver import busybox_tar
from tests.support.rootless import rootless_root

SUPPORT = Path(__file__).parent
VOLUME = "/home/jenkins/agent"
SECONDS = 280  # what takes one on an idle machine may take ten on a busy one


@dataclass(frozen=True)
class Rung:
    isolation: str
    pod: bundle.Pod
    user: int = 0


RUNGS = [
    Rung("namespace", bundle.Pod.DEFAULT),
    Rung("takeover", bundle.Pod.RUNTIME_DEFAULT),
    Rung("rootless", bundle.Pod.RESTRICTED, user=1000),
]


def _root_of_all_kinds(directory: Path) -> Path:
    """Something of every kind that has to come back exactly as it was."""
    root = bundle.container_root(directory / "root")
    (root / "etc/only-here").write_text("container\n")
    (root / "etc/only-here").chmod(0o640)
    (root / "root/other-name").hardlink_to(root / "etc/only-here")
    (root / "home/user").mkdir(parents=True)
    os.chown(root / "home/user", 1000, 1001)
    (root / "home/user/suid").write_text("")
    (root / "home/user/suid").chmod(0o4711)
    os.setxattr(root / "home/user", "user.note", b"kept")
    (root / "home/user/link").symlink_to("../nowhere")
    os.mkfifo(root / "home/user/fifo")
    (root / "etc").chmod(0o750)  # leads to mounts of the runtime's, so it stays where it is
    for number, path in enumerate(sorted(root.rglob("*"))):
        if not path.is_relative_to(root / bundle.PREFIX):
            times = (1_500_000_000_000_000_000 + number, 1_400_000_000_123_456_789 + number)
            os.utime(path, ns=times, follow_symlinks=False)
    return root


class Containers:
    """Makes the root of each kind of container once."""

    def __init__(self, directory: Path) -> None:
        self.root = functools.cache(lambda: _root_of_all_kinds(directory / "root"))
        self.rootless = functools.cache(lambda: rootless_root(directory / "rootless"))

    def of(self, rung: Rung) -> Path:
        make: Callable[[], Path] = self.rootless if rung.isolation == "rootless" else self.root
        root = make()
        nohup = root / "busybox/nohup"  # Debian's busybox has none
        if not nohup.exists():
            shutil.copy(bundle.REPOSITORY / "agent-image/nohup", nohup)
            nohup.chmod(0o755)
        return root


@dataclass(frozen=True)
class Agent:
    """The volume: `workspace/app` with `workspace/app@tmp` beside it, which are Jenkins', and `out`
    for what tests write."""

    folder: Path

    @property
    def app(self) -> Path:
        return self.folder / "workspace/app"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def write(self, **dockerfiles: str) -> None:
        for name, text in dockerfiles.items():
            (self.app / name).write_text(text)
            os.chown(self.app / name, 1000, 1000)


def make_agent(folder: Path) -> Agent:
    agent = Agent(folder)
    agent.app.mkdir(parents=True)
    (folder / "workspace/app@tmp").mkdir()
    (folder / "workspace/app@tmp/secret").write_text("of a step")
    agent.out.mkdir(mode=0o777)
    (agent.app / "base.tar").write_bytes(busybox_tar())
    (agent.app / "src").mkdir()
    (agent.app / "src/main").write_text("main\n")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1000, 1000)
    return agent


def run(
    containers: Containers,
    agent: Agent,
    rung: Rung,
    script: str,
    *options: str,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a script for busybox' shell, after PRELUDE, in the workspace."""
    command = bundle.container_command(
        containers.of(rung),
        ["/busybox/sh", "-c", PRELUDE + script],
        pod=rung.pod,
        volumes={str(agent.folder): VOLUME, str(SUPPORT): "/driver"},
        env={"SOURCE_DATE_EPOCH": "1600000000", "ISOLATION": rung.isolation, **(env or {})},
        options=[f"--workdir={VOLUME}/workspace/app", f"--timeout={SECONDS}", *options],
        # an overlay of podman's gives `/` to the container's user, which containerd never does
        rootfs="" if rung.isolation == "rootless" else "O",
    )
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS + 20,
        check=False,
        stdin=subprocess.DEVNULL,
    )


PRELUDE = f"""
out={VOLUME}/out
list() {{ # writes down the container and the workspace
    {bundle.PYTHON} -I /driver/tree_listing.py $out/$1 / {VOLUME}/workspace
}}
build() {{ # as a Jenkinsfile tells kaniko to
    file=$1; shift
    $in_background /kaniko/executor --context=`pwd` --dockerfile=$file --no-push \\
        --isolation=$ISOLATION --destination=x/y:1 "$@"
}}
in_background= # `exec` for a build that signals are sent to: else it is a shell that gets them
wait_for() {{
    i=0
    until grep -qs "$1" $2 || test $i = 1200; do i=$((i + 1)); sleep 0.05; done
}}
settled() {{ # large folders are removed beside the builds
    i=0
    while ls -d /kaniko/pybuild-* /kaniko/*/pybuild-* /tmp/pybuild-* {VOLUME}/pybuild-* \\
        {VOLUME}/*/pybuild-* 2> /dev/null | grep -v mounts | grep -q . &&
        test $i != 400; do i=$((i + 1)); sleep 0.05; done
}}
"""
