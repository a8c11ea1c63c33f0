"""Debian's docker-registry on loopback, for one test session, and reading images back from it."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


class RegistryMissing(Exception):
    """There is no docker-registry on this machine, or it does not start."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_registry(storage: Path | None = None, *, port: int = 0) -> Iterator[str]:
    """Runs a registry without passwords; yields "127.0.0.1:PORT". Own storage ends with it."""
    program = shutil.which("docker-registry")
    if program is None:
        raise RegistryMissing("there is no docker-registry: apt-get install docker-registry")
    with tempfile.TemporaryDirectory(prefix="registry-") as work:
        host = f"127.0.0.1:{port or free_port()}"
        config = Path(work) / "config.yml"
        config.write_text(_CONFIG.format(storage=storage or Path(work) / "storage", host=host))
        with (Path(work) / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            _wait(host, process)
            yield host
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: "{storage}"}}
  delete: {{enabled: true}}
http: {{addr: "{host}"}}
"""


def _wait(host: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            get(host, "/v2/")
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RegistryMissing(f"docker-registry on {host} does not answer")


def get(host: str, target: str) -> bytes:
    """Fetches one document; raises FileNotFoundError where the answer is not 200."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", target, headers={"Accept": ACCEPT})
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise FileNotFoundError(f"{host}{target}: {response.status} {data[:200]!r}")
        return data
    finally:
        connection.close()
