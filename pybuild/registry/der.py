"""As much of DER (X.690) as certificates and private keys need."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """The (tag, content) pairs of DER in a row (8.1). Raises ValueError or IndexError."""
    items: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[position : position + count], "big")
            position += count
        if position + length > len(data):
            raise ValueError("an element is longer than what holds it")
        items.append((tag, data[position : position + length]))
        position += length
    return items


def from_pem(text: str) -> bytes:
    """The first block of a PEM file (RFC 7468). Raises ValueError."""
    body = text.partition("-----BEGIN ")[2].partition("-----")[2].partition("-----END")[0]
    try:
        return b64decode("".join(body.split()), validate=True)
    except Error as error:
        raise ValueError("this is no PEM") from error
