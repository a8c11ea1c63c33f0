"""Folders of RUN --mount=type=cache, which outlive the build.

Each cache is a folder of its own, named by a digest of what makes it this cache. In it every
content has a number and a lock: several RUNs use number 0 at once where sharing allows that, a
private one takes the first number that is free, a locked one waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.errors import Cancelled, HostUnsupported
from pybuild.isolation.removal import remove_tree

if TYPE_CHECKING:
    import threading

_POLL_SECONDS = 0.1
_FOLDER_MODE = 0o711  # a RUN in place may have to pass through, not look around


class CacheMountUnusable(HostUnsupported):
    """The folder of cache mounts can't be made, is somebody else's, or takes no locks."""

    code = "cache-mount-unusable"

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"caches of RUN --mount can't be kept in {folder}: {why}",
            hint="name a folder on a volume of your own with --cache-dir",
        )


class CacheWish(Struct, frozen=True):
    """`identity` is everything that makes it this cache and no other; `fill` makes the first
    content as a path that does not exist yet."""

    identity: str
    sharing: str  # "shared", "private" or "locked"
    fill: Callable[[Path], None]


class MountCaches(Struct, frozen=True):
    """`folder` is made when the first cache is asked for."""

    folder: Path

    @contextmanager
    def take(
        self, wish: CacheWish, cancelled: threading.Event, waits: Callable[[], None]
    ) -> Iterator[Path]:
        """The cache's content, held as its sharing says until the context ends. `waits` is called
        once if it has to be waited for. Raises CacheMountUnusable, Cancelled."""
        name = sha256(wish.identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        try:
            _make_own(self.folder)
            (self.folder / name).mkdir(mode=_FOLDER_MODE, exist_ok=True)
            place, lock = _lock(self.folder / name, wish, cancelled, waits)
        except OSError as error:
            raise CacheMountUnusable(self.folder, error.strerror or str(error)) from error
        with suppress(OSError):
            os.utime(lock)  # `pybuild cache prune` goes by this time
        try:
            yield place
        finally:
            os.close(lock)


def _make_own(folder: Path) -> None:
    """What others can write to could lead a RUN anywhere."""
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or (found.st_uid == os.geteuid() and found.st_mode & 0o022):
        raise CacheMountUnusable(folder, "others may write to it")
    if found.st_uid not in (os.geteuid(), 65534):  # a network volume may call root nobody
        raise CacheMountUnusable(folder, f"it belongs to uid {found.st_uid}")


def _lock(
    folder: Path, wish: CacheWish, cancelled: threading.Event, waits: Callable[[], None]
) -> tuple[Path, int]:
    """The content and the descriptor that holds its lock."""
    for number in count():
        place = folder / str(number)
        place.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        content = place / "content"
        fd = os.open(place / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            shared = wish.sharing == "shared" and content.is_dir()
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            if wish.sharing == "private":
                if not _try_lock(fd, how):
                    os.close(fd)
                    continue
            else:
                _wait_for(fd, how, cancelled, waits)
            if not content.is_dir():
                _fill(wish, place, content)
            if wish.sharing == "shared":
                fcntl.flock(fd, fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        return content, fd
    raise AssertionError("numbers do not end")


def _fill(wish: CacheWish, place: Path, content: Path) -> None:
    """A build that is killed meanwhile leaves no half-filled cache."""
    draft = place / "draft"
    remove_tree(draft)
    wish.fill(draft)
    draft.rename(content)


def _wait_for(fd: int, how: int, cancelled: threading.Event, waits: Callable[[], None]) -> None:
    told = False
    while not _try_lock(fd, how):
        if not told:
            waits()
            told = True
        if cancelled.wait(_POLL_SECONDS):
            raise Cancelled("the cache is not wanted any more")


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
