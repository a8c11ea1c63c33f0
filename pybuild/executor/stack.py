"""The layers of a stage, lowest first, and what can be read from them without a RUN."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.errors import ContentMismatch, HostileContent
from pybuild.image.digest import Digest
from pybuild.image.layer import EMPTY_CHAIN, Layer
from pybuild.image.verify import DigestMismatch, verified_tar
from pybuild.rootfs.index import LayerIndex, Tree

if TYPE_CHECKING:
    from pybuild.cache.layers import IndexStore
    from pybuild.executor.workspace import Workspace


class LayerOrigin(Enum):
    BASE = "base"
    NEW = "new"
    CACHED = "cached"


class StackLayer(Struct, frozen=True):
    """A layer at its place in a stack; `chain` is the stack's identity up to and with it.

    `read_index` gives its packed index where that can be had without reading the layer.
    """

    layer: Layer
    chain: Digest
    origin: LayerOrigin
    created_by: str
    read_index: Callable[[], bytes | None]

    def open_tar(self) -> Generator[bytes, None, None]:
        """The uncompressed tar, checked against the diff ID at its end."""
        return verified_tar(_decompressed(self.layer.open()), self.layer.diff_id)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Errors about what is in the layer say which one it is; a layer of the cache that is not
        what its entry says is lost, since the build can do without it."""
        try:
            yield
        except (HostileContent, DigestMismatch) as error:
            if self.origin is LayerOrigin.CACHED:
                from pybuild.cache.layers import LayerLost

                digest = self.layer.descriptor.digest
                told = f"the cached layer {digest} is not what its entry says: {error.message}"
                raise LayerLost(digest, told) from error
            source = self.layer.source
            name = str(self.layer.descriptor.digest)[:19] + (f" of {source.name}" if source else "")
            if name not in error.message:  # two stages may meet one error
                error.message += f" (layer {name})"
                error.args = (error.message,)
            raise


Stack = tuple[StackLayer, ...]


def chain_of(stack: Stack) -> Digest:
    return stack[-1].chain if stack else EMPTY_CHAIN


def _decompressed(blob: Iterator[bytes]) -> Iterator[bytes]:
    """A blob that does not decompress is read to its end first: where it is not the one that was
    named, that is what has to be told."""
    from pybuild.layer.compress import decompress
    from pybuild.layer.errors import BadArchive

    try:
        yield from decompress(blob)
    except BadArchive:
        for _ in blob:
            pass
        raise


class Indexes:
    """Indexes of layers by chain ID, each read once, from wherever it is cheapest."""

    def __init__(self, store: IndexStore | None) -> None:
        self._store = store
        self._known: dict[Digest, LayerIndex] = {}
        self._locks: dict[Digest, threading.Lock] = {}
        self._guard = threading.Lock()

    def remember(self, chain: Digest, index: LayerIndex) -> None:
        with self._guard:
            self._known[chain] = index

    def known(self, chain: Digest) -> LayerIndex | None:
        with self._guard:
            return self._known.get(chain)

    def peek(self, layer: StackLayer) -> LayerIndex | None:
        """The index where that can be had without reading the layer."""
        index = self.known(layer.chain)
        if index is None and (packed := layer.read_index()) is not None:
            with suppress(ContentMismatch):
                index = LayerIndex.from_bytes(packed)
        return index

    def tree(self, stack: Stack) -> Tree:
        tree = Tree(())
        for layer in stack:
            tree = tree.with_layer(self._index(layer, tree))
        return tree

    def _index(self, layer: StackLayer, below: Tree) -> LayerIndex:
        with self._guard:
            lock = self._locks.setdefault(layer.chain, threading.Lock())
        with lock:
            index = self.known(layer.chain)
            if index is None:
                index = self._read(layer, below)
                self.remember(layer.chain, index)
            return index

    def _read(self, layer: StackLayer, below: Tree) -> LayerIndex:
        from pybuild.layer.apply import read_layer

        packed = layer.read_index()
        if packed is not None:
            try:
                return LayerIndex.from_bytes(packed)
            except ContentMismatch:
                pass  # written by another version, or broken: the layer itself tells
        with layer.blamed(), closing(layer.open_tar()) as tar:
            index = read_layer(tar, below)
        return self.learned(layer, index)

    def learned(self, layer: StackLayer, index: LayerIndex) -> LayerIndex:
        """Keeps a base layer's index for the builds that come after."""
        self.remember(layer.chain, index)
        if self._store is not None and layer.origin is LayerOrigin.BASE:
            self._store.put_index(layer.chain, index.to_bytes())
        return index


def spool(stack: Stack, tree: Tree, paths: Iterable[str], workspace: Workspace) -> dict[str, Path]:
    """Writes the regular files at these exact paths to disk, reading each layer once."""
    from pybuild.layer.apply import UnpackStyle, unpack_layer

    wanted: dict[int, dict[str, str]] = {}
    for path in paths:
        found = tree.locate(path)
        if found is not None:
            wanted.setdefault(found[0], {})[path] = found[1].path
    files: dict[str, Path] = {}
    for number, inner in wanted.items():
        folder = workspace.new_spool()
        names = frozenset(inner.values())
        with stack[number].blamed(), closing(stack[number].open_tar()) as tar:
            unpack_layer(
                tar,
                folder,
                Tree(tree.layers[:number]),  # links in lower layers decide where entries belong
                style=UnpackStyle.UNOWNED,
                lower_path=lambda _: None,
                select=names.__contains__,
            )
        files.update((path, folder / name) for path, name in inner.items())
    return files
