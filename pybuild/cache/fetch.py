"""A blob into a folder that others fill at the same time: fetched by one, waited for by the others,
gone on with by the next where the one was killed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pybuild.errors import Cancelled
from pybuild.image.descriptor import Descriptor
from pybuild.image.verify import DigestMismatch
from pybuild.store.blobs import BlobStore
from pybuild.store.locks import locked

_CHUNK = 1 << 20

OpenRest = Callable[[int], Iterator[bytes]]


def partial_path(store: BlobStore, blob: Descriptor) -> Path:
    target = store.path(blob.digest)
    return target.with_name(f".{target.name}.partial")


def fetch_blob(
    store: BlobStore,
    blob: Descriptor,
    open_rest: OpenRest,
    *,
    again: bool = False,
    waits: Callable[[], None] = lambda: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> bool:
    """Makes the store hold a blob; with `again` also where it does. `open_rest` gives the bytes
    from an offset on. Tells whether anything was fetched.

    The file that grows is the lock: it goes to its place by a rename, so whoever waited for it
    finds another file under its name, or none. Raises DigestMismatch, Cancelled, OSError and what
    `open_rest` raises; what has arrived stays for the next attempt, unless it is wrong.
    """
    partial = partial_path(store, blob)
    while again or not store.has(blob):
        with locked(partial, waits=waits, is_cancelled=is_cancelled) as handle:
            if not _is_at(partial, handle):
                again = False  # somebody else has just fetched it
                continue
            for fresh in (False, True):
                if fresh:
                    os.ftruncate(handle, 0)
                if _filled(handle, blob, open_rest, is_cancelled):
                    break
            else:
                partial.unlink()
                raise DigestMismatch(f"blob {blob.digest} arrived as something else, twice")
            os.fchmod(handle, 0o644)
            os.fsync(handle)
            partial.rename(store.path(blob.digest))
            return True
    return False


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _filled(
    handle: int, blob: Descriptor, open_rest: OpenRest, is_cancelled: Callable[[], bool]
) -> bool:
    """Goes on from where the file ends; whether it is the blob then."""
    hasher = hashlib.new(blob.digest.algorithm)
    done = 0
    while chunk := os.pread(handle, _CHUNK, done):
        hasher.update(chunk)
        done += len(chunk)
    if done < blob.size:
        os.lseek(handle, done, os.SEEK_SET)
        for chunk in open_rest(done):
            if is_cancelled():
                raise Cancelled("the image is not wanted any more")
            _write(handle, chunk)
            hasher.update(chunk)
            done += len(chunk)
            if done > blob.size:
                break
    return done == blob.size and hasher.hexdigest() == blob.digest.hex


def _write(handle: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(handle, rest) :]
