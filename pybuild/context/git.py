"""Fetches just the commit that is asked for out of a git repository, into a folder.

The git program is run through GitPython's command object, in a session of its own so that its
helpers end with it, with a deadline, without prompts, and with credentials handed over by
GIT_ASKPASS only: none is ever in argv, in a URL, in a log or in an error.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.context.directory import DirectoryContext
from pybuild.context.errors import (
    ContextMissing,
    GitDenied,
    GitFailed,
    GitRefMissing,
    GitRepositoryMissing,
    GitUnreachable,
)
from pybuild.context.git_url import GitSource, redact
from pybuild.errors import InputError, Interrupted
from pybuild.events import (
    EventSink,
    Level,
    Notice,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
)

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions

_POLL_SECONDS = 0.2
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{4,39}\Z")
_EVERYTHING = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_RECEIVED = re.compile(rb"Receiving objects:.*?, ([0-9.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {b"bytes": 1, b"KiB": 1 << 10, b"MiB": 1 << 20, b"GiB": 1 << 30}

# Answers prompts such as "Password for 'https://user@host:443': ", for the one host that the
# credentials are meant for: a submodule or a redirect elsewhere is told nothing.
_ASKPASS = """#!{python} -IS
import os, re, sys
prompt = sys.argv[1] if len(sys.argv) > 1 else ""
asked = re.search(r"'(\\w+://)(?:[^/@']*@)?([^/']+)", prompt)
if not asked or asked[1] + asked[2] != os.environ["PYBUILD_GIT_HOST"]:
    sys.exit(1)
name = "USERNAME" if prompt.lower().startswith("username") else "PASSWORD"
print(os.environ["PYBUILD_GIT_" + name])
"""


@contextmanager
def fetched(source: GitSource, options: ContextOptions, sink: EventSink) -> Iterator[Path]:
    """The checked-out folder, removed at the end with everything that was fetched.

    Raises GitRefMissing, GitRepositoryMissing, GitDenied, GitUnreachable, GitFailed,
    ContextMissing for a folder that the repository lacks, Interrupted.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix="git-", dir=options.directory))
    try:
        folder, commit = check_out(source, options, sink, private, kind=TransferKind.CONTEXT)
        label = redact(source.remote, source.credentials)
        sink(Notice(Level.INFO, f"context is commit {commit} of {label}"))
        yield folder
    finally:
        shutil.rmtree(private, ignore_errors=True)


def check_out(
    source: GitSource,
    options: ContextOptions,
    sink: EventSink,
    private: Path,
    *,
    kind: TransferKind = TransferKind.DOWNLOAD,
) -> tuple[Path, str]:
    """The checked-out folder below `private`, an empty folder of the caller's, and the commit.
    Raises as `fetched`."""
    checkout = private / "context"
    program = _Program(source, options, private)
    started = time.monotonic()
    label = redact(source.remote, source.credentials)
    name = f"git {label}"
    sink(TransferStarted(name, kind, label, 0))
    outcome, received = TransferOutcome.FAILED, 0
    try:
        received = _fetch(program, checkout, lambda done: sink(TransferProgress(name, done)))
        outcome = TransferOutcome.DONE
    finally:
        seconds = time.monotonic() - started
        sink(TransferFinished(name, kind, label, outcome, received, seconds))
    commit = program.run("rev-parse", "HEAD", cwd=checkout).decode().strip()
    if not options.keep_git_dir:
        _remove_git_folders(checkout)
    return _folder(checkout, source), commit


def remote_commit(source: GitSource, options: ContextOptions) -> str:
    """The commit that the repository has for the ref now, without fetching anything; "" where only
    a fetch can tell, as for a shortened commit. `options.directory` is the caller's and empty.

    Raises the same errors as `fetched`, but GitRefMissing.
    """
    ref = source.ref or "HEAD"
    exact = source.commit or ref
    if _COMMIT.match(exact):
        return exact
    if source.commit or ref.startswith("-"):
        return ""
    program = _Program(source, options, options.directory)
    # gitrevisions(7): the first of these that there is; of a tag, the commit it names
    names = (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}")
    patterns = [pattern for name in names for pattern in (name, name + "^{}")]
    output = program.run("ls-remote", source.remote, *patterns, cwd=options.directory)
    found = {}
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        commit, _, name = line.partition("\t")
        found[name] = commit
    there = (found.get(name + "^{}") or found.get(name) for name in names)
    return next((commit for commit in there if commit), "")


def _fetch(program: _Program, checkout: Path, progress: Callable[[int], None]) -> int:
    """Makes the checkout; gives the bytes received, as far as git told them."""
    source, options = program.source, program.options
    received = 0

    def note(output: bytes) -> None:
        nonlocal received
        for amount, unit in _RECEIVED.findall(output):
            received = int(float(amount) * _UNITS[unit])
            progress(received)

    checkout.mkdir()
    program.run("init", "-q", "--template=", cwd=checkout)
    program.run("config", "remote.origin.url", source.remote, cwd=checkout)
    revision = _fetch_revision(program, checkout, note)
    program.run("checkout", "-q", "--detach", revision, cwd=checkout)
    wanted = options.git.recurse_submodules
    if (source.submodules if wanted is None else wanted) and (checkout / ".gitmodules").is_file():
        program.run(
            *("submodule", "update", "--init", "--recursive", "--progress", *program.depth),
            cwd=checkout,
            watch=note,
        )
    return received


def _fetch_revision(program: _Program, checkout: Path, watch: Callable[[bytes], None]) -> str:
    """Fetches as little as the server allows, and says what to check out."""
    source = program.source
    ref = source.ref or program.options.git.branch or "HEAD"
    if ref.startswith("-") or source.commit.startswith("-"):
        raise GitRefMissing(f"{ref} can't be the name of a ref")
    exact = source.commit or ref

    def fetch(*refs: str, depth: tuple[str, ...] = ()) -> None:
        program.run("fetch", "--progress", "--no-tags", *depth, "origin", *refs, cwd=checkout,
                    watch=watch)  # fmt: skip

    def search_everything() -> str:
        fetch(*_EVERYTHING)
        try:
            program.run("rev-parse", "-q", "--verify", f"{exact}^{{commit}}", cwd=checkout)
        except GitFailed as error:
            raise program.ref_missing(exact) from error
        return exact

    if _COMMIT.match(exact):
        try:
            fetch(exact, depth=program.depth)
        except (GitRefMissing, GitFailed):
            return search_everything()  # a server that hands out what its refs name only
        return "FETCH_HEAD"
    if source.commit:
        return search_everything()
    try:
        fetch(ref, depth=program.depth)
    except GitRefMissing:
        if not _SHORT_COMMIT.match(ref):
            raise
        return search_everything()
    return "FETCH_HEAD^{commit}"


class _Program(Struct, frozen=True):
    """The git program with the environment and deadline of one fetch."""

    source: GitSource
    options: ContextOptions
    private: Path  # a folder only we can read, for the settings and the askpass program

    @property
    def depth(self) -> tuple[str, ...]:
        depth = self.options.git.depth
        return ("--depth", str(depth)) if depth > 0 else ()

    def run(
        self, *arguments: str, cwd: Path, watch: Callable[[bytes], None] | None = None
    ) -> bytes:
        """git's standard output; raises one of the Git… errors, or Interrupted."""
        if shutil.which("git") is None:
            where = redact(self.source.remote, self.source.credentials)
            raise GitFailed(f"{where} is a git repository, and git is not installed here")
        from git.cmd import Git

        handle = Git(str(cwd)).execute(
            ["git", *arguments],
            as_process=True,
            env=self._environment(),
            start_new_session=True,
            umask=0o022,
        )
        process = handle.proc
        assert process is not None
        try:
            output, errors = self._follow(process, watch)
        finally:
            _end(process)
        if process.returncode != 0:
            raise self._error(arguments[0], errors.decode("utf-8", "replace"))
        return output

    def ref_missing(self, ref: str) -> GitRefMissing:
        where = redact(self.source.remote, self.source.credentials)
        return GitRefMissing(
            f"{where} has no branch, tag or commit {ref}",
            hint="the part after '#' is the ref; write refs/heads/NAME or refs/tags/NAME in full, "
            "or a whole commit",
        )

    def _follow(
        self, process: Popen[bytes], watch: Callable[[bytes], None] | None
    ) -> tuple[bytes, bytes]:
        """Reads both streams to their ends, until the deadline or a cancel."""
        deadline = time.monotonic() + self.options.timeout_seconds
        output, errors = bytearray(), bytearray()
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, errors)
            while selector.get_map():
                if self.options.cancelled.is_set():
                    raise Interrupted(signal.SIGTERM)
                if time.monotonic() > deadline:
                    raise GitFailed(
                        f"git took longer than {self.options.timeout_seconds:g} seconds"
                    )
                for key, _ in selector.select(_POLL_SECONDS):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                    if watch is not None and key.data is errors:
                        watch(data)
        process.wait()
        return bytes(output), bytes(errors)

    def _environment(self) -> dict[str, str]:
        credentials = self.source.credentials
        settings = self.private / "gitconfig"
        askpass = self.private / "askpass"
        if not settings.exists():
            settings.write_text(_settings(self.options.environment, bool(credentials)))
            askpass.write_text(_ASKPASS.format(python=sys.executable))
            askpass.chmod(0o700)
        scheme, _, rest = self.source.remote.partition("://")
        environment = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_GLOBAL": str(settings),
            "LC_ALL": "C",
        }
        if "GIT_SSH_COMMAND" not in self.options.environment:
            environment["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
        if self.options.git.insecure_skip_tls:
            environment["GIT_SSL_NO_VERIFY"] = "1"
        if credentials:
            environment |= {
                "GIT_ASKPASS": str(askpass),
                "PYBUILD_GIT_HOST": f"{scheme}://{rest.partition('/')[0]}",
                "PYBUILD_GIT_USERNAME": credentials.username or "git",
                "PYBUILD_GIT_PASSWORD": credentials.password,
            }
        return environment

    def _error(self, action: str, errors: str) -> InputError:
        """Tells the reasons people can act on apart by what git, curl and ssh say in English."""
        text = redact(errors, self.source.credentials)
        where = redact(self.source.remote, self.source.credentials)
        low = text.lower()
        reason = _reason(text)
        if any(words in low for words in _SAYS_REF):
            return self.ref_missing(self.source.commit or self.source.ref or "HEAD")
        # git's own protocol knows no credentials: there it means the same as "not found".
        not_exported = "repository not exported" in low
        if any(words in low for words in _SAYS_DENIED) and not not_exported:
            given = bool(self.source.credentials)
            refused = "refused the credentials given" if given else "wants credentials"
            return GitDenied(
                f"{where} {refused}, or has no such repository: {reason}",
                hint="set GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD; for ssh, mount a key and "
                "known_hosts",
            )
        if any(words in low for words in _SAYS_MISSING):
            return GitRepositoryMissing(f"there is no git repository {where}: {reason}")
        if any(words in low for words in _SAYS_DOWN):
            return GitUnreachable(f"{where} can't be reached: {reason}")
        hint = ""
        if "certificate" in low:
            hint = "name its authority in GIT_SSL_CAINFO, or give --git=insecure-skip-tls=true"
        return GitFailed(f"git {action} of {where} failed: {reason}", hint=hint)


_SAYS_REF = (
    "couldn't find remote ref",
    "not our ref",
    "no such ref",
    "unadvertised object",
    "upload-pack: not our ref",
    "reference is not a tree",
)
_SAYS_DENIED = (
    "authentication failed",
    "could not read username",
    "could not read password",
    "terminal prompts disabled",
    "unable to read askpass",
    "permission denied",
    "access denied",
    "host key verification failed",
    "error: 403",
    "error: 401",
)
_SAYS_MISSING = (
    "not found",
    "does not appear to be a git repository",
    "does not exist",
    "repository not exported",
    "error: 404",
    "no such file or directory",
)
_SAYS_DOWN = (
    "could not resolve host",
    "couldn't resolve host",
    "connection refused",
    "failed to connect",
    "couldn't connect",
    "unable to connect",
    "unable to look up",
    "timed out",
    "network is unreachable",
    "no route to host",
    "connection reset",
    "connection closed by",
)


def _reason(text: str) -> str:
    """The line that says most: git's last `fatal:` or `error:`, else the last line."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    # "fatal: Could not read from remote repository" follows what ssh said, which says more.
    telling = [line for line in lines if not line.lower().startswith(("fatal: could not read from",
               "please make sure", "and the repository exists", "remote: counting"))]  # fmt: skip
    marked = [line for line in telling if line.startswith(("fatal:", "error:", "ssh:"))]
    chosen = (marked or telling or lines or ["no reason given"])[-1]
    return re.sub(r"^(?:fatal|error): ", "", chosen)


def _settings(environment: Mapping[str, str], has_credentials: bool) -> str:
    """A global git configuration that adds ours to the user's.

    A file, not GIT_CONFIG_COUNT: git takes that one out of the environment of the upload-pack it
    starts for file://, which would then refuse a repository of another owner.
    """
    home = environment.get("HOME", "")
    xdg = environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    own = [environment.get("GIT_CONFIG_GLOBAL", "")] if "GIT_CONFIG_GLOBAL" in environment else [
        f"{xdg}/git/config" if xdg else "", f"{home}/.gitconfig" if home else ""
    ]  # fmt: skip
    lines = [f"[include]\n\tpath = {path}" for path in own if path]
    lines.append("[safe]\n\tdirectory = *")
    lines.append("[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tautocrlf = false")
    lines.append(
        "[advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false"
    )
    if has_credentials:  # a stored password of yesterday must not be tried before today's
        lines.append("[credential]\n\thelper =")
    return "\n".join(lines) + "\n"


def _end(process: Popen[bytes]) -> None:
    """Ends what still runs of git and its helpers."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _remove_git_folders(checkout: Path) -> None:
    """Removes `.git`, also the files of that name that submodules have."""
    for folder, names, files in os.walk(checkout):
        if ".git" in names:
            shutil.rmtree(Path(folder) / ".git")
            names.remove(".git")
        if ".git" in files:
            (Path(folder) / ".git").unlink()


def _folder(checkout: Path, source: GitSource) -> Path:
    if not source.folder:
        return checkout
    inner = checkout / DirectoryContext(checkout).resolve(source.folder, follow_last=True)
    if not inner.is_dir():
        where = redact(source.remote, source.credentials)
        raise ContextMissing(f"{where} has no folder {source.folder}")
    return inner
