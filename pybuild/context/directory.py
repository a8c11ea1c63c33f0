"""A build context in a folder on disk, seen through .dockerignore, and never past its root.

Nothing is walked until it is asked for. All paths are relative to the root without slashes at
their ends, as in `pybuild.rootfs.entry`; the method names are those of `pybuild.rootfs.index.Tree`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.context.errors import ContextMissing, ContextUnreadable
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.errors import SymlinkLoop

if TYPE_CHECKING:
    from pybuild.dockerfile.patterns import Patterns

_CHUNK = 256 * 1024
_MAX_LINKS = 40  # what Linux allows on one path (path_resolution(7))
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
# Never part of an image: labels of the machine's own policy, overlay's and the kernel's privates.
_PRIVATE_XATTRS = ("security.selinux", "security.ima", "security.evm", "system.", "trusted.")
_OVERLAY_XATTRS = "user.overlay."


class DirectoryContext:
    """The files below `root` that `patterns` leave in; owners read as 0:0, sockets are left out.

    An excluded directory is there only if something below it is re-included, as with BuildKit,
    which never sends an excluded directory that stayed empty. Safe for several threads.
    """

    __slots__ = (
        "_directories",
        "_holding",
        "_no_xattrs",
        "_patterns",
        "_prefix",
        "_several",
        "root",
    )

    def __init__(self, root: Path, patterns: Patterns | None = None) -> None:
        """Raises ContextMissing unless `root` is a folder."""
        self.root = Path(os.path.realpath(root))
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise ContextMissing(f"the context folder {os.fspath(root)} {what}")
        self._prefix = "/" if self.root == Path("/") else f"{self.root}/"
        self._patterns = patterns
        self._directories = {""}  # paths known to be directories through directories only
        self._holding: dict[str, bool] = {}  # excluded directory → something below is re-included
        self._no_xattrs: set[int] = set()  # devices whose file system has no extended attributes
        self._several: dict[str, tuple[int, int]] = {}  # files with several names, by path

    def lookup(self, path: str) -> Entry | None:
        """The entry at exactly `path`, following no link; None if missing or ignored.

        Raises ContextUnreadable.
        """
        if path == "":
            return self._entry("", str(self.root), os.lstat(self.root))
        parent, _, name = path.rpartition("/")
        if name in ("", ".", "..") or "\0" in path or not self._is_directory(parent):
            return None
        full = self._prefix + path
        try:
            found = os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        if stat.S_ISSOCK(found.st_mode) or not self._visible(path, stat.S_ISDIR(found.st_mode)):
            return None
        return self._entry(path, full, found)

    def children(self, path: str) -> Iterator[Entry]:
        """What lies directly in a directory, sorted by name; nothing if `path` is none.

        Raises ContextUnreadable.
        """
        if not self._is_directory(path):
            return
        below = path + "/" if path else ""
        try:
            with os.scandir(self._prefix + path) as found:
                names = sorted(found, key=attrgetter("name"))
        except OSError as error:
            raise _unreadable(path, error) from error
        for item in names:
            child = below + item.name
            try:
                status = item.stat(follow_symlinks=False)
                is_directory = stat.S_ISDIR(status.st_mode)
                if self._patterns is not None and not self._visible(child, is_directory):
                    continue
                if stat.S_ISSOCK(status.st_mode):
                    continue
                if is_directory:
                    self._directories.add(child)
                entry = self._entry(child, item.path, status)
            except FileNotFoundError:
                continue  # went away between the two calls
            except OSError as error:
                raise _unreadable(child, error) from error
            yield entry

    def walk(self, path: str) -> Iterator[Entry]:
        """`path` itself, then all below it, parents first, sorted within each directory."""
        first = self.lookup(path)
        if first is None:
            return
        yield first
        if first.kind is not Kind.DIRECTORY:
            return
        pending = [self.children(path)]
        while pending:
            for entry in pending[-1]:
                yield entry
                if entry.kind is Kind.DIRECTORY:
                    pending.append(self.children(entry.path))
                    break
            else:
                pending.pop()

    def resolve(self, path: str, *, follow_last: bool) -> str:
        """`path` with its symbolic links followed inside the root, ignored ones as if missing.

        Absolute targets start at the root and `..` stops there; a missing tail is kept as it is.
        Raises SymlinkLoop.
        """
        done = ""
        rest = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{part}" if done else part
            target = self._link_target(here) if rest or follow_last else None
            if target is None:
                done = here
                continue
            links += 1
            if links > _MAX_LINKS:
                raise SymlinkLoop(path)
            if target.startswith("/"):
                done = ""
            rest.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        return done

    def identity(self, path: str) -> tuple[int, int] | None:
        """The same for all names of one file, of which at least this one's entry was asked for;
        None where it has this name only."""
        return self._several.get(path)

    def content(self, path: str) -> Path:
        """Where the bytes of the regular file at exactly `path` can be read from."""
        return Path(self._prefix + path)

    def read(self, path: str) -> bytes:
        """The bytes of a regular file. Raises ContextUnreadable."""
        try:
            with open(_open_regular(self._prefix + path), "rb") as file:
                return file.read()
        except OSError as error:
            raise _unreadable(path, error) from error

    def _is_directory(self, path: str) -> bool:
        """Whether `path` is a directory that is reached through directories only."""
        if path in self._directories:
            return True
        parent, _, name = path.rpartition("/")
        if name in ("", ".", "..") or "\0" in path or not self._is_directory(parent):
            return False
        try:
            mode = os.lstat(self._prefix + path).st_mode
        except OSError:
            return False
        if not stat.S_ISDIR(mode) or not self._visible(path, True):
            return False
        self._directories.add(path)
        return True

    def _link_target(self, path: str) -> str | None:
        """The target of the link at `path`, None if it is none or ignored."""
        try:
            target = os.readlink(self._prefix + path)  # noqa: PTH115
        except OSError:
            return None
        return target if self._visible(path, False) else None

    def _visible(self, path: str, is_directory: bool) -> bool:  # a fact about `path`, no switch
        if self._patterns is None or not self._patterns.excludes(path):
            return True
        return (
            is_directory and self._patterns.may_include_below(path) and self._holds_included(path)
        )

    def _holds_included(self, directory: str) -> bool:
        """Whether anything below an excluded directory is re-included: stops at the first hit."""
        known = self._holding.get(directory)
        if known is None:
            known = False
            try:
                with os.scandir(self._prefix + directory) as found:
                    known = any(
                        self._visible(
                            f"{directory}/{item.name}", item.is_dir(follow_symlinks=False)
                        )
                        for item in found
                    )
            except OSError:
                known = False
            self._holding[directory] = known
        return known

    def _entry(self, path: str, full: str, status: os.stat_result) -> Entry:
        mode = status.st_mode
        kind = _KINDS[stat.S_IFMT(mode)]
        device = status.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0
        if status.st_nlink > 1 and kind is not Kind.DIRECTORY:
            self._several[path] = (status.st_dev, status.st_ino)
        return Entry(
            path,
            kind,
            mode & 0o7777,
            0,
            0,
            status.st_size if kind is Kind.FILE else 0,
            status.st_mtime_ns,
            os.readlink(full) if kind is Kind.SYMLINK else "",  # noqa: PTH115
            os.major(device) if device else 0,
            os.minor(device) if device else 0,
            () if status.st_dev in self._no_xattrs else self._xattrs(full, status.st_dev),
        )

    def _xattrs(self, full: str, device: int) -> tuple[tuple[str, bytes], ...]:
        try:
            names = os.listxattr(full, follow_symlinks=False)
            if not names:
                return ()
            return tuple(
                (name, os.getxattr(full, name, follow_symlinks=False))
                for name in sorted(names)
                if not name.startswith(_PRIVATE_XATTRS) and not name.startswith(_OVERLAY_XATTRS)
            )
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                self._no_xattrs.add(device)
            elif error.errno not in (errno.ENODATA, errno.EPERM, errno.EACCES):
                raise
            return ()


def file_digest(path: Path | str) -> Digest:
    """The sha256 of a regular file's bytes. Raises ContextUnreadable."""
    hasher = hashlib.sha256()
    try:
        descriptor = _open_regular(os.fspath(path))
        try:
            while data := os.read(descriptor, _CHUNK):
                hasher.update(data)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(os.fspath(path), error) from error
    return digest_from_hex(hasher.hexdigest())


def _open_regular(path: str) -> int:
    """Opens for reading what must be no link and, so that nothing blocks, no FIFO."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _unreadable(path: str, error: OSError) -> ContextUnreadable:
    return ContextUnreadable(
        f"can't read {path or 'the root'} of the context: {error.strerror}",
        hint="name what the image does not need in .dockerignore"
        if error.errno in (errno.EACCES, errno.EPERM)
        else "",
    )
