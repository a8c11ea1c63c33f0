"""A directory on disk as entries: sorted, parents before children, links not followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.xattrs import Xattrs, read_xattrs

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}

Listing = list[tuple[str, os.stat_result]]


def listing(directory: str) -> Listing:
    """The names in a directory with what lstat(2) gives, sorted as bytes are. What vanishes
    meanwhile is left out."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found.append((entry.name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
    if all(name.isascii() for name, _ in found):
        found.sort(key=_name)
    else:
        found.sort(key=_name_as_bytes)
    return found


def _name(item: tuple[str, os.stat_result]) -> str:
    return item[0]


def _name_as_bytes(item: tuple[str, os.stat_result]) -> bytes:
    return os.fsencode(item[0])


def kind_of(mode: int) -> Kind:
    return _KINDS[stat.S_IFMT(mode)]


def entry_from(
    path: str, place: str, status: os.stat_result, xattrs: Xattrs | None = None
) -> Entry:
    """The entry under the name `path` of what is at `place` on disk. Reads the link's target,
    and the extended attributes unless they are given."""
    mode = status.st_mode
    kind = _KINDS[stat.S_IFMT(mode)]
    link = ""
    major = minor = 0
    if kind == Kind.SYMLINK:
        link = os.readlink(place)  # noqa: PTH115 (once a file)
    elif kind in (Kind.CHAR, Kind.BLOCK):
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return Entry(
        path,
        kind,
        mode & 0o7777,
        status.st_uid,
        status.st_gid,
        status.st_size if kind == Kind.FILE else 0,
        status.st_mtime_ns,
        link,
        major,
        minor,
        read_xattrs(place) if xattrs is None else xattrs,
    )


def walk(root: Path, skip: Callable[[str], bool]) -> Iterator[tuple[Entry, os.stat_result]]:
    """Everything below `root`, not the root itself. A directory for which `skip` is true is
    passed over with all that is in it. Hard links come as files; compare st_dev and st_ino."""
    base = os.fspath(root)
    stack = [iter([("", item) for item in listing(base)])]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        prefix, (name, status) = found
        path = prefix + name
        if skip(path):
            continue
        place = f"{base}/{path}"
        yield entry_from(path, place, status), status
        if stat.S_ISDIR(status.st_mode):
            below = f"{path}/"
            stack.append(iter([(below, item) for item in listing(place)]))
