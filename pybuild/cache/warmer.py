"""Fills the cache folder with base images, whole and verified, and with indexes of their layers.
Any number of warmers and builds may use the folder meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from pybuild.cache.fetch import fetch_blob
from pybuild.cache.folder import IndexFolder
from pybuild.cache.images import ImageFolder, blobs_of, layers_of, name_of
from pybuild.errors import ContentMismatch, HostileContent, InputError, PybuildError, RegistryError
from pybuild.events import EventSink, Level, Notice
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.layer import chain_ids
from pybuild.image.reference import BadReference, Reference, parse_reference
from pybuild.image.verify import verified_tar
from pybuild.plan.make import PlanRequest, images_needed
from pybuild.plan.steps import BaseImage, ImageRequest
from pybuild.registry.client import Client, ResolvedImage

if TYPE_CHECKING:
    from pybuild.dockerfile.instructions import Dockerfile
    from pybuild.rootfs.index import LayerIndex

_AT_ONCE = 4
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Outcome(Enum):
    FETCHED = "fetched"
    THERE = "there already"
    FAILED = "failed"


class WarmResult(Struct, frozen=True):
    """What became of one image; `size` is that of all its blobs."""

    name: str
    outcome: Outcome
    digest: Digest | None = None
    size: int = 0
    error: PybuildError | None = None


class Warmer:
    """`ttl`: what was fetched longer ago is read again, to see whether it is still what it was;
    `force` fetches all of it again."""

    def __init__(
        self,
        folder: ImageFolder,
        client: Client,
        sink: EventSink,
        *,
        force: bool = False,
        ttl: timedelta | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._client = client
        self._sink = sink
        self._force = force
        self._ttl = ttl
        self._is_cancelled = is_cancelled
        self._now = now
        self._indexes = IndexFolder(folder.path, None, sink)

    def warm(self, wishes: Sequence[ImageRequest]) -> tuple[WarmResult, ...]:
        """What became of each image, in order. Raises OSError where the folder can't be written,
        Cancelled, and BrokenConfig where no registry can be asked."""
        resolved = _in_threads(self.resolve, list(dict.fromkeys(wishes)))
        return self.keep(resolved)

    def resolve(self, wish: ImageRequest) -> ResolvedImage | WarmResult:
        try:
            return self._client.resolve(parse_reference(wish.name), wish.platform)
        except (RegistryError, ContentMismatch, BadReference) as error:
            return WarmResult(wish.name, Outcome.FAILED, error=error)

    def keep(self, images: Sequence[ResolvedImage | WarmResult]) -> tuple[WarmResult, ...]:
        """Fetches what the folder lacks of these images; failures are passed on."""
        found = [image for image in images if isinstance(image, ResolvedImage)]
        with self._folder.hold.shared():
            wanted = {
                blob.digest: (image.source, blob)
                for image in found
                for blob in layers_of(image.manifest)
            }
            outcomes = dict(zip(wanted, _in_threads(self._fetch, wanted.values()), strict=True))
            return tuple(
                self._finish(image, outcomes) if isinstance(image, ResolvedImage) else image
                for image in images
            )

    def _fetch(self, wanted: tuple[Reference, Descriptor]) -> bool | PybuildError:
        source, blob = wanted
        try:
            return fetch_blob(
                self._folder.layout.blobs,
                blob,
                lambda done: self._client.open_rest(source, blob, done),
                again=self._force or self._is_damaged(blob),
                waits=lambda: self._tell(f"another warmer fetches {blob.digest}: waiting for it"),
                is_cancelled=self._is_cancelled,
            )
        except (RegistryError, ContentMismatch) as error:
            return error

    def _finish(
        self, image: ResolvedImage, outcomes: Mapping[Digest, bool | PybuildError]
    ) -> WarmResult:
        blobs = blobs_of(image.manifest)
        name, size = name_of(image.reference), sum(blob.size for blob in blobs)
        result = WarmResult(name, Outcome.THERE, image.manifest.digest, size)
        of_blobs = [outcomes[blob.digest] for blob in layers_of(image.manifest)]
        failed = next((one for one in of_blobs if isinstance(one, PybuildError)), None)
        if failed is None:
            try:
                self._keep_indexes(image)
            except (ContentMismatch, HostileContent, InputError) as error:
                failed = error
        if failed is not None:
            return replace(result, outcome=Outcome.FAILED, error=failed)
        self._folder.add(image, self._now())
        return replace(result, outcome=Outcome.FETCHED if any(of_blobs) else Outcome.THERE)

    def _keep_indexes(self, image: ResolvedImage) -> None:
        """With them a build that only copies reads no layer at all; reading them shows too whether
        the layers are what the config says."""
        from pybuild.layer.apply import read_layer
        from pybuild.layer.compress import decompress
        from pybuild.rootfs.index import Tree

        layers, diff_ids = image.manifest.layers, image.config.diff_ids
        blobs = self._folder.layout.blobs
        if len(layers) != len(diff_ids) or not all(blobs.has(blob) for blob in layers):
            return  # foreign layers, whose files nobody can tell
        tree = Tree(())
        for blob, diff_id, chain in zip(layers, diff_ids, chain_ids(diff_ids), strict=True):
            index = self._known_index(chain)
            if index is None:
                with closing(verified_tar(decompress(blobs.open(blob)), diff_id)) as tar:
                    index = read_layer(tar, tree)
                self._indexes.put_index(chain, index.to_bytes())
            tree = tree.with_layer(index)

    def _known_index(self, chain: Digest) -> LayerIndex | None:
        from pybuild.rootfs.index import LayerIndex

        packed = self._indexes.get_index(chain)
        try:
            return None if packed is None else LayerIndex.from_bytes(packed)
        except ContentMismatch:
            return None  # written by another version, or broken

    def _is_damaged(self, blob: Descriptor) -> bool:
        """What is old is read again, and is young then."""
        path = self._folder.layout.blobs.path(blob.digest)
        try:
            fetched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if self._ttl is None or self._now() - fetched <= self._ttl:
                return False
            for _ in self._folder.open_blob(blob):
                pass
            os.utime(path)
        except ContentMismatch:
            return True
        except FileNotFoundError:
            pass
        return False

    def _tell(self, message: str) -> None:
        self._sink(Notice(Level.INFO, message))


def bases_of(
    dockerfile: Dockerfile,
    request: PlanRequest,
    resolve: Callable[[ImageRequest], ResolvedImage | WarmResult],
) -> tuple[ResolvedImage | WarmResult, ...]:
    """All images that any stage of a Dockerfile starts from or takes files from, also those that a
    base's ONBUILD names. Raises InputError, with the place, for a FROM that names none."""
    asked: dict[ImageRequest, ResolvedImage | WarmResult] = {}
    while True:
        known = {
            wish: BaseImage(found.manifest.digest, found.config)
            for wish, found in asked.items()
            if isinstance(found, ResolvedImage)
        }
        needed: dict[ImageRequest, None] = {}
        for number in range(1, len(dockerfile.stages) + 1):
            upto = replace(dockerfile, stages=dockerfile.stages[:number])
            needed |= dict.fromkeys(images_needed(upto, request, known))
        missing = [wish for wish in needed if wish not in asked]
        if not missing:
            return tuple(asked.values())
        asked |= zip(missing, _in_threads(resolve, missing), strict=True)


def _in_threads(work: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE, "warm") as pool:
        return list(pool.map(work, items))
