"""The agent image's targets, built once for what they are made of, and pulled for podman.

`built_images` keeps the registry's storage in the developer's cache under a digest of the sources,
so that several test modules (and workers) build them once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import agent, bases
from tests.support.oracle.registry import running_registry
from tests.support.pods import Image

TARGETS = ("slim", "rootless")  # that most tests run
EVERY = ("debug", "slim", "rootless")
REPOSITORY = "agent/pybuild"
MOST_SECONDS = 7 * 24 * 3600.0  # as long as agent.fetch_context trusts its packages
_MADE_OF = ("pybuild", "agent-image", "requirements.lock", "pyproject.toml")


def _key() -> str:
    digest = hashlib.sha256(" ".join(EVERY).encode())
    for name in _MADE_OF:
        top = agent.REPOSITORY / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(agent.REPOSITORY)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def built_images() -> Path:
    """A registry's storage with REPOSITORY:<target> of this checkout, whichever are asked for: the
    tests of one run would take turns at building theirs."""
    cache = bases.directory().parent / "agent-built"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = cache / _key()
        if made.is_dir() and made.stat().st_mtime > time.time() - MOST_SECONDS:
            return made
        for old in cache.iterdir():  # what is served already stays open
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="agent-built-") as work:
            agent.fetch_context(Path(work) / "context")
            storage = Path(work) / "storage"
            with running_registry(storage) as host:
                for target in EVERY:
                    flags = [f"--destination={host}/{REPOSITORY}:{target}", "--cache=true"]
                    flags.append(f"--cache-repo={host}/cache")
                    agent.build(Path(work) / "context", target, *flags)
            shutil.move(storage, made)
        return made


@dataclass(frozen=True)
class AgentImages:
    """The images in podman's storage; `podman` is the command line up to its verb."""

    podman: tuple[str, ...]
    by_target: dict[str, Image]


@contextmanager
def agent_images(targets: Sequence[str] = TARGETS) -> Iterator[AgentImages]:
    """Builds what is not built yet, pulls the targets; the storage goes at the end."""
    folder = agent.storage_folder()
    try:
        with running_registry(built_images()) as host:
            pulled = [agent.AgentImage(f"{host}/{REPOSITORY}:{name}", folder) for name in targets]
            for image in pulled:
                image.pull()
        found = {name: _image(image) for name, image in zip(targets, pulled, strict=True)}
        yield AgentImages(tuple(pulled[0].podman()), found)
    finally:
        agent.AgentImage("", folder).remove()


def _image(pulled: agent.AgentImage) -> Image:
    inspected = subprocess.check_output(pulled.podman("image", "inspect", pulled.reference))
    return Image((pulled.reference,), json.loads(inspected)[0]["Config"].get("User", ""))
