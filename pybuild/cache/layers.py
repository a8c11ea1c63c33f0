"""Finished layers by key, as the executor sees them: several caches that are read as one, and at
most one that is written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec import Struct

from pybuild.errors import ContentMismatch
from pybuild.image.digest import Digest
from pybuild.image.layer import Layer
from pybuild.plan.fit import StoredStep

if TYPE_CHECKING:
    from pybuild.cache.entries import EntryCache

_AT_ONCE = 8
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class LayerLost(ContentMismatch):
    """A layer that a cache promised can't be had, or is not what was promised. The build goes on
    without that entry, so this is told only where it was stopped meanwhile."""

    code = "cached-layer-lost"

    def __init__(self, digest: Digest, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.digest = digest


class CachedStep(Struct, frozen=True):
    """An entry that was found, in the cache of the name `origin`. `layer` and `read_index` fetch
    nothing until they are used; `is_there` asks whether the layer can really be had, since
    registries lose blobs and keep manifests. Opening a layer raises LayerLost."""

    key: Digest
    stored: StoredStep
    layer: Layer | None
    read_index: Callable[[], bytes | None]
    is_there: Callable[[], bool]
    origin: str


class CacheSource(Protocol):
    """Never fails a build: what can't be read is a miss, and is said once."""

    def get(self, key: Digest) -> CachedStep | None: ...

    def get_index(self, chain: Digest) -> bytes | None: ...

    def forget(self, layer: Digest) -> None:
        """Entries with this layer count as missing from now on."""


class IndexStore(Protocol):
    """Packed indexes of layers by chain ID."""

    def get_index(self, chain: Digest) -> bytes | None: ...

    def put_index(self, chain: Digest, index: bytes) -> None: ...


class LayerCache:
    """`sources` are read, the first one preferred; `target` is written to, and may be one of them.
    Safe for several threads."""

    def __init__(self, sources: Sequence[CacheSource], target: EntryCache | None) -> None:
        self._sources = tuple(sources)
        self._target = target

    def find(self, keys: Sequence[Digest]) -> Mapping[Digest, tuple[CachedStep, ...]]:
        """What there is under each key, all sources asked in one burst; the preferred one first."""
        distinct = list(dict.fromkeys(keys))
        questions = [(source, key) for key in distinct for source in self._sources]
        found: dict[Digest, tuple[CachedStep, ...]] = dict.fromkeys(distinct, ())
        answers = burst(lambda one: one[0].get(one[1]), questions, first=len(self._sources))
        for (_, key), answer in zip(questions, answers, strict=True):
            if answer is not None:
                found[key] = (*found[key], answer)
        return found

    def get(self, key: Digest) -> tuple[CachedStep, ...]:
        return self.find([key])[key]

    def put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        """Keeps what a step gave under all these keys."""
        if self._target is not None:
            self._target.put(keys, stored, layer, index)

    def put_again(self, keys: tuple[Digest, ...], stored: StoredStep, found: CachedStep) -> None:
        """Under further keys, what was found; where that was elsewhere, its layer is brought along:
        mounted within a registry, else copied."""
        if self._target is None:
            return
        if found.origin == self._target.name:
            self._target.put_again(keys, stored)
        elif found.is_there():
            self._target.put(keys, stored, found.layer, found.read_index() or b"")

    def mark(self, build: str) -> None:
        """Notes that a build of this name used what it found or put here."""
        if self._target is not None:
            self._target.mark(build)

    def get_index(self, chain: Digest) -> bytes | None:
        for source in self._sources:
            found = source.get_index(chain)
            if found is not None:
                return found
        return None

    def put_index(self, chain: Digest, index: bytes) -> None:
        if self._target is not None:
            self._target.put_index(chain, index)

    def forget(self, layer: Digest) -> None:
        for source in self._sources:
            source.forget(layer)


def burst(ask: Callable[[Item], Answer], items: Sequence[Item], first: int = 1) -> list[Answer]:
    """The answers, in order. The first few are waited for: they log in, or find that nobody
    answers, for all the others."""
    from concurrent.futures import ThreadPoolExecutor

    if len(items) < 2:
        return [ask(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE, "lookup") as pool:
        answers = list(pool.map(ask, items[:first]))
        return answers + list(pool.map(ask, items[first:]))
