"""The build's own folder: made, locked, removed, and what others left."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybuild.executor.workspace import Workspace


def left_in(folder: Path, count: int = 0) -> list[str]:
    """What is left after a while: large folders are removed by a process of their own."""
    deadline = time.monotonic() + 10
    while len(list(folder.iterdir())) > count and time.monotonic() < deadline:
        time.sleep(0.05)
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_left(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    (workspace.root / "spool/f").write_text("x")
    (workspace.root / "spool/closed").mkdir(mode=0)
    workspace.remove()
    assert left_in(tmp_path) == []


def test_what_a_killed_build_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    alive, dead = Workspace.create(tmp_path), Workspace.create(tmp_path)
    os.close(dead.lock)  # as the kernel does when a process ends
    other = tmp_path / "pybuild-work"
    other.mkdir()
    new = Workspace.create(tmp_path)
    expected = sorted(path.name for path in (alive.root, new.root, other))
    assert left_in(tmp_path, count=3) == expected
    for workspace in (alive, new):
        workspace.remove()


def test_many_builds_that_start_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Workspace.create(tmp_path), range(40)))
    assert all(workspace.root.exists() for workspace in made)
    for workspace in made:
        workspace.remove()
