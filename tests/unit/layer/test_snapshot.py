"""What a command changed, found on a real overlay and by walking: both say the same."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pybuild.layer.apply import read_layer
from pybuild.layer.changes import Change
from pybuild.layer.errors import OverlayUnsupported
from pybuild.layer.snapshot import Surface, WalkTable, overlay_changes, walk_changes
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree
from tests.support.layers import archive, in_pieces, member, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="overlay mounts need root")

BASE = archive(
    member("d", "dir", mode=0o711),
    member("d/e", "dir"),
    member("d/e/x", data=b"xx"),
    member("d/f", data=b"ff"),
    member("empty", "dir"),
    member("gone", "dir"),
    member("gone/a", data=b"a"),
    member("gone/b", data=b"b"),
    member("h1", data=b"hard"),
    member("h2", "link", link="h1"),
    member("l", "symlink", link="d/f"),
    member("t", data=b"keep"),
)
BELOW = Tree((read_layer(in_pieces(BASE), Tree()),))


def nothing(_path: str) -> bool:
    return False


def by_overlay(tmp_path: Path, command: str, ignore: Callable[[str], bool]) -> list[Change]:
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    unpack(BASE, tmp_path / "lower")
    options = "lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=off,metacopy=off,index=off"
    script = f"mount -t overlay o -o {options} merged && cd merged && {command}"
    subprocess.run(["unshare", "-m", "sh", "-ec", script], cwd=tmp_path, check=True, timeout=60)
    upper = tmp_path / "upper"
    return list(overlay_changes(upper, BELOW, user_xattrs=False, ignore=ignore))


def by_walk(tmp_path: Path, command: str, ignore: Callable[[str], bool]) -> list[Change]:
    root = tmp_path / "root"
    unpack(BASE, root)
    before = WalkTable.take(Surface(root, ignore))
    time.sleep(0.02)  # more than a tick of the clock that files are stamped with
    subprocess.run(["sh", "-ec", command], cwd=root, check=True, timeout=60)
    return list(walk_changes(before, Surface(root, ignore), BELOW))


def words(changes: list[Change]) -> list[str]:
    found = []
    for change in changes:
        entry = change.entry
        word = f"{entry.kind.name} {entry.path}"
        if entry.link:
            word += f" -> {entry.link}"
        found.append(word + (" (opaque)" if entry.opaque else ""))
    return found


COMMANDS = [
    pytest.param("true", [], id="nothing"),
    pytest.param("echo 1 > new", ["FILE new"], id="new-file"),
    pytest.param(
        "echo 1 > d/e/new", ["DIRECTORY d", "DIRECTORY d/e", "FILE d/e/new"], id="parents-come-too"
    ),
    pytest.param("rm t", ["WHITEOUT t"], id="removed-file"),
    pytest.param("rm -r gone", ["WHITEOUT gone"], id="removed-tree"),
    pytest.param("rm d/f", ["DIRECTORY d", "WHITEOUT d/f"], id="parents-of-a-removal"),
    pytest.param("chmod 700 d", ["DIRECTORY d"], id="mode-of-a-directory"),
    pytest.param("chmod 600 t && chmod 644 t", [], id="mode-there-and-back"),
    pytest.param("chown -R 0:0 .", [], id="owners-that-were-right"),
    pytest.param("touch -d @1 t", ["FILE t"], id="time"),
    pytest.param("echo -n KEEP > t && touch -d @1000000 t", ["FILE t"], id="only-the-bytes"),
    pytest.param("touch empty/x && rm empty/x", [], id="only-a-directory-s-time"),
    pytest.param("ln -s x sl", ["SYMLINK sl -> x"], id="symlink"),
    pytest.param("ln -sfn d/e l", ["SYMLINK l -> d/e"], id="symlink-changed"),
    pytest.param("mkfifo p", ["FIFO p"], id="fifo"),
    pytest.param("mknod c c 1 3", ["CHAR c"], id="device"),
    pytest.param(
        "echo 1 > n1 && ln n1 n2 && ln n1 d/n3",
        ["DIRECTORY d", "FILE d/n3", "HARDLINK n1 -> d/n3", "HARDLINK n2 -> d/n3"],
        id="hard-links",
    ),
    pytest.param("ln t d/t2", ["DIRECTORY d", "FILE d/t2"], id="hard-link-to-a-lower-file"),
    pytest.param("rm -r gone && echo 1 > gone", ["FILE gone"], id="directory-to-file"),
    pytest.param(
        "rm t && mkdir t && echo 1 > t/x", ["DIRECTORY t", "FILE t/x"], id="file-to-directory"
    ),
    pytest.param("mkdir -p new/a", ["DIRECTORY new", "DIRECTORY new/a"], id="new-directories"),
    pytest.param("setfattr -n user.k -v 1 d/f", ["DIRECTORY d", "FILE d/f"], id="xattr"),
    pytest.param("setfattr -n user.k -v 1 d", ["DIRECTORY d"], id="xattr-of-a-directory"),
    pytest.param("mv d/f d/g", ["DIRECTORY d", "WHITEOUT d/f", "FILE d/g"], id="rename"),
    pytest.param("mkdir stub && echo 1 > stub/x", [], id="ignored"),
    pytest.param(
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'", [], id="socket"
    ),
]


@pytest.mark.parametrize("look", [by_overlay, by_walk])
@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_changes(
    tmp_path: Path,
    look: Callable[[Path, str, Callable[[str], bool]], list[Change]],
    command: str,
    expected: list[str],
) -> None:
    assert words(look(tmp_path, command, lambda path: path == "stub")) == expected


REPLACED = "rm -r gone && mkdir gone && echo 1 > gone/b"


def test_a_replaced_directory_is_opaque_on_overlay(tmp_path: Path) -> None:
    found = by_overlay(tmp_path, REPLACED, nothing)
    assert words(found) == ["DIRECTORY gone (opaque)", "FILE gone/b"]


def test_a_replaced_directory_by_walk(tmp_path: Path) -> None:
    found = by_walk(tmp_path, REPLACED, nothing)
    assert words(found) == ["DIRECTORY gone", "WHITEOUT gone/a", "FILE gone/b"]


def test_writing_through_a_hard_link(tmp_path: Path) -> None:
    """The known difference: overlay changes one name, as BuildKit does; in place both change."""
    (tmp_path / "o").mkdir()
    assert words(by_overlay(tmp_path / "o", "echo 1 >> h1", nothing)) == ["FILE h1"]
    found = by_walk(tmp_path, "echo 1 >> h1", nothing)
    assert words(found) == ["FILE h1", "HARDLINK h2 -> h1"]


def test_a_stub_that_no_layer_has_is_not_in_the_layer(tmp_path: Path) -> None:
    """A live root holds directories of the container it runs in."""
    root = tmp_path / "root"
    unpack(BASE, root)
    (root / "stub").mkdir()
    before = WalkTable.take(Surface(root, nothing))
    time.sleep(0.02)
    (root / "stub/x").touch()
    (root / "stub/x").unlink()
    assert list(walk_changes(before, Surface(root, nothing), BELOW)) == []


def test_where_the_bytes_are(tmp_path: Path) -> None:
    (change,) = by_overlay(tmp_path, "echo 1 > new", nothing)
    assert change.content == str(tmp_path / "upper/new")
    (empty,) = by_overlay_again(tmp_path, "e")
    assert empty == Change(Entry("e", Kind.FILE, 0o644, mtime_ns=10**9), None)


def by_overlay_again(tmp_path: Path, name: str) -> list[Change]:
    upper = tmp_path / "upper2"
    upper.mkdir()
    (upper / name).touch(0o644)
    (upper / name).chmod(0o644)
    os.utime(upper / name, (1, 1))
    return list(overlay_changes(upper, BELOW, user_xattrs=False, ignore=nothing))


def test_user_attributes_mark_removals_in_user_namespaces(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.setxattr(gone, "user.overlay.opaque", b"y")
    (change,) = overlay_changes(tmp_path, BELOW, user_xattrs=True, ignore=nothing)
    assert (change.entry.opaque, change.entry.xattrs) == (True, ())
    assert list(overlay_changes(tmp_path, BELOW, user_xattrs=False, ignore=nothing)) == []


def test_a_redirect_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.redirect", b"/elsewhere")
    with pytest.raises(OverlayUnsupported):
        list(overlay_changes(tmp_path, BELOW, user_xattrs=False, ignore=nothing))
