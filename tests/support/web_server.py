"""A web server of files on loopback: ranges, entity tags, digests, TLS, passwords as asked for."""

from __future__ import annotations

import hashlib
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """`files` by path; a file's `tag` changes what its ETag is. With `ranges` off everything is
    sent each time. `headers` are added to every answer, `status` is given in place of the file."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tag: str = '"1"'
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    password: str = ""  # user:password
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and Range

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]


def digest_header(content: bytes) -> dict[str, str]:
    value = b64encode(hashlib.sha256(content).digest()).decode()
    return {"Repr-Digest": f"sha-256=:{value}:"}


@contextmanager
def web_site(tls: tuple[Path, Path] | None = None) -> Iterator[Site]:
    """`tls`: a certificate and its key."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            wanted = self.headers.get("Range", "")
            site.asked.append((self.path, wanted))
            given = self.headers.get("Authorization", "")
            expected = "Basic " + b64encode(site.password.encode()).decode()
            if site.password and given != expected:
                self._give(401, b"", {"WWW-Authenticate": 'Basic realm="files"'})
            elif path in site.redirects:
                self._give(302, b"", {"Location": site.redirects[path]})
            elif path in site.status:
                self._give(site.status[path], b"no", {})
            elif path not in site.files:
                self._give(404, b"no such file", {})
            else:
                self._file(site.files[path], wanted)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.do_GET()

        def _file(self, content: bytes, wanted: str) -> None:
            headers = dict(site.headers)
            if site.tag:
                headers["ETag"] = site.tag
            same = self.headers.get("If-Range", site.tag) == site.tag
            if not (wanted and site.ranges and same):
                self._give(200, content, headers)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self._give(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._give(206, content[start:], headers)

        def _give(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: `asked` has it."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that went away."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
