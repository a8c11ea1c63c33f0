"""What a RUN does to the builder's files is undone; what it writes below mounts is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pybuild.isolation.guard import Guard
from pybuild.isolation.moving import Kept
from pybuild.isolation.watch import Watch, shortened
from tests.support.tree_listing import listing


def grow(root: Path) -> None:
    (root / "lib/deep").mkdir(parents=True)
    (root / "program").write_bytes(os.urandom(3_000_000))
    (root / "program").chmod(0o755)
    os.link(root / "program", root / "lib/other-name")
    (root / "lib/deep/data").write_text("data")
    (root / "lib/link").symlink_to("../program")
    (root / "pybuild-work-1").mkdir()


def edit_in_place(root: Path) -> None:
    before = (root / "lib/deep/data").stat()
    (root / "lib/deep/data").write_text("Data")
    os.utime(root / "lib/deep/data", ns=(before.st_atime_ns, before.st_mtime_ns))


HARM: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: (root / "pybuild-work-1/blob").write_text("the builder's own"),
    "appended": lambda root: (root / "program").open("ab").write(b"x"),
    "edited-with-its-time": edit_in_place,
    "removed": lambda root: shutil.rmtree(root / "lib"),
    "all-removed": shutil.rmtree,
    "added": lambda root: (root / "lib/new").mkdir(),
    "mode": lambda root: (root / "lib/deep/data").chmod(0),
    "replaced": lambda root: ((root / "program").unlink(), (root / "program").symlink_to("/etc")),
    "folder-is-link": lambda root: (
        (root / "lib").rename(root / "gone"),
        (root / "lib").symlink_to("gone"),
    ),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_it_is_as_before(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    root, place = tmp_path / "root", tmp_path / "place"
    place.mkdir()
    grow(root)
    shown = listing([str(root)], {f"{root}/pybuild-work-1"})
    guard = Guard([str(root)], [], place)
    assert list(place.iterdir()) == []  # no path leads to the copy
    for _ in range(2):
        harm(root)
        mended = guard.put_back()
        assert listing([str(root)], {f"{root}/pybuild-work-1"}) == shown
        assert bool(mended) == (harm is not HARM["nothing"])
    assert guard.put_back() == []
    guard.close()


def test_another_name_elsewhere_is_no_change(tmp_path: Path) -> None:
    grow(tmp_path / "root")
    guard = Guard([str(tmp_path / "root")], [], tmp_path)
    os.link(tmp_path / "root/lib/deep/data", tmp_path / "elsewhere")
    assert guard.put_back() == []
    guard.close()


def test_changes_below_kept_paths_are_named(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    grow(volume)
    (volume / "job@tmp").mkdir()
    file = tmp_path / "token"
    file.write_text("mounted by itself")
    kept = Kept([str(volume), str(file), "/proc", "/etc/hosts", str(tmp_path / "ours")])
    watch = Watch(kept, {str(tmp_path / "ours")})
    assert watch.changed() == []
    (volume / "lib/new").write_text("x")
    (volume / "lib/deep/data").unlink()
    (volume / "job@tmp/log").write_text("Jenkins'")
    (volume / "pybuild-work-1/blob").write_text("the builder's")
    (volume / "empty").mkdir()
    file.write_text("changed")
    wanted = ["token", "volume/empty", "volume/lib/deep/data", "volume/lib/new"]
    assert watch.changed() == [str(tmp_path / name) for name in wanted]


def test_a_list_fits_a_line() -> None:
    names = [f"/a\udcff{number}\n" for number in range(12)]
    assert shortened(names).endswith("and 2 more")
    assert "\udcff" not in shortened(names)
