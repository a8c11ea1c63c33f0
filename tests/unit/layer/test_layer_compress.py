"""Compressed streams: every format, several members, damage, bombs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from pybuild.image.digest import digest_of
from pybuild.layer.compress import (
    CompressedFile,
    Compression,
    CompressionOptions,
    compressor,
    decompress,
    read_ahead,
)
from pybuild.layer.errors import BadArchive
from tests.support.layers import in_pieces

DATA = os.urandom(200_000) + b"x" * 3_000_000
SKIPPABLE = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _zstd_stream(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()  # no size in the header, no checksum
    return stream.compress(data) + stream.flush()


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": _zstd,
    "zstd-stream": _zstd_stream,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("piece", [911, 70_000, 1 << 30])
def test_one_stream_and_two(name: str, piece: int) -> None:
    stored = FORMATS[name](DATA)
    assert b"".join(decompress(in_pieces(stored, piece))) == DATA
    assert b"".join(decompress(in_pieces(stored + stored, piece))) == DATA * 2


def test_frames_to_be_skipped() -> None:
    stored = SKIPPABLE + _zstd(b"a") + SKIPPABLE + _zstd_stream(b"b") + SKIPPABLE
    assert b"".join(decompress(in_pieces(stored, 1))) == b"ab"


def test_plain_bytes_pass() -> None:
    assert b"".join(decompress(in_pieces(DATA, 5))) == DATA
    assert b"".join(decompress([])) == b""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cut", [1, 3, 9, 1000])
def test_a_stream_that_was_cut_off_is_refused(name: str, cut: int) -> None:
    with pytest.raises(BadArchive):
        list(decompress([FORMATS[name](DATA)[:-cut]]))


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_a_damaged_stream_is_refused(name: str) -> None:
    stored = bytearray(FORMATS[name](DATA))
    stored[len(stored) // 3] ^= 0xFF
    with pytest.raises(BadArchive):
        list(decompress([bytes(stored)]))


def test_garbage_after_a_stream_is_refused() -> None:
    with pytest.raises(BadArchive):
        list(decompress([gzip.compress(b"x") + b"garbage"]))
    assert b"".join(decompress([gzip.compress(b"x") + bytes(512)])) == b"x"


@pytest.mark.parametrize("name", FORMATS)
def test_a_bomb_comes_in_small_pieces(name: str) -> None:
    bomb = FORMATS[name](bytes(50_000_000))
    sizes = [len(piece) for piece in decompress([bomb])]
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("reproducible", [False, True])
def test_there_and_back(tmp_path: Path, compression: Compression, reproducible: bool) -> None:
    options = CompressionOptions(compression, reproducible=reproducible)
    stored = []
    for name in ("one", "two"):
        file = CompressedFile(tmp_path / name, options)
        for piece in in_pieces(DATA, 100_000):
            file.write(piece)
        digest, size = file.finish()
        data = (tmp_path / name).read_bytes()
        assert (digest_of(data), len(data)) == (digest, size)
        stored.append(data)
    assert stored[0] == stored[1]
    assert b"".join(decompress([stored[0]])) == DATA


def test_reproducible_gzip_is_zlib_and_says_no_time() -> None:
    stream = compressor(CompressionOptions(reproducible=True))
    stored = stream.compress(DATA) + stream.finish()
    expected = zlib.compressobj(6, zlib.DEFLATED, 31)
    assert stored == expected.compress(DATA) + expected.flush()
    assert stored[4:8] == bytes(4)


@pytest.mark.parametrize("level", range(-1, 10))
def test_every_level_of_gzip(level: int) -> None:
    stream = compressor(CompressionOptions(level=level))
    assert gzip.decompress(stream.compress(DATA) + stream.finish()) == DATA


def test_what_fails_in_the_thread_fails_the_caller(tmp_path: Path) -> None:
    file = CompressedFile(tmp_path / "f", CompressionOptions(Compression.NONE))
    file._file.close()
    with pytest.raises(ValueError, match="closed"):
        for _ in range(100):
            file.write(b"x" * 1000)
    file.abandon()


def test_reading_ahead_keeps_order_and_passes_errors_on() -> None:
    def source() -> Iterator[bytes]:
        yield from (b"%d" % n for n in range(50))
        raise BadArchive("here")

    seen = []
    with pytest.raises(BadArchive, match="here"):
        for item in read_ahead(source()):
            seen.append(item)
    assert seen == [b"%d" % n for n in range(50)]


def test_reading_ahead_stops_when_nobody_wants_more() -> None:
    made = []

    def source() -> Iterator[bytes]:
        while True:
            made.append(1)
            yield b"x"

    chunks = read_ahead(source())
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count < 20
