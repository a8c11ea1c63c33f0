"""Digests of content as stored (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import re
from hashlib import sha256

from pybuild.errors import InputError

_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+\Z")
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


class BadDigest(InputError):
    """A text that should be a digest is none, or names an algorithm that is not supported."""

    code = "bad-digest"


class Digest(str):
    """`algorithm:hex`, checked when it was parsed."""

    __slots__ = ()

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]


def parse_digest(text: str) -> Digest:
    """Raises BadDigest unless `text` is a well-formed digest of a known algorithm."""
    algorithm, _, encoded = text.partition(":")
    length = _HEX_LENGTH.get(algorithm)
    if not _DIGEST.match(text):
        raise BadDigest(f"{text!r} is no digest")
    if length is None:
        raise BadDigest(f"digest algorithm {algorithm!r} is not supported")
    if len(encoded) != length or not re.fullmatch(r"[a-f0-9]+", encoded):
        raise BadDigest(f"{text!r} is no digest: {algorithm} has {length} lower-case hex digits")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + sha256(data).hexdigest())


def digest_from_hex(encoded: str) -> Digest:
    """The sha256 digest whose hex form a hasher gave."""
    return Digest("sha256:" + encoded)
