"""Blobs in files that are named by their digest (OCI image-spec, image-layout.md, "Blobs")."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.verify import DigestMismatch, verified
from pybuild.store.owner import give_to_owner_of, make_folders

_CHUNK = 256 << 10


class BlobStore:
    """`directory/sha256/<hex>`. A file that has its name is whole: files are written beside and
    then renamed, so any number of threads and processes may add at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.directory / digest.algorithm / digest.hex

    def has(self, descriptor: Descriptor) -> bool:
        """Whether a file of that digest and size is there; its bytes are not read."""
        try:
            return self.path(descriptor.digest).stat().st_size == descriptor.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def add(self, path: Path, descriptor: Descriptor) -> Path:
        """Takes in a file that is known to be that blob, as a hard link where it can be one.

        Raises DigestMismatch where its size differs, OSError where it can't be written.
        """
        size = path.stat().st_size
        if size != descriptor.size:
            raise DigestMismatch(f"{path} has {size} bytes, not the {descriptor.size} named")
        target = self.path(descriptor.digest)
        if self.has(descriptor):
            return target
        with beside(target) as (new, file):
            file.close()
            new.unlink()
            try:
                os.link(path, new)
            except OSError:  # another filesystem, or one without links
                shutil.copyfile(path, new)
        return target

    def write(self, chunks: Iterable[bytes], descriptor: Descriptor) -> Path:
        """Takes in a stream. Raises DigestMismatch, and keeps nothing of what did not fit."""
        target = self.path(descriptor.digest)
        if self.has(descriptor):
            return target
        with beside(target) as (_, file):
            for chunk in verified(chunks, descriptor):
                file.write(chunk)
        return target

    def open(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes, verified. Raises OSError, DigestMismatch at the end."""
        return verified(read_chunks(self.path(descriptor.digest)), descriptor)

    def remove(self, digest: Digest) -> None:
        with suppress(FileNotFoundError):
            self.path(digest).unlink()


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextmanager
def beside(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in the target's folder that takes the target's name when the block ends, and
    is gone where the block fails."""
    make_folders(target.parent)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:32]}.", dir=target.parent)
    new = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            yield new, file
        # mkstemp gives the owner alone the right to read; images are read by others too.
        new.chmod(0o644)
        give_to_owner_of(target.parent, new)
        new.rename(target)
    except BaseException:
        with suppress(FileNotFoundError):
            new.unlink()
        raise
