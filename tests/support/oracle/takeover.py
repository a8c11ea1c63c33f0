"""One container in which pybuild builds case after case in takeover, as in one Pod.

A loop inside the container reads a request a line (the flags) and answers a line (exit status and
output), so that the price of starting a container is paid once.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import bundle
from tests.support.oracle.builders import NO_SECRETS, Refused, error_code, executor_flags

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
    """pybuild in takeover; contexts have to lie below `volume`, the container's /workspace."""

    container: subprocess.Popen[str]
    volume: Path
    name: str = "pybuild-takeover"

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
        inside = Path(WORKSPACE) / context.relative_to(self.volume)
        flags = executor_flags(inside, destination, dockerfile, target, platform, args, "takeover")
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
    """Starts the container; it ends when its standard input does."""
    with tempfile.TemporaryDirectory(prefix="takeover-") as work:
        volume = Path(work) / "workspace"
        volume.mkdir()
        root = bundle.container_root(Path(work) / "root")
        command = bundle.container_command(
            root,
            [bundle.PYTHON, "-I", "-c", _LOOP],
            pod=bundle.Pod.RUNTIME_DEFAULT,
            volumes={str(volume): WORKSPACE},
            options=[f"--timeout={CASES_SECONDS}"],
        )
        with (Path(work) / "podman.log").open("w") as log:
            container = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        try:
            yield TakeoverBuilder(container, volume)
        finally:
            if container.stdin:
                container.stdin.close()
            try:
                container.wait(60)
            except subprocess.TimeoutExpired:
                container.kill()
                container.wait()
