"""The build's own folder: made, locked, removed, and what others left."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybuild.executor.workspace import Workspace


def gone(path: Path) -> bool:
    """Within a while: large folders are removed by a process of their own."""
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not path.exists()


def test_nothing_is_left(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    (workspace.root / "spool/f").write_text("x")
    (workspace.root / "spool/closed").mkdir(mode=0)
    workspace.remove()
    assert gone(workspace.root)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_build_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    alive, dead = Workspace.create(tmp_path), Workspace.create(tmp_path)
    os.close(dead.lock)  # as the kernel does when a process ends
    other = tmp_path / "pybuild-work"
    other.mkdir()
    new = Workspace.create(tmp_path)
    assert gone(dead.root)
    assert alive.root.exists()
    assert other.exists()
    for workspace in (alive, new):
        workspace.remove()


def test_many_builds_that_start_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Workspace.create(tmp_path), range(40)))
    assert all(workspace.root.exists() for workspace in made)
    for workspace in made:
        workspace.remove()
