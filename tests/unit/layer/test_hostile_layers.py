"""Layers that try to reach out of their root, or to confuse whoever unpacks them.

Each is unpacked beside a canary in every style. It is either refused by name, or stays inside and
means what Docker takes it for. The index that is read without unpacking says the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.errors import PybuildError
from pybuild.layer.apply import UnpackStyle, read_layer
from pybuild.layer.errors import BadArchive, BadWhiteout, LinkTargetMissing, OutsideRoot
from pybuild.rootfs.entry import Kind
from pybuild.rootfs.errors import NotADirectory, SymlinkLoop
from pybuild.rootfs.index import Tree
from tests.support.layers import Member, archive, in_pieces, member, scan, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

STYLES = list(UnpackStyle)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty root; at the end, nothing beside it has changed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    (outside / "canary").chmod(0o640)
    before = (scan(outside), outside.stat().st_mtime_ns)
    yield tmp_path / "root"
    assert (scan(outside), outside.stat().st_mtime_ns) == before
    assert sorted(p.name for p in tmp_path.iterdir()) in (["outside", "root"], ["outside"])


def f(name: str, data: bytes = b"x", **more: object) -> Member:
    return member(name, "file", data, **more)  # type: ignore[arg-type]


def d(name: str) -> Member:
    return member(name, "dir")


def s(name: str, target: str) -> Member:
    return member(name, "symlink", link=target)


def h(name: str, target: str) -> Member:
    return member(name, "link", link=target)


UP = "../outside/canary"
REFUSED = [
    pytest.param([f("../outside/canary")], OutsideRoot, id="dot-dot"),
    pytest.param([f("a/../../outside/canary")], OutsideRoot, id="dot-dot-inside"),
    pytest.param([f("/../outside/canary")], OutsideRoot, id="absolute-dot-dot"),
    pytest.param([f("..")], OutsideRoot, id="the-parent-itself"),
    pytest.param([f("./")], OutsideRoot, id="a-file-as-root"),
    pytest.param([s(".", "/etc")], OutsideRoot, id="a-link-as-root"),
    pytest.param([h("x", UP)], OutsideRoot, id="hard-link-out"),
    pytest.param([h("x", "/outside/canary")], LinkTargetMissing, id="absolute-hard-link"),
    pytest.param([s("l", "../outside"), h("x", "l/canary")], LinkTargetMissing, id="link-by-link"),
    pytest.param([h("x", "x")], LinkTargetMissing, id="link-to-itself"),
    pytest.param([f("x"), h("x", "x")], LinkTargetMissing, id="link-in-place-of-itself"),
    pytest.param([d("x"), h("y", "x")], LinkTargetMissing, id="link-to-a-directory"),
    pytest.param([f("x/y"), h("x", "x/y")], LinkTargetMissing, id="link-over-its-target"),
    pytest.param([h("x", "")], LinkTargetMissing, id="link-to-the-root"),
    pytest.param([f("x"), f("x/y")], NotADirectory, id="below-a-file"),
    pytest.param([s("a", "b"), s("b", "a"), f("a/x")], SymlinkLoop, id="loop"),
    pytest.param([f(".wh.")], BadWhiteout, id="whiteout-of-nothing"),
    pytest.param([f("a/.wh..")], BadWhiteout, id="whiteout-of-the-directory"),
    pytest.param([f("a/.wh...")], BadWhiteout, id="whiteout-of-the-parent"),
    pytest.param([f("n" * 256)], BadArchive, id="name-too-long"),
    pytest.param([f("n/" * 2100 + "n")], BadArchive, id="path-too-long"),
    pytest.param([f("n/" * 300 + "n")], BadArchive, id="path-too-deep"),
    pytest.param([s("x", "")], BadArchive, id="empty-symlink"),
    pytest.param([s("x", "y" * 5000)], BadArchive, id="symlink-too-long"),
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("members", "error"), REFUSED)
def test_refused_by_name(
    root: Path, members: list[Member], error: type[PybuildError], style: UnpackStyle
) -> None:
    data = archive(*members)
    with pytest.raises(error):
        read_layer(in_pieces(data), Tree())
    with pytest.raises(error):
        unpack(data, root, style=style)


CONTAINED = [
    pytest.param([f("/etc/passwd")], {"etc", "etc/passwd"}, id="absolute-name"),
    pytest.param([f("//a///./b/../c")], {"a", "a/c"}, id="untidy-name"),
    pytest.param(
        [s("l", "/outside"), f("l/canary")], {"l", "outside", "outside/canary"}, id="absolute-link"
    ),
    pytest.param(
        [s("l", "../outside"), f("l/canary")], {"l", "outside", "outside/canary"}, id="relative"
    ),
    pytest.param(
        [s("a", "b"), s("b", "../../outside"), f("a/canary")],
        {"a", "b", "outside", "outside/canary"},
        id="links-through-links",
    ),
    pytest.param(
        [d("d"), s("d/l", ".."), f("d/l/x"), s("d/m", "l/../../.."), f("d/m/y")],
        {"d", "d/l", "x", "d/m", "y"},
        id="links-to-the-root",
    ),
    pytest.param(
        [f("a", b"1"), d("a"), f("a/x"), f("a", b"2")], {"a"}, id="file-directory-and-back"
    ),
    pytest.param(
        [d("a"), f("a/x"), s("a", "/outside"), f("a/canary")],
        {"a", "outside", "outside/canary"},
        id="directory-exchanged-for-a-link",
    ),
    pytest.param(
        [s("a", "/outside"), d("a"), f("a/canary")],
        {"a", "a/canary"},
        id="link-exchanged-for-a-directory",
    ),
    pytest.param([s("a", "/outside/canary"), f("a", b"new")], {"a"}, id="file-over-a-link"),
    pytest.param([s("a", "/outside/canary"), h("b", "a")], {"a", "b"}, id="hard-link-to-a-link"),
    pytest.param([f(".wh..wh.foo"), f(".wh..wh.plnk/1.2")], set(), id="marks-of-aufs"),
    pytest.param([f(".wh.x"), f("x")], {"x"}, id="whiteout-before-its-file"),
    pytest.param([f("x"), f(".wh.x")], {"x"}, id="whiteout-after-its-file"),
    pytest.param([f("x/y"), f(".wh.x")], {"x", "x/y"}, id="whiteout-of-an-own-directory"),
    pytest.param([f(".wh..wh..opq"), f("x")], {"x"}, id="opaque-root"),
    pytest.param([d("./"), d("/"), f("x")], {"x"}, id="the-root-itself"),
    pytest.param([d("a/.."), f("x")], {"x"}, id="the-root-by-detour"),
    pytest.param(
        [member("a\nb\x1b[31m", "fifo"), member("-rf", "fifo")], {"a\nb\x1b[31m", "-rf"}, id="odd"
    ),
    pytest.param([f("a", b"1"), h("b", "a"), h("c", "b"), f("a", b"2")], set("abc"), id="relink"),
    pytest.param([f("a", b"1"), h("b", "a"), h("a", "b")], set("ab"), id="link-back"),
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("members", "expected"), CONTAINED)
def test_contained(
    root: Path, members: list[Member], expected: set[str], style: UnpackStyle
) -> None:
    data = archive(*members)
    index = unpack(data, root, style=style)
    assert set(scan(root)) == expected
    assert index == read_layer(in_pieces(data, 700), Tree())
    tree = Tree((index,))
    assert {entry.path for entry in tree.walk()} - {""} == expected
    for entry in tree.walk():
        place = root / entry.path
        assert place.is_symlink() == (entry.kind == Kind.SYMLINK)
        assert place.is_symlink() or place.is_dir() == (entry.kind == Kind.DIRECTORY)
        if entry.kind == Kind.FILE:
            content = data[entry.offset : entry.offset + entry.size]
            assert place.read_bytes() == content


@pytest.mark.parametrize("style", STYLES)
def test_links_that_the_layers_below_planted(root: Path, style: UnpackStyle) -> None:
    lower = archive(s("l", "/outside"), s("m", "l/.."), d("etc"))
    below = Tree((read_layer(in_pieces(lower), Tree()),))
    if style is UnpackStyle.IN_PLACE:
        unpack(lower, root)
    data = archive(f("l/canary"), f("m/etc/x"))
    index = unpack(data, root, below, style=style)
    assert [e.path for e in index.entries()] == ["etc/x", "outside/canary"]
    assert (root / "outside/canary").read_bytes() == b"x"


@pytest.mark.parametrize("style", STYLES)
def test_a_link_on_disk_that_no_layer_knows_is_not_followed(root: Path, style: UnpackStyle) -> None:
    """The index may be wrong about a live root; the descriptors are not."""
    root.mkdir()
    (root / "d").symlink_to("../outside")
    (root / "f").symlink_to("../outside/canary")
    unpack(archive(f("d/canary"), f("f", b"new")), root, style=style)
    assert (root / "d/canary").read_bytes() == b"x"
    assert (root / "f").read_bytes() == b"new"


def test_a_device_0_0_is_a_removal(root: Path) -> None:
    """It would be one to overlay, whatever the layer meant by it."""
    below = Tree((read_layer(in_pieces(archive(f("x"))), Tree()),))
    index = unpack(archive(member("x", "char")), root, below, style=UnpackStyle.OVERLAY_TRUSTED)
    entry = index.lookup("x")
    assert entry is not None
    assert entry.kind == Kind.WHITEOUT


def test_overlay_marks_in_a_layer_are_not_written(root: Path) -> None:
    pax = {"SCHILY.xattr.trusted.overlay.redirect": "/outside", "SCHILY.xattr.user.ok": "1"}
    info, data = d("a")
    info.pax_headers = pax
    index = unpack(archive((info, data)), root, style=UnpackStyle.OVERLAY_TRUSTED)
    assert os.listxattr(root / "a") == ["user.ok"]
    entry = index.lookup("a")
    assert entry is not None
    assert entry.xattrs == (("user.ok", b"1"),)


def test_many_replaced_directories_are_refused_before_they_cost_minutes(root: Path) -> None:
    members = [
        m for _ in range(1002) for m in (f("a/x", b""), f("a", b""), f(".wh.b", b""), d("a"))
    ]
    with pytest.raises(BadArchive, match="replaced"):
        read_layer(in_pieces(archive(*members)), Tree())


def test_a_bomb_of_headers_is_read_as_a_stream() -> None:
    """The same name again and again takes no memory; other names are bounded."""
    import tracemalloc

    block = archive(f("same", b""))[:512]

    def chunks() -> Iterator[bytes]:
        for _ in range(8):
            yield block * 1000
        yield bytes(1024)

    tracemalloc.start()
    assert len(read_layer(chunks(), Tree())) == 1
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
