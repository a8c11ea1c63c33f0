"""A change set to a layer's blob, in one pass over the files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.image.media_type import OCI_LAYER_GZIP
from pybuild.layer.changes import Change
from pybuild.layer.compress import CompressedFile, CompressionOptions
from pybuild.layer.errors import (
    ContextChanged,
    DiskFull,
    FileChanged,
    FileUnreadable,
    ReservedName,
    is_full,
)
from pybuild.layer.tar import end_of_archive, header_of, opaque_header, padding_of
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import IndexBuilder, LayerIndex
from pybuild.rootfs.packed import KEPT_LIMIT, KEPT_PATHS, encode

_CHUNK = 1 << 18  # large enough that hashing lets other threads run, small enough for a cache
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_EMPTY_SHA256 = sha256(b"").digest()


class PackOptions(Struct, frozen=True):
    """`clamp_seconds`: no entry is newer than this (SOURCE_DATE_EPOCH). `expected`: the digests
    that files of the context had when the cache key was made; a path that is not in it is not
    checked. `own_seconds`: times that this build gave, which are no content; all others are. None:
    no time is content."""

    compression: CompressionOptions = field(default_factory=CompressionOptions)
    media_type: str = OCI_LAYER_GZIP
    clamp_seconds: int | None = None
    expected: Mapping[str, Digest] | None = None
    own_seconds: range | None = None


class PackedLayer(Struct, frozen=True):
    """A finished layer. `content` is a digest over its entries, in their order; of their times
    only those count that the build did not give by itself."""

    path: Path
    descriptor: Descriptor
    diff_id: Digest
    size_uncompressed: int
    index: LayerIndex
    content: Digest
    empty: bool  # no entries at all


def pack_layer(changes: Iterable[Change], target: Path, options: PackOptions) -> PackedLayer:
    """Writes the layer's blob to `target`, which is removed again if anything fails.

    `changes` come with parents before children, in the order the layer is to have. Raises
    FileChanged when a file on disk is not what its entry says, FileUnreadable, ContextChanged when
    a file's digest is not the one in `options.expected`, ReservedName for names that would mean
    removals, DiskFull.
    """
    file = CompressedFile(target, options.compression)
    try:
        packing = _Packing(file, options)
        for change in changes:
            packing.add(change)
        return packing.finish(target)
    except BaseException as error:
        # Told before the file makes room again.
        full = isinstance(error, OSError) and is_full(error) and DiskFull(str(target.parent))
        file.abandon()
        target.unlink(missing_ok=True)
        if full:
            raise full from error
        raise


def content_record(entry: Entry, digest: bytes, seconds: int = 0) -> bytes:
    """What of an entry counts as content. `digest` is the sha256 of a FILE's bytes, `seconds` its
    time where that counts. Fields are kept apart by their lengths, so that no two entries give
    the same record."""
    xattrs = b""
    if entry.xattrs:
        xattrs = b"".join(
            b"%d:%b%d:%b" % (len(name), name, len(value), value)
            for name, value in ((encode(n), v) for n, v in entry.xattrs)
        )
    path = encode(entry.path)
    link = encode(entry.link) if entry.link else b""
    return b"%d %d %d %d %d %d %d %d %d %d %d %d:%b%d:%b%b%b" % (
        seconds,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.major,
        entry.minor,
        entry.opaque,
        len(xattrs),
        len(digest),
        len(path),
        path,
        len(link),
        link,
        digest,
        xattrs,
    )


class _Packing:
    """The state of one pass: pieces of the tar that wait to be digested and compressed."""

    def __init__(self, file: CompressedFile, options: PackOptions) -> None:
        self._file = file
        self._media_type = options.media_type
        self._clamp = options.clamp_seconds
        self._expected = options.expected
        self._own = options.own_seconds
        self._diff = sha256()
        self._content = sha256()
        self._index = IndexBuilder()
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._position = 0  # in the tar, of what comes next

    def add(self, change: Change) -> None:
        entry = change.entry
        path = entry.path
        kind = entry.kind
        if path.startswith(".wh.") or "/.wh." in path:
            raise ReservedName(path)
        seconds = entry.mtime_ns // 1_000_000_000
        own = self._own is None or seconds in self._own
        if self._clamp is not None and seconds > self._clamp:
            seconds = self._clamp
        counted = 0 if own else seconds
        if kind == Kind.FILE:
            digest = self._add_file(entry, change.content, seconds)
            self._content.update(content_record(entry, digest, counted))
            return
        if not path and not entry.opaque:
            return  # the root has no entry of its own in layers, as in BuildKit's
        entry = _as_read_back(entry)
        if path:
            self._write(header_of(entry, seconds))
        if entry.opaque:
            self._write(opaque_header(path))
        if kind == Kind.WHITEOUT:
            seconds = counted = 0
        self._index.add_at(entry, b"", seconds * 1_000_000_000, -1)
        self._content.update(content_record(entry, b"", counted))

    def _write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._position += len(data)
        self._waiting += len(data)
        if self._waiting >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        chunk = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if chunk:
            self._diff.update(chunk)
            self._file.write(chunk)

    def _add_file(self, entry: Entry, content: str | bytes | None, seconds: int) -> bytes:
        """The sha256 of the content."""
        path = entry.path
        size = entry.size
        header = header_of(entry, seconds)
        offset = self._position + len(header)
        if content is None or isinstance(content, bytes):
            data = content or b""
            if len(data) != size:
                raise FileChanged(path, f"has {len(data)} bytes instead of {size}")
            digest = self._write_whole(path, header, data)
        elif size <= _CHUNK:
            digest = self._write_whole(path, header, _read(content, entry))
        else:
            digest = self._copy(entry, header, content)
        if self._expected is not None:
            wanted = self._expected.get(path)
            if wanted is not None and wanted.hex != digest.hex():
                raise ContextChanged(path)
        self._index.add_at(entry, digest, seconds * 1_000_000_000, offset)
        return digest

    def _write_whole(self, path: str, header: bytes, data: bytes) -> bytes:
        if path in KEPT_PATHS:
            self._index.kept[path] = data
        size = len(data)
        if not size:
            self._write(header)
            return _EMPTY_SHA256
        padding = padding_of(size)
        self._pieces += (header, data, padding)
        size += len(header) + len(padding)
        self._position += size
        self._waiting += size
        if self._waiting >= _CHUNK:
            self._flush()
        return sha256(data).digest()

    def _copy(self, entry: Entry, header: bytes, source: str) -> bytes:
        """A large file in pieces, never as a whole."""
        hasher = sha256()
        left = entry.size
        kept: list[bytes] | None = None
        if entry.path in KEPT_PATHS and entry.size <= KEPT_LIMIT:
            kept = []
        descriptor = _open(source, entry)
        try:
            self._write(header)
            self._flush()
            while left:
                chunk = os.read(descriptor, min(_CHUNK, left))
                if not chunk:
                    raise FileChanged(entry.path, "shrank")
                left -= len(chunk)
                hasher.update(chunk)
                if kept is not None:
                    kept.append(chunk)
                self._write(chunk)
            if os.read(descriptor, 1):
                raise FileChanged(entry.path, "grew")
        except IsADirectoryError as error:
            raise FileChanged(entry.path, "became a folder") from error
        finally:
            os.close(descriptor)
        self._write(padding_of(entry.size))
        if kept is not None:
            self._index.kept[entry.path] = b"".join(kept)
        return hasher.digest()

    def finish(self, target: Path) -> PackedLayer:
        empty = not len(self._index)
        self._write(end_of_archive())
        self._flush()
        size = self._position
        index = self._index.finish()
        digest, stored = self._file.finish()
        return PackedLayer(
            target,
            Descriptor(self._media_type, digest, stored),
            digest_from_hex(self._diff.hexdigest()),
            size,
            index,
            digest_from_hex(self._content.hexdigest()),
            empty,
        )


def _as_read_back(entry: Entry) -> Entry:
    """No mode of a link, of a removal nothing but its path, no content of a hard link."""
    kind = entry.kind
    if kind == Kind.WHITEOUT:
        return Entry(entry.path, kind, 0)
    if kind == Kind.SYMLINK and entry.mode != 0o777:
        return replace(entry, mode=0o777)
    if kind == Kind.HARDLINK and (entry.size or entry.xattrs):
        return replace(entry, size=0, xattrs=())
    return entry


def _open(source: str, entry: Entry) -> int:
    try:
        return os.open(source, _OPEN_FLAGS)
    except FileNotFoundError as error:
        raise FileChanged(entry.path, "vanished") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileChanged(entry.path, "became a link") from error
        raise FileUnreadable(entry.path, (error.strerror or str(error)).lower()) from error


def _read(source: str, entry: Entry) -> bytes:
    """A small file whole; one byte more is asked for, so that growing is seen."""
    descriptor = _open(source, entry)
    size = entry.size
    try:
        data = os.read(descriptor, size + 1)
        while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
            data += more
    except IsADirectoryError as error:
        raise FileChanged(entry.path, "became a folder") from error
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise FileChanged(entry.path, "grew" if len(data) > size else "shrank")
    return data
