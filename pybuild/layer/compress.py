"""Compressing and decompressing as a stream; the thread that works beside the caller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from msgspec import Struct

from pybuild.image.digest import Digest, digest_from_hex
from pybuild.layer.errors import BadArchive

if TYPE_CHECKING:
    from queue import Queue

_PIECE = 1 << 17  # of input at once: what does not fit the output limit is copied each time
_OUTPUT = 1 << 20  # at most this much comes out at once, however well it was compressed
_QUEUED = 4  # chunks between two threads
_GIVE_UP_SECONDS = 0.2  # how often a blocked thread looks whether its partner has left


class Compression(Enum):
    GZIP = "gzip"
    ZSTD = "zstd"
    NONE = "none"


class CompressionOptions(Struct, frozen=True):
    """`level` -1 is the default of what is used: 1 of isal's 0 to 3, 6 of zlib's, 3 of zstd's.
    `reproducible` keeps to code whose output does not depend on the processor: zlib, not isal."""

    compression: Compression = Compression.GZIP
    level: int = -1
    reproducible: bool = False


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def finish(self) -> bytes: ...


class _Deflate:
    """gzip with an empty header: no name, no time."""

    def __init__(self, options: CompressionOptions) -> None:
        if options.reproducible:
            import zlib

            stream = zlib.compressobj(6 if options.level < 0 else options.level, zlib.DEFLATED, 31)
            self.compress: Callable[[bytes], bytes] = stream.compress
            self.finish: Callable[[], bytes] = stream.flush
            return
        from isal import isal_zlib

        fast = isal_zlib.compressobj(_isal_level(options.level), isal_zlib.DEFLATED, 31)
        self.compress = fast.compress
        self.finish = fast.flush


def _isal_level(level: int) -> int:
    """zlib's scale (0 to 9) onto isal's four levels; at its best it compresses as zlib's 3."""
    if level < 0:
        return 1
    return level if level <= 2 else 3


class _Zstd:
    """One frame, one thread: more threads cut the input by time, and the bytes differ."""

    def __init__(self, options: CompressionOptions) -> None:
        import zstandard

        level = 3 if options.level < 0 else options.level
        stream = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
        self.compress: Callable[[bytes], bytes] = stream.compress
        self.finish: Callable[[], bytes] = stream.flush


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


def compressor(options: CompressionOptions) -> Compressor:
    match options.compression:
        case Compression.GZIP:
            return _Deflate(options)
        case Compression.ZSTD:
            return _Zstd(options)
        case Compression.NONE:
            return _Plain()


class CompressedFile:
    """Compresses, digests and writes what it is given in a thread of its own, started with the
    second chunk: a small layer needs none."""

    def __init__(self, target: Path, options: CompressionOptions) -> None:
        self._compressor = compressor(options)
        self._hasher = hashlib.sha256()
        self._size = 0
        self._file = target.open("wb", buffering=0)
        self._first: bytes | None = None
        self._queue: Channel | None = None

    def write(self, chunk: bytes) -> None:
        """Blocks while the thread is behind. Raises what went wrong there."""
        if self._queue is not None:
            self._queue.put(chunk)
        elif self._first is None:
            self._first = chunk
        else:
            self._queue = Channel(self._work)
            self._queue.put(self._first)
            self._queue.put(chunk)

    def _work(self, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            self._emit(self._compressor.compress(chunk))

    def _emit(self, data: bytes) -> None:
        if data:
            self._hasher.update(data)
            self._size += len(data)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) or 0 :]

    def finish(self) -> tuple[Digest, int]:
        """The digest and the size of the file, which is complete now."""
        if self._queue is not None:
            self._queue.close()
        elif self._first is not None:
            self._emit(self._compressor.compress(self._first))
        self._emit(self._compressor.finish())
        self._file.close()
        return digest_from_hex(self._hasher.hexdigest()), self._size

    def abandon(self) -> None:
        """Ends the thread and closes the file; its content is of no use."""
        if self._queue is not None:
            self._queue.cancel()
        self._file.close()


class Channel:
    """A short queue to a thread that takes chunks."""

    def __init__(self, work: Callable[[Iterator[bytes]], None]) -> None:
        from queue import Queue
        from threading import Event, Thread

        self._queue: Queue[bytes | None] = Queue(_QUEUED)
        self._stop = Event()
        self._failure: BaseException | None = None
        self._work = work
        self._thread = Thread(target=self._run, name="compress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work(iter(self._queue.get, None))
        except BaseException as failure:
            self._failure = failure
            self._stop.set()

    def put(self, chunk: bytes | None) -> None:
        from queue import Full

        while not self._stop.is_set():
            try:
                self._queue.put(chunk, timeout=_GIVE_UP_SECONDS)
                return
            except Full:
                continue
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Waits until all is done; raises what went wrong."""
        self.put(None)
        self._thread.join()
        self._raise()

    def cancel(self) -> None:
        self._stop.set()
        _drain(self._queue)
        self._queue.put(None)
        self._thread.join()


def _drain(queue: Queue[Any]) -> None:
    """Lets a thread go on that waits for room."""
    while not queue.empty():
        queue.get()


def read_ahead(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """The same chunks, made in a thread of their own while the caller works on earlier ones.
    At most five are held. Closing the iterator ends the thread."""
    from queue import Full, Queue
    from threading import Event, Thread

    queue: Queue[bytes | BaseException | None] = Queue(_QUEUED)
    stop = Event()

    def put(item: bytes | BaseException | None) -> None:
        while not stop.is_set():
            try:
                queue.put(item, timeout=_GIVE_UP_SECONDS)
                return
            except Full:
                continue

    def work() -> None:
        try:
            for chunk in chunks:
                put(chunk)
                if stop.is_set():
                    return
            put(None)
        except BaseException as failure:
            put(failure)

    thread = Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        _drain(queue)
        thread.join()


# -- decompressing ---------------------------------------------------------------------------


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip, zstd, bzip2 or xz stream, of several members or frames too, told by
    its first bytes; anything else passes as it is. No piece is larger than a chunk given or
    1 MiB, however well it was compressed. Raises BadArchive for a damaged stream."""
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= 6:
            break
    rest = _with_head(head, source)
    if head[:3] == b"\x1f\x8b\x08":
        return _decompress_with(rest, _new_gzip, "gzip")
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return _unzstd(rest)
    if head[:3] == b"BZh":
        return _decompress_with(rest, _new_bzip2, "bzip2")
    if head[:6] == b"\xfd7zXZ\x00":
        return _decompress_with(rest, _new_xz, "xz")
    return rest


def _with_head(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= _PIECE:
            yield chunk
        else:
            for start in range(0, len(chunk), _PIECE):
                yield chunk[start : start + _PIECE]


class Decompressing(Protocol):
    """What the standard library's and isal's decompressors have in common."""

    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_New = tuple[Decompressing, type[Exception]]  # a decompressor and what it raises


class _ZstdSource:
    """What zstandard reads from. It follows the frames (RFC 8878, 3.1) as they pass, since the
    library takes a stream that was cut off for one that has ended."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._boundary = True
        self._seen = b""
        self._frames = self._follow()
        self._wanted = next(self._frames)

    @property
    def complete(self) -> bool:
        return self._boundary and not self._seen

    def read(self, _size: int = -1) -> bytes:
        data = next(self._chunks, b"")
        position = 0
        while position < len(data) or not self._wanted:
            if not self._wanted:
                seen, self._seen = self._seen, b""
                self._wanted = self._frames.send(seen)
                continue
            step = min(abs(self._wanted), len(data) - position)
            if self._wanted > 0:
                self._seen += data[position : position + step]
                self._wanted -= step
            else:
                self._wanted += step
            position += step
        return data

    def _follow(self) -> Generator[int, bytes, None]:
        """Asks for so many bytes; for a negative number of them it does not need to see them."""
        while True:
            self._boundary = True
            magic = yield 4
            self._boundary = False
            if magic[1:] == b"\x2a\x4d\x18":  # a skippable frame
                yield -int.from_bytes((yield 4), "little")
                continue
            (descriptor,) = yield 1
            single = descriptor >> 5 & 1
            yield (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
            last = 0
            while not last:
                block = int.from_bytes((yield 3), "little")
                last = block & 1
                yield -1 if block >> 1 & 3 == 1 else -(block >> 3)
            if descriptor & 4:
                yield 4  # the checksum


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    source = _ZstdSource(_pieces(chunks))
    reader = zstandard.ZstdDecompressor().stream_reader(
        cast(IO[bytes], source), read_size=_PIECE, read_across_frames=True
    )
    try:
        while data := reader.read(_OUTPUT):
            yield data
    except zstandard.ZstdError as error:
        raise BadArchive(f"the zstd stream is damaged: {error}") from error
    if not source.complete:
        raise BadArchive("the zstd stream is cut off")


def _new_gzip() -> _New:
    from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

    return IgzipDecompressor(flag=DECOMP_GZIP), cast(type[Exception], IsalError)


def _new_bzip2() -> _New:
    from bz2 import BZ2Decompressor

    return BZ2Decompressor(), OSError


def _new_xz() -> _New:
    from lzma import LZMADecompressor, LZMAError

    return LZMADecompressor(memlimit=1 << 28), LZMAError


def _decompress_with(
    chunks: Iterator[bytes], new: Callable[[], _New], name: str
) -> Iterator[bytes]:
    stream, damaged = new()
    fresh = True  # nothing of the current member has been read
    for piece in _pieces(chunks):
        data = piece
        while data or not (fresh or stream.eof or stream.needs_input):
            if fresh and not data.strip(b"\0"):
                break  # padding after the last member
            try:
                output = stream.decompress(data, _OUTPUT)
            except damaged as error:
                raise BadArchive(f"the {name} stream is damaged: {error}") from error
            fresh = False
            data = b""
            if output:
                yield output
            if stream.eof:
                data = stream.unused_data
                stream, _ = new()
                fresh = True
    if not fresh:
        raise BadArchive(f"the {name} stream is cut off")
