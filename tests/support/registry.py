"""Debian's docker-registry (distribution) on a free loopback port, as long as a test needs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.token_server import TokenServer

_START_SECONDS = 20.0


@dataclass(frozen=True)
class Certificates:
    """A CA of our own, and a server certificate for localhost and 127.0.0.1 that it signed."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class RealRegistry:
    """`host` is what stands in references; `folder` holds its blobs, `log` what it logged."""

    host: str
    folder: Path
    log: Path


def is_available() -> bool:
    return shutil.which("docker-registry") is not None


@contextmanager
def running_registry(
    folder: Path,
    *,
    users: dict[str, str] | None = None,
    certificates: Certificates | None = None,
    tokens: TokenServer | None = None,
    read_only: bool = False,
    clients: Path | None = None,
) -> Iterator[RealRegistry]:
    """Starts a registry that keeps its blobs below `folder`, and ends it by its pid.

    With `users` (name: password) everybody has to log in by Basic, with `tokens` at a token
    server; with `certificates` it speaks TLS, and with `clients` to those alone who show a
    certificate that this authority signed; `read_only` refuses all that writes. Blobs that are
    there from another run are served again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "registry.log"
    config = folder / "config.yml"
    config.write_text(
        _config(folder, users, certificates, tokens=tokens, read_only=read_only, clients=clients)
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield RealRegistry(_wait_for_address(process, log), folder, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(
    folder: Path,
    users: dict[str, str] | None,
    certificates: Certificates | None,
    *,
    tokens: TokenServer | None,
    read_only: bool,
    clients: Path | None,
) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: false}}",
        "storage:",
        f"  filesystem: {{rootdirectory: {folder / 'data'}}}",
        "  delete: {enabled: true}",
        f"  maintenance: {{readonly: {{enabled: {str(read_only).lower()}}}}}",
        "http:",
        "  addr: 127.0.0.1:0",  # the log names the port that the system chose
        "  secret: of-a-test",
    ]
    if certificates is not None:
        lines += [
            "  tls:",
            f"    certificate: {certificates.certificate}",
            f"    key: {certificates.key}",
            *([f"    clientcas: [{clients}]"] if clients else []),
        ]
    if users is not None:
        passwords = folder / "htpasswd"
        passwords.write_text("".join(_password_line(*pair) for pair in users.items()))
        lines += ["auth:", f"  htpasswd: {{realm: test, path: {passwords}}}"]
    if tokens is not None:
        lines += [
            "auth:",
            "  token:",
            f"    realm: {tokens.realm}",
            f"    service: {tokens.service}",
            f"    issuer: {tokens.issuer}",
            f"    rootcertbundle: {tokens.certificate}",
        ]
    return "\n".join(lines) + "\n"


def _password_line(name: str, password: str) -> str:
    # bcrypt is all that distribution takes; the lowest cost keeps the tests fast.
    done = subprocess.run(
        ["htpasswd", "-nbB", "-C", "4", name, password], capture_output=True, text=True, check=True
    )
    return done.stdout.strip() + "\n"


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        match = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if match:
            return match[1]
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise RuntimeError(f"docker-registry did not start:\n{log.read_text()[-2000:]}")


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Makes a CA and a certificate for `names` (localhost) and 127.0.0.1 that it signed."""
    names = names or ("localhost",)
    folder.mkdir(parents=True, exist_ok=True)
    authority, authority_key = folder / "ca.crt", folder / "ca.key"
    certificate, key, request = folder / "server.crt", folder / "server.key", folder / "server.csr"
    extensions = folder / "server.ext"
    dns = ",".join(f"DNS:{name}" for name in names)
    extensions.write_text(f"subjectAltName={dns},IP:127.0.0.1\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/O=Tests/CN=Authority of the tests"]
    _openssl("req", "-x509", *new_key, "-keyout", authority_key, "-out", authority, *subject)
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", f"/CN={names[0]}")
    signer = ["-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "2"]
    _openssl("x509", "-req", "-in", request, *signer, "-out", certificate, "-extfile", extensions)
    return Certificates(authority, certificate, key)


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *(str(argument) for argument in arguments)]
    subprocess.run(command, check=True, capture_output=True)
