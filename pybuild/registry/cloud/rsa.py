"""RS256 signatures (RFC 7518, 3.3) with a private key in PEM form.

Signing is one modular power, which is no reason to carry a library of megabytes. It is blinded,
since Python's numbers take a time that depends on their value, and verified before it is used.
"""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256

from msgspec import Struct

from pybuild.registry.der import elements, from_pem

# DigestInfo of SHA-256 (RFC 8017, 9.2, note 1)
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
_INTEGER, _SEQUENCE = 0x02, 0x30


class RsaKey(Struct, frozen=True):
    modulus: int
    exponent: int
    secret: int

    def __repr__(self) -> str:
        return f"RsaKey({self.modulus.bit_length()} bits)"

    def sign(self, message: bytes) -> bytes:
        """An RSASSA-PKCS1-v1_5 signature with SHA-256 (RFC 8017, 8.2)."""
        size = (self.modulus.bit_length() + 7) // 8
        ending = _SHA256 + sha256(message).digest()
        padded = b"\x00\x01" + b"\xff" * (size - len(ending) - 3) + b"\x00" + ending
        number = int.from_bytes(padded, "big")
        while True:
            blind = secrets.randbelow(self.modulus - 2) + 2
            try:
                unblind = pow(blind, -1, self.modulus)
                break
            except ValueError:  # shares a factor with the modulus: practically never
                continue
        blinded = number * pow(blind, self.exponent, self.modulus) % self.modulus
        signature = pow(blinded, self.secret, self.modulus) * unblind % self.modulus
        if pow(signature, self.exponent, self.modulus) != number:
            raise ValueError("the private key does not fit together")
        return signature.to_bytes(size, "big")


def parse_private_key(pem: str) -> RsaKey:
    """From PKCS #8 (RFC 5958) or PKCS #1 (RFC 8017, A.1.2). Raises ValueError."""
    try:
        fields = elements(elements(from_pem(pem))[0][1])
        if fields[1][0] == _SEQUENCE:  # PKCS #8: version, algorithm, then the key in octets
            fields = elements(elements(fields[2][1])[0][1])
        modulus, exponent, secret = (
            int.from_bytes(content, "big") for tag, content in fields[1:4] if tag == _INTEGER
        )
    except (IndexError, ValueError):
        raise ValueError("this is no RSA private key in PEM form") from None
    if modulus.bit_length() < 1024:
        raise ValueError("the RSA key is too short")
    return RsaKey(modulus, exponent, secret)


def signed_jwt(key: RsaKey, header: Mapping[str, object], claims: Mapping[str, object]) -> str:
    """A JWT in compact form (RFC 7519)."""
    text = f"{_encoded({'alg': 'RS256', 'typ': 'JWT', **header})}.{_encoded(claims)}"
    return f"{text}.{_base64(key.sign(text.encode()))}"


def _encoded(value: Mapping[str, object]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
