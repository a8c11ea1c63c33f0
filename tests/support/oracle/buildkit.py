"""A BuildKit daemon of one's own: own root folder, own mount namespace, loopback registry."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.oracle.install import OracleMissing, binary_directory, install


class BuildFailed(Exception):
    """The oracle refused to build; `log` is what it said."""

    def __init__(self, log: str) -> None:
        super().__init__(log[-3000:])
        self.log = log


@dataclass(frozen=True, slots=True)
class Buildkit:
    """A running daemon. `pid` is the daemon's own, for measuring its memory."""

    address: str
    pid: int

    def build(
        self,
        context: Path,
        destination: str,
        *,
        dockerfile: str = "Dockerfile",
        options: Mapping[str, str] | None = None,
        secrets: Mapping[str, Path] | None = None,
        timeout_seconds: float = 600,
    ) -> str:
        """Builds and pushes; returns the log. `options` are the frontend's (target, build-arg:…).

        Raises BuildFailed with the log.
        """
        directory, name = os.path.split(dockerfile)
        command = [
            str(binary_directory() / "buildctl"),
            f"--addr={self.address}",
            "build",
            "--progress=plain",
            "--frontend=dockerfile.v0",
            f"--local=context={context}",
            f"--local=dockerfile={context / directory}",
            f"--opt=filename={name}",
            f"--output=type=image,name={destination},push=true,registry.insecure=true",
        ]
        command += [f"--opt={key}={value}" for key, value in (options or {}).items()]
        command += [f"--secret=id={name},src={file}" for name, file in (secrets or {}).items()]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
        )
        if done.returncode != 0:
            raise BuildFailed(done.stdout)
        return done.stdout


@contextmanager
def running_buildkit(registry: str, root: Path | None = None) -> Iterator[Buildkit]:
    """Starts a daemon that may use `registry` over plain HTTP; its state ends with it.

    Raises OracleMissing where it is not installed, can't be, or does not start.
    """
    install()
    for needed in ("runc", "unshare"):
        if shutil.which(needed) is None:
            raise OracleMissing(f"BuildKit needs `{needed}`: apt-get install runc util-linux")
    work = Path(tempfile.mkdtemp(prefix="buildkit-"))
    state = root or work / "root"
    config = work / "buildkitd.toml"
    config.write_text(f'[registry."{registry}"]\n  http = true\n  insecure = true\n')
    address = f"unix://{work}/sock"
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            _daemon_command(state, address, config),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(work)},
        )
    try:
        _wait(work / "sock", process, work / "log")
        yield Buildkit(address, _daemon_of(process))
    finally:
        _stop(process)
        subprocess.run(["rm", "-rf", str(work)], check=False)


def _daemon_command(state: Path, address: str, config: Path) -> list[str]:
    command = ["unshare", "--mount", "--propagation", "private", "--kill-child=TERM"]
    command += [str(binary_directory() / "buildkitd"), f"--root={state}", f"--addr={address}"]
    command += [f"--config={config}", "--oci-worker-net=host", "--oci-worker-binary=runc"]
    return [*command, "--containerd-worker=false", "--oci-worker-gc=false"]


def _daemon_of(process: subprocess.Popen[bytes]) -> int:
    """With --kill-child, unshare forks: the daemon is its only child."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else process.pid


def _wait(sock: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if sock.exists():
            command = [
                str(binary_directory() / "buildctl"),
                f"--addr=unix://{sock}",
                "debug",
                "workers",
            ]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return
        time.sleep(0.05)
    _stop(process)
    raise OracleMissing(f"buildkitd does not start:\n{log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    daemon = _daemon_of(process)
    try:
        os.kill(daemon, signal.SIGTERM)
        process.wait(20)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
