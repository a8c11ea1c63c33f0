"""Deleting what is ours, without following a link and without ever going through a mount."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

REMOVED = "pybuild-removed-"
NEW = "pybuild-new-"
NEW_SECONDS = 60
UNNOTICED_SECONDS = 2.0


def mounts_by_id() -> dict[int, str]:
    """Where something is mounted in our mount namespace, by the number that a mount keeps: proc(5),
    /proc/PID/mountinfo, the first and the fifth field with its octal escapes."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ", 5)
        path = fields[4]
        for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
            path = path.replace(code, bytes([int(code[1:], 8)]))
        found[int(fields[0])] = os.fsdecode(path)
    return found


def mount_points() -> frozenset[str]:
    """The absolute paths that something is mounted on in our mount namespace."""
    return frozenset(mounts_by_id().values())


def empty_directory(path: str, kept: Callable[[str], bool]) -> bool:
    """Removes all below `path` but what `kept` names (absolute paths) and the directories that
    lead there. Tells whether the directory is empty now. `kept` has to name every mount."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return _empty(fd, path.rstrip("/"), kept)
    finally:
        os.close(fd)


def _empty(fd: int, path: str, kept: Callable[[str], bool]) -> bool:
    emptied = True
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        here = f"{path}/{name}"
        if kept(here):
            emptied = False
        elif not is_directory:
            os.unlink(name, dir_fd=fd)
        else:
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            try:
                child_emptied = _empty(child, here, kept)
            finally:
                os.close(child)
            if child_emptied:
                os.rmdir(name, dir_fd=fd)
            else:
                emptied = False
    return emptied


def remove_tree(path: Path) -> None:
    """Removes `path` and all below it; mounts in it stay, and then so do their parents."""
    real = os.path.realpath(path.parent) + "/" + path.name
    try:
        mode = os.lstat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(mode):
        os.unlink(real)
    elif empty_directory(real, mount_points().__contains__) and real not in mount_points():
        os.rmdir(real)


def remove_later(path: Path, parent: Path) -> None:
    """Moves `path` out of the way, into `parent` if that is on the same volume, and removes it in
    a process of its own, which goes on when this one has ended: tens of thousands of files are
    seconds that nobody has to wait for. It is locked meanwhile, see `lock_directory`."""
    import subprocess

    target = parent / f"{REMOVED}{os.urandom(6).hex()}"
    with unnoticed(parent), times_kept(str(path.parent)):
        try:
            path.rename(target)
        except OSError:
            target = path
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


@contextmanager
def times_kept(directory: str) -> Iterator[None]:
    """What is done in a directory leaves no trace in its times. It may be gone before or after."""
    try:
        before = os.lstat(directory)
    except FileNotFoundError:
        yield
        return
    yield
    if is_real_directory(directory):
        try:
            os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
        except PermissionError:
            pass  # an ordinary user can't, where it is another's


@contextmanager
def unnoticed(directory: Path) -> Iterator[None]:
    """`times_kept` for a folder that several builds make and remove things in at once: one after
    the other, or each would keep what the other has just changed. To be left soon."""
    with ExitStack() as held:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            pass
        else:
            held.callback(os.close, fd)
            deadline = time.monotonic() + UNNOTICED_SECONDS
            while not _locked(fd) and time.monotonic() < deadline:
                time.sleep(0.01)
        with times_kept(str(directory)):
            yield


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_real_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def lock_directory(path: Path) -> int | None:
    """Marks a directory as in use, as long as the given descriptor is open; None where it is."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new directory, readable by nobody else, that is marked as in use until the descriptor is
    closed. Those of the same prefix that nobody uses were left by builds that were killed, and are
    removed."""
    remove_left(parent, prefix)
    with unnoticed(parent):
        return _make_locked(parent, prefix)


def _make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    import tempfile

    # Under another name until it is locked: a build that starts now would take it for one that
    # was left.
    new = Path(tempfile.mkdtemp(prefix=NEW, dir=parent))
    lock = lock_directory(new)
    assert lock is not None, "a new directory is nobody else's"
    return new.rename(parent / new.name.replace(NEW, prefix, 1)), lock


def remove_left(parent: Path, prefix: str) -> None:
    old = [path for path in parent.glob(f"{NEW}*") if _is_old(path)]
    for path in (*parent.glob(f"{prefix}*"), *parent.glob(f"{REMOVED}*"), *old):
        try:
            lock = lock_directory(path)
        except OSError:
            continue  # gone meanwhile, or somebody else's
        if lock is not None:
            remove_later(path, parent)
            os.close(lock)


def _is_old(path: Path) -> bool:
    """Whether whoever made it has had the time to lock it."""
    try:
        return time.time() - path.lstat().st_mtime > NEW_SECONDS
    except FileNotFoundError:
        return False


def remove_stub(root: Path, path: str) -> None:
    """Removes what was made at `path` below `root` to be mounted on, if it is still empty. The
    RUN may have put links anywhere on the way, so the way is gone without following one. The
    parent keeps its times: those are the RUN's."""
    *parents, name = path.split("/")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for parent in parents:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            fd, above = os.open(parent, flags, dir_fd=fd), fd
            os.close(above)
        before = os.stat(fd)
        found = os.lstat(name, dir_fd=fd)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=fd)
        elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=fd)
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    except OSError:
        return  # not there, not empty, or replaced by the RUN: then it is the RUN's own
    finally:
        os.close(fd)


if __name__ == "__main__":
    doomed = Path(sys.argv[1])
    lock_directory(doomed)
    os.nice(10)
    empty_directory(os.path.realpath(doomed), mount_points().__contains__)
    with unnoticed(doomed.parent):
        remove_tree(doomed)
