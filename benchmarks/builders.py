"""The builders that are measured: each starts from empty storage and pushes what it built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.memory import PeakMemory
from tests.support.oracle.buildkit import running_buildkit
from tests.support.oracle.install import binary_directory


@dataclass(frozen=True, slots=True)
class Measured:
    """One build: wall clock and processor seconds, and the largest process in MB."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Work:
    """A workload's folder, ready to be built, and where its image goes."""

    name: str
    context: Path
    registry: str
    destination: str


class BuildBroke(Exception):
    """A builder failed; the message ends with what it said."""


class Builder(Protocol):
    @property
    def name(self) -> str: ...

    def measure(self, work: Work) -> Measured: ...


@dataclass(frozen=True, slots=True)
class Pybuild:
    """The command line in this environment, in namespace isolation."""

    name: str = "pybuild"
    options: tuple[str, ...] = ()

    def measure(self, work: Work) -> Measured:
        with tempfile.TemporaryDirectory(prefix="bench-pybuild-") as storage:
            command = [str(Path(sys.executable).with_name("executor"))]
            command += [f"--context={work.context}", f"--build-arg=REG={work.registry}"]
            command += [f"--dockerfile={work.context}/Dockerfile", "--isolation=namespace"]
            command += [f"--destination={work.destination}", "--insecure", *self.options]
            command += [f"--kaniko-dir={storage}"]
            measured = _measured([command], r"python3.*")
            _wait_until_empty(Path(storage))
            return measured


def _wait_until_empty(storage: Path) -> None:
    """It removes its folders after its end; the next builder must not pay for that."""
    deadline = time.monotonic() + 120
    while any(storage.iterdir()):
        if time.monotonic() > deadline:
            raise BuildBroke(f"pybuild left files in its folder: {list(storage.iterdir())}")
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with an overlay store of its own; independent stages side by side."""

    name: str = "buildah"

    def measure(self, work: Work) -> Measured:
        storage = tempfile.mkdtemp(prefix="bench-buildah-")
        store = [f"--root={storage}/root", f"--runroot={storage}/run"]
        store += ["--storage-driver=overlay"]
        build = ["buildah", *store, "bud", "--isolation=chroot", "--layers=false", "--jobs=3"]
        build += ["--tls-verify=false", f"--build-arg=REG={work.registry}"]
        build += [f"--tag={work.destination}", str(work.context)]
        push = ["buildah", *store, "push", "--tls-verify=false", work.destination]
        push += [f"docker://{work.destination}"]
        try:
            return _measured([build, push], "buildah")
        finally:
            _remove_store(Path(storage))


def _remove_store(storage: Path) -> None:
    """Its overlay directory is a mount of its own."""
    overlay = storage / "root/overlay"
    if overlay.is_mount():
        subprocess.run(["umount", str(overlay)], check=False)
    shutil.rmtree(storage, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Buildkit:
    """BuildKit with a daemon and root folder made for each build; starting it is not timed."""

    name: str = "BuildKit"

    def measure(self, work: Work) -> Measured:
        with ExitStack() as stack:
            daemon = stack.enter_context(running_buildkit(work.registry))
            command = [str(binary_directory() / "buildctl"), f"--addr={daemon.address}", "build"]
            command += ["--frontend=dockerfile.v0", f"--local=context={work.context}"]
            command += [f"--local=dockerfile={work.context}", "--progress=plain"]
            command += [f"--opt=build-arg:REG={work.registry}"]
            command += [
                f"--output=type=image,name={work.destination},push=true,registry.insecure=true"
            ]
            before = _cpu_of(daemon.pid)
            watch = PeakMemory(daemon.pid, "buildkitd|runc")
            done = _measured([command], "buildctl")
            return Measured(
                done.seconds,
                done.cpu_seconds + _cpu_of(daemon.pid) - before,
                max(done.peak_mb, watch.stop()),
            )


def _cpu_of(pid: int) -> float:
    """Of the process and the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _measured(commands: Sequence[Sequence[str]], programs: str) -> Measured:
    """Runs the commands one after the other; raises BuildBroke."""
    peak, cpu = 0.0, 0.0
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        for command in commands:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            watch = PeakMemory(process.pid, programs)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peak = max(peak, watch.stop())
            cpu += usage.ru_utime + usage.ru_stime
            if process.returncode != 0:
                log.seek(0)
                said = log.read().decode("utf-8", "replace")[-2000:]
                raise BuildBroke(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
        return Measured(time.monotonic() - started, cpu, peak)
