"""A root like the agent image's `rootless` target, and containers of it for ordinary users.

The names at its top are those of agent-image/Dockerfile, made by agent-image/tops.py. podman takes
what the directory is for `/` itself, containerd root:root 0755: so that is what it is here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.dockerfile.instructions import Arg
from pybuild.dockerfile.parser import parse
from tests.support import bundle

TOPS = bundle.REPOSITORY / "agent-image/tops.py"
DOCKERFILE = bundle.REPOSITORY / "agent-image/Dockerfile"
OWNER = (1000, 0)


def top_names() -> dict[str, str]:
    """The build arguments of the stage that makes the names, by their defaults."""
    stages = parse(DOCKERFILE.read_text(), file="Dockerfile").stages
    stage = next(stage for stage in stages if stage.name == "tops")
    found = {}
    for instruction in stage.instructions:
        if isinstance(instruction, Arg):
            found |= {name: (value or "").strip('"') for name, value in instruction.pairs}
    return found


def rootless_root(directory: Path, **more: str) -> Path:
    """As `bundle.container_root`, to be taken over by any user; `more` are further build arguments,
    as MORE_FOLDERS. `directory` must not exist."""
    made = bundle.container_root(directory / "whole")
    root = directory / "root"
    root.mkdir(mode=0o755)
    tops = directory / "tops"
    environment = {**os.environ, **top_names(), **more}
    subprocess.run([sys.executable, TOPS, tops], env=environment, check=True)
    for name in ("busybox", bundle.PREFIX, "proc", "sys", "dev"):
        (made / name).rename(root / name)
    (root / bundle.PREFIX / ".docker").mkdir(exist_ok=True)
    for tree, target in ((tops / "root", root), (tops / "kaniko", root / bundle.PREFIX)):
        for path in tree.rglob("*"):
            os.chown(path, *OWNER, follow_symlinks=False)
        for path in tree.iterdir():
            shutil.move(path, target / path.name)
    shutil.rmtree(tops)
    shutil.rmtree(made)
    return root


@contextmanager
def overlay_of(root: Path, folder: Path) -> Iterator[Path]:
    """The root as a container's runtime shows it: the files are in a lower layer, `/` is root's.
    podman's own overlay of a folder would belong to the container's user."""
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    places = f"lowerdir={root},upperdir={folder}/upper,workdir={folder}/work"
    merged = folder / "merged"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", places, merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", "--lazy", merged], check=True)
