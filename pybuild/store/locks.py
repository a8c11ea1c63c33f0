"""Locks between processes that share a folder, also over a network volume: on files that are
opened for writing, since NFS gives no others."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.errors import Cancelled

_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 0.5


@contextmanager
def locked(
    path: Path,
    how: int = fcntl.LOCK_EX,
    *,
    waits: Callable[[], None] = lambda: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Holds a lock on a file, which is made where it is not there, and gives its descriptor; `how`
    is as in flock(2). `waits` is called once if it has to be waited for.

    Raises OSError, and Cancelled where nobody waits any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(handle, how, waits, is_cancelled)
        yield handle
    finally:
        os.close(handle)


def _wait(
    handle: int, how: int, waits: Callable[[], None], is_cancelled: Callable[[], bool]
) -> None:
    """Polled: a thread that sleeps in flock(2) can't be told that nobody needs it any more."""
    poll = _POLL_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                waits()
                told = True
        if is_cancelled():
            raise Cancelled("nobody waits for the lock any more")
        time.sleep(poll)
        poll = min(poll * 2, _LONGEST_POLL_SECONDS)


class Hold:
    """Keeps who removes unused blobs from a folder apart from who is about to use them."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / ".in-use"

    @contextmanager
    def shared(self) -> Iterator[None]:
        """For writers: blobs come first, what names them later."""
        with locked(self._file, fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
        """For who removes what nothing names."""
        with locked(self._file, fcntl.LOCK_EX, waits=waits):
            yield
