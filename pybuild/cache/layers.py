"""The layer cache as the executor sees it, and the one that lives in a registry's repository."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from pybuild.cache.entry import (
    EMPTY,
    EMPTY_JSON,
    INDEX_TYPE,
    from_manifest,
    index_manifest,
    to_manifest,
)
from pybuild.errors import ContentMismatch, RegistryError
from pybuild.events import EventSink, Level, Notice
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.layer import Layer
from pybuild.image.manifest import Manifest
from pybuild.image.reference import Reference
from pybuild.plan.fit import StoredStep
from pybuild.plan.keys import index_key
from pybuild.registry.client import Client
from pybuild.registry.errors import BlobUnknown, RegistryBroken, RegistryUnreachable

Result = TypeVar("Result")


class CachedStep(Struct, frozen=True):
    """An entry that was found. `layer` and `read_index` fetch nothing until they are used."""

    key: Digest
    stored: StoredStep
    layer: Layer | None
    read_index: Callable[[], bytes | None]


class LayerCache(Protocol):
    """Never fails a build: what can't be read is a miss, what can't be written is said once."""

    def get(self, key: Digest) -> CachedStep | None: ...

    def has_layer(self, found: CachedStep) -> bool:
        """Whether the entry's layer can really be had: registries lose blobs, not manifests."""

    def put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None: ...

    def put_again(self, keys: tuple[Digest, ...], stored: StoredStep) -> None:
        """Under further keys, what was found here: its layer and index are there already."""

    def get_index(self, chain: Digest) -> bytes | None: ...

    def put_index(self, chain: Digest, index: bytes) -> None: ...


class RegistryCache:
    """Entries are manifests tagged with their key in one repository. Safe for several threads."""

    def __init__(
        self,
        client: Client,
        repository: Reference,
        sink: EventSink,
        *,
        ttl: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._repository = repository
        self._sink = sink
        self._ttl = ttl
        self._now = now
        self._guard = threading.Lock()
        self._refused: set[str] = set()  # "read", "write": not asked again in this build
        self._told: set[str] = set()
        self._there: set[Digest] = set()  # layers

    def get(self, key: Digest) -> CachedStep | None:
        return self._attempt("read", lambda: self._get(key))

    def has_layer(self, found: CachedStep) -> bool:
        layer = found.layer
        if layer is None or layer.descriptor.digest in self._there:
            return True
        digest = layer.descriptor.digest
        there = self._attempt("read", lambda: self._client.has_blob(self._repository, digest))
        if there:
            self._there.add(digest)
        elif there is not None:
            self._tell("read", f"it holds an entry, but its layer {digest} no more")
        return bool(there)

    def put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        self._attempt("write", lambda: self._put(keys, stored, layer, index))

    def put_again(self, keys: tuple[Digest, ...], stored: StoredStep) -> None:
        self._attempt("write", lambda: self._put_manifest(keys, stored))

    def get_index(self, chain: Digest) -> bytes | None:
        return self._attempt("read", lambda: self._get_index(chain))

    def put_index(self, chain: Digest, index: bytes) -> None:
        self._attempt("write", lambda: self._put_index(chain, index))

    def _at(self, key: Digest) -> Reference:
        return self._repository.with_tag(key.hex)

    def _get(self, key: Digest) -> CachedStep | None:
        found = self._client.try_manifest(self._at(key))
        if found is None:
            return None
        stored = from_manifest(found)
        if self._expired(stored.created):
            return None
        layer = None
        if stored.layer is not None and stored.diff_id is not None:
            blob = stored.layer
            layer = Layer(blob, stored.diff_id, lambda: self._open(blob), self._repository)
        return CachedStep(key, stored, layer, lambda: self._read_index(stored.index))

    def _open(self, blob: Descriptor) -> Iterator[bytes]:
        try:
            yield from self._client.open_blob(self._repository, blob, label="cached layer")
        except (BlobUnknown, ContentMismatch) as error:
            error.hint = (
                f"{self._repository.name} promised the cached layer {blob.digest}, but can't give "
                "it: remove that blob, or build once with another --cache-repo"
            )
            raise

    def _read_index(self, index: Descriptor | None) -> bytes | None:
        if index is None:
            return None
        return self._attempt("read", lambda: self._inflated(index))

    def _inflated(self, index: Descriptor) -> bytes | None:
        try:
            return zlib.decompress(self._client.blob(self._repository, index))
        except BlobUnknown:
            return None  # the layer itself tells

    def _expired(self, created: str) -> bool:
        if self._ttl is None or not created:
            return False
        try:
            return self._now() - datetime.fromisoformat(created) > self._ttl
        except (ValueError, TypeError):
            return True

    def _put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        if layer is not None:
            sources = (layer.source,) if layer.source else ()
            self._client.push_blob(
                self._repository, layer.descriptor, layer.open, mount_from=sources, label="to cache"
            )
            stored = replace(stored, index=self._push_index(index))
        self._put_manifest(keys, stored)

    def _put_manifest(self, keys: tuple[Digest, ...], stored: StoredStep) -> None:
        self._push_small(EMPTY, EMPTY_JSON)
        manifest = to_manifest(stored)
        for key in keys:
            self._client.push_manifest(self._at(key), manifest)

    def _push_index(self, index: bytes) -> Descriptor:
        data = zlib.compress(index, 1)
        descriptor = Descriptor(INDEX_TYPE, digest_of(data), len(data))
        self._push_small(descriptor, data)
        return descriptor

    def _push_small(self, descriptor: Descriptor, data: bytes) -> None:
        self._client.push_blob(self._repository, descriptor, lambda: iter((data,)))

    def _get_index(self, chain: Digest) -> bytes | None:
        found = self._client.try_manifest(self._at(index_key(chain)))
        if not isinstance(found, Manifest) or not found.layers:
            return None
        return self._read_index(found.layers[0])

    def _put_index(self, chain: Digest, index: bytes) -> None:
        self._push_small(EMPTY, EMPTY_JSON)
        descriptor = self._push_index(index)
        self._client.push_manifest(self._at(index_key(chain)), index_manifest(descriptor))

    def _attempt(self, what: str, action: Callable[[], Result]) -> Result | None:
        if what in self._refused:
            return None
        try:
            return action()
        except RegistryError as error:
            # What is down, or lets nothing be read, is not written to either.
            gone = what == "read" or isinstance(error, RegistryUnreachable | RegistryBroken)
            with self._guard:
                self._refused.update(("read", "write") if gone else (what,))
            self._tell(what, error.message)
        except ContentMismatch as error:
            self._tell(what, error.message)
        except zlib.error as error:
            self._tell(what, f"an index is damaged ({error})")
        return None

    def _tell(self, what: str, why: str) -> None:
        """Once: what else happens is of the same kind."""
        with self._guard:
            if what in self._told:
                return
            self._told.add(what)
        message = f"the layer cache {self._repository.name} can't be used to {what}: {why}"
        self._sink(Notice(Level.WARNING, message, code="cache-unusable"))
