"""A base layer that the build reads and that goes to another registry too: fetched once for both.

The bytes are kept in a file while they come in. There is no thread that fetches: whichever reader
has read all that is there asks for the next chunk, so the fastest one sets the pace, and one that
stops early holds up nobody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pybuild.image.verify import DigestMismatch

_CHUNK = 1 << 18

Download = Callable[[], Iterator[bytes]]


class SharedBlob:
    """`download` gives the blob, verified, as often as it is called; `new_file` names a path of the
    workspace. Thread-safe."""

    def __init__(self, download: Download, new_file: Callable[[], Path]) -> None:
        self._download = download
        self._new_file = new_file
        self._kept: _Kept | None = None
        self._guard = threading.Lock()
        self._alone = False  # the file can't be had: everybody downloads

    def open(self) -> Iterator[bytes]:
        """The blob from its start. Raises what the download raises; the next call tries anew."""
        kept = self._join()
        if kept is None:
            yield from self._download()
            return
        try:
            yield from kept.read()
        finally:
            self._leave(kept)

    def close(self) -> None:
        """Gives the file up; who opens the blob from now on downloads it."""
        with self._guard:
            self._alone = True
            kept, self._kept = self._kept, None
            if kept is not None and not kept.readers:
                kept.close()

    def _join(self) -> _Kept | None:
        with self._guard:
            if self._kept is None and not self._alone:
                try:
                    self._kept = _Kept(self._download, self._new_file())
                except OSError:
                    self._alone = True
            if self._kept is not None:
                self._kept.readers += 1
            return self._kept

    def _leave(self, kept: _Kept) -> None:
        with self._guard:
            kept.readers -= 1
            self._alone |= kept.full
            unusable = kept.full or kept.failure is not None
            if self._kept is kept and (unusable or not (kept.readers or kept.complete)):
                self._kept = None
            if self._kept is not kept and not kept.readers:
                kept.close()


class _Kept:
    """One download and the file it goes to, which has no name and so outlives nobody."""

    def __init__(self, download: Download, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        path.unlink()
        self._download = download
        self._source = download()
        self._written = 0
        self._lock = threading.Lock()
        self.readers = 0
        self.complete = False
        self.full = False  # no more could be written
        self.failure: BaseException | None = None

    def read(self) -> Iterator[bytes]:
        done = 0
        while True:
            while done < self._written:
                chunk = os.pread(self._file, min(_CHUNK, self._written - done), done)
                done += len(chunk)
                yield chunk
            if self.complete and done == self._written:
                return
            self._fetch(done)
            if self.full and done == self._written:
                yield from self._rest(done)
                return

    def _fetch(self, done: int) -> None:
        """One chunk more than the reader has, unless another reader brought it meanwhile."""
        with self._lock:
            if self._written > done or self.complete or self.full:
                return
            if self.failure is not None:
                raise self.failure
            try:
                chunk = next(self._source, None)
            except BaseException as error:
                self.failure = error
                raise
            if chunk is None:
                self.complete = True
            else:
                self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        """What does not fit is not kept: a build that needs no disk must not fail for it."""
        rest, place = memoryview(chunk), self._written
        try:
            while rest:
                count = os.pwrite(self._file, rest, place)
                rest, place = rest[count:], place + count
        except OSError:
            self.full = True
        else:
            self._written = place

    def _rest(self, done: int) -> Iterator[bytes]:
        """What comes after the first `done` bytes, from a download of one's own. It has to begin as
        what was given already: that has not been verified."""
        passed = 0
        for chunk in self._download():
            known = chunk[: max(0, done - passed)]
            if known != os.pread(self._file, len(known), passed):
                raise DigestMismatch("a blob arrived twice, with different bytes")
            passed += len(chunk)
            if len(known) < len(chunk):
                yield chunk[len(known) :]

    def close(self) -> None:
        """Nobody reads any more."""
        closing = getattr(self._source, "close", None)
        if closing is not None:
            closing()
        os.close(self._file)
