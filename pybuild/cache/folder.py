"""Indexes of layers in a folder on disk that outlives the build."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.events import EventSink, Level, Notice
from pybuild.image.digest import Digest

if TYPE_CHECKING:
    from pybuild.cache.layers import IndexStore

INDEXES = "indexes"


class IndexFolder:
    """Keeps indexes in a folder, so that the next build asks no registry for them; what is not
    there is asked of `inner`. Several builds may share it."""

    def __init__(self, directory: Path, inner: IndexStore | None, sink: EventSink) -> None:
        self._directory = directory
        self._inner = inner
        self._sink = sink
        self._writable = True

    def has(self, chain: Digest) -> bool:
        return self._path(chain).is_file()

    def get_index(self, chain: Digest) -> bytes | None:
        """From the folder, else from `inner`, and kept then. A broken file is the reader's miss."""
        path = self._path(chain)
        try:
            found = path.read_bytes()
        except OSError:
            inner = None if self._inner is None else self._inner.get_index(chain)
            if inner is not None:
                self._keep(chain, inner)
            return inner
        with suppress(OSError):  # prune goes by this time; the folder may be there to read only
            os.utime(path)
        return found

    def put_index(self, chain: Digest, index: bytes) -> None:
        self._keep(chain, index)
        if self._inner is not None:
            self._inner.put_index(chain, index)

    def _path(self, chain: Digest) -> Path:
        return self._directory / INDEXES / chain.algorithm / chain.hex

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
