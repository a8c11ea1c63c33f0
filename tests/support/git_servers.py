"""Git servers of all kinds, on loopback: git daemon, smart HTTP with a password, and sshd."""

from __future__ import annotations

import base64
import http.server
import os
import pwd
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

TOKEN = "ghp_Very-Secret/Token=123456"


def git(folder: Path, *arguments: str) -> str:
    settings = [
        "-c",
        "user.name=n",
        "-c",
        "user.email=e@example.org",
        "-c",
        "protocol.file.allow=always",
    ]
    run = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


@dataclass(frozen=True)
class Repository:
    """A bare repository of two commits: `v1`, and `main` on top of it; `dev` is like main."""

    path: Path
    first: str
    second: str

    @property
    def url(self) -> str:
        return f"file://{self.path}"


def make_repository(root: Path) -> Repository:
    source = root / "source"
    source.mkdir()
    git(source, "init", "-q", "-b", "main")
    (source / "state").write_text("first")
    (source / "sub").mkdir()
    (source / "sub" / "Dockerfile").write_text("FROM scratch\n")
    (source / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (source / "sub" / "run.sh").chmod(0o755)
    (source / "out").symlink_to("/etc")
    git(source, "add", ".")
    git(source, "commit", "-qm", "one")
    git(source, "tag", "-a", "v1", "-m", "annotated")
    git(source, "update-ref", "refs/pull/7/head", "HEAD")
    first = git(source, "rev-parse", "HEAD")
    (source / "state").write_text("second")
    git(source, "commit", "-qam", "two")
    git(source, "branch", "dev")
    git(root, "clone", "-q", "--mirror", "source", "bare.git")
    return Repository(root / "bare.git", first, git(source, "rev-parse", "HEAD"))


@contextmanager
def git_daemon(base: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", f"--base-path={base}",
         "--export-all", "--reuseaddr"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )  # fmt: skip
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait(10)


class _Handler(http.server.BaseHTTPRequestHandler):
    """git's smart HTTP protocol by `git http-backend`, behind a password."""

    root: ClassVar[Path]
    authorizations: ClassVar[list[str]]
    status: ClassVar[int]
    redirect: ClassVar[str]
    failures: ClassVar[list[int]]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        given = self.headers.get("Authorization", "")
        self.authorizations.append(given)
        if self.failures:
            self._fail(self.failures.pop())
            return
        if self.redirect:
            self.send_response(302)
            self.send_header("Location", self.redirect + self.path)
            self.end_headers()
            return
        wanted = "Basic " + base64.b64encode(f"{TOKEN}:{TOKEN}".encode()).decode()
        if self.status or given != wanted:
            self.send_response(self.status or 401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ, "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_USER": "u",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        run = subprocess.run(["git", "http-backend"], input=body, env=environment,
                             capture_output=True, check=False)  # fmt: skip
        head, _, content = run.stdout.partition(b"\r\n\r\n")
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((value for name, value in lines if name == "Status"), "200")
        self.send_response(int(status.split()[0]))
        for name, value in lines:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, number: int) -> None:
        """In turns: busy, or an answer that breaks off."""
        self.send_response(200 if number % 2 else 503)
        self.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
        self.send_header("Content-Length", "1000" if number % 2 else "0")
        self.end_headers()
        if number % 2:
            self.wfile.write(b"001e# service=git-upload-pack\n0000")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def git_over_http(
    repository: Repository,
    *,
    status: int = 0,
    redirect: str = "",
    tls: tuple[Path, Path] | None = None,
    failures: int = 0,
) -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and the Authorization headers it got. `tls`: a certificate and its key;
    without it is plain HTTP.
    `failures`: that many requests fail first."""
    seen: list[str] = []
    handler = type("Handler", (_Handler,), {"root": repository.path.parent, "authorizations": seen,
                                            "status": status, "redirect": redirect,
                                            "failures": list(range(failures))})  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if tls is not None else "http"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}/bare.git", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class SshServer:
    """`home` has a .ssh folder with a key that the server takes, and its line of known_hosts."""

    port: int
    home: Path

    def url(self, path: Path) -> str:
        user = pwd.getpwuid(os.getuid()).pw_name
        return f"ssh://{user}@127.0.0.1:{self.port}{path}"


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """sshd with a configuration and keys of its own, as who runs the tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    for key in (folder / "host_key", home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = (folder / "host_key.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (folder / "authorized_keys").write_text((home / ".ssh" / "id_ed25519.pub").read_text())
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\n"
        "StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nAcceptEnv GIT_PROTOCOL\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it confines itself
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "sshd.log").read_text()
            time.sleep(0.05)
        yield SshServer(port, home)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(10)
