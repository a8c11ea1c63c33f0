"""Fetches just the commit that is asked for out of a git repository, into a folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.context.directory import DirectoryContext
from pybuild.context.errors import (
    ContextMissing,
    GitFailed,
    GitRefMissing,
)
from pybuild.context.git_lfs import fill_lfs
from pybuild.context.git_program import GitProgram
from pybuild.context.git_url import GitSource, redact
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

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{4,39}\Z")
_EVERYTHING = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_RECEIVED = re.compile(rb"Receiving objects:.*?, ([0-9.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {b"bytes": 1, b"KiB": 1 << 10, b"MiB": 1 << 20, b"GiB": 1 << 30}


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
    program = GitProgram(source, options, private, sink)
    started = time.monotonic()
    label = redact(source.remote, source.credentials)
    name = f"git {label}"
    sink(TransferStarted(name, kind, label, 0))
    outcome, received = TransferOutcome.FAILED, 0
    try:
        received = _fetch(program, checkout, lambda done: sink(TransferProgress(name, done)))
        fill_lfs(program, checkout, sink)
        outcome = TransferOutcome.DONE
    finally:
        seconds = time.monotonic() - started
        sink(TransferFinished(name, kind, label, outcome, received, seconds))
    commit = program.run("rev-parse", "HEAD", cwd=checkout).decode().strip()
    if not (options.keep_git_dir or source.keep_git_dir):
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
    program = GitProgram(source, options, options.directory)
    # gitrevisions(7): the first of these that there is; of a tag, the commit it names
    names = (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}")
    patterns = [pattern for name in names for pattern in (name, name + "^{}")]
    output = program.online("ls-remote", source.remote, *patterns, cwd=options.directory)
    found = {}
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        commit, _, name = line.partition("\t")
        found[name] = commit
    there = (found.get(name + "^{}") or found.get(name) for name in names)
    return next((commit for commit in there if commit), "")


def _fetch(program: GitProgram, checkout: Path, progress: Callable[[int], None]) -> int:
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
        program.online(
            *("submodule", "update", "--init", "--recursive", "--progress", *program.depth),
            cwd=checkout,
            watch=note,
        )
    return received


def _fetch_revision(program: GitProgram, checkout: Path, watch: Callable[[bytes], None]) -> str:
    """Fetches as little as the server allows, and says what to check out."""
    source = program.source
    ref = program.ref
    if ref.startswith("-") or source.commit.startswith("-"):
        raise GitRefMissing(f"{ref} can't be the name of a ref")
    exact = source.commit or ref

    def fetch(*refs: str, depth: tuple[str, ...] = ()) -> None:
        program.online("fetch", "--progress", "--no-tags", *depth, "origin", *refs, cwd=checkout,
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
