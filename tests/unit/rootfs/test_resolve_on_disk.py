"""Opening below a directory that holds hostile links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybuild.rootfs.errors import NotADirectory, SymlinkLoop
from pybuild.rootfs.resolve import open_in_root, resolve_on_disk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (root / "secret").write_text("inside")
    (root / "abs").symlink_to("/etc")
    (root / "out").symlink_to("../secret")
    (root / "real").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to("loop")
    return root


@pytest.mark.parametrize("path", ["etc/passwd", "abs/passwd", "out", "../secret", "/../../secret"])
def test_opens_inside(root: Path, path: str) -> None:
    descriptor = open_in_root(root, path)
    try:
        assert os.read(descriptor, 100) == b"inside"
    finally:
        os.close(descriptor)


def test_an_absolute_link_out_finds_nothing(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_in_root(root, "real")


def test_a_loop_is_named(root: Path) -> None:
    with pytest.raises(SymlinkLoop):
        open_in_root(root, "loop/x")


def test_a_file_on_the_way_is_named(root: Path) -> None:
    with pytest.raises(NotADirectory):
        open_in_root(root, "etc/passwd/x")


def test_a_missing_tail_is_kept(root: Path) -> None:
    assert resolve_on_disk(root, "abs/new/../other/x", follow_last=True) == "etc/other/x"
