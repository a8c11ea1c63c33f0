"""One download for several readers, whatever becomes of one of them."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybuild.executor.shared_blob import SharedBlob
from pybuild.image.verify import DigestMismatch

CHUNKS = [bytes([number]) * (70_000 + number) for number in range(20)]
WHOLE = b"".join(CHUNKS)


class Source:
    """Counts its downloads; the first may end with an error after some chunks."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.downloads = 0
        self.fails_after = fails_after

    def __call__(self) -> Iterator[bytes]:
        self.downloads += 1
        fails_after = self.fails_after if self.downloads == 1 else None
        for number, chunk in enumerate(CHUNKS):
            if number == fails_after:
                raise ConnectionResetError
            yield chunk


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[[], Path]:
    numbers = itertools.count()
    return lambda: tmp_path / str(next(numbers))


def test_many_readers_at_once_and_after_each_other(
    new_file: Callable[[], Path], tmp_path: Path
) -> None:
    source = Source()
    shared = SharedBlob(source, new_file)
    start = threading.Barrier(4)

    def read(_: int) -> bytes:
        stream = shared.open()
        first = next(stream)
        start.wait(10)  # all of them have begun
        return first + b"".join(stream)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [WHOLE] * 4
    assert b"".join(shared.open()) == WHOLE
    assert source.downloads == 1
    assert list(tmp_path.iterdir()) == []


def test_a_slow_reader_does_not_hold_up_another(new_file: Callable[[], Path]) -> None:
    source = Source()
    shared = SharedBlob(source, new_file)
    slow = shared.open()
    begun = next(slow)
    assert b"".join(shared.open()) == WHOLE
    assert begun + b"".join(slow) == WHOLE
    assert source.downloads == 1


def test_one_that_stops_leaves_the_others_alone(new_file: Callable[[], Path]) -> None:
    source = Source()
    shared = SharedBlob(source, new_file)
    first, second = shared.open(), shared.open()
    begun = next(first), next(second)
    first.close()  # type: ignore[attr-defined]
    assert begun[1] + b"".join(second) == WHOLE
    assert source.downloads == 1


def test_one_that_stops_alone_is_followed_by_a_new_download(new_file: Callable[[], Path]) -> None:
    source = Source()
    shared = SharedBlob(source, new_file)
    only = shared.open()
    next(only)
    only.close()  # type: ignore[attr-defined]
    assert b"".join(shared.open()) == WHOLE
    assert source.downloads == 2


def test_a_failed_download_is_told_to_its_readers_and_tried_anew(
    new_file: Callable[[], Path],
) -> None:
    source = Source(fails_after=5)
    shared = SharedBlob(source, new_file)
    behind = shared.open()
    next(behind)
    with pytest.raises(ConnectionResetError):
        list(shared.open())
    assert b"".join(shared.open()) == WHOLE
    with pytest.raises(ConnectionResetError):
        list(behind)
    assert source.downloads == 2


class FullAfter:
    """`pwrite` of a volume with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.pwrite

    def __call__(self, file: int, data: memoryview, place: int) -> int:
        if place >= self.room:
            raise OSError(28, "No space left on device")
        return self.write(file, data[: self.room - place], place)


@pytest.mark.parametrize("room", [0, 1, 70_000, 500_000])
def test_a_full_volume_costs_a_download_and_no_more(
    new_file: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(os, "pwrite", FullAfter(room))
    source = Source()
    shared = SharedBlob(source, new_file)
    assert b"".join(shared.open()) == WHOLE
    assert b"".join(shared.open()) == WHOLE
    assert source.downloads == 3


def test_what_went_on_from_another_download_has_to_begin_alike(
    new_file: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", FullAfter(4))
    downloads = iter([[b"aaaa", b"bbbb"], [b"aaXa", b"bbbb"]])
    shared = SharedBlob(lambda: iter(next(downloads)), new_file)
    with pytest.raises(DigestMismatch):
        list(shared.open())


def test_without_a_file_and_after_the_end_everybody_downloads(
    new_file: Callable[[], Path], tmp_path: Path
) -> None:
    source = Source()
    for shared in (SharedBlob(source, lambda: tmp_path / "no" / "folder"),
                   SharedBlob(source, new_file)):  # fmt: skip
        shared.close()
        assert b"".join(shared.open()) == WHOLE
    nowhere = SharedBlob(source, lambda: tmp_path / "no" / "folder")
    assert b"".join(nowhere.open()) == WHOLE
    assert source.downloads == 3


def test_no_descriptor_is_left_open(new_file: Callable[[], Path]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    shared = SharedBlob(Source(), new_file)
    list(shared.open())
    shared.close()
    broken = SharedBlob(Source(fails_after=3), new_file)
    with pytest.raises(ConnectionResetError):
        list(broken.open())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
