"""Every blob that is read from outside passes here."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator

from pybuild.errors import ContentMismatch
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest


class DigestMismatch(ContentMismatch):
    """A blob's bytes do not have the digest or the size that its descriptor names."""

    code = "digest-mismatch"
    advice = "the copy there is damaged, or something on the way changes it: push it there again"


def verified(chunks: Iterable[bytes], descriptor: Descriptor) -> Iterator[bytes]:
    """Passes the chunks on; raises DigestMismatch as soon as there are more bytes than named,
    and at the end when the size or the digest differs."""
    hasher = hashlib.new(descriptor.digest.algorithm)
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > descriptor.size:
            raise DigestMismatch(
                f"blob {descriptor.digest} is larger than the {descriptor.size} bytes named"
            )
        hasher.update(chunk)
        yield chunk
    if size != descriptor.size:
        raise DigestMismatch(
            f"blob {descriptor.digest} ended after {size} of {descriptor.size} bytes"
        )
    if hasher.hexdigest() != descriptor.digest.hex:
        raise DigestMismatch(
            f"blob {descriptor.digest} arrived as "
            f"{descriptor.digest.algorithm}:{hasher.hexdigest()}"
        )


def verified_tar(chunks: Iterable[bytes], diff_id: Digest) -> Generator[bytes, None, None]:
    """The uncompressed tar of a layer; raises DigestMismatch at its end when it is another one than
    the config names."""
    hasher = hashlib.new(diff_id.algorithm)
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != diff_id.hex:
        raise DigestMismatch(
            f"a layer unpacks to {diff_id.algorithm}:{hasher.hexdigest()}, "
            f"its config says {diff_id}"
        )
