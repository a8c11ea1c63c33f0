"""The merged view, on layers small enough to read."""

from __future__ import annotations

import pytest

from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.errors import BrokenIndex, SymlinkLoop
from pybuild.rootfs.index import LayerIndex, Tree
from pybuild.rootfs.packed import IN_LOWER_LAYER


def file(path: str, size: int = 1) -> Entry:
    return Entry(path, Kind.FILE, 0o644, size=size)


def directory(path: str, *, mode: int = 0o755, opaque: bool = False) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, opaque=opaque)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, link=target)


def gone(path: str) -> Entry:
    return Entry(path, Kind.WHITEOUT, 0)


def tree(*layers: list[Entry]) -> Tree:
    return Tree(tuple(LayerIndex.build(entries) for entries in layers))


LOWER = [directory("a"), directory("a/d"), file("a/d/x"), file("a/f"), file("a-b"), file("z")]


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        pytest.param([], ["a", "a/d", "a/d/x", "a/f", "a-b", "z"], id="nothing"),
        pytest.param([gone("a/d")], ["a", "a/f", "a-b", "z"], id="whiteout"),
        pytest.param([gone("a")], ["a-b", "z"], id="whiteout-of-a-tree"),
        pytest.param(
            [directory("a", opaque=True), file("a/n")], ["a", "a/n", "a-b", "z"], id="opaque"
        ),
        pytest.param([file("a")], ["a", "a-b", "z"], id="directory-to-file"),
        pytest.param(
            [directory("z"), file("z/y")],
            ["a", "a/d", "a/d/x", "a/f", "a-b", "z", "z/y"],
            id="file-to-directory",
        ),
        pytest.param(
            [file("a/d/y")],
            ["a", "a/d", "a/d/x", "a/d/y", "a/f", "a-b", "z"],
            id="implied-parents",
        ),
        pytest.param(
            [file("q/r/s")],
            ["a", "a/d", "a/d/x", "a/f", "a-b", "q", "q/r", "q/r/s", "z"],
            id="parents-nobody-has",
        ),
        pytest.param([directory("", opaque=True), file("n")], ["n"], id="opaque-root"),
    ],
)
def test_walk(upper: list[Entry], expected: list[str]) -> None:
    assert [entry.path for entry in tree(LOWER, upper).walk()] == ["", *expected]


def test_the_topmost_entry_of_a_directory_counts() -> None:
    merged = tree(LOWER, [directory("a", mode=0o700, opaque=True)])
    assert merged.lookup("a") == directory("a", mode=0o700)


def test_a_hard_link_comes_back_as_its_file() -> None:
    merged = tree([file("f", 7), Entry("g", Kind.HARDLINK, link="f")])
    assert merged.lookup("g") == file("g", 7)
    assert merged.locate("g") == (0, file("f", 7))


def test_a_hard_link_to_a_lower_layer_outlives_its_first_name() -> None:
    above = Entry("g", Kind.HARDLINK, link="f", offset=IN_LOWER_LAYER)
    assert tree([file("f", 7)], [above, gone("f")]).lookup("g") == file("g", 7)
    assert tree([file("f", 7)], [above, file("f", 9)]).lookup("g") == file("g", 7)


LINKS = [
    directory("etc"),
    file("etc/passwd"),
    link("abs", "/etc"),
    directory("usr"),
    link("usr/rel", "../etc"),
    link("out", "../../../etc"),
    link("chain", "abs/../usr/rel"),
    link("loop", "loop"),
    link("dangling", "no/such"),
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("abs/passwd", "etc/passwd"),
        ("usr/rel/passwd", "etc/passwd"),
        ("out/passwd", "etc/passwd"),
        ("chain/passwd", "etc/passwd"),
        ("../../etc", "etc"),
        ("usr/./../etc//passwd/", "etc/passwd"),
        ("dangling/x/../y", "no/such/y"),
        ("missing/x", "missing/x"),
        ("", ""),
    ],
)
def test_resolve(path: str, expected: str) -> None:
    assert tree(LINKS).resolve(path, follow_last=True) == expected


def test_resolve_leaves_the_last_link_alone_when_asked() -> None:
    assert tree(LINKS).resolve("usr/rel", follow_last=False) == "usr/rel"


def test_a_loop_is_named() -> None:
    with pytest.raises(SymlinkLoop, match="loop/x"):
        tree(LINKS).resolve("loop/x", follow_last=True)


def test_kept_contents_are_those_in_sight() -> None:
    lower = LayerIndex.build([file("etc/passwd")], {"etc/passwd": b"old"})
    upper = LayerIndex.build([file("etc/passwd")], {"etc/passwd": b"new"})
    assert Tree((lower, upper)).read_kept("etc/passwd") == b"new"
    removed = Tree((lower, LayerIndex.build([gone("etc/passwd")])))
    assert removed.read_kept("etc/passwd") is None


@pytest.mark.parametrize("at", [0, 9, 30, 60, -1])
def test_a_damaged_index_is_refused(at: int) -> None:
    data = bytearray(LayerIndex.build(LOWER).to_bytes())
    data[at] ^= 1
    with pytest.raises(BrokenIndex):
        LayerIndex.from_bytes(bytes(data))


@pytest.mark.parametrize("size", [0, 10, 50, 100])
def test_a_cut_off_index_is_refused(size: int) -> None:
    with pytest.raises(BrokenIndex):
        LayerIndex.from_bytes(LayerIndex.build(LOWER).to_bytes()[:size])
