"""The index of one layer: what its tar holds, as packed sorted bytes.

A record's key is its path with NUL for "/", so that sorting the keys sorts the paths by components:
a directory stands before all that is in it, and nothing else stands between (`a`, `a/b`, `a-b`).
The bytes can be mapped from a file; no object is made for an entry before it is asked for.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from mmap import mmap
from types import MappingProxyType

from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.errors import BrokenIndex

_MAGIC = b"pbindex2"
# magic, entries, kept files, bytes of records, crc32 of all that follows
_HEADER = struct.Struct("<8sIIQI")
# kind, flags, mode, uid, gid, size (or major << 32 | minor), mtime in ns, offset,
# lengths of key, link, extended attributes; key, link, digest and attributes follow
_RECORD = struct.Struct("<BBHIIQqqHHI")
_KEY_LENGTH_AT = 36
_LINK_LENGTH_AT = 38
_LENGTH = struct.Struct("<I")
_OPAQUE = 1
_DIGEST = 2  # a sha256 stands between the link and the extended attributes
_KINDS = tuple(Kind)
KEPT_LIMIT = 1 << 20
# The `offset` of a HARDLINK whose file a lower layer has: this layer may have another one at the
# same path by now.
IN_LOWER_LAYER = -2
KEPT_PATHS = frozenset({"etc/passwd", "etc/group"})


_ENCODING = sys.getfilesystemencoding()


def encode(path: str) -> bytes:
    """As os.fsencode, which costs four times as much."""
    return path.encode(_ENCODING, "surrogateescape")


def decode(name: bytes) -> str:
    """As os.fsdecode."""
    return name.decode(_ENCODING, "surrogateescape")


def key_of(path: str) -> bytes:
    return path.encode(_ENCODING, "surrogateescape").replace(b"/", b"\0")


def path_of(key: bytes) -> str:
    return key.replace(b"\0", b"/").decode(_ENCODING, "surrogateescape")


def _pack(entry: Entry, digest: bytes, mtime_ns: int, offset: int) -> bytes:
    """A record without its key."""
    link = encode(entry.link) if entry.link else b""
    attributes = b""
    if entry.xattrs:
        attributes = b"".join(
            _LENGTH.pack(len(part)) + part
            for name, value in entry.xattrs
            for part in (encode(name), value)
        )
    return (
        _RECORD.pack(
            entry.kind,
            (_OPAQUE if entry.opaque else 0) | (_DIGEST if digest else 0),
            entry.mode,
            entry.uid,
            entry.gid,
            (entry.major << 32 | entry.minor) if entry.major or entry.minor else entry.size,
            mtime_ns,
            offset,
            0,
            len(link),
            len(attributes),
        )
        + link
        + digest
        + attributes
    )


def _unpack_xattrs(data: bytes) -> tuple[tuple[str, bytes], ...]:
    parts = []
    position = 0
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        parts.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return tuple((decode(parts[i]), parts[i + 1]) for i in range(0, len(parts), 2))


def _unpack(path: str, record: bytes | mmap, start: int, key_length: int) -> Entry:
    """`start` is where the fixed part begins; `key_length` bytes of key follow it."""
    kind, flags, mode, uid, gid, size, mtime_ns, offset, _, link_length, attributes_length = (
        _RECORD.unpack_from(record, start)
    )
    position = start + _RECORD.size + key_length
    link = decode(record[position : position + link_length]) if link_length else ""
    major = minor = 0
    if kind in (Kind.CHAR, Kind.BLOCK):
        major, minor, size = size >> 32, size & 0xFFFFFFFF, 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    if attributes_length:
        position += link_length + (32 if flags & _DIGEST else 0)
        xattrs = _unpack_xattrs(record[position : position + attributes_length])
    return Entry(
        path,
        _KINDS[kind],
        mode,
        uid,
        gid,
        size,
        mtime_ns,
        link,
        major,
        minor,
        xattrs,
        bool(flags & _OPAQUE),
        offset,
    )


class IndexBuilder:
    """Takes entries in any order; a later entry of the same path replaces the earlier one."""

    __slots__ = ("_records", "kept")

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self.kept: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, entry: Entry, digest: bytes = b"") -> None:
        """`digest` is the sha256 of a FILE's content (32 bytes), or empty."""
        self._records[key_of(entry.path)] = _pack(entry, digest, entry.mtime_ns, entry.offset)

    def add_at(self, entry: Entry, digest: bytes, mtime_ns: int, offset: int) -> None:
        """The entry with another time and offset; saves making one anew for each file."""
        self._records[key_of(entry.path)] = _pack(entry, digest, mtime_ns, offset)

    def kind(self, path: str) -> Kind | None:
        record = self._records.get(key_of(path))
        return None if record is None else _KINDS[record[0]]

    def hides_below(self, path: str) -> bool:
        """Whether what lower layers have below `path` is out of sight because of this entry."""
        record = self._records.get(key_of(path))
        if record is None:
            return False
        return bool(record[1] & _OPAQUE) or record[0] != Kind.DIRECTORY

    def get(self, path: str) -> Entry | None:
        record = self._records.get(key_of(path))
        return None if record is None else _unpack(path, record, 0, 0)

    def digest(self, path: str) -> bytes:
        record = self._records.get(key_of(path))
        if record is None or not record[1] & _DIGEST:
            return b""
        start = _RECORD.size + int.from_bytes(
            record[_LINK_LENGTH_AT : _LINK_LENGTH_AT + 2], "little"
        )
        return record[start : start + 32]

    def remove(self, path: str) -> None:
        self._records.pop(key_of(path), None)
        self.kept.pop(path, None)

    def remove_below(self, path: str) -> list[str]:
        """Forgets everything in a directory; costs a pass over all records."""
        prefix = key_of(path) + b"\0" if path else b""
        gone = [key for key in self._records if key.startswith(prefix) and key]
        for key in gone:
            del self._records[key]
        paths = [path_of(key) for key in gone]
        for name in paths:
            self.kept.pop(name, None)
        return paths

    def directories(self) -> Iterator[Entry]:
        """Deepest names last within a branch: parents come before children."""
        for key in sorted(k for k, r in self._records.items() if r[0] == Kind.DIRECTORY):
            yield _unpack(path_of(key), self._records[key], 0, 0)

    def finish(self) -> LayerIndex:
        """The builder is empty afterwards."""
        records = self._records
        offsets = []
        parts = []
        position = 0
        for key in sorted(records):
            record = records[key]
            part = b"%b%b%b%b%b" % (
                record[:_KEY_LENGTH_AT],
                len(key).to_bytes(2, "little"),
                record[_LINK_LENGTH_AT : _RECORD.size],
                key,
                record[_RECORD.size :],
            )
            offsets.append(position)
            parts.append(part)
            position += len(part)
        kept = b"".join(
            _LENGTH.pack(len(part)) + part
            for name in sorted(self.kept)
            for part in (encode(name), self.kept[name])
        )
        table = struct.pack(f"<{len(offsets)}I", *offsets)
        body = b"".join((table, *parts, kept))
        header = _HEADER.pack(_MAGIC, len(offsets), len(self.kept), position, zlib.crc32(body))
        self._records = {}
        self.kept = {}
        return LayerIndex(header + body)


class LayerIndex:
    """One layer's entries. WHITEOUT entries carry the path that is removed; missing parents are
    not there. Immutable, compared by its bytes."""

    __slots__ = ("_buffer", "_count", "_kept", "_records", "_table")

    def __init__(self, buffer: bytes | mmap) -> None:
        """Takes bytes that `finish` made; from outside use `from_bytes`, which checks them."""
        _, count, kept_count, length, _ = _HEADER.unpack_from(buffer, 0)
        self._buffer = buffer
        self._count: int = count
        self._table = _HEADER.size
        self._records: int = _HEADER.size + 4 * count
        self._kept = self._read_kept(self._records + length, kept_count)

    def _read_kept(self, position: int, count: int) -> Mapping[str, bytes]:
        kept = {}
        for _ in range(count):
            parts = []
            for _ in range(2):
                (length,) = _LENGTH.unpack_from(self._buffer, position)
                parts.append(self._buffer[position + 4 : position + 4 + length])
                position += 4 + length
            kept[decode(parts[0])] = parts[1]
        return MappingProxyType(kept)

    @staticmethod
    def build(entries: Iterable[Entry], kept: Mapping[str, bytes] | None = None) -> LayerIndex:
        """In any order; a later entry of the same path replaces the earlier one. `kept` holds
        contents of small files that are needed without the layer, at most 1 MiB each."""
        builder = IndexBuilder()
        for entry in entries:
            builder.add(entry)
        for name, data in (kept or {}).items():
            if len(data) <= KEPT_LIMIT:
                builder.kept[name] = data
        return builder.finish()

    @staticmethod
    def from_bytes(buffer: bytes | mmap) -> LayerIndex:
        """Raises BrokenIndex when these are not the bytes that `to_bytes` gave."""
        if len(buffer) < _HEADER.size:
            raise BrokenIndex("the index of a layer is cut off")
        magic, count, _, length, checksum = _HEADER.unpack_from(buffer, 0)
        if magic != _MAGIC:
            raise BrokenIndex("the index of a layer was written by another version")
        with memoryview(buffer) as view, view[_HEADER.size :] as rest:
            if 4 * count + length > len(rest) or zlib.crc32(rest) != checksum:
                raise BrokenIndex("the index of a layer is damaged")
        return LayerIndex(buffer)

    def to_bytes(self) -> bytes:
        return bytes(self._buffer[:])

    @property
    def kept(self) -> Mapping[str, bytes]:
        return self._kept

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerIndex) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def _start(self, number: int) -> int:
        (start,) = _LENGTH.unpack_from(self._buffer, self._table + 4 * number)
        result: int = self._records + start
        return result

    def _key(self, number: int) -> bytes:
        start = self._start(number)
        buffer = self._buffer
        length = buffer[start + _KEY_LENGTH_AT] | buffer[start + _KEY_LENGTH_AT + 1] << 8
        start += _RECORD.size
        return buffer[start : start + length]

    def _find(self, key: bytes) -> int:
        """The number of the first record whose key is not smaller. Written out, since a call for
        each step of the search is most of what a look-up costs."""
        buffer, table = self._buffer, self._table
        lengths = self._records + _KEY_LENGTH_AT
        start_of = _LENGTH.unpack_from
        low, high = 0, self._count
        while low < high:
            middle = (low + high) >> 1
            at = lengths + start_of(buffer, table + 4 * middle)[0]
            length = buffer[at] | buffer[at + 1] << 8
            at += _RECORD.size - _KEY_LENGTH_AT
            if buffer[at : at + length] < key:
                low = middle + 1
            else:
                high = middle
        return low

    def _entry(self, number: int) -> Entry:
        key = self._key(number)
        return _unpack(path_of(key), self._buffer, self._start(number), len(key))

    def lookup(self, path: str) -> Entry | None:
        """What this layer says about exactly this path; a WHITEOUT is an answer too."""
        key = key_of(path)
        number = self._find(key)
        if number == self._count or self._key(number) != key:
            return None
        return _unpack(path, self._buffer, self._start(number), len(key))

    def glance(self, path: str) -> tuple[Kind | None, bool, bool]:
        """Kind of the record (None: there is none), whether it is opaque, and whether this layer
        has anything below the path. Makes no entry."""
        key = key_of(path)
        number = self._find(key)
        count = self._count
        if number == count:
            return None, False, False
        found = self._key(number)
        if found != key:
            return None, False, not path or found.startswith(key + b"\0")
        start = self._start(number)
        below = number + 1 < count and (not path or self._key(number + 1).startswith(key + b"\0"))
        return _KINDS[self._buffer[start]], bool(self._buffer[start + 1] & _OPAQUE), below

    def content_digest(self, path: str) -> bytes:
        """The sha256 of a FILE's content as 32 bytes; empty where it is not known."""
        key = key_of(path)
        number = self._find(key)
        if number == self._count or self._key(number) != key:
            return b""
        start = self._start(number)
        if not self._buffer[start + 1] & _DIGEST:
            return b""
        at = start + _LINK_LENGTH_AT
        start += _RECORD.size + len(key) + (self._buffer[at] | self._buffer[at + 1] << 8)
        return self._buffer[start : start + 32]

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Of a directory and all that is in it, sorted by components; parents first."""
        key = key_of(prefix)
        number = self._find(key)
        while number < self._count:
            found = self._key(number)
            if prefix and found != key and not found.startswith(key + b"\0"):
                return
            yield _unpack(path_of(found), self._buffer, self._start(number), len(found))
            number += 1

    def names(self, directory: str) -> Iterator[tuple[str, Entry | None]]:
        """The names that this layer has in a directory, sorted; None where something deeper is
        there but no entry for the name itself."""
        prefix = key_of(directory) + b"\0" if directory else b""
        length = len(prefix)
        number = self._find(prefix)
        while number < self._count:
            key = self._key(number)
            if not key.startswith(prefix):
                return
            if not key:  # the root itself
                number += 1
                continue
            name, deeper, _ = key[length:].partition(b"\0")
            text = decode(name)
            if deeper:
                yield text, None
            else:
                path = f"{directory}/{text}" if directory else text
                yield text, _unpack(path, self._buffer, self._start(number), len(key))
                number += 1
                if number == self._count or not self._key(number).startswith(key + b"\0"):
                    continue
            number = self._find(prefix + name + b"\1")

    def children(self, directory: str) -> Iterator[Entry]:
        """The entries that this layer itself has in a directory, sorted by name."""
        return (entry for _, entry in self.names(directory) if entry is not None)
