"""Git contexts from real repositories: files, git's own protocol, and HTTP with a password."""

from __future__ import annotations

import base64
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pybuild.context.errors import (
    ContextMissing,
    GitDenied,
    GitFailed,
    GitRefMissing,
    GitRepositoryMissing,
    GitUnreachable,
)
from pybuild.context.open import ContextOptions, GitOptions, open_context
from pybuild.errors import Interrupted, PybuildError
from pybuild.events import Event, Notice, TransferFinished, TransferOutcome

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

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


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("git")
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


@dataclass
class Fetched:
    files: dict[str, str]
    events: list[Event]


def fetch(url: str, folder: Path, git_options: GitOptions | None = None, **more: object) -> Fetched:
    """Opens the context, reads what is in it, and closes it."""
    events: list[Event] = []
    own = more.pop("environment", {})
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], **own}  # type: ignore[dict-item]
    more["git"] = git_options or GitOptions()
    options = ContextOptions(folder / "work", environment=environment, **more)  # type: ignore[arg-type]
    with open_context(url, options, events.append) as root:
        files = {
            str(path.relative_to(root)): path.read_text()
            for path in sorted(root.rglob("*"))
            if path.is_file() and ".git/" not in str(path)
        }
    assert list((folder / "work").iterdir()) == []
    return Fetched(files, events)


@pytest.mark.parametrize(
    ("fragment", "state"),
    [
        pytest.param("", "second", id="default branch"),
        pytest.param("#main", "second", id="branch"),
        pytest.param("#refs/heads/dev", "second", id="ref"),
        pytest.param("#v1", "first", id="annotated tag"),
        pytest.param("#refs/pull/7", "first", id="pull request"),
        pytest.param("#{first}", "first", id="commit"),
        pytest.param("#{first:.9}", "first", id="short commit"),
        pytest.param("#main#{first}", "first", id="ref and commit"),
        pytest.param("#main#{first:.9}", "first", id="ref and short commit"),
    ],
)
def test_refs(repository: Repository, tmp_path: Path, fragment: str, state: str) -> None:
    fragment = fragment.format(first=repository.first)
    fetched = fetch(repository.url + fragment, tmp_path)
    assert fetched.files["state"] == state and ".git" not in fetched.files
    commit = repository.first if state == "first" else repository.second
    assert any(isinstance(event, Notice) and commit in event.message for event in fetched.events)


def test_a_folder_of_the_repository(repository: Repository, tmp_path: Path) -> None:
    assert set(fetch(f"{repository.url}#v1:sub", tmp_path).files) == {"Dockerfile", "run.sh"}
    sub_path = fetch(f"{repository.url}#v1", tmp_path, sub_path="sub")
    assert set(sub_path.files) == {"Dockerfile", "run.sh"}


@pytest.mark.parametrize("folder", ["none", "state", "out", "../..", "out/.."])
def test_no_folder_outside_the_repository(
    repository: Repository, tmp_path: Path, folder: str
) -> None:
    """`out` leads to /etc, and `..` stops at the repository: nothing of the machine is shown."""
    try:
        fetched = fetch(f"{repository.url}#main:{folder}", tmp_path)
    except ContextMissing:
        assert folder in ("none", "state", "out")
    else:
        assert "state" in fetched.files


def test_a_branch_by_flag(repository: Repository, tmp_path: Path) -> None:
    assert fetch(repository.url, tmp_path, GitOptions(branch="v1")).files["state"] == "first"


@pytest.mark.parametrize(("depth", "commits"), [(1, 1), (0, 2)])
def test_only_what_is_needed_is_fetched(
    repository: Repository, tmp_path: Path, depth: int, commits: int
) -> None:
    options = ContextOptions(tmp_path / "w", environment=dict(os.environ),
                             git=GitOptions(depth=depth), keep_git_dir=True)  # fmt: skip
    with open_context(repository.url, options, lambda _: None) as root:
        assert len(git(root, "-c", "safe.directory=*", "log", "--oneline").splitlines()) == commits
        assert os.access(root / "sub" / "run.sh", os.X_OK)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        pytest.param("{url}#none", GitRefMissing, id="no such branch"),
        pytest.param("{url}#" + "0" * 40, GitRefMissing, id="no such commit"),
        pytest.param("{url}#deadbeef", GitRefMissing, id="no such short commit"),
        pytest.param("{url}#--upload-pack=x", GitRefMissing, id="no flag for git"),
        pytest.param("{url}x", GitRepositoryMissing, id="no such repository"),
        pytest.param("https://127.0.0.1:9/r.git", GitUnreachable, id="nobody listens"),
        pytest.param("https://host.invalid/r.git", GitUnreachable, id="no such host"),
        pytest.param("ssh://git@127.0.0.1:9/r.git", GitUnreachable, id="nobody listens, ssh"),
    ],
)
def test_failures_are_told_apart(
    repository: Repository, tmp_path: Path, url: str, error: type[PybuildError]
) -> None:
    with pytest.raises(error) as caught:
        fetch(url.format(url=repository.url), tmp_path)
    assert caught.value.message and "\n" not in caught.value.message


def test_a_repository_of_another_owner(repository: Repository, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    other = tmp_path / "other.git"
    shutil.copytree(repository.path, other)
    for path in [other, *other.rglob("*")]:
        os.chown(path, 12345, 12345)
    assert fetch(f"file://{other}", tmp_path).files["state"] == "second"


def test_submodules(repository: Repository, tmp_path: Path) -> None:
    """Docker's forms fetch them, kaniko's does not; a flag decides for both."""
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    git(outer, "submodule", "--quiet", "add", repository.url, "inner")
    git(outer, "commit", "-qm", "one")
    (tmp_path / ".gitconfig").write_text('[protocol "file"]\n\tallow = always\n')
    assert "inner/state" in fetch(f"file://{outer}", tmp_path).files
    without = fetch(f"file://{outer}", tmp_path, GitOptions(recurse_submodules=False))
    assert "inner/state" not in without.files and ".gitmodules" in without.files


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


def test_gits_own_protocol(repository: Repository, tmp_path: Path) -> None:
    environment = {"GIT_PULL_METHOD": "git"}
    with git_daemon(repository.path.parent) as port:
        url = f"git://127.0.0.1:{port}"
        assert (
            fetch(f"{url}/bare.git#v1", tmp_path, environment=environment).files["state"] == "first"
        )
        with pytest.raises(GitRepositoryMissing):
            fetch(f"{url}/none.git", tmp_path, environment=environment)


class _Handler(http.server.BaseHTTPRequestHandler):
    """git's smart HTTP protocol by `git http-backend`, behind a password."""

    root: ClassVar[Path]
    authorizations: ClassVar[list[str]]
    status: ClassVar[int]
    redirect: ClassVar[str]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        given = self.headers.get("Authorization", "")
        self.authorizations.append(given)
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

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def git_over_http(
    repository: Repository, *, status: int = 0, redirect: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """A server's URL (plain HTTP on loopback), and the Authorization headers it got."""
    seen: list[str] = []
    handler = type("Handler", (_Handler,), {"root": repository.path.parent, "authorizations": seen,
                                            "status": status, "redirect": redirect})  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/bare.git", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("in_url", "environment"),
    [
        pytest.param("", {"GIT_TOKEN": TOKEN}, id="token"),
        pytest.param("", {"GIT_USERNAME": TOKEN, "GIT_PASSWORD": TOKEN}, id="user and password"),
        pytest.param(
            "ghp_Very-Secret%2FToken%3D123456:ghp_Very-Secret%2FToken%3D123456@", {}, id="url"
        ),
    ],
)
def test_credentials(
    repository: Repository, tmp_path: Path, in_url: str, environment: dict[str, str]
) -> None:
    with git_over_http(repository) as (url, _):
        url = url.replace("http://", f"http://{in_url}")
        fetched = fetch(f"{url}#v1", tmp_path, environment=environment)
    assert fetched.files["state"] == "first"
    told = repr(fetched.events)
    assert TOKEN not in told and "ghp_" not in told


@pytest.mark.parametrize("status", [0, 401, 403])
def test_refused_credentials_are_not_shown(
    repository: Repository, tmp_path: Path, status: int
) -> None:
    environment = {"GIT_TOKEN": "ghp_wrong-but-secret-still"}
    with (
        git_over_http(repository, status=status) as (url, seen),
        pytest.raises(GitDenied) as caught,
    ):
        fetch(url, tmp_path, environment=environment)
    assert any(seen) or status == 403
    error = caught.value
    assert (
        "ghp_wrong" not in error.message + error.hint and "refused the credentials" in error.message
    )


def test_no_credentials_given(repository: Repository, tmp_path: Path) -> None:
    with git_over_http(repository) as (url, _), pytest.raises(GitDenied) as caught:
        fetch(url, tmp_path)
    assert "wants credentials" in caught.value.message and "GIT_TOKEN" in caught.value.hint


def test_credentials_are_for_one_host_only(repository: Repository, tmp_path: Path) -> None:
    """A redirect to another host, and a submodule there, are told nothing."""
    with git_over_http(repository) as (other, seen):
        base = other.removesuffix("/bare.git")
        with git_over_http(repository, redirect=base) as (url, _), pytest.raises(GitDenied):
            fetch(url, tmp_path, environment={"GIT_TOKEN": TOKEN})
        assert seen and not any(seen)


def test_the_token_is_in_no_command_line(repository: Repository, tmp_path: Path) -> None:
    """Sampled while a server keeps git waiting."""
    found: list[bytes] = []
    kept: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        cancelled = threading.Event()

        def look() -> None:
            kept.append(listener.accept()[0])  # a connection that is dropped would end git first
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    found.append(path.read_bytes())
                except OSError:
                    continue
            cancelled.set()

        thread = threading.Thread(target=look)
        thread.start()
        with pytest.raises(Interrupted):
            fetch(f"http://{TOKEN.replace('/', '%2F')}:x{TOKEN.replace('/', '%2F')}@127.0.0.1:"
                  f"{listener.getsockname()[1]}/r.git", tmp_path, cancelled=cancelled)  # fmt: skip
        thread.join()
        kept[0].close()
    assert any(b"git\0fetch" in line for line in found)
    assert not any(b"Very-Secret" in line for line in found)


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_git_ends_with_all_its_helpers(tmp_path: Path, way: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        cancelled = threading.Event()
        if way == "cancel":
            threading.Timer(0.5, cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(Interrupted if way == "cancel" else GitFailed):
            fetch(f"http://127.0.0.1:{port}/r.git", tmp_path, cancelled=cancelled,
                  timeout_seconds=30.0 if way == "cancel" else 0.5)  # fmt: skip
        assert time.monotonic() - started < 10
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(f"127.0.0.1:{port}".encode() in command for command in commands)


def test_a_failed_fetch_is_told_to_the_report(repository: Repository, tmp_path: Path) -> None:
    events: list[Event] = []
    options = ContextOptions(tmp_path / "w", environment=dict(os.environ))
    with pytest.raises(GitRefMissing), open_context(f"{repository.url}#x", options, events.append):
        pass
    outcomes = [event.outcome for event in events if isinstance(event, TransferFinished)]
    assert outcomes == [TransferOutcome.FAILED] and list((tmp_path / "w").iterdir()) == []


def test_hooks_and_settings_of_a_repository_are_not_run(
    repository: Repository, tmp_path: Path
) -> None:
    hooks = tmp_path / "templates" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[init]\n\ttemplateDir = {tmp_path}/templates\n")
    fetch(repository.url, tmp_path)
    assert not (tmp_path / "ran").exists()
