"""Which files hold the authorities that are trusted, for registries, git and downloads alike.

As OpenSSL and Go have it: SSL_CERT_FILE in place of the system's bundle, SSL_CERT_DIR (several
parted by ":") for further files. kaniko's image reads all that lies in /kaniko/ssl/certs, where
people mount the certificate of their own authority, so that folder counts wherever it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

KANIKO_CERTIFICATES = Path("/kaniko/ssl/certs")
# Where distributions keep their bundle; a Python built elsewhere looks in none of them.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.r?\d+")  # c_rehash's second names of the same files


def authority_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The system's bundle and what was added to it; what does not exist is left out."""
    named = environment.get("SSL_CERT_FILE", "")
    bundles = (named,) if named else _BUNDLES
    found = [path for name in bundles if (path := Path(name)).is_file()][:1]
    return tuple(dict.fromkeys([*found, *added_files(environment)]))


def added_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """What SSL_CERT_DIR and kaniko's folder hold."""
    folders = [name for name in environment.get("SSL_CERT_DIR", "").split(os.pathsep) if name]
    found: list[Path] = []
    for folder in dict.fromkeys([*map(Path, folders), KANIKO_CERTIFICATES]):
        found += _plain_files(folder)
    return tuple(dict.fromkeys(found))


def added_bundle(environment: Mapping[str, str]) -> bytes | None:
    """All authorities as one PEM text, for programs that take one file; None where nothing was
    added to what the system trusts anyway."""
    if not environment.get("SSL_CERT_FILE") and not added_files(environment):
        return None
    parts: list[bytes] = []
    for path in authority_files(environment):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if b"-----BEGIN" in content:
            parts.append(content.rstrip() + b"\n")
    return b"".join(parts) or None


def _plain_files(folder: Path) -> Iterator[Path]:
    """Kubernetes mounts a secret as links below a hidden folder, which is not gone into."""
    if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        for path in sorted(folder.iterdir()):
            if not _HASHED_NAME.fullmatch(path.name) and path.is_file():
                yield path
