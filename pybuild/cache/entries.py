"""Finished layers by key on a shelf: what each entry says, how old it may be, and what happens
when the shelf is down, refuses, or holds nonsense."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from msgspec.structs import replace

from pybuild.cache.entry import (
    EMPTY,
    EMPTY_JSON,
    INDEX_TYPE,
    from_manifest,
    index_manifest,
    to_manifest,
)
from pybuild.cache.layers import CachedStep, LayerLost
from pybuild.cache.shelf import Shelf, tag_of
from pybuild.cache.uses import parse_uses, record_tag, uses_manifest, with_uses
from pybuild.errors import ContentMismatch, InputError, RegistryError
from pybuild.events import EventSink, Level, Notice
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.layer import Layer
from pybuild.image.manifest import Manifest
from pybuild.plan.fit import StoredStep
from pybuild.plan.keys import index_key
from pybuild.registry.errors import BlobUnknown, RegistryBroken, RegistryUnreachable

Result = TypeVar("Result")
READ, WRITE = "read", "write"


class EntryCache:
    """Entries are manifests under their key. Safe for several threads."""

    def __init__(
        self,
        shelf: Shelf,
        sink: EventSink,
        *,
        ttl: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = shelf.name
        self._shelf = shelf
        self._sink = sink
        self._ttl = ttl
        self._now = now
        self._guard = threading.Lock()
        self._refused: set[str] = set()  # READ, WRITE: not asked again in this build
        self._told: set[str] = set()
        self._there: set[Digest] = set()  # layers
        self._lost: set[Digest] = set()
        self._used: set[str] = set()  # tags of what was found or put

    # Reading

    def get(self, key: Digest) -> CachedStep | None:
        return self._attempt(READ, lambda: self._get(key))

    def get_index(self, chain: Digest) -> bytes | None:
        return self._attempt(READ, lambda: self._get_index(chain))

    def forget(self, layer: Digest) -> None:
        with self._guard:
            self._lost.add(layer)

    def _get(self, key: Digest) -> CachedStep | None:
        found = self._shelf.manifest(tag_of(key))
        if found is None:
            return None
        stored = from_manifest(found)
        if is_expired(stored.created, self._ttl, self._now()):
            return None
        self._used.add(tag_of(key))
        return self.step(key, stored)

    def step(self, key: Digest, stored: StoredStep) -> CachedStep:
        """An entry that is known to be here."""
        layer = None
        if stored.layer is not None and stored.diff_id is not None:
            blob = stored.layer
            layer = Layer(blob, stored.diff_id, lambda: self._open(blob), self._shelf.source)
        return CachedStep(
            key,
            stored,
            layer,
            lambda: self._read_index(stored.index),
            # An inline entry may know of a layer that is in no repository.
            lambda: stored.diff_id is None if layer is None else self._is_there(layer.descriptor),
            self.name,
        )

    def _is_there(self, blob: Descriptor) -> bool:
        if blob.digest in self._lost:
            return False
        if blob.digest in self._there:
            return True
        there = self._attempt(READ, lambda: self._shelf.has_blob(blob))
        if there:
            self._there.add(blob.digest)
        elif there is not None:
            self._tell(READ, f"it holds an entry, but its layer {blob.digest} no more")
        return bool(there)

    def _open(self, blob: Descriptor) -> Iterator[bytes]:
        try:
            yield from self._shelf.open_blob(blob)
        except (RegistryError, ContentMismatch, InputError, OSError) as error:
            if isinstance(error, RegistryError) and not isinstance(error, BlobUnknown):
                self._refuse(READ)
            raise LayerLost(
                blob.digest,
                f"{self.name} promised the cached layer {blob.digest}, but can't give it: "
                f"{_said(error)}",
                hint="remove that entry (pybuild cache prune), or build once with another cache",
            ) from error

    def _get_index(self, chain: Digest) -> bytes | None:
        tag = tag_of(index_key(chain))
        found = self._shelf.manifest(tag)
        if not isinstance(found, Manifest) or not found.layers:
            return None
        self._used.add(tag)
        return self._read_index(found.layers[0])

    def _read_index(self, index: Descriptor | None) -> bytes | None:
        if index is None:
            return None
        return self._attempt(READ, lambda: self._inflated(index))

    def _inflated(self, index: Descriptor) -> bytes | None:
        try:
            return zlib.decompress(b"".join(self._shelf.open_blob(index)))
        except BlobUnknown:
            return None  # the layer itself tells

    # Writing

    def put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        self._used.update(tag_of(key) for key in keys)
        self._attempt(WRITE, lambda: self._put(keys, stored, layer, index))

    def put_again(self, keys: tuple[Digest, ...], stored: StoredStep) -> None:
        """Under further keys, what is here already."""
        self._attempt(WRITE, lambda: self._put(keys, stored, None, b""))

    def put_index(self, chain: Digest, index: bytes) -> None:
        self._attempt(WRITE, lambda: self._put_index(chain, index))

    def mark(self, build: str) -> None:
        """Notes that a build of this name used what was found or put here, so that prune can tell
        what nobody uses any more; once a day is enough."""
        if self._used and not self._shelf.tells_uses:
            self._attempt(WRITE, lambda: self._mark(build))

    def _mark(self, build: str) -> None:
        tag = record_tag(build)
        known = parse_uses(self._attempt(READ, lambda: self._shelf.manifest(tag)))
        uses = with_uses(known, self._used.copy(), self._now())
        if uses != known:
            self._push_small(EMPTY, EMPTY_JSON)
            self._shelf.put_manifest([tag], uses_manifest(uses))

    def _put(
        self, keys: tuple[Digest, ...], stored: StoredStep, layer: Layer | None, index: bytes
    ) -> None:
        with self._shelf.writing():
            if layer is not None:
                sources = (layer.source,) if layer.source else ()
                self._shelf.put_blob(layer.descriptor, layer.open, sources)
                stored = replace(stored, index=self._push_index(index) if index else None)
            self._push_small(EMPTY, EMPTY_JSON)
            self._shelf.put_manifest([tag_of(key) for key in keys], to_manifest(stored))

    def _put_index(self, chain: Digest, index: bytes) -> None:
        with self._shelf.writing():
            self._push_small(EMPTY, EMPTY_JSON)
            created = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            manifest = index_manifest(self._push_index(index), created)
            self._shelf.put_manifest([tag_of(index_key(chain))], manifest)

    def _push_index(self, index: bytes) -> Descriptor:
        data = zlib.compress(index, 1)
        descriptor = Descriptor(INDEX_TYPE, digest_of(data), len(data))
        self._push_small(descriptor, data)
        return descriptor

    def _push_small(self, descriptor: Descriptor, data: bytes) -> None:
        self._shelf.put_blob(descriptor, lambda: iter((data,)), ())

    # What does not work

    def _attempt(self, what: str, action: Callable[[], Result]) -> Result | None:
        if what in self._refused:
            return None
        try:
            return action()
        except LayerLost as error:
            self._tell(what, error.message)  # of another cache, whose entry was to be kept here
        except (RegistryError, InputError, OSError) as error:
            # What is down, or lets nothing be read, is not written to either.
            gone = what == READ or isinstance(error, RegistryUnreachable | RegistryBroken)
            self._refuse(*((READ, WRITE) if gone else (what,)))
            self._tell(what, _said(error))
        except ContentMismatch as error:
            self._tell(what, error.message)
        except zlib.error as error:
            self._tell(what, f"an index is damaged ({error})")
        return None

    def _refuse(self, *what: str) -> None:
        with self._guard:
            self._refused.update(what)

    def _tell(self, what: str, why: str) -> None:
        """Once: what else happens is of the same kind."""
        with self._guard:
            if what in self._told:
                return
            self._told.add(what)
        message = f"the layer cache {self.name} can't be used to {what}: {why}"
        self._sink(Notice(Level.WARNING, message, code="cache-unusable"))


def is_expired(created: str, ttl: timedelta | None, now: datetime) -> bool:
    """Whether what was made at that time (RFC 3339, "" if it does not say) is too old."""
    if ttl is None or not created:
        return False
    try:
        return now - datetime.fromisoformat(created) > ttl
    except (ValueError, TypeError):
        return True


def _said(error: Exception) -> str:
    if isinstance(error, RegistryError | ContentMismatch | InputError):
        return error.message
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)
