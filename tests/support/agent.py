"""The agent image as users get it: built and pushed by `agent-image/build.py`, run by podman.

`AgentImage.run` runs a command in a container of it under the rules that a Pod has; images are
pulled into a storage of our own, which goes away with the test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.bundle import CONTAINER_SECONDS, Pod

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCH = 1_750_000_000
NEEDED_COMMANDS = ("apt-get", "podman", "runc", "docker-registry")


def missing_commands() -> list[str]:
    return [name for name in NEEDED_COMMANDS if shutil.which(name) is None]


def fetch_context(target: Path, *architectures: str) -> None:
    """The folder that the image is built from. Packages come from the developer's cache, and from
    the network where that is a week old."""
    script = str(REPOSITORY / "agent-image/fetch.py")
    command = [sys.executable, script, str(target), "--max-age=168"]
    subprocess.run([*command, *(f"--architecture={name}" for name in architectures)], check=True)


def build_flags(context: str, target: str, *more: str) -> list[str]:
    dockerfile = f"{context}/agent-image/Dockerfile"
    return [f"--context=dir://{context}", f"--dockerfile={dockerfile}", f"--target={target}", *more]


def build(context: Path, target: str, *more: str) -> None:
    """By the builder of this checkout, as `make agent-image` does."""
    command = [str(REPOSITORY / ".venv/bin/executor"), *build_flags(str(context), target, *more)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}:\n{done.stderr[-3000:]}")


def make(flags: Sequence[str], repository: str, more: Sequence[str]) -> None:
    """By `agent-image/build.py` itself; `more` are the builder's own flags."""
    script = str(REPOSITORY / "agent-image/build.py")
    command = [sys.executable, script, f"--repository={repository}", *flags, "--", *more]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}:\n{done.stderr[-3000:]}")


def manifest(host: str, repository: str, tag: str) -> tuple[str, dict[str, Any]]:
    """Digest and content of what a registry on plain HTTP has under the tag."""
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json,"
                           "application/vnd.docker.distribution.manifest.list.v2+json,"
                           "application/vnd.oci.image.index.v1+json,"
                           "application/vnd.docker.distribution.manifest.v2+json"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        return answer.headers["Docker-Content-Digest"], json.load(answer)


def storage_folder() -> Path:
    """podman refuses a run folder whose path has more than 50 characters."""
    return Path(tempfile.mkdtemp(prefix="agent-", dir="/tmp"))


@dataclass(frozen=True)
class AgentImage:
    """`reference` in a registry on plain HTTP; `storage` is where podman keeps it."""

    reference: str
    storage: Path

    def podman(self, *arguments: str) -> list[str]:
        own = [f"--root={self.storage}/root", f"--runroot={self.storage}/run"]
        return ["podman", *own, "--runtime=runc", *arguments]

    def pull(self) -> None:
        command = self.podman("pull", "--quiet", "--tls-verify=false", self.reference)
        subprocess.run(command, check=True, capture_output=True)

    def remove(self) -> None:
        """The storage; a mount of podman's own would stay in it."""
        for command in (
            self.podman("rmi", "--all", "--force"),
            ["umount", "--lazy", f"{self.storage}/root/overlay"],
        ):
            subprocess.run(command, check=False, capture_output=True)
        shutil.rmtree(self.storage, ignore_errors=True)

    def command(
        self,
        arguments: Sequence[str],
        *,
        pod: Pod,
        shell: bool = False,
        volumes: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> list[str]:
        """podman's command line. `arguments` are the entry point's, or with `shell` one script.
        `volumes`: path here → path there."""
        return self.podman(
            *("run", "--rm", "--net=host", f"--timeout={CONTAINER_SECONDS}"),
            *("--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000"),
            *pod.value,
            *(f"--volume={source}:{target}" for source, target in (volumes or {}).items()),
            *(f"--env={name}={value}" for name, value in (env or {}).items()),
            *options,
            *(("--entrypoint=/busybox/sh",) if shell else ()),
            self.reference,
            *(("-c",) if shell else ()),
            *arguments,
        )

    def run(
        self,
        *arguments: str,
        pod: Pod = Pod.DEFAULT,
        shell: bool = False,
        volumes: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        timeout_seconds: int = CONTAINER_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end; a failure is the caller's to judge."""
        options = [*options, f"--timeout={timeout_seconds}"]
        command = self.command(
            arguments, pod=pod, shell=shell, volumes=volumes, env=env, options=options
        )
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds + 20, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
