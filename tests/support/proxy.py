"""What stands between a builder and a registry: an HTTP proxy that writes down what is asked,
changes it or answers in its place; one that cuts connections; one that knows only CONNECT."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Asked:
    """A request that came, and what it was answered with (0: the connection was closed)."""

    method: str
    path: str
    status: int


@dataclass(frozen=True)
class Instead:
    """An answer in the registry's place; status 0 closes the connection without one."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Spoil:
    """Passes a request on, with something going wrong on its way: the connection ends after so
    many bytes of the answer's or the request's body, a byte of them is another, the answer's
    length is not what is told, or nothing comes at all."""

    cut_after: int | None = None
    cut_upload_after: int | None = None
    flip: bool = False
    flip_upload: bool = False
    length: int = 0
    loses_answer: bool = False  # the registry has done it, and nobody hears of it
    hangs: bool = False


class _Cut(Exception):
    """The connection is to end here."""


Rule = Callable[[str, str], Instead | Spoil | None]


@dataclass
class RegistryProxy:
    """`rule` is asked for every request, by method and path; None lets it through."""

    host: str
    asked: list[Asked] = field(default_factory=list)
    rule: Rule | None = None

    def forget(self) -> None:
        self.asked.clear()

    def count(self, method: str, pattern: str) -> int:
        """How many requests there were whose path matches."""
        return len(self.matching(method, pattern))

    def matching(self, method: str, pattern: str) -> list[Asked]:
        return [one for one in self.asked if one.method == method and re.search(pattern, one.path)]


@contextmanager
def running_proxy(target: str) -> Iterator[RegistryProxy]:
    """Passes everything on to `target` (host:port). The Host header stays as it came, so that
    the addresses in answers lead back here."""
    proxy = RegistryProxy("")
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            what = proxy.rule(self.command, self.path) if proxy.rule else None
            size = int(self.headers.get("Content-Length") or 0)
            if isinstance(what, Instead):
                self._answer_instead(what, size)
                return
            try:
                self._pass_on(what or Spoil(), size)
            except _Cut:
                proxy.asked.append(Asked(self.command, self.path, 0))
                self.close_connection = True
                with suppress(OSError):
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)

        def _pass_on(self, spoil: Spoil, size: int) -> None:
            if spoil.hangs:
                ended.wait(30)
                raise _Cut
            upstream = http.client.HTTPConnection(target, timeout=60)
            try:
                upstream.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        upstream.putheader(name, value)
                chunked = self.headers.get("Transfer-Encoding", "") == "chunked"
                body = self._body(size, chunked)
                upstream.endheaders(self._spoiled(body, spoil), encode_chunked=False)
                reply = upstream.getresponse()
                if spoil.loses_answer:
                    reply.read()
                    raise _Cut
                cut = spoil.cut_after is not None or bool(spoil.length)
                proxy.asked.append(Asked(self.command, self.path, 0 if cut else reply.status))
                self.close_connection |= cut
                self._give(reply, spoil)
            finally:
                upstream.close()

        def _body(self, size: int, chunked: bool) -> Iterator[bytes]:
            assert not chunked, "the builder always tells the length"
            while size:
                data = self.rfile.read(min(size, _CHUNK))
                if not data:
                    return
                size -= len(data)
                yield data

        def _spoiled(self, body: Iterator[bytes], spoil: Spoil) -> Iterator[bytes]:
            left = spoil.cut_upload_after
            for data in body:
                if left is not None and len(data) > left:
                    yield data[:left]
                    raise _Cut
                if left is not None:
                    left -= len(data)
                yield flipped(data) if spoil.flip_upload else data

        def _give(self, reply: http.client.HTTPResponse, spoil: Spoil) -> None:
            self.send_response_only(reply.status)
            for name, value in reply.getheaders():
                if name.lower() == "content-length":
                    self.send_header(name, str(int(value) + spoil.length))
                elif name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            if reply.getheader("Content-Length") is None:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            left = spoil.cut_after
            while data := reply.read(_CHUNK):
                data = flipped(data) if spoil.flip else data
                self.wfile.write(data if left is None else data[:left])
                if left is not None and len(data) >= left:
                    return
                if left is not None:
                    left -= len(data)

        def _answer_instead(self, instead: Instead, size: int) -> None:
            for _ in self._body(size, chunked=False):
                pass
            proxy.asked.append(Asked(self.command, self.path, instead.status))
            if not instead.status:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response_only(instead.status)
            self.send_header("Content-Type", instead.content_type)
            for header in instead.headers:
                self.send_header(*header)
            self.send_header("Content-Length", str(len(instead.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(instead.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: `asked` has it."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A builder that was stopped, or closed its connection: nobody's fault."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def flipped(data: bytes) -> bytes:
    """The same with another last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


class _Passing:
    """Takes connections on loopback and hands each to `serve`, in threads of its own."""

    def __init__(self, target: str) -> None:
        name, _, port = target.partition(":")
        self._target = (name, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(ours,), daemon=True).start()

    def serve(self, ours: socket.socket) -> None:
        self.join(ours, socket.create_connection(self._target))

    def join(self, ours: socket.socket, theirs: socket.socket) -> None:
        threading.Thread(target=self.copy, args=(theirs, ours, False), daemon=True).start()
        self.copy(ours, theirs, True)

    def copy(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class CuttingProxy(_Passing):
    """Ends the first connection that sends more than `cut_after` bytes upwards."""

    def __init__(self, target: str, cut_after: int) -> None:
        super().__init__(target)
        self._left = cut_after
        self.cut = False

    def copy(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
                if upwards and not self.cut:
                    self._left -= len(data)
                    self.cut = self._left < 0
                    if self.cut:
                        break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Tunnel(_Passing):
    """Knows only CONNECT, and leads all names to one server. With `pair` (user:password) it wants
    to be logged in to."""

    def __init__(self, target: str, pair: str = "") -> None:
        super().__init__(target)
        self._pair = pair
        self.heads: list[bytes] = []

    def serve(self, ours: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = ours.recv(4096)
            if not part:
                ours.close()
                return
            head += part
        self.heads.append(head)
        if self._pair and b64encode(self._pair.encode()) not in head:
            ours.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            ours.close()
            return
        ours.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        super().serve(ours)
