"""What an honest layer becomes on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pybuild.layer.apply import UnpackStyle, read_layer, unpack_layer
from pybuild.rootfs.index import LayerIndex, Tree
from pybuild.rootfs.tops import Tops
from tests.support.layers import archive, in_pieces, member, scan, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

OVERLAYS = [UnpackStyle.OVERLAY_TRUSTED, UnpackStyle.OVERLAY_USER]
# cap_net_raw=ep, as setcap(8) writes it: version 2, effective
CAPABILITY = b"\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0"


def is_whiteout(place: Path) -> bool:
    status = place.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_all_that_an_entry_says_is_kept(tmp_path: Path) -> None:
    capability = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}
    data = archive(
        member("d", "dir", mode=0o2775, uid=5, gid=6, mtime=77),
        member("d/f", data=b"text", mode=0o4711, uid=1000, gid=1001, mtime=1.5),
        member("d/l", "link", link="d/f"),
        member("s", "symlink", link="d/f", uid=7, gid=8, mtime=9),
        member("c", "char", mode=0o620, gid=5, device=(1, 3)),
        member("b", "block", mode=0o660, device=(7, 0)),
        member("p", "fifo", mode=0o600, uid=3),
        member("cap", data=b"x", mode=0o755, uid=1, pax=capability),
        member("d/sub", "dir", mode=0o700),
    )
    index = unpack(data, tmp_path / "r")
    root = tmp_path / "r"
    assert scan(root) == {
        "b": ("brw-rw----", 0, 0, 1_000_000, os.makedev(7, 0)),
        "c": ("crw--w----", 0, 5, 1_000_000, os.makedev(1, 3)),
        "cap": ("-rwxr-xr-x", 1, 0, 1_000_000, (b"x", "cap")),
        "d": ("drwxrwsr-x", 5, 6, 0, None),
        "d/f": ("-rws--x--x", 1000, 1001, 1, (b"text", "d/f")),
        "d/l": ("-rws--x--x", 1000, 1001, 1, (b"text", "d/f")),
        "d/sub": ("drwx------", 0, 0, 0, None),
        "p": ("prw-------", 3, 0, 1_000_000, None),
        "s": ("lrwxrwxrwx", 7, 8, 9, "d/f"),
    }
    assert (root / "d/f").stat().st_mtime_ns == 1_500_000_000
    assert (root / "d").stat().st_mtime_ns == 77_000_000_000
    assert index == read_layer(in_pieces(data), Tree())


def test_a_capability_survives_the_owner(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.security.capability": "PLACE" * 4}
    data = archive(member("cap", data=b"x", uid=1, mode=0o755, pax=pax))
    data = data.replace(b"PLACE" * 4, CAPABILITY)
    index = unpack(data, tmp_path / "r")
    assert os.getxattr(tmp_path / "r/cap", "security.capability") == CAPABILITY
    entry = index.lookup("cap")
    assert entry is not None
    assert entry.xattrs == (("security.capability", CAPABILITY),)


LOWER = archive(
    member("a", "dir", mode=0o711, uid=1, gid=2, mtime=50),
    member("a/d", "dir"),
    member("a/d/x", data=b"low", uid=4),
    member("a/f", data=b"low"),
    member("z", data=b"low"),
    member("z2", "symlink", link="z"),
)


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    unpack(LOWER, tmp_path / "lower")
    return tmp_path / "lower"


BELOW = Tree((read_layer(in_pieces(LOWER), Tree()),))


@pytest.mark.parametrize("style", OVERLAYS)
def test_removals_become_marks(tmp_path: Path, lower: Path, style: UnpackStyle) -> None:
    data = archive(member("a/.wh.f"), member(".wh.never"), member("a/d/.wh..wh..opq"))
    upper = tmp_path / "upper"
    unpack(data, upper, BELOW, style=style)
    assert is_whiteout(upper / "a/f")
    assert not (upper / "never").exists()
    assert os.getxattr(upper / "a/d", style.opaque_attribute) == b"y"


@pytest.mark.parametrize("style", OVERLAYS)
def test_missing_parents_look_as_they_do_below(
    tmp_path: Path, lower: Path, style: UnpackStyle
) -> None:
    unpack(archive(member("a/n"), member("q/r")), tmp_path / "upper", BELOW, style=style)
    status = (tmp_path / "upper/a").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o711, 1, 2)
    assert status.st_mtime == 50
    assert stat.S_IMODE((tmp_path / "upper/q").stat().st_mode) == 0o755


@pytest.mark.parametrize("style", OVERLAYS)
def test_a_hard_link_to_a_lower_file_is_a_copy(
    tmp_path: Path, lower: Path, style: UnpackStyle
) -> None:
    data = archive(member("l1", "link", link="a/d/x"), member("l2", "link", link="a/d/x"))
    index = unpack(data, tmp_path / "upper", BELOW, style=style, lower=lower)
    one, two = (tmp_path / "upper/l1").stat(), (tmp_path / "upper/l2").stat()
    assert (tmp_path / "upper/l1").read_bytes() == b"low"
    assert (one.st_uid, one.st_ino) == (4, two.st_ino)
    merged = Tree((*BELOW.layers, index))
    assert merged.locate("l1") == BELOW.locate("a/d/x")


@pytest.mark.parametrize("style", OVERLAYS)
def test_an_opaque_root_hides_each_name(tmp_path: Path, lower: Path, style: UnpackStyle) -> None:
    """Overlay takes no mark on the root of a layer."""
    upper = tmp_path / "upper"
    index = unpack(archive(member(".wh..wh..opq"), member("a/n")), upper, BELOW, style=style)
    assert is_whiteout(upper / "z")
    assert is_whiteout(upper / "z2")
    assert os.getxattr(upper / "a", style.opaque_attribute) == b"y"
    assert [e.path for e in Tree((*BELOW.layers, index)).walk()] == ["", "a", "a/n"]


@pytest.mark.parametrize("style", OVERLAYS)
def test_a_directory_in_place_of_a_removed_one_is_opaque(
    tmp_path: Path, lower: Path, style: UnpackStyle
) -> None:
    upper = tmp_path / "upper"
    index = unpack(archive(member("a/.wh.d"), member("a/d/y")), upper, BELOW, style=style)
    assert os.getxattr(upper / "a/d", style.opaque_attribute) == b"y"
    assert [e.path for e in Tree((*BELOW.layers, index)).children("a/d")] == ["a/d/y"]


def test_in_place_removals_remove(tmp_path: Path, lower: Path) -> None:
    data = archive(
        member("a/.wh.f"),
        member("a/d/y", data=b"new"),
        member("a/d/.wh..wh..opq"),
        member("z", "dir"),
        member("z/inside"),
    )
    index = unpack(data, lower, BELOW)
    assert sorted(scan(lower)) == ["a", "a/d", "a/d/y", "z", "z/inside", "z2"]
    merged = Tree((*BELOW.layers, index))
    assert [e.path for e in merged.walk()] == ["", *sorted(scan(lower))]
    assert (lower / "a").stat().st_mtime == 50


def test_what_is_skipped_stays(tmp_path: Path, lower: Path) -> None:
    from pybuild.layer.apply import unpack_layer

    data = archive(member(".wh.a"), member("z", data=b"new"), member("a/d/x", data=b"new"))
    index = unpack_layer(
        in_pieces(data),
        lower,
        BELOW,
        style=UnpackStyle.IN_PLACE,
        lower_path=lambda _: None,
        skip=lambda path: path == "a/d/x",
    )
    assert (lower / "a/d/x").read_bytes() == b"low"
    assert (lower / "z").read_bytes() == b"new"
    assert not (lower / "a/f").exists()
    assert index == read_layer(in_pieces(data), BELOW)


def test_only_what_is_selected_is_written(tmp_path: Path) -> None:
    from pybuild.layer.apply import unpack_layer

    root = tmp_path / "r"
    root.mkdir()
    index = unpack_layer(
        in_pieces(LOWER),
        root,
        Tree(),
        style=UnpackStyle.OVERLAY_TRUSTED,
        lower_path=lambda _: None,
        select=lambda path: path == "a/d/x",
    )
    assert sorted(scan(root)) == ["a", "a/d", "a/d/x"]
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o711
    assert index == BELOW.layers[0]


def test_passwd_and_group_are_kept(tmp_path: Path) -> None:
    data = archive(member("etc/passwd", data=b"root:x:0:0"), member("etc/group", data=b""))
    index = read_layer(in_pieces(data, 9), Tree())
    assert index.kept == {"etc/passwd": b"root:x:0:0", "etc/group": b""}
    replaced = archive(
        member("etc/passwd", data=b"a"), member("etc/passwd", "symlink", link="x"), member("y")
    )
    assert read_layer(in_pieces(replaced), Tree()).kept == {}


def test_an_ordinary_users_files_are_open_to_that_user(tmp_path: Path) -> None:
    """Whatever their mode is, which the index has."""
    tar = archive(
        member("closed", data=b"x", mode=0o000, uid=7),
        member("shut", "dir", mode=0o500),
        member("open", mode=0o4755),
    )
    index = unpack(tar, tmp_path, style=UnpackStyle.UNOWNED)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"closed": 0o600, "shut": 0o700, "open": 0o4755}
    kept = {entry.path: (entry.mode, entry.uid) for entry in index.entries()}
    assert kept == {"closed": (0o000, 7), "shut": (0o500, 0), "open": (0o4755, 0)}


def test_names_at_the_top_are_those_that_are_there(tmp_path: Path) -> None:
    """As the root of an agent image for ordinary users has them: links lead into a folder."""
    (tmp_path / ".root").mkdir()
    for name in ("bin", "lib"):
        (tmp_path / name).symlink_to(f".root/{name}")
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/before").write_text("")
    tops = Tops(frozenset({"usr"}), frozenset({"bin", "lib"}))
    tar = archive(
        member("usr", "dir", mode=0o750),
        member("usr/bin", "dir"),
        member("bin", "symlink", link="usr/bin"),
        member("bin/program", data=b"p"),
        member("lib/module", data=b"m"),
        member("elsewhere/file", data=b"e"),
        member("usr/again", "link", link="lib/module"),
        member(".wh.usr"),
    )
    index = unpack_layer(
        in_pieces(tar),
        tmp_path,
        Tree((index_of("usr/before"),)),
        style=UnpackStyle.UNOWNED,
        lower_path=lambda _: None,
        skip=lambda path: not tops.has(path),
        tops=tops,
    )
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {
        *(".root", ".root/bin", ".root/lib", ".root/lib/module"),
        *("bin", "lib", "usr", "usr/bin", "usr/bin/program", "usr/again"),
    }
    assert (tmp_path / ".root/bin").readlink() == Path("usr/bin")
    assert (tmp_path / "usr/again").samefile(tmp_path / ".root/lib/module")
    assert stat.S_IMODE((tmp_path / "usr").stat().st_mode) == 0o750
    assert index.lookup("elsewhere/file") is not None


def index_of(*paths: str) -> LayerIndex:
    return read_layer(in_pieces(archive(*(member(path) for path in paths))), Tree())
