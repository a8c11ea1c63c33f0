"""One path of a root filesystem, as a value."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct


class Kind(IntEnum):
    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    HARDLINK = 3
    CHAR = 4
    BLOCK = 5
    FIFO = 6
    SOCKET = 7
    WHITEOUT = 8


class Entry(Struct, frozen=True):
    """`path` is relative without slashes at its ends ("" is the root); names are as
    `os.fsdecode` gives them. `mode` holds the twelve permission bits only."""

    path: str
    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0  # of a FILE's content
    mtime_ns: int = 0
    link: str = ""  # a SYMLINK's target as it stands there; a HARDLINK's first name
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()  # sorted by name
    opaque: bool = False  # a DIRECTORY that hides what lower layers have in it
    offset: int = -1  # where a FILE's content starts in the layer's uncompressed tar
