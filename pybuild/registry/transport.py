"""Connections to hosts: kept alive and shared, through proxies, plain or TLS, with redirects.

Knows nothing of repositories or tokens. Thread-safe: a connection belongs to one thread from the
request until the end of the answer's body.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import RegistryError
from pybuild.registry.dial import dial, open_tunnel, proxy_authorization
from pybuild.registry.errors import RegistryUnreachable, RequestRefused
from pybuild.registry.options import Purpose, RegistryOptions, is_loopback, split_host
from pybuild.registry.retry import Transient
from pybuild.registry.wire import BadReply, Body, Reply, Wire

if TYPE_CHECKING:
    import ssl

_IDLE_PER_HOST = 8
_REDIRECTS = 6
_CONNECT_SECONDS = 20.0
# Answers of servers that were spoken to in plain HTTP and wanted TLS: Go's, nginx's, Apache's.
_WANTS_TLS = (b"HTTPS server", b"HTTPS port", b"SSL-enabled server")


class Endpoint(Struct, frozen=True):
    """How a host is spoken to. `challenge` is the WWW-Authenticate that it was met with, if it
    was probed at all."""

    scheme: str
    host: str
    verify: bool = True
    challenge: str = ""

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{path}"


class Transport:
    def __init__(
        self,
        options: RegistryOptions,
        user_agent: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._options = options
        self._user_agent = user_agent
        self._environment = os.environ if environment is None else environment
        self._lock = threading.Lock()
        self._probing: dict[str, threading.Lock] = {}
        self._endpoints: dict[tuple[str, Purpose], Endpoint] = {}
        self._idle: dict[Endpoint, list[Wire]] = {}
        self._wires: set[Wire] = set()
        self._dialing: set[socket.socket] = set()  # connected, not yet in use
        self._contexts: dict[Endpoint, ssl.SSLContext] = {}
        self._has_proxy = any(
            self._environment.get(name)
            for kind in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
            for name in (kind, kind.lower())
        )
        self.closed = threading.Event()

    def close(self) -> None:
        """Ends all connections, also those that other threads are waiting on."""
        self.closed.set()
        with self._lock:
            wires, self._wires = self._wires, set()
            idle, self._idle = self._idle, {}
            dialing = tuple(self._dialing)
        for sock in dialing:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for wire in wires:
            wire.abort()
        for parked in idle.values():
            for wire in parked:
                wire.close()

    def endpoint(self, host: str, purpose: Purpose) -> Endpoint:
        """Finds out how `host` is spoken to: TLS, unless it may be plain HTTP and is."""
        known = self._endpoints.get((host, purpose))
        if known is not None:
            return known
        with self._lock:
            lock = self._probing.setdefault(host, threading.Lock())
        with lock:
            known = self._endpoints.get((host, purpose))
            if known is None:
                known = self._find_endpoint(host, purpose)
                self._endpoints[host, purpose] = known
            return known

    def _find_endpoint(self, host: str, purpose: Purpose) -> Endpoint:
        for other in Purpose:
            known = self._endpoints.get((host, other))
            # A flag for pushes also counts where the cache is read from that host.
            if known is not None and (known.scheme == "http" or not known.verify):
                return known
        tls = Endpoint("https", host, self._options.verifies(host, purpose))
        plain = Endpoint("http", host)
        if not self._options.may_be_plain(host, purpose):
            return tls
        if split_host(host)[1] is None and not is_loopback(host):
            # Without a port these are two servers, and the safe one comes first.
            first, second = tls, plain
        else:
            first, second = plain, tls
        try:
            return self._probe(first)
        except (RegistryError, Transient):
            return self._probe(second)

    def _probe(self, endpoint: Endpoint) -> Endpoint:
        """Asks for /v2/ without credentials. Raises when the host does not speak this scheme."""
        reply = self.exchange(endpoint, "GET", endpoint.url("/v2/"), {}, b"")
        location = reply.header("location")
        body = reply.read(1 << 20)
        wants_tls = reply.status == 400 and any(text in body for text in _WANTS_TLS)
        if wants_tls or (300 <= reply.status < 400 and location.startswith("https:")):
            raise RegistryUnreachable(f"{endpoint.host} wants TLS")
        challenge = reply.header("www-authenticate") if reply.status == 401 else ""
        return replace(endpoint, challenge=challenge)

    def request(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = b"",
        *,
        purpose: Purpose = Purpose.PULL,
    ) -> Reply:
        """Sends a request to `endpoint` and follows redirects of GET and HEAD.

        Raises Transient when the connection fails, RegistryError when trying again is no use.
        """
        headers = dict(headers)
        for _ in range(_REDIRECTS):
            reply = self.exchange(endpoint, method, url, headers, body)
            location = reply.header("location")
            if method not in ("GET", "HEAD") or not location or reply.status not in _MOVED:
                return reply
            reply.close()
            target = urljoin(url, location)
            endpoint = self.endpoint_of(target, endpoint, purpose)
            if urlsplit(url).netloc != urlsplit(target).netloc:
                headers.pop("Authorization", None)  # it is meant for the registry alone
            url = target
        raise RequestRefused(f"{endpoint.host} redirects without end")

    def endpoint_of(self, url: str, asked: Endpoint, purpose: Purpose) -> Endpoint:
        """The endpoint that an absolute URL names; the one that was asked when it is the same."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestRefused(f"{asked.host} redirects to {url[:80]!r}, which is no web address")
        if (parts.scheme, parts.netloc) == (asked.scheme, asked.host):
            return asked
        host = parts.netloc.rpartition("@")[2]
        verify = parts.scheme == "http" or self._options.verifies(host, purpose)
        return Endpoint(parts.scheme, host, verify)

    def exchange(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: Body
    ) -> Reply:
        """One request and its answer, whatever it is; redirects are not followed. Raises as
        `request`."""
        parts = urlsplit(url)
        proxy = self._proxy_for(endpoint)
        head = self._head(method, parts, headers, body, proxy if parts.scheme == "http" else None)
        key = replace(endpoint, challenge="")
        while True:
            wire, parked = self._take(key, proxy)
            try:
                return wire.exchange(method, head, body)
            except (OSError, BadReply) as error:
                self._drop(wire)
                # The other side may close an idle connection just as it is used again.
                if parked and isinstance(body, bytes) and not isinstance(error, TimeoutError):
                    continue
                raise self._broken(endpoint, error) from error
            except BaseException:
                self._drop(wire)  # a body that failed half way, or an interrupt
                raise

    def _broken(self, endpoint: Endpoint, error: OSError | BadReply) -> Transient | RegistryError:
        if self.closed.is_set():
            return Transient(RegistryUnreachable(f"the connection to {endpoint.host} was ended"))
        if endpoint.scheme == "https" and isinstance(error, OSError):
            from pybuild.registry import tls

            if refusal := tls.client_refused(error, endpoint.host):
                return refusal
        if isinstance(error, TimeoutError):
            text = f"{endpoint.host} did not answer within {self._options.timeout_seconds:g} s"
        else:
            text = f"the connection to {endpoint.host} broke: {_why(error)}"
        return Transient(RegistryUnreachable(text))

    def _head(
        self,
        method: str,
        url: SplitResult,
        headers: Mapping[str, str],
        body: Body,
        proxy: SplitResult | None,
    ) -> bytes:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if proxy is not None:
            target = f"http://{url.netloc}{target}"
        lines = [f"{method} {target} HTTP/1.1", f"Host: {url.netloc.rpartition('@')[2]}"]
        lines.append(f"User-Agent: {self._user_agent}")
        # Blobs are compressed already, and their digest is over the bytes as stored.
        lines.append("Accept-Encoding: identity")
        if isinstance(body, bytes) and (body or method in ("POST", "PUT", "PATCH")):
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if proxy is not None:
            lines += proxy_authorization(proxy)
        if not all(line.isprintable() for line in lines):
            raise RequestRefused("a header of the request would hold a control character")
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"

    # Connections

    def _take(self, key: Endpoint, proxy: SplitResult | None) -> tuple[Wire, bool]:
        """A connection, and whether it was used before."""
        while True:
            with self._lock:
                parked = self._idle.get(key)
                wire = parked.pop() if parked else None
            if wire is None:
                break
            if not wire.is_stale():
                return wire, True
            self._drop(wire)
        if self.closed.is_set():
            raise Transient(RegistryUnreachable(f"the connection to {key.host} was ended"))
        sock = self._connect(key, proxy)
        wire = Wire(sock, self._options.timeout_seconds, lambda free: self._park(key, free))
        with self._lock:
            self._wires.add(wire)
        return wire, False

    def _park(self, key: Endpoint, wire: Wire) -> None:
        with self._lock:
            parked = self._idle.setdefault(key, [])
            if wire.reusable and len(parked) < _IDLE_PER_HOST and not self.closed.is_set():
                parked.append(wire)
                return
        self._drop(wire)

    def _drop(self, wire: Wire) -> None:
        wire.close()
        with self._lock:
            self._wires.discard(wire)

    def _connect(self, key: Endpoint, proxy: SplitResult | None) -> socket.socket:
        name, port = split_host(key.host)
        target = (name, port or (443 if key.scheme == "https" else 80))
        address = target
        if proxy is not None:
            address = (proxy.hostname or "", proxy.port or 80)
        try:
            seconds = min(_CONNECT_SECONDS, self._options.timeout_seconds)
            sock = dial(address, seconds, self.closed)
        except OSError as error:
            raise self._not_connected(key, error, proxy) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if key.scheme == "http" else self._secured(sock, key, target, proxy)

    def _secured(
        self,
        sock: socket.socket,
        key: Endpoint,
        target: tuple[str, int],
        proxy: SplitResult | None,
    ) -> socket.socket:
        """TLS over a connection, through the proxy's tunnel where there is one."""
        with self._watched() as begun:
            try:
                begun(sock)
                if proxy is not None:
                    open_tunnel(sock, target, proxy)
                from pybuild.registry import tls

                return tls.wrap(sock, self._context(key), key.host, target[0], begun=begun)
            except OSError as error:
                sock.close()
                raise Transient(
                    RegistryUnreachable(f"no TLS connection with {key.host}: {_why(error)}")
                ) from error
            except BaseException:
                sock.close()
                raise

    @contextmanager
    def _watched(self) -> Iterator[Callable[[socket.socket], None]]:
        """Sockets named to what this gives are ended by `close`, as long as this is open."""
        begun: list[socket.socket] = []

        def note(sock: socket.socket) -> None:
            begun.append(sock)
            with self._lock:
                self._dialing.add(sock)
            if self.closed.is_set():
                raise OSError("it was ended")

        try:
            yield note
        finally:
            with self._lock:
                self._dialing.difference_update(begun)

    def _context(self, key: Endpoint) -> ssl.SSLContext:
        from pybuild.registry import tls

        with self._lock:
            context = self._contexts.get(key)
            if context is None:
                context = tls.make_context(
                    self._options.certificates.get(key.host),
                    self._options.client_certificates.get(key.host),
                    self._environment,
                )
                self._contexts[key] = context if key.verify else tls.unverified(context)
            return context

    def _not_connected(
        self, key: Endpoint, error: OSError, proxy: SplitResult | None
    ) -> Transient | RegistryUnreachable:
        over = hint = ""
        if proxy is not None:
            port = f":{proxy.port}" if proxy.port else ""
            over = f" through the proxy {proxy.hostname}{port}"
            hint = f"check the proxy's address in the environment; NO_PROXY={key.host} goes past it"
        if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
            return RegistryUnreachable(
                f"the name of the registry {key.host}{over} is not known: {_why(error)}",
                hint=hint or "check the reference for a spelling mistake, and the container's DNS",
            )
        return Transient(
            RegistryUnreachable(
                f"no connection to {key.host}{over}: {_why(error)}",
                hint=hint
                or "check the host and port of the reference, and that the registry is up",
            )
        )

    def _proxy_for(self, endpoint: Endpoint) -> SplitResult | None:
        if not self._has_proxy:
            return None
        from pybuild.registry.proxies import find_proxy

        return find_proxy(endpoint.scheme, endpoint.host, self._environment)


_MOVED = frozenset({301, 302, 303, 307, 308})


def _why(error: OSError | BadReply) -> str:
    if isinstance(error, BadReply):
        return str(error)
    if isinstance(error, TimeoutError) and not error.strerror:
        return "it timed out"
    reason = getattr(error, "reason", None)  # of TLS
    if isinstance(reason, str):
        return reason.replace("_", " ").lower()
    return (error.strerror or str(error)).lower()
