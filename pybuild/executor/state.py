"""What a stage is while it is built: its stack, and its root on disk once a RUN needs one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from pybuild.context.directory import DirectoryContext
from pybuild.events import EventSink, Level, Notice
from pybuild.executor.stack import Indexes, LayerOrigin, Stack, StackLayer, chain_of, spool
from pybuild.executor.workspace import Workspace
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.isolation.command import Root, StackedLayer
from pybuild.rootfs.entry import Entry
from pybuild.rootfs.index import LayerIndex, Tree

TOLD_SECONDS = 10.0  # how often a long reading is told of
_BATCH = 32  # files to digest in one go: handing over a task costs more than reading a small file


class StageState:
    """One thread builds it; when it is done others read from it."""

    def __init__(
        self,
        stack: Stack,
        *,
        indexes: Indexes,
        workspace: Workspace,
        open_root: Callable[[], Root],
    ) -> None:
        self.stack = stack
        self._indexes = indexes
        self._workspace = workspace
        self._open_root = open_root
        self._root: Root | None = None
        self._applied = 0
        self._guard = threading.Lock()

    @property
    def chain(self) -> Digest:
        return chain_of(self.stack)

    def tree(self) -> Tree:
        return self._indexes.tree(self.stack)

    def known_layers(self) -> Iterator[tuple[Digest, LayerIndex | None]]:
        """The blob of each layer, with its index where that needs no reading of the layer."""
        for layer in self.stack:
            yield layer.layer.descriptor.digest, self._indexes.peek(layer)

    def root(self) -> Root:
        """The root with every layer of the stack in it."""
        with self._guard:  # RUNs of several stages may have a finished one mounted
            return self._root_now()

    def _root_now(self) -> Root:
        if self._root is None:
            self._root = self._open_root()
        for number in range(self._applied, len(self.stack)):
            layer = self.stack[number]
            below = self._indexes.tree(self.stack[:number])
            with layer.blamed():
                is_base = layer.origin is LayerOrigin.BASE
                self._root.apply([StackedLayer(layer.chain, layer.open_tar, below, is_base)])
            self._applied = number + 1
            index = self._root.index(layer.chain)
            if index is not None and self._indexes.known(layer.chain) is None:
                self._indexes.learned(layer, index)
        return self._root

    def push(self, layer: StackLayer) -> None:
        """Puts a layer on top; it reaches the root when that is asked for again."""
        self.stack = (*self.stack, layer)

    def settle(self, layer: StackLayer | None) -> None:
        """What the last RUN changed is in the root already, and is this layer (None: nothing)."""
        if layer is not None:
            self.stack = (*self.stack, layer)
        self._applied = len(self.stack)
        if self._root is not None:
            self._root.settle(self.chain)

    def learn(self, chain: Digest, index: LayerIndex) -> None:
        """The index of a layer that is about to be put on top."""
        self._indexes.remember(chain, index)

    def close_root(self) -> None:
        if self._root is not None:
            self._root.close()
            self._root = None
            self._applied = 0

    def files(self, paths: Iterable[str]) -> dict[str, Path]:
        """Where the regular files at these exact paths can be read from."""
        found: dict[str, Path] = {}
        missing: list[str] = []
        for path in paths:
            place = self._root.content(path) if self._root is not None else None
            if place is None:
                missing.append(path)
            else:
                found[path] = place
        if missing:
            found |= spool(self.stack, self.tree(), missing, self._workspace)
        return found

    def read_file(self, path: str) -> bytes | None:
        """A small file such as etc/passwd, symbolic links followed; None where there is none."""
        tree = self.tree()
        resolved = tree.resolve(path, follow_last=True)
        kept = tree.read_kept(resolved)
        if kept is not None:
            return kept
        entry = tree.lookup(resolved)
        if entry is None or entry.size > 1 << 20:
            return None
        place = self.files([resolved]).get(resolved)
        return place.read_bytes() if place is not None else None


class StageSource:
    """A finished stage or an image as COPY sees it."""

    def __init__(self, state: StageState) -> None:
        self._state = state

    @cached_property
    def _tree(self) -> Tree:
        """Only once it is asked for: it may need layers that nobody had to read."""
        return self._state.tree()

    def known_layers(self) -> Iterator[tuple[Digest, LayerIndex | None]]:
        """As the stage's own."""
        return self._state.known_layers()

    def lookup(self, path: str) -> Entry | None:
        return self._tree.lookup(path)

    def children(self, path: str) -> Iterator[Entry]:
        return self._tree.children(path)

    def resolve(self, path: str, *, follow_last: bool) -> str:
        return self._tree.resolve(path, follow_last=follow_last)

    def root(self) -> Root:
        return self._state.root()

    def identity(self, path: str) -> object | None:
        found = self._tree.locate(path)
        return None if found is None else (found[0], found[1].path)

    def files(self, paths: Iterable[str]) -> Mapping[str, Path]:
        return self._state.files(paths)

    def digests(self, paths: list[str]) -> dict[str, Digest]:
        """From the index where it has them, else from the bytes."""
        from pybuild.context.directory import file_digest

        digests: dict[str, Digest] = {}
        unknown: list[str] = []
        for path in paths:
            known = self._tree.content_digest(path)
            if known:
                digests[path] = digest_from_hex(known.hex())
            else:
                unknown.append(path)
        for path, place in (self._state.files(unknown) if unknown else {}).items():
            digests[path] = file_digest(place)
        return digests


class ContextSource:
    """The build context as COPY sees it; digests are taken once a file. Reading that takes long
    is told of meanwhile."""

    def __init__(self, context: DirectoryContext, sink: EventSink = lambda _: None) -> None:
        self._context = context
        self._sink = sink
        self._digests: dict[str, Digest] = {}

    def lookup(self, path: str) -> Entry | None:
        return self._context.lookup(path)

    def children(self, path: str) -> Iterator[Entry]:
        return self._context.children(path)

    def resolve(self, path: str, *, follow_last: bool) -> str:
        return self._context.resolve(path, follow_last=follow_last)

    def identity(self, path: str) -> object | None:
        return self._context.identity(path)

    def files(self, paths: Iterable[str]) -> Mapping[str, Path]:
        return {path: self._context.content(path) for path in paths}

    def digests(self, paths: list[str]) -> dict[str, Digest]:
        from concurrent.futures import ThreadPoolExecutor, wait

        from pybuild.context.directory import file_digest

        unknown = [path for path in paths if path not in self._digests]
        places = [f"{self._context.root}/{path}" for path in unknown]
        batches = [places[start : start + _BATCH] for start in range(0, len(places), _BATCH)]

        def digest_batch(batch: list[str]) -> list[Digest]:
            return [file_digest(place) for place in batch]

        digests: list[Digest] = []
        told = time.monotonic()
        with ThreadPoolExecutor(2, "digest") as pool:
            futures = [pool.submit(digest_batch, batch) for batch in batches]
            try:
                for future in futures:
                    while True:
                        ready = wait((future,), TOLD_SECONDS).done
                        if time.monotonic() - told >= TOLD_SECONDS:
                            told = time.monotonic()
                            self._tell(len(digests), len(unknown))
                        if ready:
                            break
                    digests += future.result()
            finally:
                for future in futures:
                    future.cancel()
        self._digests.update(zip(unknown, digests, strict=True))
        return {path: self._digests[path] for path in paths}

    def _tell(self, done: int, count: int) -> None:
        self._sink(Notice(Level.INFO, f"reading the context: {done} of {count} files so far"))
