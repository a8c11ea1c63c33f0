"""A token server (distribution docs/spec/auth/token.md) whose JWTs docker-registry verifies.

They are signed by openssl with a key whose certificate is in the token (`x5c`).
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import uuid
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

# distribution takes a token for so long after its end.
LEEWAY_SECONDS = 60


@dataclass
class TokenServer:
    """`users` are names and passwords, `rights` who may do what: "me:team/app" to "pull,push"; a
    user without any has all. A token is good for `seconds` as the registry sees it, and announced
    as good for `announced`. `anonymous` gives pulls to who does not log in."""

    folder: Path
    realm: str = ""
    service: str = "tests"
    issuer: str = "the tests"
    users: dict[str, str] = field(default_factory=dict)
    rights: dict[str, str] = field(default_factory=dict)
    seconds: float = 300.0
    announced: int = 300
    anonymous: bool = False
    refresh_tokens: dict[str, str] = field(default_factory=dict)  # to the user's name
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # user and scopes

    @property
    def certificate(self) -> Path:
        return self.folder / "signer.crt"

    @property
    def key(self) -> Path:
        return self.folder / "signer.key"

    def token(self, user: str, scopes: tuple[str, ...]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            wanted = set(actions.split(","))
            if user and any(key.startswith(f"{user}:") for key in self.rights):
                wanted &= set(self.rights.get(f"{user}:{name}", "").split(","))
            if not user:
                wanted &= {"pull"} if self.anonymous else set()
            access.append({"type": kind, "name": name, "actions": sorted(wanted)})
        now = int(time.time())
        end = now + self.seconds - LEEWAY_SECONDS
        claims = {
            "iss": self.issuer, "sub": user, "aud": self.service, "jti": uuid.uuid4().hex,
            "iat": now - 600, "nbf": now - 600, "exp": int(end), "access": access,
        }  # fmt: skip
        lines = self.certificate.read_text().strip().splitlines()[1:-1]
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines)]}
        text = f"{_encoded(header)}.{_encoded(claims)}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.key)],
            input=text.encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip
        return f"{text}.{_base64(signature)}"


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def basic(pair: str) -> str:
    return f"Basic {b64encode(pair.encode()).decode()}"


@contextmanager
def running_token_server(folder: Path) -> Iterator[TokenServer]:
    folder.mkdir(parents=True, exist_ok=True)
    tokens = TokenServer(folder)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout",
         str(tokens.key), "-out", str(tokens.certificate), "-subj", "/CN=signer of the tests"],
        check=True, capture_output=True,
    )  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            given = self.headers.get("Authorization", "")
            user: str | None = ""
            if given:
                name, _, password = b64decode(given.removeprefix("Basic ")).decode().partition(":")
                user = name if tokens.users.get(name) == password else None
            self._give(user, tuple(query.get("scope", ())))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            form = parse_qs(body.decode())
            user = tokens.refresh_tokens.get(form.get("refresh_token", [""])[0])
            self._give(user, tuple(form.get("scope", [""])[0].split()))

        def _give(self, user: str | None, scopes: tuple[str, ...]) -> None:
            tokens.asked.append((user or "", scopes))
            if user is None or not (user or tokens.anonymous):
                self._send(401, {"details": "incorrect username or password"})
                return
            token = tokens.token(user, scopes)
            self._send(200, {"token": token, "expires_in": tokens.announced})

        def _send(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: `asked` has it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tokens.realm = f"http://127.0.0.1:{server.server_address[1]}/token"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
