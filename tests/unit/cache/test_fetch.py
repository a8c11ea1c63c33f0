"""A blob into a folder that others fill too: verified, gone on with, waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.cache.fetch import fetch_blob, partial_path
from pybuild.errors import Cancelled
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.verify import DigestMismatch
from pybuild.store.blobs import BlobStore
from pybuild.store.locks import locked

DATA = bytes(range(256)) * 100
BLOB = Descriptor("application/octet-stream", digest_of(DATA), len(DATA))


class Source:
    """Gives `data` from the offsets that are asked for."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.asked: list[int] = []

    def open(self, done: int) -> Iterator[bytes]:
        self.asked.append(done)
        for start in range(done, len(self.data), 1000):
            yield self.data[start : start + 1000]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def put_partial(store: BlobStore, data: bytes) -> None:
    path = partial_path(store, BLOB)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


def check(store: BlobStore) -> None:
    assert store.path(BLOB.digest).read_bytes() == DATA
    assert [path.name for path in store.path(BLOB.digest).parent.iterdir()] == [BLOB.digest.hex]


def test_a_blob_is_fetched_once(store: BlobStore) -> None:
    source = Source()
    assert fetch_blob(store, BLOB, source.open)
    assert not fetch_blob(store, BLOB, source.open)
    assert source.asked == [0]
    check(store)
    assert fetch_blob(store, BLOB, source.open, again=True) and source.asked == [0, 0]
    check(store)


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        pytest.param(DATA[:5000], [5000], id="the beginning"),
        pytest.param(DATA, [], id="all but its name"),
        pytest.param(b"x" * 5000, [5000, 0], id="something else"),
        pytest.param(DATA + b"x", [0], id="more than all"),
        pytest.param(b"", [0], id="nothing"),
    ],
)
def test_what_was_left_there_is_gone_on_with(
    store: BlobStore, there: bytes, asked: list[int]
) -> None:
    put_partial(store, there)
    source = Source()
    assert fetch_blob(store, BLOB, source.open) and source.asked == asked
    check(store)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"y" + DATA[1:]], ids=len)
def test_wrong_bytes_are_not_kept(store: BlobStore, data: bytes) -> None:
    source = Source(data)
    with pytest.raises(DigestMismatch, match="twice"):
        fetch_blob(store, BLOB, source.open)
    assert source.asked == [0, 0] and not list(store.directory.rglob("*.partial"))
    assert not store.has(BLOB)


def test_what_had_come_before_a_break_stays(store: BlobStore) -> None:
    def breaks(done: int) -> Iterator[bytes]:
        yield DATA[done : done + 3000]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fetch_blob(store, BLOB, breaks)
    source = Source()
    assert fetch_blob(store, BLOB, source.open) and source.asked == [3000]
    check(store)


def test_who_waited_finds_it_there(store: BlobStore) -> None:
    begun, waiting, go_on = threading.Event(), threading.Event(), threading.Event()

    def slow(done: int) -> Iterator[bytes]:
        begun.set()
        assert go_on.wait(10)
        yield DATA[done:]

    first = threading.Thread(target=fetch_blob, args=(store, BLOB, slow))
    first.start()
    second = Source()
    outcome: list[bool] = []

    def wait() -> None:
        outcome.append(fetch_blob(store, BLOB, second.open, waits=waiting.set))

    other = threading.Thread(target=wait)
    assert begun.wait(10)
    other.start()
    assert waiting.wait(10)
    go_on.set()
    first.join()
    other.join()
    assert outcome == [False] and not second.asked
    check(store)


def test_a_wait_can_be_given_up(store: BlobStore) -> None:
    with locked(partial_path(store, BLOB)), pytest.raises(Cancelled):
        fetch_blob(store, BLOB, Source().open, is_cancelled=lambda: True)


def test_a_fetch_can_be_given_up(store: BlobStore) -> None:
    with pytest.raises(Cancelled):
        fetch_blob(store, BLOB, Source().open, is_cancelled=lambda: True)
    assert partial_path(store, BLOB).exists() and not store.has(BLOB)
