"""What holds for every pair of directory trees and every layer between them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.errors import PybuildError
from pybuild.layer.apply import UnpackStyle, read_layer
from pybuild.layer.changes import Change
from pybuild.layer.compress import Compression, CompressionOptions
from pybuild.layer.pack import PackedLayer, PackOptions, pack_layer
from pybuild.layer.snapshot import Surface, WalkTable, overlay_changes, walk_changes
from pybuild.rootfs.entry import Kind
from pybuild.rootfs.index import Tree
from tests.support.layers import Node, archive, in_pieces, member, scan, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

NAMES = ["a", "a-b", "b", "é"]
OWNERS = st.sampled_from([0, 1000])

File = tuple[str, bytes, int, int]  # kind, content or target, mode, owner
Model = dict[str, "File | Model"]


def trees(depth: int = 2) -> st.SearchStrategy[Model]:
    leaf: st.SearchStrategy[File | Model] = st.tuples(
        st.sampled_from(["file", "file", "symlink", "fifo"]),
        st.sampled_from([b"", b"1", b"2", b"x" * 3000]),
        st.sampled_from([0o644, 0o4755, 0o600]),
        OWNERS,
    )
    if depth:
        leaf = leaf | trees(depth - 1)
    return st.dictionaries(st.sampled_from(NAMES), leaf, max_size=3)


def write(model: Model, directory: Path, twins: bool) -> None:
    """Times are all alike, so that contents have to be compared; `twins`: files of the same
    content are hard links of each other."""
    first: dict[File, Path] = {}

    def make(level: Model, place: Path) -> None:
        for name, node in level.items():
            path = place / name
            if isinstance(node, dict):
                path.mkdir(0o755)
                make(node, path)
                os.utime(path, (7, 7))
                continue
            kind, data, mode, owner = node
            if kind == "symlink":
                path.symlink_to(f"../{mode}")
            elif kind == "fifo":
                os.mkfifo(path)
            elif twins and node in first:
                path.hardlink_to(first[node])
                continue
            else:
                path.write_bytes(data)
                first[node] = path
            os.chown(path, owner, 5, follow_symlinks=False)
            if kind != "symlink":
                path.chmod(mode)
            os.utime(path, (7, 7), follow_symlinks=False)

    make(model, directory)


@contextmanager
def workdir() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        place = Path(name).resolve()
        for sub in ("before", "after", "copy", "upper"):
            (place / sub).mkdir()
        yield place


def nothing(_path: str) -> bool:
    return False


def pack(changes: Iterator[Change], place: Path, name: str) -> PackedLayer:
    options = PackOptions(CompressionOptions(Compression.NONE))
    return pack_layer(changes, place / name, options)


def layer_of(directory: Path, place: Path) -> PackedLayer:
    """All of a directory as one layer."""
    return pack(walk_changes(WalkTable({}), Surface(directory, nothing), Tree()), place, "base.tar")


def contents(place: Path) -> dict[str, Node]:
    """As `scan`, without which names are one file: a layer can't say that across layers."""
    found = scan(place)
    return {p: (*n[:4], n[4][0] if isinstance(n[4], tuple) else n[4]) for p, n in found.items()}


def seen(tree: Tree) -> list[tuple[object, ...]]:
    return [
        (e.path, e.kind, e.mode, e.uid, e.gid, e.size, e.link, tree.content_digest(e.path))
        for e in tree.walk()
    ]


@settings(max_examples=40, deadline=None)
@given(trees(), trees(), st.booleans())
def test_applying_the_difference_gives_the_target(before: Model, after: Model, twins: bool) -> None:
    """By walk and in place; then as overlay would have it, and through the index."""
    with workdir() as place:
        write(before, place / "before", twins)
        write(after, place / "after", twins)
        base = layer_of(place / "before", place)
        below = Tree((base.index,))
        unpack(base.path.read_bytes(), place / "copy")
        assert contents(place / "copy") == contents(place / "before")

        table = WalkTable.take(Surface(place / "before", nothing))
        for child in (place / "before").iterdir():
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        write(after, place / "before", twins)
        packed = pack(
            walk_changes(table, Surface(place / "before", nothing), below), place, "diff.tar"
        )
        data = packed.path.read_bytes()
        merged = below.with_layer(packed.index)

        # In place
        unpack(data, place / "copy", below)
        assert contents(place / "copy") == contents(place / "after")

        # The index alone says the same
        whole = layer_of(place / "after", place)
        assert seen(merged) == seen(Tree((whole.index,)))

        # As an overlay's upper directory, and back to a layer
        style = UnpackStyle.OVERLAY_TRUSTED
        assert unpack(data, place / "upper", below, style=style) == packed.index
        found = overlay_changes(place / "upper", below, user_xattrs=False, ignore=nothing)
        again = pack(found, place, "again.tar")
        assert seen(below.with_layer(again.index)) == seen(merged)


@settings(max_examples=30, deadline=None)
@given(trees(), st.booleans(), st.sampled_from([1, 600, 1 << 20]))
def test_packing_reading_and_unpacking_give_the_same_index(
    model: Model, twins: bool, piece: int
) -> None:
    with workdir() as place:
        write(model, place / "before", twins)
        packed = layer_of(place / "before", place)
        data = packed.path.read_bytes()
        assert read_layer(in_pieces(data, piece), Tree()) == packed.index
        assert unpack(in_pieces(data, piece), place / "copy") == packed.index
        assert scan(place / "copy") == scan(place / "before")


# Few names, so that entries meet; seldom "..", so that not all is refused at once
PARTS = st.sampled_from(["a", "b", "l", "a", "b", "l", "a", "b", "l", ".", ".."])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
MEMBERS = st.tuples(
    st.one_of(
        PATHS, PATHS.map(lambda p: "/".join((*p.split("/")[:-1], f".wh.{p.split('/')[-1]}")))
    ),
    st.sampled_from(["file", "dir", "symlink", "link", "fifo"]),
    PATHS,
)


def hostile(members: list[tuple[str, str, str]]) -> bytes:
    made = []
    for number, (name, kind, link) in enumerate(members):
        data = b"%d" % number if kind == "file" and ".wh." not in name else b""
        made.append(member(name, kind, data, link=link if kind in ("symlink", "link") else ""))
    return archive(*made)


def check_on_disk(tree: Tree, layers: list[bytes], root: Path) -> None:
    on_disk = scan(root)
    assert {e.path for e in tree.walk()} - {""} == set(on_disk)
    for entry in tree.walk():
        if entry.kind == Kind.FILE:
            found = tree.locate(entry.path)
            assert found is not None
            content = layers[found[0]][entry.offset : entry.offset + entry.size]
            assert (root / entry.path).read_bytes() == content
        elif entry.kind == Kind.SYMLINK:
            assert on_disk[entry.path][4] == entry.link


@settings(max_examples=80, deadline=None)
@given(st.lists(MEMBERS, max_size=8), st.lists(MEMBERS, max_size=8))
def test_any_layers_are_refused_or_mean_the_same_on_disk_and_in_the_index(
    one: list[tuple[str, str, str]], two: list[tuple[str, str, str]]
) -> None:
    with workdir() as place:
        outside = sorted(p.name for p in place.iterdir())
        tree = Tree()
        layers = []
        for data in (hostile(one), hostile(two)):
            layers.append(data)
            upper = place / "upper"
            upper.mkdir(exist_ok=True)
            try:
                index = read_layer(in_pieces(data), tree)
            except PybuildError as error:
                with pytest.raises(type(error)):
                    unpack(data, place / "copy", tree)
                with pytest.raises(type(error)):
                    unpack(data, upper, tree, style=UnpackStyle.OVERLAY_TRUSTED, lower=None)
                break
            lower = place / "copy"  # holds the layers below until the next line but one
            style = UnpackStyle.OVERLAY_TRUSTED
            assert unpack(data, upper, tree, style=style, lower=lower) == index
            assert unpack(data, place / "copy", tree) == index
            before, tree = tree, tree.with_layer(index)
            check_on_disk(tree, layers, place / "copy")
            found = overlay_changes(upper, before, user_xattrs=False, ignore=nothing)
            options = PackOptions(CompressionOptions(Compression.NONE))
            again = before.with_layer(pack_layer(found, place / "again", options).index)
            assert seen(again) == seen(tree)
            shutil.rmtree(upper)
            (place / "again").unlink()
        upper.mkdir(exist_ok=True)
        assert sorted(p.name for p in place.iterdir()) == outside
