"""`--ignore-path`: what a build has on disk and its image has not.

Nothing is left out while the build runs: later steps and stages find all files, and the cache keeps
whole layers under keys that know nothing of these paths. Only the layers of the finished image are
packed again without them, and only those that hold one. kaniko leaves such paths out of its
snapshots, which gives the same image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.executor.stack import LayerOrigin, Stack, StackLayer, chain_of, spool
from pybuild.image.digest import Digest
from pybuild.image.layer import Layer, chain_id
from pybuild.layer.changes import Change
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from pybuild.executor.workspace import Workspace
    from pybuild.layer.pack import PackOptions


class IgnoredPaths:
    """Paths with all below them. Names may hold `*`, `?` and `[a-z]`, which match no slash; what
    leads nowhere (the root itself) ignores nothing."""

    def __init__(self, patterns: Sequence[str]) -> None:
        from fnmatch import translate

        parts = [[name for name in text.split("/") if name not in ("", ".")] for text in patterns]
        self._patterns = [[re.compile(translate(name)) for name in names] for names in parts]

    def __bool__(self) -> bool:
        return any(self._patterns)

    def covers(self, path: str) -> bool:
        """`path` is relative to the root."""
        names = path.split("/")
        return any(
            0 < len(pattern) <= len(names)
            and all(one.match(name) for one, name in zip(pattern, names, strict=False))
            for pattern in self._patterns
        )


def stripped(
    stack: Stack, tree: Tree, ignored: IgnoredPaths, workspace: Workspace, options: PackOptions
) -> dict[Digest, StackLayer | None]:
    """What stands in the image for each layer that is not of the base, by the chain ID it has in
    `stack`; None for one of which nothing is left. `tree` is that of the stack."""
    found: dict[Digest, StackLayer | None] = {}
    chain = chain_of(())
    for number, layer in enumerate(stack):
        if layer.origin is LayerOrigin.BASE:
            chain = layer.chain
            continue
        made: StackLayer | None = layer
        if any(ignored.covers(entry.path) for entry in tree.layers[number].entries()):
            up_to = Tree(tree.layers[: number + 1])
            made = _packed_again(stack[: number + 1], up_to, ignored, workspace, options)
        if made is not None:
            chain = chain_id(chain, made.layer.diff_id)
            made = replace(made, chain=chain)
        found[layer.chain] = made
    return found


def _packed_again(
    stack: Stack, tree: Tree, ignored: IgnoredPaths, workspace: Workspace, options: PackOptions
) -> StackLayer | None:
    """The topmost layer without the ignored paths."""
    from pybuild.executor.stage import read_file
    from pybuild.layer.pack import pack_layer

    entries = list(_kept(tree, ignored))
    wanted = [entry.path for entry in entries if entry.kind is Kind.FILE and entry.size]
    places: dict[str, Path] = spool(stack, tree, wanted, workspace)
    changes = (
        Change(entry, str(places[entry.path]) if entry.path in places else None)
        for entry in entries
    )
    packed = pack_layer(changes, workspace.new_blob(), options)
    if packed.empty:
        return None
    path = packed.path
    layer = Layer(packed.descriptor, packed.diff_id, lambda: read_file(path))
    return replace(stack[-1], layer=layer, origin=LayerOrigin.NEW)


def _kept(tree: Tree, ignored: IgnoredPaths) -> Iterator[Entry]:
    """The entries of the topmost layer that stay; further names of a file last, after the first."""
    layer = tree.layers[-1]
    staying = [entry for entry in layer.entries() if not ignored.covers(entry.path)]
    needed = _parents_of_changes(staying, Tree(tree.layers[:-1]))
    links: list[Entry] = []
    first_names: dict[str, str] = {}  # of files whose own first name is ignored
    for entry in staying:
        if entry.kind is Kind.HARDLINK:
            if not ignored.covers(entry.link):
                links.append(entry)
            elif entry.link in first_names:
                links.append(replace(entry, link=first_names[entry.link]))
            else:
                first_names[entry.link] = entry.path
                file = tree.lookup(entry.path)
                assert file is not None, entry.path
                yield file
        elif entry.kind is not Kind.DIRECTORY or entry.path in needed:
            yield entry
    yield from links


def _parents_of_changes(staying: Sequence[Entry], below: Tree) -> set[str]:
    """The directories that changed, and those on the way to something that is still there."""
    needed: set[str] = set()
    for entry in staying:
        path = entry.path
        if entry.kind is Kind.DIRECTORY and _is_as_before(entry, below):
            continue
        while path not in needed:
            needed.add(path)
            path = path.rpartition("/")[0]
    return needed


def _is_as_before(entry: Entry, below: Tree) -> bool:
    old = below.lookup(entry.path)
    return (
        not entry.opaque
        and old is not None
        and (old.kind, old.mode, old.uid, old.gid, old.xattrs)
        == (entry.kind, entry.mode, entry.uid, entry.gid, entry.xattrs)
    )
