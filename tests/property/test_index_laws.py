"""What holds for every stack of layers: the packed tree is what a plain dictionary would be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import LayerIndex, Tree

NAMES = ("a", "a-b", "a\x01", "b", "ü", "\udcff")
PATHS = [""] + [
    "/".join(parts)
    for parts in [(x,) for x in NAMES]
    + [(x, y) for x in NAMES for y in NAMES]
    + [(x, y, z) for x in NAMES[:3] for y in NAMES[:3] for z in NAMES[:3]]
]
KINDS = st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, Kind.SYMLINK, Kind.WHITEOUT])
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "security.capability"]), st.binary(max_size=9), max_size=2
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def entries(draw: st.DrawFn, path: str) -> Entry:
    kind = draw(KINDS)
    if kind == Kind.WHITEOUT:
        return Entry(path, kind, 0)
    return Entry(
        path,
        kind,
        draw(st.integers(0, 0o7777)),
        draw(st.sampled_from([0, 1000, 2**32 - 2])),
        draw(st.sampled_from([0, 1000])),
        draw(st.sampled_from([0, 5, 2**40])) if kind == Kind.FILE else 0,
        draw(st.sampled_from([0, -1, 10**18])),
        "../target" if kind == Kind.SYMLINK else "",
        xattrs=draw(XATTRS),
        opaque=kind == Kind.DIRECTORY and draw(st.booleans()),
        offset=draw(st.sampled_from([0, 2**40])) if kind == Kind.FILE else -1,
    )


@st.composite
def layers(draw: st.DrawFn) -> list[Entry]:
    """Nothing stands below what is no directory, as in a layer that was read."""
    chosen = draw(st.lists(st.sampled_from(PATHS[1:]), max_size=12, unique=True))
    taken: dict[str, Entry] = {}
    for path in sorted(chosen, key=lambda p: p.count("/")):
        parents = [path.rsplit("/", n)[0] for n in range(1, path.count("/") + 1)]
        if all(parent not in taken or taken[parent].kind == Kind.DIRECTORY for parent in parents):
            taken[path] = draw(entries(path))
    return list(taken.values())


Model = dict[str, Entry]


def _drop(model: Model, path: str, *, itself: bool) -> None:
    for name in [n for n in model if n.startswith(f"{path}/") or (itself and n == path)]:
        del model[name]


def put(model: Model, layer: list[Entry]) -> None:
    for entry in layer:
        before = model.get(entry.path)
        both = before is not None and Kind.DIRECTORY == before.kind == entry.kind
        if not both or entry.opaque:
            _drop(model, entry.path, itself=True)
    for entry in sorted(layer, key=lambda e: e.path.count("/")):
        parts = entry.path.split("/")  # a removal too makes the directories it stands in
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in model or model[parent].kind != Kind.DIRECTORY:
                _drop(model, parent, itself=True)
                model[parent] = Entry(parent, Kind.DIRECTORY)
        if entry.kind != Kind.WHITEOUT:
            model[entry.path] = replace(entry, opaque=False)


def order(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape").replace(b"/", b"\0")


@settings(max_examples=80, deadline=None)
@given(st.lists(layers(), max_size=4))
def test_a_tree_is_the_dictionary_that_its_layers_make(stack: list[list[Entry]]) -> None:
    model: Model = {}
    tree = Tree()
    for layer in stack:
        put(model, layer)
        tree = tree.with_layer(LayerIndex.build(layer))
    for path in PATHS[1:]:
        assert tree.lookup(path) == model.get(path), path
    expected = sorted(model, key=order)
    assert [entry.path for entry in tree.walk()] == ["", *expected]
    for path in PATHS:
        above = f"{path}/" if path else ""
        inside = [p for p in expected if p.startswith(above) and "/" not in p[len(above) :]]
        if path and (path not in model or model[path].kind != Kind.DIRECTORY):
            inside = []
        assert [entry.path for entry in tree.children(path)] == inside, path


@settings(max_examples=60, deadline=None)
@given(layers(), st.binary(max_size=50))
def test_bytes_and_back(layer: list[Entry], kept: bytes) -> None:
    index = LayerIndex.build(layer, {"etc/passwd": kept})
    again = LayerIndex.from_bytes(index.to_bytes())
    assert again == index
    assert list(again.entries()) == sorted(layer, key=lambda e: order(e.path))
    assert again.kept == {"etc/passwd": kept}
    for entry in layer:
        assert again.lookup(entry.path) == entry


@settings(max_examples=50, deadline=None)
@given(layers())
def test_entries_of_a_directory_are_those_below_it(layer: list[Entry]) -> None:
    index = LayerIndex.build(layer)
    for prefix in PATHS:
        expected = [
            e for e in index.entries() if not prefix or f"{e.path}/".startswith(f"{prefix}/")
        ]
        assert list(index.entries(prefix)) == expected
