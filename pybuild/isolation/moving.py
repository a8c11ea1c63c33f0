"""Moving the files of a root out of the way and back, exactly, around what has to stay.

Moved files keep everything but their ctime. Where a path has to stay, the directories that lead to
it stay too, and a directory of the same name beside the moved files keeps their attributes: the
moved tree is its own record, so that a later process can put it back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from enum import Enum

from pybuild.isolation.capabilities import as_allowed
from pybuild.isolation.removal import mount_points

COPY_CHUNK = 1 << 20


class Kept:
    """Absolute paths that stay where they are, with all below them. Mounts must be among them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = frozenset(os.path.normpath(path) for path in paths) - {"/"}
        self._tops = frozenset(path.split("/")[1] for path in self.paths)
        ancestors = set()
        for path in self.paths:
            while (path := os.path.dirname(path)) != "/":
                ancestors.add(path)
        self.ancestors = frozenset(ancestors) - self.paths

    def covers(self, path: str) -> bool:
        """Is `path`, relative to `/` without a slash in front, kept or below what is kept?"""
        if path.partition("/")[0] not in self._tops:
            return False
        absolute = f"/{path}"
        while absolute not in self.paths:
            absolute = absolute.rpartition("/")[0]
            if not absolute:
                return False
        return True


Links = dict[tuple[int, int], str]
"""Device and inode number of a file with several names, before it was moved → where it is now."""


def move_out(source: str, target: str, kept: Kept, links: Links | None = None) -> None:
    """Everything of the directory `source` to the existing directory `target`, but what is kept.
    `source` is named as in `kept`."""
    links = {} if links is None else links
    before = os.lstat(source)
    for name in sorted(os.listdir(source)):
        here = f"{source.rstrip('/')}/{name}"
        there = f"{target}/{name}"
        if here in kept.paths:
            continue
        if here in kept.ancestors and not os.path.islink(here):
            os.mkdir(there)
            move_out(here, there, kept, links)
        else:
            move(here, there, links)
    copy_attributes(source, target, before)


class Twice(Enum):
    """Of a file that a move which was cut off left on both sides, which one is whole."""

    SOURCE = "source"
    TARGET = "target"


def move_in(
    source: str, target: str, links: Links | None = None, *, whole: Twice = Twice.SOURCE
) -> None:
    """The opposite: `target` gets the attributes that `source` keeps, and `source` is emptied.
    Directories that are there already stay, as those that lead to something kept."""
    links = {} if links is None else links
    before = os.lstat(source)
    for name in sorted(os.listdir(source)):
        here = f"{source}/{name}"
        there = f"{target.rstrip('/')}/{name}"
        if _is_directory(here) and _is_directory(there):
            move_in(here, there, links, whole=whole)
            os.rmdir(here)
        elif not os.path.lexists(there):
            move(here, there, links)
        elif whole is Twice.TARGET:
            os.unlink(here)
        else:
            os.unlink(there)
            move(here, there, links)
    copy_attributes(source, target, before)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def move(source: str, target: str, links: Links) -> None:
    """rename(2), or where that is refused across filesystems, or for a lower directory of the
    container's overlay, a copy that is then removed. Overlay takes a file with several names apart
    when one of them is renamed, so these are linked anew. Raises OSError; EBUSY for a directory
    that can't be renamed as a whole and has a mount in it, whose files are not ours to move."""
    found = os.lstat(source)
    if not stat.S_ISDIR(found.st_mode):
        _move_file(source, target, found, links)
        return
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if any(point.startswith(f"{source}/") for point in mount_points()):
            raise OSError(errno.EBUSY, "something is mounted in it", source) from None
        _move_directory(source, target, found, links)


def _move_file(source: str, target: str, found: os.stat_result, links: Links) -> None:
    """Anything but a directory."""
    inode = (found.st_dev, found.st_ino)
    if inode in links:
        os.link(links[inode], target, follow_symlinks=False)
        os.unlink(source)
        return
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target, found)
        os.unlink(source)
    if found.st_nlink > 1:
        links[inode] = target


def _move_directory(source: str, target: str, found: os.stat_result, links: Links) -> None:
    os.mkdir(target, 0o700)
    for name in os.listdir(source):
        here, there = f"{source}/{name}", f"{target}/{name}"
        inner = os.lstat(here)
        if not stat.S_ISDIR(inner.st_mode):
            _move_file(here, there, inner, links)
            continue
        try:
            os.rename(here, there)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _move_directory(here, there, inner, links)
    copy_attributes(source, target, found)
    os.rmdir(source)


def _copy(source: str, target: str, found: os.stat_result) -> None:
    """Anything but a directory."""
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(found.st_mode):
        with open(source, "rb") as reader, open(target, "xb") as writer:
            while os.sendfile(writer.fileno(), reader.fileno(), None, COPY_CHUNK):
                pass
    else:
        os.mknod(target, found.st_mode, found.st_rdev)
    copy_attributes(source, target, found)


def copy_attributes(source: str, target: str, found: os.stat_result) -> None:
    """Owner, mode, extended attributes and times; chown first, as it takes setuid bits and
    capabilities away."""
    with as_allowed():
        set_owner(target, found.st_uid, found.st_gid)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(target, stat.S_IMODE(found.st_mode))
    names = portable_names(source)
    for name in set(portable_names(target)) - set(names):
        os.removexattr(target, name, follow_symlinks=False)
    for name in names:
        value = os.getxattr(source, name, follow_symlinks=False)
        os.setxattr(target, name, value, follow_symlinks=False)
    with as_allowed():
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def set_owner(path: str, uid: int, gid: int) -> None:
    """An ordinary user owns what it makes; a folder that is another's keeps its group too."""
    if os.geteuid() == 0:
        with as_allowed():
            os.chown(path, uid, gid, follow_symlinks=False)


def portable_names(path: str) -> list[str]:
    """Those that a file may take along: overlay's own and a security module's labels stay."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return []
        raise
    return [
        name
        for name in names
        if name == "security.capability" or name.startswith(("user.", "system.posix_acl"))
        if not name.startswith("user.overlay.")
    ]
