"""Opening what is below a directory on disk that we do not trust.

Each component is opened from its parent's descriptor with O_NOFOLLOW, and symbolic links are
followed by hand with the directory as root: `..` and absolute links stay inside, also if someone
exchanges a directory for a link meanwhile (openat2(2), RESOLVE_IN_ROOT, in steps, since a runtime's
seccomp filter may refuse that call).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from pybuild.rootfs.errors import NotADirectory, SymlinkLoop
from pybuild.rootfs.index import SYMLINK_LIMIT

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def resolve_on_disk(root: Path, path: str, *, follow_last: bool) -> str:
    """`path` without symbolic links on the way, relative to `root`. A missing tail is kept as it
    is. Raises SymlinkLoop."""
    base = os.fspath(root)
    todo = [part for part in reversed(path.split("/")) if part and part != "."]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            if done:
                done.pop()
            continue
        done.append(part)
        if not todo and not follow_last:
            break
        try:
            target = os.readlink("/".join((base, *done)))  # noqa: PTH115 (no Path a step)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                raise
            continue
        links += 1
        if links > SYMLINK_LIMIT:
            raise SymlinkLoop(path)
        done.pop()
        if target.startswith("/"):
            done.clear()
        todo.extend(p for p in reversed(target.split("/")) if p and p != ".")
    return "/".join(done)


def open_in_root(root: Path, path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of what `path` names with `root` as root, symbolic links followed inside.

    Raises FileNotFoundError where there is nothing, NotADirectory where the way leads through a
    file, SymlinkLoop. `flags` may hold O_CREAT; a file made has mode 0600.
    """
    for _ in range(SYMLINK_LIMIT):
        resolved = resolve_on_disk(root, path, follow_last=True)
        try:
            return open_no_follow(root, resolved, flags)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
    raise SymlinkLoop(path)


def open_no_follow(root: Path, path: str, flags: int) -> int:
    """A descriptor of exactly `path` below `root`. Raises OSError with ELOOP where a component
    is a symbolic link, NotADirectory where one is a file."""
    parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not path:
        return parent
    try:
        *directories, last = path.split("/")
        for name in directories:
            following = _open_directory(parent, name, path)
            os.close(parent)
            parent = following
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    finally:
        os.close(parent)


def _open_directory(parent: int, name: str, path: str) -> int:
    try:
        return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
    except NotADirectoryError as error:
        # With O_DIRECTORY a link gives ENOTDIR too
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from error
        raise NotADirectory(path) from error
