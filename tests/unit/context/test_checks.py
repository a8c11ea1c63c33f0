"""Checksums of downloads."""

from __future__ import annotations

import hashlib
import sys
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.context.checks import Check, Checks, by_headers, by_user, encoded
from pybuild.context.crc64 import Crc64Nvme

CHECKED = b"123456789"  # what the catalogue of CRC algorithms is computed over
KNOWN = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "md5": "25f9e794323b453885f5181f1b624d0b",
}


@pytest.mark.parametrize("algorithm", KNOWN)
def test_known_values(algorithm: str) -> None:
    checks = Checks([Check(algorithm, bytes.fromhex(KNOWN[algorithm]), "test")])
    for byte in CHECKED:
        assert checks.failed() is not None
        checks.update(bytes([byte]))
    assert checks.failed() is None and checks.names == (algorithm,)


def bit_by_bit(data: bytes) -> bytes:
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
    return (value ^ ((1 << 64) - 1)).to_bytes(8, "big")


@given(st.binary(max_size=3000), st.integers(1, 4000), st.integers(0, 300))
def test_folding_gives_what_bits_give(data: bytes, step: int, zeros: int) -> None:
    data = bytes(zeros) + data
    running = Crc64Nvme()
    for start in range(0, len(data), step):
        running.update(data[start : start + step])
    assert running.digest() == bit_by_bit(data)


def test_a_large_buffer() -> None:
    data = hashlib.shake_256(b"x").digest((1 << 18) + 12345)
    running = Crc64Nvme()
    running.update(data)
    assert running.digest() == bit_by_bit(data)


def test_headers_of_servers() -> None:
    sha = b64encode(hashlib.sha256(CHECKED).digest()).decode()
    md5 = b64encode(hashlib.md5(CHECKED).digest()).decode()
    found = by_headers(
        {
            "repr-digest": f"sha-256=:{sha}:, unknown=:AAAA:",
            "digest": f"SHA-256={sha}, adler32=03da0195",
            "content-md5": md5,
            "x-checksum-sha1": hashlib.sha1(CHECKED).hexdigest(),
            "x-checksum-sha256": "no hex",
        }
    )
    assert {(check.algorithm, check.source) for check in found} == {
        ("sha256", "repr-digest"), ("sha256", "digest"), ("md5", "content-md5"),
        ("sha1", "x-checksum-sha1"),
    }  # fmt: skip
    checks = Checks(found)
    checks.update(CHECKED)
    assert checks.failed() is None


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "AAAAAA==-3"])
def test_what_is_no_checksum_is_none(text: str) -> None:
    """S3 writes `…-3` for one over the checksums of three parts."""
    assert encoded("crc32", text, "x") == []


def test_the_user_has_the_word() -> None:
    [check] = by_user(f"sha256:{'0' * 64}")
    checks = Checks([check])
    failed = checks.failed()
    assert failed is not None and failed[0].source == "the address"
    assert failed[1] == f"sha256:{hashlib.sha256(b'').hexdigest()}"
    assert by_user("") == ()


def test_without_the_extra_one_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    checks = Checks([Check("crc32c", bytes(4), "x")])
    checks.update(b"anything")
    assert checks.unknown == ["crc32c"] and checks.failed() is None
