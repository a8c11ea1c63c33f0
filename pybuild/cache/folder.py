"""Layer caches around another one: a folder on disk for indexes, and one that only reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.events import EventSink, Level, Notice

if TYPE_CHECKING:
    from pybuild.cache.layers import CachedStep, LayerCache
    from pybuild.image.digest import Digest
    from pybuild.image.layer import Layer
    from pybuild.plan.fit import StoredStep


class IndexFolder:
    """Keeps the indexes of base layers in a folder that outlives the build, so that the next one
    asks no registry for them; everything else goes to `inner`. Several builds may share it."""

    def __init__(self, directory: Path, inner: LayerCache, sink: EventSink) -> None:
        self._directory = directory
        self._inner = inner
        self._sink = sink
        self._writable = True

    def get(self, key: Digest) -> CachedStep | None:
        return self._inner.get(key)

    def has_layer(self, found: CachedStep) -> bool:
        return self._inner.has_layer(found)

    def put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        self._inner.put(keys, stored, layer, index)

    def put_again(self, keys: tuple[Digest, ...], stored: StoredStep) -> None:
        self._inner.put_again(keys, stored)

    def get_index(self, chain: Digest) -> bytes | None:
        """From the folder, else from `inner`, and kept then. A broken file is the reader's miss."""
        try:
            return self._path(chain).read_bytes()
        except OSError:
            found = self._inner.get_index(chain)
        if found is not None:
            self._keep(chain, found)
        return found

    def put_index(self, chain: Digest, index: bytes) -> None:
        self._keep(chain, index)
        self._inner.put_index(chain, index)

    def _path(self, chain: Digest) -> Path:
        return self._directory / "indexes" / chain.algorithm / chain.hex

    def _keep(self, chain: Digest, index: bytes) -> None:
        """Whole or not at all; a folder that can't be written is told of once."""
        if not self._writable:
            return
        path = self._path(chain)
        # Process ids repeat among the containers that share a volume.
        partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(index)
            partial.replace(path)
        except OSError as error:
            self._writable = False
            with suppress(OSError):
                partial.unlink()
            told = f"the cache folder {self._directory} can't be written: {error.strerror}"
            self._sink(Notice(Level.INFO, told, code="cache-folder-read-only"))


class ReadOnlyCache:
    """Finds entries and keeps none: a pull request's build, say, with `--no-push-cache`."""

    def __init__(self, inner: LayerCache) -> None:
        self.get: Callable[[Digest], CachedStep | None] = inner.get
        self.has_layer: Callable[[CachedStep], bool] = inner.has_layer
        self.get_index: Callable[[Digest], bytes | None] = inner.get_index

    def put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        """Nothing is kept."""

    def put_again(self, keys: tuple[Digest, ...], stored: StoredStep) -> None:
        """Nothing is kept."""

    def put_index(self, chain: Digest, index: bytes) -> None:
        """Nothing is kept."""
