"""Reading an image archive: what `docker save`, podman, kaniko's --tar-path and our own write.

Format: moby image/spec v1.2, "Combined Image JSON + Filesystem Changeset"; since Docker 25 an OCI
layout lies in the same archive. Nothing is unpacked: blobs are read where they are.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from msgspec import Struct

from pybuild.errors import InputError
from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import BadManifest, Descriptor
from pybuild.image.digest import Digest, digest_from_hex, digest_of
from pybuild.image.image import Image
from pybuild.image.layer import Layer
from pybuild.image.manifest import Index, Manifest, make_manifest, parse_manifest
from pybuild.image.media_type import (
    DOCKER_CONFIG,
    OCI_CONFIG,
    OCI_INDEX,
    Family,
    compression_of,
    layer_media_type,
)
from pybuild.image.verify import verified, verified_tar
from pybuild.layer.compress import CompressedFile, CompressionOptions, decompress
from pybuild.layer.errors import BadArchive
from pybuild.layer.tar import TarReader
from pybuild.rootfs.entry import Kind

_CHUNK = 1 << 18
_JSON_LIMIT = 16 << 20
_LINKS = 8  # in a row
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


class ArchiveUnreadable(InputError):
    """A file is no image archive, or holds another number of images than one."""

    code = "archive-unreadable"
    advice = "`docker save`, `podman save` and --tar-path write such archives"


class _Part(Struct, frozen=True):
    """Bytes within the archive."""

    path: Path
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.size
            while left and (chunk := file.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk

    def head(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(min(8, self.size))


def read_archive(path: Path, folder: Path) -> Image:
    """The one image in an archive. Layers that lie there uncompressed are compressed into files
    below `folder`, which have to stay as long as the image is used.

    Raises ArchiveUnreadable, BadManifest; DigestMismatch where a layer is another one than the
    config names.
    """
    parts = _Parts(path)
    return _as_it_was_pushed(parts) or _from_manifest_json(parts, folder)


class _Parts:
    """The files of an archive by name, links followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, _Part] = {}
        self._links: dict[str, str] = {}
        try:
            with path.open("rb") as file:
                _refuse_compressed(path, file.peek(8))
                for member in TarReader(iter(partial(file.read, _CHUNK), b"")):
                    name = posixpath.normpath(member.name.decode("utf-8", "surrogateescape"))
                    link = member.link.decode("utf-8", "surrogateescape")
                    if member.kind is Kind.FILE:
                        self._files[name] = _Part(path, member.offset, member.size)
                    elif member.kind is Kind.HARDLINK:
                        self._links[name] = posixpath.normpath(link)
                    elif member.kind is Kind.SYMLINK:
                        target = posixpath.join(posixpath.dirname(name), link)
                        self._links[name] = posixpath.normpath(target)
        except BadArchive as error:
            raise ArchiveUnreadable(f"{path} is no image archive: {error.message}") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ArchiveUnreadable(f"{path} can't be read: {reason}") from error

    def find(self, name: str) -> _Part | None:
        name = posixpath.normpath(name)
        for _ in range(_LINKS):
            if name in self._files:
                return self._files[name]
            name = self._links.get(name, name)
        return None

    def blob(self, descriptor: Descriptor) -> _Part | None:
        return self.find(f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex}")

    def whole(self, name: str) -> bytes:
        part = self.find(name)
        if part is None:
            raise ArchiveUnreadable(f"{self.path} is no image archive: it has no {name}")
        if part.size > _JSON_LIMIT:
            raise ArchiveUnreadable(f"{self.path}: {name} is too big to be read as JSON")
        return b"".join(part.chunks())


def _refuse_compressed(path: Path, head: bytes) -> None:
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise ArchiveUnreadable(
                f"{path} is compressed with {kind}", hint="unpack it first, to a plain .tar"
            )


def _as_it_was_pushed(parts: _Parts) -> Image | None:
    """From the OCI layout in the archive: the manifest as it stands, so that its digest is kept.
    None where there is none, or its layers are no blobs that a registry should get."""
    if parts.find("index.json") is None:
        return None
    index = parse_manifest(parts.whole("index.json"), OCI_INDEX)
    if not isinstance(index, Index) or len({entry.digest for entry in index.manifests}) != 1:
        return None
    entry = index.manifests[0]
    if parts.blob(entry) is None:
        return None
    raw = b"".join(verified([parts.whole(_blob_name(entry))], entry))
    manifest = parse_manifest(raw, entry.media_type)
    if not isinstance(manifest, Manifest):
        return None
    blobs = [parts.blob(layer) for layer in manifest.layers]
    if None in blobs or any(compression_of(one.media_type) == "none" for one in manifest.layers):
        return None
    raw_config = b"".join(verified([parts.whole(_blob_name(manifest.config))], manifest.config))
    config = ImageConfig.from_json(raw_config)
    _check_count(parts.path, config, manifest.layers)
    layers = tuple(
        Layer(blob, diff_id, partial(_verified_part, part, blob))
        for blob, diff_id, part in zip(manifest.layers, config.diff_ids, blobs, strict=True)
        if part is not None
    )
    return Image(config, raw_config, manifest, layers)


def _verified_part(part: _Part, descriptor: Descriptor) -> Iterator[bytes]:
    return verified(part.chunks(), descriptor)


def _blob_name(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex}"


def _check_count(path: Path, config: ImageConfig, layers: Sequence[object]) -> None:
    if len(config.diff_ids) != len(layers):
        raise BadManifest(
            f"{path} has {len(layers)} layers, its config names {len(config.diff_ids)}"
        )


def _from_manifest_json(parts: _Parts, folder: Path) -> Image:
    entry = _only_entry(parts)
    raw_config = parts.whole(str(entry.get("Config", "")))
    config = ImageConfig.from_json(raw_config)
    names = entry.get("Layers") or []
    if not isinstance(names, list):
        raise ArchiveUnreadable(f"{parts.path}: Layers in manifest.json is no list")
    _check_count(parts.path, config, names)
    found: list[tuple[_Part, Digest]] = []
    for name, diff_id in zip(names, config.diff_ids, strict=True):
        part = parts.find(str(name))
        if part is None:
            raise ArchiveUnreadable(f"{parts.path}: the layer {name} is missing")
        found.append((part, diff_id))
    # Docker's own family has no zstd.
    zstd = any(part.head().startswith(b"\x28\xb5\x2f\xfd") for part, _ in found)
    family = Family.OCI if zstd else Family.DOCKER
    layers = tuple(
        _layer(part, diff_id, family, folder / f"layer-{number}")
        for number, (part, diff_id) in enumerate(found)
    )
    media_type = OCI_CONFIG if family is Family.OCI else DOCKER_CONFIG
    descriptor = Descriptor(media_type, digest_of(raw_config), len(raw_config))
    manifest = make_manifest(descriptor, (layer.descriptor for layer in layers), family)
    return Image(config, raw_config, manifest, layers)


def _only_entry(parts: _Parts) -> dict[str, object]:
    try:
        entries = json.loads(parts.whole("manifest.json"))
    except ValueError as error:
        raise ArchiveUnreadable(f"{parts.path}: manifest.json is no JSON") from error
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ArchiveUnreadable(f"{parts.path}: manifest.json is no list of images")
    if len(entries) != 1:
        tags = (tag for entry in entries for tag in entry.get("RepoTags") or ["one without a name"])
        raise ArchiveUnreadable(
            f"{parts.path} holds {len(entries)} images ({', '.join(tags) or 'none'})",
            hint="save one image to an archive of its own",
        )
    found: dict[str, object] = entries[0]
    return found


def _layer(part: _Part, diff_id: Digest, family: Family, target: Path) -> Layer:
    """A layer as a registry wants it, checked against the config."""
    head = part.head()
    if not head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return _compressed(part, diff_id, family, target)
    hasher = sha256()

    def digesting() -> Iterator[bytes]:
        for chunk in part.chunks():
            hasher.update(chunk)
            yield chunk

    for _ in verified_tar(decompress(digesting()), diff_id):
        pass
    kind = layer_media_type(family, "gzip" if head.startswith(b"\x1f\x8b") else "zstd")
    descriptor = Descriptor(kind, digest_from_hex(hasher.hexdigest()), part.size)
    return Layer(descriptor, diff_id, partial(_verified_part, part, descriptor))


def _compressed(part: _Part, diff_id: Digest, family: Family, target: Path) -> Layer:
    file = CompressedFile(target, CompressionOptions())
    try:
        for chunk in verified_tar(part.chunks(), diff_id):
            file.write(chunk)
        digest, size = file.finish()
    except BaseException:
        file.abandon()
        raise
    descriptor = Descriptor(layer_media_type(family, "gzip"), digest, size)
    made = _Part(target, 0, size)
    return Layer(descriptor, diff_id, partial(_verified_part, made, descriptor))
