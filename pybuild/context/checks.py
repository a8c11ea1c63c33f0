"""What the bytes of a downloaded context have to be, by what the user and the server say.

A check is a value; `Checks` follows the bytes as they pass.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

from msgspec import Struct

from pybuild.context.crc64 import Crc64Nvme

# Only algorithms whose result does not depend on how the object was uploaded.
_HASHES = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_CRCS = {"crc32": 4, "crc32c": 4, "crc64nvme": 8}
# RFC 9530's and RFC 3230's names for them.
_DIGEST_NAMES = {
    "sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5",
}  # fmt: skip
_PAIR = re.compile(r"\s*([A-Za-z0-9-]+)=(:?)([A-Za-z0-9+/=]+):?\s*")


class Check(Struct, frozen=True):
    """`source` says who promised it: the user, or a header of the server."""

    algorithm: str
    value: bytes
    source: str

    @property
    def shown(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"


class _Running(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Checks:
    """Feeds all bytes to what is to be checked; what this program can't compute is named in
    `unknown`."""

    def __init__(self, checks: Iterable[Check]) -> None:
        self._running: dict[str, _Running] = {}
        self._checks: list[Check] = []
        self.unknown: list[str] = []
        for check in checks:
            running = self._running.get(check.algorithm) or _new(check.algorithm)
            if running is None:
                self.unknown.append(check.algorithm)
                continue
            self._running[check.algorithm] = running
            self._checks.append(check)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._running)

    def update(self, data: bytes) -> None:
        for running in self._running.values():
            running.update(data)

    def failed(self) -> tuple[Check, str] | None:
        """The first check that does not hold, and what was found in its place."""
        for check in self._checks:
            found = self._running[check.algorithm].digest()
            if found != check.value:
                return check, f"{check.algorithm}:{found.hex()}"
        return None


def _new(algorithm: str) -> _Running | None:
    if algorithm in _HASHES:
        return hashlib.new(algorithm, usedforsecurity=False)
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "crc64nvme":
        return Crc64Nvme()
    if algorithm == "crc32c":
        try:
            import google_crc32c
        except ImportError:
            return None
        make = cast("Callable[[], _Running]", google_crc32c.Checksum)  # it has no annotations
        return make()
    return None


def by_user(text: str) -> tuple[Check, ...]:
    """`sha256:HEX`, or "" for nothing to check."""
    if not text:
        return ()
    algorithm, _, value = text.partition(":")
    return (Check(algorithm, bytes.fromhex(value), "the address"),)


def by_headers(headers: Mapping[str, str]) -> tuple[Check, ...]:
    """What a web server's answer with status 200 says of the whole: Repr-Digest, Content-Digest
    (RFC 9530), Digest (RFC 3230), Content-MD5 (RFC 1864), and Artifactory's X-Checksum-…."""
    found = []
    for name in ("repr-digest", "content-digest", "digest"):
        for pair in headers.get(name, "").split(","):
            match = _PAIR.fullmatch(pair)
            algorithm = _DIGEST_NAMES.get(match[1].lower()) if match else None
            if match and algorithm:
                found += encoded(algorithm, match[3], name)
    found += encoded("md5", headers.get("content-md5", ""), "content-md5")
    for algorithm in ("md5", "sha1", "sha256"):
        name = f"x-checksum-{algorithm}"
        text = headers.get(name, "")
        if re.fullmatch(r"[0-9a-fA-F]+", text) and len(text) == 2 * _HASHES[algorithm]:
            found.append(Check(algorithm, bytes.fromhex(text), name))
    return tuple(found)


def encoded(algorithm: str, text: str, source: str) -> list[Check]:
    """A checksum in base64; nothing where there is none, or it is of another length."""
    size = _HASHES.get(algorithm) or _CRCS.get(algorithm)
    try:
        value = b64decode(text, validate=True)
    except (BadBase64, ValueError):
        return []
    return [Check(algorithm, value, source)] if value and len(value) == size else []
