"""Builds in one container share its `/`. Whoever puts an image there does so alone; the others wait
and say for whom, and what was left behind by one that was killed is found.

All of it lies in one folder whose name depends on nothing that a build is told: `lock`, which is
held alone while an image is on `/` and by nobody for long otherwise, with a word about the holder,
and in `builds` a file for each build that is under way, locked by it as long as it lives. The
kernel lets go of a lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct, field

from pybuild.errors import Cancelled
from pybuild.events import Event, EventSink, Level, Notice
from pybuild.isolation.removal import remove_later, remove_tree, unnoticed

PLACE = ".takeover"
WAITING_FILES = "container"  # in the place: the container's own, while an image is on `/`
PLACE_IN_ROOT = "/.pybuild-takeover"
SHARED_PREFIXES = ("/", "/usr", "/usr/local")  # too much the image's own to be kept
POLL_SECONDS = 0.1
TELL_AGAIN_SECONDS = 60.0


def _silent(_event: Event, /) -> None:
    """Where nobody listens."""


class Waiting(Struct, frozen=True):
    """On whose behalf a turn is waited for: `what` is built, in words; `cancelled` ends it."""

    what: str = "a build"
    sink: EventSink = _silent
    cancelled: threading.Event = field(default_factory=threading.Event)


class Holder(Struct, frozen=True):
    pid: int
    what: str
    since: float


class Announced(Struct, frozen=True):
    """What a build needs left alone by others, and what is nobody's when it has ended."""

    keep: tuple[bytes, ...] = ()
    leave: tuple[bytes, ...] = ()


def shared_place() -> Path | None:
    """In the builder's own folder if that is on the filesystem of `/`, where a move is a rename,
    or in what it has for ordinary users; else in `/` itself. None where none of these can be
    written to, and nobody can replace `/`."""
    prefix = os.path.realpath(sys.prefix)
    candidates = [PLACE_IN_ROOT]
    if prefix not in SHARED_PREFIXES and Path(prefix).stat().st_dev == Path("/").stat().st_dev:
        candidates = [f"{prefix}/{PLACE}", f"{prefix}/work/{PLACE}", *candidates]
    for path in candidates:
        if os.access(path if os.path.isdir(path) else os.path.dirname(path), os.W_OK):
            return Path(path)
    return None


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path / "lock"
        self._builds = path / "builds"

    @contextmanager
    def shared(self, waiting: Waiting) -> Iterator[None]:
        """While nobody has an image on `/`. Raises Cancelled."""
        fd = self._wait(fcntl.LOCK_SH, waiting)
        try:
            yield
        finally:
            os.close(fd)

    def alone(self, waiting: Waiting) -> int:
        """A descriptor; who closes it lets go. Raises Cancelled."""
        fd = self._wait(fcntl.LOCK_EX, waiting)
        word = msgspec.json.encode(Holder(os.getpid(), waiting.what, time.time()))
        os.ftruncate(fd, 0)
        os.pwrite(fd, word, 0)
        return fd

    def _wait(self, how: int, waiting: Waiting) -> int:
        told = 0.0
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting.cancelled.is_set():
                    os.close(fd)
                    raise Cancelled("the build was stopped while it waited for another") from None
                if time.monotonic() - told > TELL_AGAIN_SECONDS or not told:
                    told = time.monotonic()
                    _tell(waiting, _holder(fd))
                os.close(fd)
                waiting.cancelled.wait(POLL_SECONDS)
                continue
            if self._is_current(fd):
                return fd
            os.close(fd)  # the last one to leave has removed it meanwhile

    def _open(self) -> int:
        while True:
            if not self.path.exists():
                with unnoticed(self.path.parent):
                    self.path.mkdir(exist_ok=True)
                self.path.chmod(0o711)  # a waiting root is walked through by all of its users
            self._builds.mkdir(exist_ok=True)
            try:
                return os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue

    def _is_current(self, fd: int) -> bool:
        try:
            return os.fstat(fd).st_ino == self._lock.stat().st_ino
        except FileNotFoundError:
            return False

    def announced(self, name: str) -> Path:
        return self._builds / name

    def others(self, mine: str = "") -> Iterator[Announced]:
        """What the builds under way have announced. What those left that have ended is removed."""
        for path in sorted(self._builds.iterdir()):
            if path.name == mine:
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                said = read_announced(fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield said
                    continue
                for left in (Path(os.fsdecode(name)) for name in said.leave):
                    if left.exists():
                        remove_later(left, left.parent)
                path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def leave(self) -> None:
        """Removes the place if nobody else is there, and nothing waits in it to be put back."""
        if not self.path.exists():
            return
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            empty = not any(self._builds.iterdir()) and not (self.path / WAITING_FILES).exists()
            if empty and self._is_current(fd):
                with unnoticed(self.path.parent):
                    remove_tree(self.path)
        except BlockingIOError:
            return
        finally:
            os.close(fd)


def read_announced(fd: int) -> Announced:
    try:
        return msgspec.msgpack.decode(os.pread(fd, 1 << 20, 0), type=Announced)
    except msgspec.MsgspecError:
        return Announced()


def _holder(fd: int) -> Holder | None:
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    return None


def _tell(waiting: Waiting, holder: Holder | None) -> None:
    text = "another build of this container"
    if holder is not None:
        since = time.strftime("%H:%M:%S", time.localtime(holder.since))
        text = f"{holder.what} (pid {holder.pid}, since {since})"
    message = f"waiting for {text}: its image is on this container's /"
    waiting.sink(Notice(Level.INFO, message, code="waiting-for-build"))


class Presence:
    """A build that is under way, as the others of its container see it."""

    def __init__(self, place: Place, waiting: Waiting) -> None:
        self._place = place
        self._waiting = waiting
        self.name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._said = Announced()
        with place.shared(waiting):
            path = place.announced(self.name)
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            for _ in place.others(self.name):
                pass  # what those left that have ended is removed by looking

    def announce(self, keep: Sequence[Path] = (), leave: Sequence[Path] = ()) -> None:
        """Adds to what was said. Waits while another one has an image on `/`: it would not know."""
        said = Announced(
            tuple(dict.fromkeys((*self._said.keep, *_real(keep), *_real(leave)))),
            tuple(dict.fromkeys((*self._said.leave, *_real(leave)))),
        )
        if said == self._said:
            return
        with self._place.shared(self._waiting):
            data = msgspec.msgpack.encode(said)
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        self._said = said

    def close(self) -> None:
        self._place.announced(self.name).unlink(missing_ok=True)
        os.close(self._fd)
        self._place.leave()


def _real(paths: Sequence[Path]) -> Iterator[bytes]:
    return (os.fsencode(os.path.realpath(path)) for path in paths)
