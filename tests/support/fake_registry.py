"""A distribution server in this process that misbehaves on demand.

It holds everything in memory, logs each request, and has a switch for what real registries do
only on a bad day. All switches may be set at any time; counts go down with each use.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Request:
    """One line of the log. `target` is path and query, `sent` the length of the body."""

    method: str
    target: str
    authorization: str
    range: str = ""
    sent: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass
class Failure:
    """An answer given instead of the right one, to requests whose method and path hold `what`."""

    what: str
    status: int
    times: int
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0  # so many such requests are let through first


@dataclass
class _Upload:
    repository: str
    data: bytearray = field(default_factory=bytearray)


class FakeRegistry:
    """`host` stands in references. Use it as a context, or by `running()`."""

    def __init__(self) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}  # repository: digest: content
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}  # repository: tag or digest
        self.requests: list[Request] = []
        self.failures: list[Failure] = []
        self.denied: set[str] = set()  # "push", "pull"
        self.users: dict[str, str] = {}  # Basic, or the token server's where `bearer` is set
        self.refresh_tokens: set[str] = set()
        self.bearer = False
        self.bearer_anonymous = True  # whether the token server serves who does not log in
        self.denied_scopes: set[str] = set()  # repositories that no token is given for
        self.token_seconds = 300
        self.cut_after: list[int] = []  # a blob's answer ends after so many bytes, one each
        self.cut_upload_after: list[int] = []  # an upload's connection ends, one each
        self.keeps_uploads = True  # what arrived before the cut is kept
        self.knows_ranges = True
        self.mounts = True  # else 202, as if the source were not there
        self.wrong_bytes = False  # blobs and manifests are changed on their way
        self.wrong_once: set[str] = set()  # the next "manifest" or "config" is changed
        self.wrong_length = 0  # added to the Content-Length of blobs
        self.wrong_digest_header = False
        self.seconds = 0.0  # each answer waits so long
        self.stalls: list[str] = []  # "METHOD /path" that holds one of these gets no answer
        self.stalled = threading.Event()  # set once a request waits so
        self.dies_at = ""  # a "METHOD /path" that holds it is the last thing this server sees
        self._ending = threading.Event()
        self.redirect_blobs = ""  # base URL of another server that blobs are fetched from
        self._uploads: dict[str, _Upload] = {}
        self._tokens: dict[str, tuple[frozenset[str], float]] = {}
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> FakeRegistry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    # For tests: what to do, and what was done

    def deny(self, *actions: str) -> None:
        """Refuses "push" or "pull" with 403, whatever the credentials."""
        self.denied.update(actions)

    def fail(self, what: str, status: int, times: int = 1, **more: Any) -> None:
        """Answers `status` to the next `times` requests whose "METHOD /path" holds `what`; 0
        ends the connection without an answer."""
        self.failures.append(Failure(what, status, times, **more))

    def add_blob(self, repository: str, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs.setdefault(repository, {})[digest] = content
        return digest

    def add_manifest(
        self, repository: str, tag: str, content: bytes, media_type: str = OCI_MANIFEST
    ) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        held = self.manifests.setdefault(repository, {})
        held[digest] = (media_type, content)
        if tag:
            held[tag] = (media_type, content)
        return digest

    def count(self, method: str, part: str = "") -> int:
        """How many requests there were with this method whose target holds `part`."""
        with self._lock:
            return sum(entry.method == method and part in entry.target for entry in self.requests)

    @property
    def blob_gets(self) -> int:
        return self.count("GET", "/blobs/sha256:")

    @property
    def log(self) -> list[str]:
        with self._lock:
            return [str(entry) for entry in self.requests]

    def forget_requests(self) -> None:
        with self._lock:
            self.requests.clear()

    def expire_tokens(self) -> None:
        self._tokens.clear()

    @property
    def tags(self) -> dict[str, list[str]]:
        """All names of manifests but digests, by repository; repositories without any left out."""
        named = {
            repository: sorted(name for name in held if not name.startswith("sha256:"))
            for repository, held in self.manifests.items()
        }
        return {repository: names for repository, names in named.items() if names}

    # For the handler

    def stall(self, line: str) -> None:
        """Waits until the server ends, where the request is one to be stalled."""
        if any(what in line for what in self.stalls):
            self.stalled.set()
            self._ending.wait()

    def die(self) -> None:
        """No further connection is taken, as after a crash."""
        threading.Thread(target=self._server.shutdown).start()
        self._server.socket.close()

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def failure_for(self, line: str) -> Failure | None:
        with self._lock:
            for failure in self.failures:
                if failure.times > 0 and failure.what in line:
                    if failure.after:
                        failure.after -= 1
                        continue
                    failure.times -= 1
                    return failure
        return None

    def new_token(self, scopes: frozenset[str]) -> str:
        token = f"token-{len(self._tokens)}"
        self._tokens[token] = (scopes, time.monotonic() + self.token_seconds)
        return token

    def scopes_of(self, token: str) -> frozenset[str] | None:
        scopes, until = self._tokens.get(token, (frozenset(), 0.0))
        return scopes if until > time.monotonic() else None

    def password_fits(self, authorization: str) -> bool:
        kind, _, encoded = authorization.partition(" ")
        if kind != "Basic":
            return False
        name, _, password = b64decode(encoded).decode().partition(":")
        return self.users.get(name) == password

    def new_upload(self, repository: str) -> str:
        with self._lock:
            name = f"upload-{len(self._uploads)}"
            self._uploads[name] = _Upload(repository)
        return name

    def upload(self, name: str) -> _Upload | None:
        return self._uploads.get(name)

    def drop_upload(self, name: str) -> None:
        self._uploads.pop(name, None)

    @property
    def open_uploads(self) -> int:
        return len(self._uploads)


@contextmanager
def running() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what many tests are about."""


class _Cut(Exception):
    """The connection is to end here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_method(self) -> None:
        registry = self.server.registry
        self._unread = int(self.headers.get("Content-Length") or 0)
        registry.note(
            Request(
                self.command,
                self.path,
                self.headers.get("Authorization", ""),
                self.headers.get("Range", ""),
                self._unread,
            )
        )
        if registry.seconds:
            time.sleep(registry.seconds)
        try:
            line = f"{self.command} {self.path}"
            registry.stall(line)
            if registry.dies_at and registry.dies_at in line:
                registry.die()
                raise _Cut
            self._answer()
        except _Cut:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_method

    def _answer(self) -> None:
        registry = self.server.registry
        failure = registry.failure_for(f"{self.command} {self.path}")
        if failure is not None and not failure.status:
            raise _Cut
        if failure is not None:
            self._refuse(failure.status, failure.code, failure.message, failure.headers)
            return
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/token":
            self._token(query)
            return
        if url.path.startswith("/elsewhere/"):
            self._elsewhere(url.path.removeprefix("/elsewhere/"))
            return
        parts = url.path.strip("/").split("/")
        kind = next((name for name in ("blobs", "manifests") if name in parts[2:]), "")
        where = parts.index(kind, 2) if kind else len(parts)
        repository = "/".join(parts[1:where])
        if not self._allowed(repository, query):
            return
        rest = parts[where + 1 :]
        if not kind:
            self._send(200, b"{}")
        elif kind == "manifests":
            self._manifest(repository, rest[0])
        elif rest[0] == "uploads":
            self._upload(repository, rest[1] if len(rest) > 1 else "", query)
        else:
            self._blob(repository, rest[0])

    # Access

    def _allowed(self, repository: str, query: dict[str, list[str]]) -> bool:
        registry = self.server.registry
        push = self.command not in ("GET", "HEAD")
        authorization = self.headers.get("Authorization", "")
        if registry.bearer:
            wanted = {f"{repository}:{'push' if push else 'pull'}"} if repository else set()
            wanted |= {f"{source}:pull" for source in query.get("from", ())}
            held = registry.scopes_of(authorization.removeprefix("Bearer "))
            if held is None or not wanted <= held:
                scope = f"repository:{repository}:{'pull,push' if push else 'pull'}"
                error = ',error="insufficient_scope"' if held is not None else ""
                realm = f'Bearer realm="http://{registry.host}/token",service="fake"'
                header = f'{realm},scope="{scope}"{error}'
                self._refuse(401, "UNAUTHORIZED", "log in", {"WWW-Authenticate": header})
                return False
        elif registry.users and not registry.password_fits(authorization):
            header = {"WWW-Authenticate": 'Basic realm="fake"'}
            self._refuse(401, "UNAUTHORIZED", "authentication required", header)
            return False
        if repository and ("push" if push else "pull") in registry.denied:
            self._refuse(403, "DENIED", "requested access to the resource is denied")
            return False
        return True

    def _token(self, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        if self.command == "POST":
            query = parse_qs(self._body().decode())
            query["scope"] = query.get("scope", [""])[0].split()
            known = query.get("refresh_token", [""])[0] in registry.refresh_tokens
        else:
            authorization = self.headers.get("Authorization", "")
            known = registry.password_fits(authorization)
            if not authorization and registry.bearer_anonymous:
                known = True
        if not known:
            self._send(401, json.dumps({"details": "incorrect username or password"}).encode())
            return
        scopes = set()
        for scope in query.get("scope", ()):
            _, name, actions = scope.split(":")
            if name not in registry.denied_scopes:
                scopes |= {f"{name}:{action}" for action in actions.split(",")}
        token = registry.new_token(frozenset(scopes))
        answer = {"token": token, "expires_in": registry.token_seconds}
        self._send(200, json.dumps(answer).encode())

    # Content

    def _manifest(self, repository: str, name: str) -> None:
        registry = self.server.registry
        if self.command == "PUT":
            media_type = self.headers.get("Content-Type", "")
            tag = "" if name.startswith("sha256:") else name
            digest = registry.add_manifest(repository, tag, self._body(), media_type)
            self._send(201, b"", {"Docker-Content-Digest": digest})
            return
        media_type, content = registry.manifests.get(repository, {}).get(name, ("", b""))
        if not media_type:
            code = "MANIFEST_UNKNOWN" if repository in registry.manifests else "NAME_UNKNOWN"
            self._refuse(404, code, "not here")
            return
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if registry.wrong_digest_header:
            digest = "sha256:" + "0" * 64
        if registry.wrong_bytes or "manifest" in registry.wrong_once:
            registry.wrong_once.discard("manifest")
            content += b" "
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        self._send(200, content, headers)

    def _blob(self, repository: str, digest: str) -> None:
        registry = self.server.registry
        content = registry.blobs.get(repository, {}).get(digest)
        if content is None:
            self._refuse(404, "BLOB_UNKNOWN", "no such blob")
        elif registry.redirect_blobs and self.command == "GET":
            target = f"{registry.redirect_blobs}/elsewhere/{repository}/{digest}"
            self._send(307, b"", {"Location": target})
        else:
            self._content(content)

    def _elsewhere(self, place: str) -> None:
        """A blob as an object store gives it: only to who shows no credentials of ours."""
        repository, _, digest = place.rpartition("/")
        if self.headers.get("Authorization"):
            self._send(400, b"two ways to authenticate")
            return
        self._content(self.server.registry.blobs[repository][digest])

    def _content(self, content: bytes) -> None:
        registry = self.server.registry
        if registry.wrong_bytes or ("config" in registry.wrong_once and len(content) < 4096):
            registry.wrong_once.discard("config")
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, headers, start = 200, {}, 0
        asked = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        if asked and registry.knows_ranges:
            status, start = 206, int(asked)
            if start >= len(content):
                self._send(416, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        content = content[start:]
        if self.command == "GET" and registry.cut_after:
            cut = registry.cut_after.pop(0)
            self._head(status, len(content), headers)
            self.wfile.write(content[:cut])
            raise _Cut
        self._head(status, len(content) + registry.wrong_length, headers)
        if self.command == "GET":
            self.wfile.write(content)
            if registry.wrong_length:
                raise _Cut

    # Uploads

    def _upload(self, repository: str, name: str, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        if self.command == "POST":
            self._start_upload(repository, query)
            return
        upload = registry.upload(name)
        if upload is None or upload.repository != repository:
            self._refuse(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
            return
        if self.command == "DELETE":
            registry.drop_upload(name)
            self._send(204, b"")
            return
        if self.command in ("PATCH", "PUT") and not self._receive(upload):
            return
        headers = {"Location": f"/v2/{repository}/blobs/uploads/{name}"}
        if self.command != "PUT":
            headers["Range"] = f"0-{max(0, len(upload.data) - 1)}"
            self._send(202 if self.command == "PATCH" else 204, b"", headers)
            return
        content = bytes(upload.data)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        registry.drop_upload(name)
        if digest != query.get("digest", [""])[0]:
            self._refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        registry.add_blob(repository, content)
        self._send(201, b"", {"Docker-Content-Digest": digest})

    def _start_upload(self, repository: str, query: dict[str, list[str]]) -> None:
        registry = self.server.registry
        digest = query.get("mount", [""])[0]
        content = registry.blobs.get(query.get("from", [""])[0], {}).get(digest)
        if content is not None and registry.mounts:
            registry.add_blob(repository, content)
            self._send(201, b"", {"Docker-Content-Digest": digest})
            return
        name = registry.new_upload(repository)
        self._send(202, b"", {"Location": f"/v2/{repository}/blobs/uploads/{name}"})

    def _receive(self, upload: _Upload) -> bool:
        """Takes a body; one that names another place than the end of what is there is refused."""
        registry = self.server.registry
        begin = self.headers.get("Content-Range", "").partition("-")[0]
        if begin and int(begin) != len(upload.data):
            self._refuse(416, "RANGE_INVALID", f"{len(upload.data)} bytes are here")
            return False
        cut = registry.cut_upload_after.pop(0) if registry.cut_upload_after else None
        before = len(upload.data)
        while self._unread and (cut is None or len(upload.data) - before < cut):
            part = self.rfile.read(min(self._unread, 1 << 16))
            if not part:
                raise _Cut
            self._unread -= len(part)
            upload.data += part
        if cut is not None:
            if not registry.keeps_uploads:
                del upload.data[:]
            raise _Cut
        return True

    # Answers

    def _body(self) -> bytes:
        body = self.rfile.read(self._unread)
        self._unread = 0
        return body

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        errors = [{"code": code, "message": message}] if code else []
        body = json.dumps({"errors": errors}).encode()
        self._send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self._unread > 1 << 20:
            self.close_connection = True  # as servers do that want no more of it
        else:
            self._body()
        self._head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
