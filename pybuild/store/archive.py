"""One file as `docker save` has written since Docker 25: an OCI layout in a tar, and manifest.json
beside it for older readers (moby image/spec v1.2, "Combined Image JSON + Filesystem Changeset").

The same image and tags always give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from pybuild.image.descriptor import Descriptor
from pybuild.image.image import Image
from pybuild.image.media_type import is_foreign
from pybuild.image.reference import Reference
from pybuild.image.verify import verified
from pybuild.store.blobs import beside
from pybuild.store.errors import writing
from pybuild.store.layout import LAYOUT_FILE, REF_NAME, layout_index

_BLOCK = 512
_RECORD = 20 * _BLOCK  # what GNU tar pads an archive to
_IMAGE_NAME = "io.containerd.image.name"  # by which containerd imports an archive


def write_archive(image: Image, tags: Sequence[Reference], out: Path) -> None:
    """Writes the image to `out`, whole or not at all; a pipe or device is written as it comes.

    References without a tag give the image no name. Raises OutputNotWritable, or what opening a
    layer raises.
    """
    tagged = [ref for ref in tags if ref.tag]
    with writing(out), _opened(out) as file:
        writer = _Writer(file)
        for folder in ("blobs", "blobs/sha256"):
            writer.directory(folder)
        for descriptor, chunks in _blobs(image):
            writer.file(_blob_path(descriptor), descriptor.size, verified(chunks, descriptor))
        for name, content in (
            ("index.json", _index(image, tagged)),
            ("manifest.json", _manifest_json(image, tagged)),
            ("oci-layout", LAYOUT_FILE),
        ):
            writer.file(name, len(content), [content])
        writer.finish()


@contextmanager
def _opened(out: Path) -> Iterator[BinaryIO]:
    if out.exists() and not out.is_file():
        with out.open("wb") as file:
            yield file
        return
    with beside(out) as (_, file):
        yield file


def _blobs(image: Image) -> Iterator[tuple[Descriptor, Iterable[bytes]]]:
    """Each blob once, though an image may hold the same layer several times."""
    yield image.manifest.config, [image.raw_config]
    yield image.descriptor, [image.manifest.raw]
    seen = {image.manifest.config.digest, image.descriptor.digest}
    for layer in image.layers:
        descriptor = layer.descriptor
        if descriptor.digest not in seen and not is_foreign(descriptor.media_type):
            seen.add(descriptor.digest)
            yield descriptor, layer.open()


def _blob_path(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex}"


def _name(ref: Reference) -> str:
    return f"{ref.name}:{ref.tag}"


def _index(image: Image, tags: Sequence[Reference]) -> bytes:
    entry = replace(image.descriptor, platform=image.config.platform)
    entries = [
        replace(entry, annotations=((_IMAGE_NAME, _name(ref)), (REF_NAME, ref.tag))) for ref in tags
    ]
    return layout_index(entries or [entry])


def _manifest_json(image: Image, tags: Sequence[Reference]) -> bytes:
    layers = [layer.descriptor for layer in image.layers]
    body = {
        "Config": _blob_path(image.manifest.config),
        "RepoTags": [_name(ref) for ref in tags] or None,
        "Layers": [_blob_path(layer) for layer in layers if not is_foreign(layer.media_type)],
    }
    return json.dumps([body], separators=(",", ":")).encode()


class _Writer:
    """A ustar archive of folders and files that belong to root and have no time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = 0

    def directory(self, name: str) -> None:
        self._put(_header(f"{name}/", 0, kind=b"5", mode=0o755))

    def file(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        self._put(_header(name, size, kind=b"0", mode=0o644))
        for chunk in chunks:
            self._put(chunk)
        self._put(bytes(-size % _BLOCK))

    def finish(self) -> None:
        self._put(bytes(2 * _BLOCK))
        self._put(bytes(-self._written % _RECORD))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._written += len(data)


def _header(name: str, size: int, *, kind: bytes, mode: int) -> bytes:
    """A ustar header (POSIX pax(1), "ustar Interchange Format"). The names here are short; a size
    of 8 GiB and more is written in GNU's base-256 form."""
    octal = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    fields = (
        name.encode().ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,  # uid
        b"%07o\0" % 0,  # gid
        octal,
        b"%011o\0" % 0,  # mtime
        b" " * 8,  # the checksum counts as blanks while it is taken
        kind,
        bytes(100),
        b"ustar\x0000",
        bytes(32 + 32 + 8 + 8 + 155 + 12),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
