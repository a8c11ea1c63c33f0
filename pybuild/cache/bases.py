"""The images that others are built on: found at the registry, read from the cache folder where that
has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from pybuild.cache.images import ImageFolder, Warmed
from pybuild.cache.layers import LayerLost
from pybuild.errors import ContentMismatch, InputError, RegistryError
from pybuild.events import EventSink, Level, Notice
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.platform import Platform
from pybuild.image.reference import Reference
from pybuild.registry.client import Client, ResolvedImage
from pybuild.registry.errors import RateLimited, RegistryBroken, RegistryUnreachable

_DOWN = (RegistryUnreachable, RegistryBroken, RateLimited)


class Bases:
    """What a tag names is always asked of the registry, so that a moved tag is never missed; only
    where that does not answer, an image counts that was warmed within `ttl`. An image that is named
    by digest, and all blobs, come from the folder without a word to anybody. Thread-safe."""

    def __init__(
        self,
        client: Client,
        folder: ImageFolder | None,
        sink: EventSink,
        *,
        ttl: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._folder = folder
        self._sink = sink
        self._ttl = ttl
        self._now = now
        self._lost: set[Digest] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def resolve(self, reference: Reference, platform: Platform) -> ResolvedImage:
        """Raises what Client.resolve raises."""
        folder = self._folder
        if folder is None:
            return self._client.resolve(reference, platform)
        self._look_into(folder)
        if reference.digest is not None:
            return self._kept(folder.find(reference, platform), reference) or self._client.resolve(
                reference, platform
            )
        if not folder.knows(reference):
            return self._client.resolve(reference, platform)
        try:
            named = self._client.manifest(reference).digest
            kept = self._kept(folder.by_named_digest(named, platform), reference)
            return kept or self._client.resolve(reference, platform)
        except _DOWN as error:
            found = folder.find(reference, platform)
            image = self._kept(found, reference) if found and self._counts(found) else None
            if image is None:
                raise
            self._tell_stale(reference, error)
            return image

    def open_blob(self, source: Reference, blob: Descriptor) -> Iterator[bytes]:
        """The blob's bytes, verified. Raises RegistryError, ContentMismatch; LayerLost where the
        folder's copy turned out to be damaged, which is not used again then."""
        folder = self._folder
        if folder is None or blob.digest in self._lost or not folder.layout.blobs.has(blob):
            if self._is_cut(blob):
                told = f"the cache folder has a damaged copy of {blob.digest}, a blob of a base"
                self._tell_once(f"{told}; `warmer --force` fetches it again")
            yield from self._client.open_blob(source, blob)
            return
        try:
            yield from folder.open_blob(blob)
        except (OSError, ContentMismatch) as error:
            said = error.message if isinstance(error, ContentMismatch) else str(error)
            raise LayerLost(
                blob.digest,
                f"the cache folder {folder.path} has a damaged copy of a base layer: {said}",
                hint="`warmer --force` fetches it again",
            ) from error

    def forget(self, layer: Digest) -> None:
        self._lost.add(layer)

    def is_kept(self, image: ResolvedImage) -> bool:
        """Whether all its layers come from the folder."""
        blobs = None if self._folder is None else self._folder.layout.blobs
        layers = image.manifest.layers
        return blobs is not None and bool(layers) and all(blobs.has(blob) for blob in layers)

    def _kept(self, found: Warmed | None, reference: Reference) -> ResolvedImage | None:
        assert self._folder is not None
        if found is None:
            return None
        try:
            return self._folder.resolved(found, reference)
        except (OSError, ContentMismatch):
            return None  # damaged: the registry has it

    def _is_cut(self, blob: Descriptor) -> bool:
        """Whether the folder has something of that name that can't be it. Where its bytes turned
        out to be wrong before, that was told."""
        folder = self._folder
        if folder is None or blob.digest in self._lost:
            return False
        return folder.layout.blobs.path(blob.digest).exists()

    def _look_into(self, folder: ImageFolder) -> None:
        """One without images is like none; of one that can't be read somebody has to hear."""
        try:
            folder.images()
        except (InputError, ContentMismatch) as error:
            self._tell_once(f"no base comes from the cache folder: {error.message}")
        except OSError:
            pass  # told of where it is written to

    def _tell_once(self, told: str) -> None:
        with self._lock:
            if told in self._told:
                return
            self._told.add(told)
        self._sink(Notice(Level.WARNING, told, code="base-from-cache-folder"))

    def _counts(self, image: Warmed) -> bool:
        return self._ttl is None or self._now() - image.at <= self._ttl

    def _tell_stale(self, reference: Reference, error: RegistryError) -> None:
        assert self._folder is not None
        told = (
            f"{error.message}; taking what {reference} was when {self._folder.path} was last warmed"
        )
        self._sink(Notice(Level.WARNING, told, code="base-from-cache-folder"))
