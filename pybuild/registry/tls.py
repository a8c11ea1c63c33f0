"""TLS to registries: which authorities are trusted, and why a certificate was not.

Only imported when https is spoken, since loading OpenSSL takes longer than a small request.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pybuild.errors import RegistryError
from pybuild.registry.der import elements
from pybuild.registry.errors import (
    BadCertificateFile,
    CertificateNotTrusted,
    RegistryUnreachable,
)
from pybuild.registry.trust import added_files, authority_files

_REASONS = {  # X509_V_ERR_*, openssl-verification-options(1)
    9: "it is not valid yet (is this machine's clock right?)",
    10: "it has expired",
    18: "it is signed by itself",
    19: "its chain ends in an authority that is not known here",
    20: "its authority is not known here",
    21: "its authority is not known here",
    62: "it was made for another name",
    64: "it was made for another address",
}
_NAME_ERRORS = (62, 64)


def make_context(
    authority: Path | None,
    client: tuple[Path, Path] | None,
    environment: Mapping[str, str],
) -> ssl.SSLContext:
    """A context that verifies, trusting the system's authorities and `authority` besides.

    Raises BadCertificateFile when a file that was named for this host can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _trust_system(context, environment)
    if authority is not None:
        try:
            context.load_verify_locations(cafile=authority)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificateFile(
                f"the registry certificate {authority} can't be used: {_plain(error)}",
                hint="give a file with one or more certificates in PEM form",
            ) from error
    if client is not None:
        certificate, key = client
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificateFile(
                f"the client certificate {certificate} with key {key} can't be used: "
                f"{_plain(error)}"
            ) from error
    return context


def unverified(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trust_system(context: ssl.SSLContext, environment: Mapping[str, str]) -> None:
    context.set_default_verify_paths()
    paths = ssl.get_default_verify_paths()
    changed = environment.get("SSL_CERT_FILE") or environment.get("SSL_CERT_DIR")
    # The system's own folder is read by OpenSSL as it is needed, which saves 15 ms. In another
    # folder it knows only names made by c_rehash; kaniko's holds plain files, as Go reads them.
    as_usual = not changed and (paths.cafile or paths.capath)
    for path in added_files(environment) if as_usual else authority_files(environment):
        # A file without certificates in such a folder is nothing to complain about.
        with suppress(OSError, ssl.SSLError):
            context.load_verify_locations(cafile=path)


def wrap(
    sock: socket.socket,
    context: ssl.SSLContext,
    host: str,
    name: str,
    *,
    begun: Callable[[socket.socket], None],
) -> ssl.SSLSocket:
    """The TLS handshake with `name`; `host` is what the user wrote. `begun` is given the new
    socket before anything is waited for. Raises RegistryError, or OSError where the connection
    broke; the socket is closed then."""
    address = sock.getpeername()[:2]
    tls = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    try:
        begun(tls)
        tls.do_handshake()
    except BaseException as error:
        tls.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            raise _not_trusted(error, address, host, name) from error
        if isinstance(error, ssl.SSLError):
            raise _no_tls(error, host) from error
        raise
    return tls


def _no_tls(error: ssl.SSLError, host: str) -> RegistryError:
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return RegistryUnreachable(
            f"{host} does not speak TLS: it seems to be a plain HTTP server",
            hint=f"allow plain HTTP with --insecure-registry={host}",
        )
    if refusal := client_refused(error, host):
        return refusal
    return RegistryUnreachable(f"no TLS connection with {host} came about: {_plain(error)}")


def client_refused(error: OSError, host: str) -> CertificateNotTrusted | None:
    """Whether `error` is the other side's alert that our certificate is missing or none of its
    own (RFC 8446, 6.2). With TLS 1.3 that comes in place of the first answer."""
    reason = error.reason or "" if isinstance(error, ssl.SSLError) else ""
    if isinstance(error, ssl.SSLCertVerificationError) or "ALERT" not in reason:
        return None
    if "CERTIFICATE" not in reason and "UNKNOWN_CA" not in reason:
        return None
    return CertificateNotTrusted(
        f"{host} did not accept our client certificate, or wants one: {_plain(error)}",
        hint=f"give one with --registry-client-cert={host}=/path/cert.pem,/path/key.pem",
    )


def _not_trusted(
    error: ssl.SSLCertVerificationError, address: tuple[str, int], host: str, name: str
) -> CertificateNotTrusted:
    reason = _REASONS.get(error.verify_code, error.verify_message)
    subject, issuer = _names_presented(address, name)
    whose = f" (for {subject}, issued by {issuer})" if issuer else ""
    hint = (
        f"give the authority's certificate with --registry-certificate={host}=/path/ca.crt, "
        f"or in SSL_CERT_FILE; --skip-tls-verify-registry={host} switches the check off"
    )
    if error.verify_code in _NAME_ERRORS:
        hint = (
            "use the name that the certificate was made for; "
            f"--skip-tls-verify-registry={host} switches the check off"
        )
    return CertificateNotTrusted(
        f"the certificate of {host} is not trusted: {reason}{whose}", hint=hint
    )


def _names_presented(address: tuple[str, int], name: str) -> tuple[str, str]:
    """Subject and issuer of the certificate at the other end; empty where that can't be told.

    A failed handshake does not keep the certificate, so it is asked for once more, and nothing
    is said over that connection. Through a proxy there is no second way to it.
    """
    context = unverified(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        with (
            socket.create_connection(address, timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            encoded = tls.getpeercert(binary_form=True) or b""
        return names_in_certificate(encoded)
    except (OSError, ValueError, IndexError):
        return "", ""


def names_in_certificate(encoded: bytes) -> tuple[str, str]:
    """Subject and issuer of a DER certificate (RFC 5280, 4.1), their common names or, where
    there is none, their organizations. Raises ValueError or IndexError when it is broken."""
    certificate = elements(elements(encoded)[0][1])
    fields = [item for item in elements(certificate[0][1]) if item[0] != 0xA0]  # version
    return _name(fields[4][1]), _name(fields[2][1])


def _name(encoded: bytes) -> str:
    found: dict[bytes, str] = {}
    for _, group in elements(encoded):
        for _, pair in elements(group):
            kind, value = elements(pair)[:2]
            found[kind[1]] = value[1].decode("utf-8", "replace")
    common, organization = b"\x55\x04\x03", b"\x55\x04\x0a"
    text = found.get(common) or found.get(organization) or ""
    return "".join(letter for letter in text if letter.isprintable())


def _plain(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error)
