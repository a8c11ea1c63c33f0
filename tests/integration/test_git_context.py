"""Git contexts from real repositories: files, git's own protocol, HTTP with a password, ssh."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
from pybuild.registry.options import RegistryOptions
from pybuild.registry.retry import RetryPolicy
from tests.support.git_servers import (
    TOKEN,
    Repository,
    SshServer,
    git,
    git_daemon,
    git_over_http,
    make_repository,
    ssh_server,
)
from tests.support.registry import make_certificates

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_repository(tmp_path_factory.mktemp("git"))


QUICK = RegistryOptions(retry=RetryPolicy(tries=3, first_wait_seconds=0.01), timeout_seconds=2)


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
    more.setdefault("web", QUICK)
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


def test_why_a_submodule_is_not_fetched(repository: Repository, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    git(outer, "submodule", "--quiet", "add", repository.url, "inner")
    git(outer, "commit", "-qm", "one")
    with pytest.raises(GitFailed, match="transport 'file' not allowed"):
        fetch(f"file://{outer}", tmp_path)


def test_a_branch_that_only_the_flag_names(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(GitRefMissing, match=r"no branch, tag or commit nope$") as caught:
        fetch(repository.url, tmp_path, GitOptions(branch="nope"))
    assert caught.value.hint.startswith("--git=branch=")


def test_gits_own_protocol(repository: Repository, tmp_path: Path) -> None:
    environment = {"GIT_PULL_METHOD": "git"}
    with git_daemon(repository.path.parent) as port:
        url = f"git://127.0.0.1:{port}"
        assert (
            fetch(f"{url}/bare.git#v1", tmp_path, environment=environment).files["state"] == "first"
        )
        with pytest.raises(GitRepositoryMissing):
            fetch(f"{url}/none.git", tmp_path, environment=environment)


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


def test_netrc(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {TOKEN} password {TOKEN}\n")
    with git_over_http(repository) as (url, _):
        assert fetch(f"{url}#v1", tmp_path).files["state"] == "first"


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "SSL_CERT_FILE", "GIT_SSL_CAINFO", ""])
def test_the_authority_of_a_git_host(repository: Repository, tmp_path: Path, variable: str) -> None:
    made = make_certificates(tmp_path / "tls", "127.0.0.1")
    folder = tmp_path / "authorities"
    folder.mkdir()
    shutil.copy(made.authority, folder / "ours.crt")
    environment = {"GIT_TOKEN": TOKEN}
    if variable:
        value = folder if variable == "SSL_CERT_DIR" else folder / "ours.crt"
        environment[variable] = str(value)
    with git_over_http(repository, tls=(made.certificate, made.key)) as (url, _):
        if variable:
            assert fetch(url, tmp_path, environment=environment).files["state"] == "second"
            return
        with pytest.raises(GitFailed) as caught:
            fetch(url, tmp_path, environment=environment)
        assert "SSL_CERT_DIR" in caught.value.hint
        environment["GIT_SSL_CAINFO"] = "/etc/ssl/certs/ca-certificates.crt"
        with pytest.raises(GitFailed) as caught:
            fetch(url, tmp_path, environment=environment)
        assert caught.value.hint.startswith("GIT_SSL_CAINFO alone says")
        trusting = GitOptions(insecure_skip_tls=True)
        assert fetch(url, tmp_path, trusting, environment=environment).files["state"] == "second"


class TestSsh:
    """The home of the tests' server is not the one that /etc/passwd names, as in Pods."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[SshServer]:
        (tmp_path / "ssh").mkdir()
        with ssh_server(tmp_path / "ssh") as server:
            yield server

    def test_a_key_and_known_hosts_in_the_home(
        self, repository: Repository, tmp_path: Path, server: SshServer
    ) -> None:
        url = server.url(repository.path)
        environment = {"HOME": str(server.home)}
        assert fetch(f"{url}#v1", tmp_path, environment=environment).files["state"] == "first"

    def test_a_secret_of_kubernetes(
        self, repository: Repository, tmp_path: Path, server: SshServer
    ) -> None:
        """kubernetes.io/ssh-auth: links into a hidden folder, readable by a group."""
        folder = tmp_path / "home" / ".ssh"
        data = folder / "..data"
        data.mkdir(parents=True)
        key = (server.home / ".ssh" / "id_ed25519").read_text().rstrip("\n")
        (data / "ssh-privatekey").write_text(key)
        (data / "ssh-privatekey").chmod(0o440)
        shutil.copy(server.home / ".ssh" / "known_hosts", data / "known_hosts")
        for name in ("ssh-privatekey", "known_hosts"):
            (folder / name).symlink_to(f"..data/{name}")
        environment = {"HOME": str(tmp_path / "home")}
        url = server.url(repository.path)
        assert fetch(url, tmp_path, environment=environment).files["state"] == "second"

    def test_git_ssh_command(
        self, repository: Repository, tmp_path: Path, server: SshServer
    ) -> None:
        ssh = server.home / ".ssh"
        command = (
            f"ssh -i {ssh}/id_ed25519 -o UserKnownHostsFile={ssh}/known_hosts -o BatchMode=yes"
        )
        environment = {"GIT_SSH_COMMAND": command}
        url = server.url(repository.path)
        assert fetch(url, tmp_path, environment=environment).files["state"] == "second"

    def test_an_agent(self, repository: Repository, tmp_path: Path, server: SshServer) -> None:
        """Only the agent has the key."""
        key = server.home / ".ssh" / "id_ed25519"
        address = tmp_path / "agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL)
        try:
            while not address.exists():
                assert agent.poll() is None
                time.sleep(0.02)
            environment = {"SSH_AUTH_SOCK": str(address), "HOME": str(server.home)}
            subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True,
                           env={**os.environ, **environment})  # fmt: skip
            key.unlink()
            url = server.url(repository.path)
            assert fetch(url, tmp_path, environment=environment).files["state"] == "second"
        finally:
            agent.terminate()
            agent.wait(10)

    @pytest.mark.parametrize(
        ("missing", "hint"),
        [("id_ed25519", "private key"), ("known_hosts", "known_hosts")],
    )
    def test_what_is_missing_is_named(
        self, repository: Repository, tmp_path: Path, server: SshServer, missing: str, hint: str
    ) -> None:
        (server.home / ".ssh" / missing).unlink()
        with pytest.raises(GitDenied) as caught:
            fetch(server.url(repository.path), tmp_path, environment={"HOME": str(server.home)})
        assert hint in caught.value.hint

    def test_no_repository(self, tmp_path: Path, server: SshServer) -> None:
        with pytest.raises(GitRepositoryMissing):
            fetch(
                server.url(tmp_path / "none.git"), tmp_path, environment={"HOME": str(server.home)}
            )


@pytest.fixture
def large(tmp_path: Path) -> Repository:
    """A repository whose *.bin are kept by Git LFS."""
    source = tmp_path / "large"
    source.mkdir()
    git(source, "init", "-q", "-b", "main")
    git(source, "lfs", "install", "--local")
    (source / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (source / "a.bin").write_text("the true content of a\n" * 100)
    (source / "plain").write_text("plain")
    git(source, "add", ".")
    git(source, "commit", "-qm", "one")
    head = git(source, "rev-parse", "HEAD")
    return Repository(source, head, head)


def test_files_of_lfs_are_fetched(large: Repository, tmp_path: Path) -> None:
    fetched = fetch(large.url, tmp_path)
    assert fetched.files["a.bin"] == "the true content of a\n" * 100
    assert not any(event.code for event in fetched.events if isinstance(event, Notice))


@pytest.mark.parametrize("way", ["not installed", "GIT_LFS_SKIP_SMUDGE"])
def test_pointers_of_lfs_are_named(large: Repository, tmp_path: Path, way: str) -> None:
    """A PATH with git and without git-lfs, or the variable that LFS itself takes."""
    environment = {"GIT_LFS_SKIP_SMUDGE": "1"}
    if way == "not installed":
        (tmp_path / "bin").mkdir()
        for name in ("git", "sh"):
            (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
        environment = {"PATH": str(tmp_path / "bin")}
    fetched = fetch(large.url, tmp_path, environment=environment)
    assert fetched.files["a.bin"].startswith("version https://git-lfs")
    warnings = [event for event in fetched.events if isinstance(event, Notice) and event.code]
    assert [event.code for event in warnings] == ["git-lfs-missing"]
    assert "a.bin" in warnings[0].message and way in warnings[0].message


def test_lfs_that_can_not_be_fetched_fails(large: Repository, tmp_path: Path) -> None:
    shutil.rmtree(large.path / ".git" / "lfs")
    with pytest.raises(GitFailed) as caught:
        fetch(large.url, tmp_path)
    assert "GIT_LFS_SKIP_SMUDGE" in caught.value.hint


@pytest.mark.parametrize(
    ("query", "files"),
    [
        pytest.param("?tag=v1&subdir=sub", {"Dockerfile", "run.sh"}, id="tag and folder"),
        pytest.param("?branch=dev", {"state"}, id="branch"),
        pytest.param("?ref=main&checksum={first}", {"state"}, id="commit"),
    ],
)
def test_dockers_query(repository: Repository, tmp_path: Path, query: str, files: set[str]) -> None:
    fetched = fetch(repository.url + query.format(first=repository.first), tmp_path)
    assert files <= set(fetched.files)
    if "checksum" in query:
        assert fetched.files["state"] == "first"


@pytest.mark.parametrize("failures", [2, 9])
def test_a_host_that_is_down_for_a_while(
    repository: Repository, tmp_path: Path, failures: int
) -> None:
    """503, and the connection broken in the middle of an answer; each counts as an attempt."""
    environment = {"GIT_TOKEN": TOKEN}
    with git_over_http(repository, failures=failures) as (url, _):
        if failures < 3:
            fetched = fetch(url, tmp_path, environment=environment)
            assert fetched.files["state"] == "second"
            notices = [event for event in fetched.events if isinstance(event, Notice)]
            assert [event.code for event in notices].count("context-retry") == failures
            return
        with pytest.raises(GitUnreachable) as caught:
            fetch(url, tmp_path, environment=environment)
        assert "127.0.0.1" in caught.value.message and "attempt 3 of 3" in caught.value.message
