"""Reading tar.

POSIX.1-2017, pax(1), "ustar Interchange Format" and "pax Interchange Format"; GNU tar's long names
and base-256 numbers (tar(5)). The reader takes names as they stand; `layer.place` decides what they
mean. Writing is in `layer.headers`, and can be had from here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from zlib import adler32

from pybuild.layer.errors import BadArchive
from pybuild.layer.headers import (
    BLOCK,
    end_of_archive,
    header_of,
    opaque_header,
    padding_of,
)
from pybuild.rootfs.entry import Kind
from pybuild.rootfs.packed import decode, encode

__all__ = [
    "Member",
    "TarReader",
    "end_of_archive",
    "header_of",
    "opaque_header",
    "padding_of",
    "tidy_name",
]

_ZERO_BLOCK = bytes(BLOCK)
_EXTENSION_LIMIT = 1 << 20  # of one PAX header or GNU long name, as in Go's archive/tar
_EXTENSIONS_LIMIT = 16  # in a row before an entry
_PATH_LIMIT = 4096  # PATH_MAX: no longer name can be created
_NAME_LIMIT = 255  # NAME_MAX
_XATTRS_LIMIT = 1 << 17
_ID_LIMIT = (1 << 32) - 2  # (uid_t) -1 means "leave as it is" to chown(2)
_SIZE_LIMIT = 1 << 62
_TIME_LIMIT = (1 << 33) * 1_000_000_000  # eight bytes of nanoseconds hold a little more
_MAJOR_LIMIT = (1 << 12) - 1
_MINOR_LIMIT = (1 << 20) - 1
_XATTR_KEY = b"SCHILY.xattr."

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # contiguous file
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


class Member(NamedTuple):
    """A header as it stands in the archive. `name` and `link` are not checked for where they
    lead; `size` is of the content that follows, `offset` where it starts in the archive."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: tuple[tuple[str, bytes], ...]
    offset: int


class TarReader:
    """Gives the members of a tar that comes as chunks. After each, its content may be read once;
    what is not read is skipped. Raises BadArchive, naming what is wrong."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = memoryview(b"")
        self._at = 0  # in the buffer
        self._base = 0  # offset in the archive of the buffer's start
        self._left = 0  # of the current member's content
        self._padding = 0
        self._numbers: dict[bytes, int] = {}

    def __iter__(self) -> Iterator[Member]:
        while (member := self.next()) is not None:
            yield member

    def next(self) -> Member | None:
        """The next member; None at the end, when all that follows has been read as well."""
        pax: dict[bytes, bytes] = {}
        extensions = 0
        while True:
            self.skip()
            block = self._header()
            if block is None:
                if extensions:
                    raise BadArchive("the archive ends after an extended header")
                return None
            fields = _FIELDS.unpack(block)
            flag = fields[7]
            if flag not in b"xgLKX":
                return self._member(fields, flag, pax)
            extensions += 1
            if extensions > _EXTENSIONS_LIMIT:
                raise BadArchive("too many extended headers in a row")
            data = self._extension(self._number(fields[4], "size"))
            if flag == b"L":
                pax[b"path"] = data.rstrip(b"\0")
            elif flag == b"K":
                pax[b"linkpath"] = data.rstrip(b"\0")
            elif flag != b"g":  # a global header holds comments only, in what is used as a layer
                pax.update(_parse_pax(data))

    def _header(self) -> bytes | None:
        view = self._take(BLOCK)
        if view is None:
            return None
        block = bytes(view)
        if block == _ZERO_BLOCK:
            second = self._take(BLOCK)
            if second is not None and second != _ZERO_BLOCK:
                raise BadArchive("a block of zeros stands between two entries")
            self._drain()
            return None
        if not is_header(block):
            raise BadArchive(f"no tar header at byte {self._base + self._at - BLOCK}")
        return block

    def _take(self, size: int) -> memoryview | None:
        """Exactly `size` bytes; None where the archive ends before the first."""
        end = self._at + size
        if end <= len(self._buffer):
            view = self._buffer[self._at : end]
            self._at = end
            return view
        parts = [bytes(self._buffer[self._at :])]
        have = len(parts[0])
        while have < size:
            if not self._refill():
                if have:
                    raise BadArchive("the archive is cut off")
                return None
            part = self._buffer[: size - have]
            self._at = len(part)
            parts.append(bytes(part))
            have += len(part)
        return memoryview(b"".join(parts))

    def _refill(self) -> bool:
        """The next chunk that is not empty; what was left of the last one is dropped."""
        self._base += len(self._buffer)
        self._at = 0
        for chunk in self._chunks:
            if chunk:
                self._buffer = memoryview(chunk)
                return True
        self._buffer = memoryview(b"")
        return False

    def _drain(self) -> None:
        """Reads on to the end, so that whoever verifies the stream sees all of it."""
        while self._refill():
            pass

    def _extension(self, size: int) -> bytes:
        if size > _EXTENSION_LIMIT:
            raise BadArchive(f"an extended header of {size} bytes")
        data = self._take(size)
        if data is None and size:
            raise BadArchive("the archive is cut off in an extended header")
        self._left = 0
        self._padding = -size % BLOCK
        return bytes(data or b"")

    def _number(self, field: bytes, what: str) -> int:
        known = self._numbers.get(field)
        if known is None:
            known = _parse_number(field, what)
            if len(self._numbers) > 1024:
                self._numbers.clear()
            self._numbers[field] = known
        if known < 0 and what != "mtime":
            raise BadArchive(f"a negative {what}")
        return known

    def _member(self, fields: tuple[bytes, ...], flag: bytes, pax: dict[bytes, bytes]) -> Member:
        raw_name, raw_mode, raw_uid, raw_gid, raw_size, raw_mtime, _, _, raw_link, magic = fields[
            :10
        ]
        name = raw_name.partition(b"\0")[0]
        if magic == b"ustar\x0000" and fields[14][0]:
            name = fields[14].partition(b"\0")[0] + b"/" + name
        kind = _KINDS.get(flag)
        if kind is None:
            raise BadArchive(
                "sparse files are not supported"
                if flag == b"S"
                else f"{os.fsdecode(name)!r} is of the unknown type {flag!r}"
            )
        number = self._number
        size = number(raw_size, "size")
        uid = number(raw_uid, "uid")
        gid = number(raw_gid, "gid")
        mtime_ns = number(raw_mtime, "mtime") * 1_000_000_000
        link = raw_link.partition(b"\0")[0]
        xattrs: tuple[tuple[str, bytes], ...] = ()
        if pax:
            name = pax.get(b"path", name)
            link = pax.get(b"linkpath", link)
            size = _decimal(pax, b"size", size)
            uid = _decimal(pax, b"uid", uid)
            gid = _decimal(pax, b"gid", gid)
            if b"mtime" in pax:
                mtime_ns = _parse_time(pax[b"mtime"])
            xattrs = _xattrs_of(pax)
            if any(key.startswith(b"GNU.sparse.") for key in pax):
                raise BadArchive("sparse files are not supported")
        if not -_TIME_LIMIT < mtime_ns < _TIME_LIMIT:
            mtime_ns = 0  # as containerd does with times that no filesystem keeps
        major = minor = 0
        if kind == Kind.FILE:
            if flag == b"\0" and name.endswith(b"/"):
                kind = Kind.DIRECTORY  # how the format before ustar wrote them
        elif kind in (Kind.CHAR, Kind.BLOCK):
            major, minor = number(fields[12], "major"), number(fields[13], "minor")
        if kind in (Kind.FILE, Kind.DIRECTORY):
            self._left = size if kind == Kind.FILE or flag == b"\0" else 0
        else:
            self._left = 0
        if kind != Kind.FILE:
            size = 0  # of types without content, whatever the header says (as Go's archive/tar)
        self._padding = -self._left % BLOCK
        member = Member(
            name,
            kind,
            number(raw_mode, "mode") & 0o7777,
            uid,
            gid,
            size,
            mtime_ns,
            link if kind in (Kind.SYMLINK, Kind.HARDLINK) else b"",
            major,
            minor,
            xattrs,
            self._base + self._at,
        )
        if (
            uid > _ID_LIMIT
            or gid > _ID_LIMIT
            or size > _SIZE_LIMIT
            or major > _MAJOR_LIMIT
            or minor > _MINOR_LIMIT
        ):
            raise BadArchive(f"{os.fsdecode(name)!r} has a number out of range")
        return member

    def content(self) -> Iterator[memoryview]:
        """What has not been read of the current member's content. A piece stays valid as long as
        it is held."""
        while self._left:
            yield self._piece()

    def pour(self, sink: Callable[[memoryview], object]) -> None:
        """Gives what has not been read of the current member's content to `sink`."""
        while self._left:
            sink(self._piece())

    def _piece(self) -> memoryview:
        if self._at == len(self._buffer) and not self._refill():
            raise BadArchive("the archive is cut off in a file")
        piece = self._buffer[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        return piece

    def skip(self) -> None:
        """Passes over what is left of the current member."""
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            have = len(self._buffer) - self._at
            if have >= left:
                self._at += left
                return
            left -= have
            if not self._refill():
                raise BadArchive("the archive is cut off in a file")


def is_header(block: bytes) -> bool:
    """Whether a block of 512 bytes adds up to the sum that it holds, whose own field is taken as
    spaces. The low half of an Adler checksum is that sum plus 1, modulo 65521, at a tenth of the
    cost of adding in Python."""
    stored = _checksum(block[148:156])
    low = adler32(block[156:], adler32(b"        ", adler32(block[:148]))) & 0xFFFF
    if (stored + 1) % 65521 == low:
        return True
    signed: tuple[int, ...] = struct.unpack("148b8x356b", block)  # as some old programs summed
    return sum(signed) + 256 == stored


def _checksum(field: bytes) -> int:
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _parse_number(field: bytes, what: str) -> int:
    """Octal text, or base 256 where the first bit is set (GNU; two's complement)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    try:
        return int(text, 8) if b"_" not in text else _refuse_number(field, what)
    except ValueError:
        return _refuse_number(field, what)


def _refuse_number(field: bytes, what: str) -> int:
    raise BadArchive(f"the {what} {field!r} is no number")


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records are `length key=value\\n`; the length counts the whole record."""
    result: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            if not data[position:].strip(b"\0"):
                break  # some writers pad inside the header
            raise BadArchive("an extended header is damaged")
        end = position + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not equals:
            raise BadArchive("an extended header is damaged")
        if b"\0" in value and not key.startswith(_XATTR_KEY):
            raise BadArchive(f"an extended header has a NUL byte in {os.fsdecode(key)}")
        result[key] = value
        position = end
    return result


def _decimal(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    value = pax.get(key)
    if not value:  # absent, or withdrawn by an empty value
        return default
    if not value.isdigit() or len(value) > 20:
        raise BadArchive(f"an extended header's {os.fsdecode(key)} is {os.fsdecode(value)!r}")
    return int(value)


_TIME = re.compile(rb"(-?)([0-9]{1,11})(?:\.([0-9]*))?\Z")


def _parse_time(value: bytes) -> int:
    match = _TIME.match(value)
    if match is None:
        raise BadArchive(f"an extended header's mtime is {os.fsdecode(value)!r}")
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def _xattrs_of(pax: dict[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    found = [
        (os.fsdecode(key[len(_XATTR_KEY) :]), value)
        for key, value in pax.items()
        if key.startswith(_XATTR_KEY)
    ]
    if not found:
        return ()
    if sum(len(name) + len(value) for name, value in found) > _XATTRS_LIMIT:
        raise BadArchive("extended attributes of more than 128 KiB")
    return tuple(sorted(found))


def tidy_name(name: bytes) -> str | None:
    """An archive's name, cleaned as text (`a/../b` is `b`) and without slashes at its ends; None
    where it leads out of the root. Raises BadArchive for what can't be a name."""
    if name[:2] == b"./":
        name = name[2:]
    if name[-1:] == b"/":
        name = name[:-1]
    if len(name) <= _NAME_LIMIT and not _UNTIDY(name):
        return decode(name)
    parts = _parts_of(name)
    return None if parts is None else "/".join(parts)


# An empty component, one that starts with a dot, or a NUL byte
_UNTIDY = re.compile(rb"(?:\A|/)[/.]|/\Z|\A\Z|\0").search


def _parts_of(name: bytes) -> list[str] | None:
    if len(name) > _PATH_LIMIT or b"\0" in name:
        raise BadArchive(f"the name {os.fsdecode(name[:60])!r}… can't be created")
    parts: list[str] = []
    for part in decode(name).split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                return None
            parts.pop()
            continue
        if len(part) > _NAME_LIMIT // 4 and len(encode(part)) > _NAME_LIMIT:
            raise BadArchive(f"the name {part[:60]!r}… can't be created")
        parts.append(part)
    return parts
