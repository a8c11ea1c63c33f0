"""A tar as build context: from a stream into a folder, by the code that unpacks layers.

So what holds there holds here: nothing leaves the folder, whatever the archive says, and what is
damaged or made to do harm is refused by name. Owners are of no account in a context.
"""

from __future__ import annotations

import os
import select
import stat
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from msgspec import Struct

from pybuild.context.errors import NoArchive, StdinEmpty
from pybuild.errors import HostileContent, Interrupted
from pybuild.events import (
    EventSink,
    Level,
    Notice,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
)
from pybuild.layer.apply import UnpackStyle, unpack_layer
from pybuild.layer.compress import decompress, read_ahead
from pybuild.layer.disk import open_mode
from pybuild.layer.errors import BadArchive
from pybuild.layer.tar import is_header
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree
from pybuild.rootfs.resolve import open_no_follow

_CHUNK = 1 << 18
_BLOCK = 512
_POLL_MILLISECONDS = 200
_SHOWN = 32  # bytes of what is no archive


class Source(Struct, frozen=True):
    """An archive on its way. `give_up` makes `chunks` end soon, from whichever thread."""

    shown: str
    chunks: Iterator[bytes]
    give_up: Callable[[], None]


def unpack(source: Source, folder: Path, sink: EventSink) -> None:
    """Writes the archive, which may be compressed, below an empty folder.

    Raises NoArchive for anything else; BadArchive, OutsideRoot and the other HostileContent errors,
    DiskFull, and whatever the chunks raise.
    """
    tar = read_ahead(_tar_of(source.chunks, source.shown))
    try:
        index = unpack_layer(
            tar, folder, Tree(()), style=UnpackStyle.UNOWNED, lower_path=lambda _: None
        )
    except HostileContent as error:
        error.message = f"{source.shown}: {error.message}"
        error.args = (error.message,)
        raise
    finally:
        source.give_up()
        tar.close()
    _set_true_modes(folder, Tree((index,)), source.shown, sink)


def archive_or_dockerfile(source: Source, folder: Path) -> Source | None:
    """None where a Dockerfile came instead of an archive, as `docker build -` takes it: it is the
    only file then. Tar headers and what compressors write are no text."""
    start = b""
    for chunk in source.chunks:
        start += chunk
        if len(start) >= _BLOCK:
            break
    if not _is_text(start):
        return Source(source.shown, chain((start,), source.chunks), source.give_up)
    with (folder / "Dockerfile").open("wb") as file:
        for chunk in chain((start,), source.chunks):
            file.write(chunk)
    return None


def _is_text(start: bytes) -> bool:
    try:
        getincrementaldecoder("utf-8")().decode(start)  # the last letter may be cut
    except UnicodeDecodeError:
        return False
    return bool(start) and b"\0" not in start


def _tar_of(chunks: Iterable[bytes], shown: str) -> Iterator[bytes]:
    """The plain tar, once its beginning has shown that it is one."""
    source = iter(chunks)
    first = next(source, b"")
    plain = decompress(chain((first,), source))
    start = b""
    for chunk in plain:
        start += chunk
        if len(start) >= _BLOCK:
            break
    if not start:
        what = "is empty" if not first else "holds nothing"
        raise NoArchive(f"{shown} {what}", hint=_HINT)
    if len(start) < _BLOCK or not (is_header(start[:_BLOCK]) or not any(start[:_BLOCK])):
        raise NoArchive(f"{shown} is no tar archive: it begins with {start[:_SHOWN]!r}", hint=_HINT)
    yield start
    tail = start[-_BLOCK:]
    for chunk in plain:
        tail = (tail + chunk)[-_BLOCK:] if len(chunk) < _BLOCK else chunk[-_BLOCK:]
        yield chunk
    for _ in source:  # what follows the archive is read too: checksums are over everything
        pass
    if any(tail):
        # Readers take the end of the data for the end of the archive, and whoever wrote into a
        # pipe may have been stopped just between two files.
        raise BadArchive("the archive has no end: it was cut off")


_HINT = "a context is a tar, plain or compressed by gzip, zstd, bzip2 or xz"


def _set_true_modes(folder: Path, tree: Tree, shown: str, sink: EventSink) -> None:
    """Modes without which the archive could not be written, and what could not be made."""
    is_root = os.geteuid() == 0
    left_out = []
    for entry in reversed(list(tree.walk())):  # the content of a folder before the folder
        if entry.kind in (Kind.CHAR, Kind.BLOCK) and not _is_device(folder, entry):
            (folder / entry.path).unlink()
            left_out.append(entry.path)
        if entry.kind not in (Kind.FILE, Kind.DIRECTORY) or not entry.path:
            continue
        directory = entry.kind is Kind.DIRECTORY
        # A folder that its owner can't write to could not be removed again.
        allowed = is_root or (not directory and bool(entry.mode & stat.S_IRUSR))
        if entry.mode != open_mode(entry.mode, directory=directory) and allowed:
            descriptor = open_no_follow(folder, entry.path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.fchmod(descriptor, entry.mode)
            finally:
                os.close(descriptor)
    if left_out:
        text = f"{shown}: devices are left out, since only root makes them: {', '.join(left_out)}"
        sink(Notice(Level.WARNING, text, "context-device"))


def _is_device(folder: Path, entry: Entry) -> bool:
    mode = (folder / entry.path).lstat().st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def told(chunks: Iterable[bytes], shown: str, size: int, sink: EventSink) -> Iterator[bytes]:
    """The same chunks, with their progress told."""
    import time

    started, done, outcome = time.monotonic(), 0, TransferOutcome.FAILED
    sink(TransferStarted(shown, TransferKind.CONTEXT, shown, size))
    try:
        for chunk in chunks:
            done += len(chunk)
            sink(TransferProgress(shown, done))
            yield chunk
        outcome = TransferOutcome.DONE
    finally:
        seconds = time.monotonic() - started
        sink(TransferFinished(shown, TransferKind.CONTEXT, shown, outcome, done, seconds))


def file_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as raw:
        while data := raw.read(_CHUNK):
            yield data


def stdin_chunks(descriptor: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """Standard input to its end. Raises StdinEmpty for a terminal or nothing, Interrupted."""
    hint = "pipe an archive in: tar -cz . | executor --context=tar://stdin …"
    try:
        terminal = os.isatty(descriptor)
        os.fstat(descriptor)
    except OSError as error:
        raise StdinEmpty("standard input, which the context should come from, is closed",
                         hint=hint) from error  # fmt: skip
    if terminal:
        raise StdinEmpty(
            "the context should come from standard input, which is a terminal", hint=hint
        )
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    empty = True
    while True:
        if stopped():
            raise Interrupted(15)
        if not poll.poll(_POLL_MILLISECONDS):
            continue
        data = os.read(descriptor, _CHUNK)
        if not data:
            break
        empty = False
        yield data
    if empty:
        raise StdinEmpty(
            "no data came on standard input, which the context should come from",
            hint=f"{hint}; a container needs --interactive (-i) for it",
        )
