"""One container in which pybuild builds case after case in place, as in one Pod.

A loop inside the container reads a request a line (the flags) and answers a line (exit status and
output), so that the price of starting a container is paid once.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import bundle
from tests.support.oracle.builders import NO_SECRETS, Refused, error_code, executor_flags
from tests.support.oracle.case import load_cases
from tests.support.oracle.record import read_record
from tests.support.rootless import overlay_of, rootless_root, top_names

WORKSPACE = "/workspace"
CASES_SECONDS = 900  # for all of them, on a busy machine

# Everything it needs is imported before the first build; `_posixsubprocess` finds /kaniko, which
# stays where it is while / is replaced.
_LOOP = """
import json, subprocess, sys
for line in sys.stdin:
    done = subprocess.run(["/kaniko/executor", *json.loads(line)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/")
    answer = {"status": done.returncode, "output": done.stdout.decode("utf-8", "replace")}
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True, slots=True)
class TakeoverBuilder:
    """pybuild in takeover, or rootless; contexts have to lie below `volume`, the container's
    /workspace."""

    container: subprocess.Popen[str]
    volume: Path
    isolation: str = "takeover"
    uid: int = 0

    @property
    def name(self) -> str:
        return f"pybuild-{self.isolation}"

    def build(
        self,
        context: Path,
        destination: str,
        dockerfile: str,
        target: str,
        platform: str,
        args: dict[str, str],
        secrets: Mapping[str, Path] = NO_SECRETS,
    ) -> None:
        for path in (context, *context.rglob("*")):  # whose the context is counts for nothing
            mode = path.lstat().st_mode
            os.chown(path, self.uid, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(mode))
        inside = Path(WORKSPACE) / context.relative_to(self.volume)
        flags = executor_flags(
            inside, destination, dockerfile, target, platform, args, self.isolation
        )
        for name, file in secrets.items():
            flags.append(f"--secret=id={name},src={WORKSPACE}/{file.relative_to(self.volume)}")
        assert self.container.stdin and self.container.stdout
        self.container.stdin.write(f"{json.dumps(flags)}\n")
        self.container.stdin.flush()
        line = self.container.stdout.readline()
        if not line:
            raise Refused(-1, "container-ended", "the container ended during a build")
        answer = json.loads(line)
        if answer["status"] != 0:
            raise Refused(answer["status"], error_code(answer["output"]), answer["output"])


@contextmanager
def running_takeover() -> Iterator[TakeoverBuilder]:
    """Starts a container of root's; it ends when its standard input does."""
    with tempfile.TemporaryDirectory(prefix="takeover-") as work:
        root = bundle.container_root(Path(work) / "root")
        with _running(Path(work), root, "takeover", bundle.Pod.RUNTIME_DEFAULT) as builder:
            yield builder


@contextmanager
def running_rootless(pod: bundle.Pod) -> Iterator[TakeoverBuilder]:
    """The same for an ordinary user."""
    with tempfile.TemporaryDirectory(prefix="rootless-") as work:
        made = rootless_root(Path(work) / "made", **names_at_top())
        with (
            overlay_of(made, Path(work) / "overlay") as root,
            _running(Path(work), root, "rootless", pod) as builder,
        ):
            yield builder


def names_at_top() -> dict[str, str]:
    """What the cases make at the top of `/`, as build arguments of the agent image. Directories of
    one case may be files of another: a link can become both."""
    folders, others = set(), set()
    for case in load_cases():
        text = (case.directory / case.dockerfile).read_bytes().decode(errors="replace")
        others |= set(re.findall(r"(?<![\w.*/}])/([A-Za-z0-9_.-]*[A-Za-z0-9])", text))
        tree = read_record(case)["tree"] if case.expected_file.exists() else {}
        for path, about in tree.items():
            name = path.partition("/")[0]
            is_folder = "/" in path or about["type"] == "directory"
            (folders if is_folder else others).add(name)
    usual = {name: set(words.split()) for name, words in top_names().items()}
    files = {"build", "env", "out"}  # of the cases
    system = {"proc", "sys", "dev", "kaniko", "busybox", "workspace"}
    wanted = {name for name in folders | others if re.fullmatch(r"[A-Za-z0-9._-]+", name)}
    wanted -= system | usual["TOP_FOLDERS"] | usual["TOP_LINKS"]
    return {
        "TOP_FOLDERS": " ".join(usual["TOP_FOLDERS"] - files),
        "MORE_FOLDERS": " ".join(wanted - others),
        "MORE_LINKS": " ".join(wanted & others | files),
    }


@contextmanager
def _running(work: Path, root: Path, isolation: str, pod: bundle.Pod) -> Iterator[TakeoverBuilder]:
    volume = work / "workspace"
    volume.mkdir()
    volume.chmod(0o777)
    command = bundle.container_command(
        root,
        [bundle.PYTHON, "-I", "-c", _LOOP],
        pod=pod,
        volumes={str(volume): WORKSPACE},
        options=[f"--timeout={CASES_SECONDS}"],
        rootfs="O" if isolation == "takeover" else "",
    )
    with (work / "podman.log").open("w") as log:
        container = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    try:
        yield TakeoverBuilder(container, volume, isolation, 1000 if isolation == "rootless" else 0)
    finally:
        if container.stdin:
            container.stdin.close()
        try:
            container.wait(60)
        except subprocess.TimeoutExpired:
            container.kill()
            container.wait()
