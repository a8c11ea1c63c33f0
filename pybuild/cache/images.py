"""Base images in the cache folder: an OCI image layout with the references as names, filled by the
warmer and read by builds. Blobs are shared between images, and named by what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import ContentMismatch, InputError
from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import BadDigest, Digest, parse_digest
from pybuild.image.manifest import Manifest, parse_manifest
from pybuild.image.media_type import is_foreign
from pybuild.image.platform import Platform, choose
from pybuild.image.reference import BadReference, Reference, parse_reference
from pybuild.registry.client import ResolvedImage
from pybuild.store.layout import REF_NAME, Layout
from pybuild.store.locks import Hold

_PREFIX = "org.pybuild.warmed."
_SMALL_LIMIT = 32 << 20  # of a manifest or config


class Warmed(Struct, frozen=True):
    """An image in the folder. `named` is the digest of what its tag named, which may be an index;
    `source` where it was pulled from; `at` when that was last asked for."""

    name: str  # registry/repository:tag, or registry/repository alone
    descriptor: Descriptor  # of the manifest, with its platform
    named: Digest
    source: Reference
    at: datetime


class ImageFolder:
    """Any number of builds and warmers may use one folder at once, for some of them read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = Layout(path)
        self.hold = Hold(path)

    def images(self) -> tuple[Warmed, ...]:
        """All that are named; what something else wrote into index.json is not ours. Raises
        LayoutBroken, OSError."""
        found = (_warmed(entry) for entry in self.layout.entries())
        return tuple(one for one in found if one is not None)

    def find(self, reference: Reference, platform: Platform) -> Warmed | None:
        """By digest where the reference has one, else by tag. None where the folder has it not,
        or not wholly."""
        known = self._readable()
        if reference.digest is not None:
            fitting = [one for one in known if _is_digest(one, reference.digest, platform)]
        else:
            named = [one for one in known if one.name == name_of(reference)]
            place = choose((one.descriptor.platform for one in named), platform)
            fitting = [] if place is None else [named[place]]
        return next((one for one in fitting if self.is_whole(one)), None)

    def by_named_digest(self, digest: Digest, platform: Platform) -> Warmed | None:
        """What a tag that names this manifest or index stands for."""
        fitting = (one for one in self._readable() if _is_digest(one, digest, platform))
        return next((one for one in fitting if self.is_whole(one)), None)

    def knows(self, reference: Reference) -> bool:
        return any(one.name == name_of(reference) for one in self._readable())

    def is_whole(self, image: Warmed) -> bool:
        """Whether all its blobs are there; their bytes are not read."""
        try:
            manifest = self.manifest(image.descriptor)
        except (OSError, ContentMismatch):
            return False
        return all(self.layout.blobs.has(blob) for blob in blobs_of(manifest))

    def manifest(self, descriptor: Descriptor) -> Manifest:
        """Raises OSError, DigestMismatch, BadManifest."""
        found = parse_manifest(self.small(descriptor), descriptor.media_type)
        assert isinstance(found, Manifest), "only manifests are named"
        return found

    def small(self, descriptor: Descriptor) -> bytes:
        """A manifest or config as a whole, verified."""
        return b"".join(self.layout.blobs.open(descriptor))

    def resolved(self, image: Warmed, reference: Reference) -> ResolvedImage:
        """As from a registry. Raises OSError, ContentMismatch."""
        manifest = self.manifest(image.descriptor)
        raw_config = self.small(manifest.config)
        with suppress(OSError):  # prune goes by this time; the folder may be there to read only
            os.utime(self.layout.blobs.path(image.descriptor.digest))
        source = image.source.with_digest(manifest.digest)
        config = ImageConfig.from_json(raw_config)
        return ResolvedImage(
            reference.with_digest(image.named), source, manifest, config, raw_config
        )

    def open_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Raises OSError, DigestMismatch."""
        return self.layout.blobs.open(blob)

    def add(self, image: ResolvedImage, now: datetime) -> None:
        """Names an image whose layers are there already."""
        self._write(image.raw_config, image.manifest.config)
        self._write(image.manifest.raw, image.manifest.descriptor)
        assert image.reference.digest is not None
        source = replace(image.source, tag="", digest=None)
        facts = {
            REF_NAME: name_of(image.reference),
            f"{_PREFIX}named": image.reference.digest,
            f"{_PREFIX}source": str(source),
            f"{_PREFIX}at": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        entry = replace(
            image.manifest.descriptor,
            annotations=tuple(facts.items()),
            platform=image.config.platform,
        )
        self.layout.update(lambda others: [*(o for o in others if not _same(o, entry)), entry])

    def _write(self, raw: bytes, blob: Descriptor) -> None:
        """Also in place of one that was damaged."""
        try:
            self.small(blob)
        except (FileNotFoundError, ContentMismatch):
            self.layout.blobs.remove(blob.digest)
            self.layout.blobs.write([raw], blob)

    def _readable(self) -> tuple[Warmed, ...]:
        """A folder that can't be read has nothing; who asked goes to the registry."""
        try:
            return self.images()
        except (OSError, InputError, ContentMismatch):
            return ()


def name_of(reference: Reference) -> str:
    """Under which an image is kept: with its tag, without digest."""
    return str(replace(reference, digest=None))


def layers_of(manifest: Manifest) -> Sequence[Descriptor]:
    """Each once, without those that no registry gives."""
    layers = (layer for layer in manifest.layers if not is_foreign(layer.media_type))
    return tuple({blob.digest: blob for blob in layers}.values())


def blobs_of(manifest: Manifest) -> Sequence[Descriptor]:
    """The config and the layers."""
    return (manifest.config, *layers_of(manifest))


def _warmed(entry: Descriptor) -> Warmed | None:
    facts = dict(entry.annotations)
    try:
        return Warmed(
            facts[REF_NAME],
            replace(entry, annotations=()),
            parse_digest(facts[f"{_PREFIX}named"]),
            parse_reference(facts[f"{_PREFIX}source"], tag=""),
            datetime.fromisoformat(facts[f"{_PREFIX}at"]),
        )
    except (KeyError, ValueError, BadDigest, BadReference):
        return None


def _same(one: Descriptor, other: Descriptor) -> bool:
    names = [dict(entry.annotations).get(REF_NAME) for entry in (one, other)]
    return names[0] == names[1] and one.platform == other.platform


def _is_digest(image: Warmed, digest: Digest, platform: Platform) -> bool:
    if image.descriptor.digest == digest:
        return True
    return image.named == digest and choose([image.descriptor.platform], platform) is not None
