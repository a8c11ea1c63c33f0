"""ADD of a git repository: its commit for the cache key, its files for the layer.

Credentials are those of the address, or BuildKit's secrets GIT_AUTH_TOKEN.HOST and GIT_AUTH_TOKEN.
The ones for the build context (GIT_TOKEN) are not told to any host that a Dockerfile names.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.context.git_url import GitCredentials, GitSource, is_git_url, parse_git_url, redact
from pybuild.executor.errors import ChecksumMismatch

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions
    from pybuild.events import EventSink
    from pybuild.executor.workspace import Workspace
    from pybuild.isolation.command import Secret
    from pybuild.plan.steps import CopyAction

TOKEN_SECRET = "GIT_AUTH_TOKEN"
_TOKEN_USER = "x-access-token"  # what hosts take with any token as password


def is_repository(url: str) -> bool:
    """Whether an address of ADD is a git repository, and not a file."""
    return is_git_url(url)


class _CheckedOut(Struct, frozen=True):
    folder: Path
    commit: str


class Repositories:
    """Each repository is asked for its commit once, and fetched once. Thread-safe."""

    def __init__(
        self,
        options: ContextOptions,
        secrets: Mapping[str, Secret],
        workspace: Workspace,
        sink: EventSink,
    ) -> None:
        self._options = options
        self._secrets = secrets
        self._workspace = workspace
        self._sink = sink
        self._lock = threading.Lock()
        self._commits: dict[str, str] = {}
        self._folders: dict[tuple[str, bool], _CheckedOut] = {}

    def commit(self, url: str, action: CopyAction) -> str:
        """The commit the address leads to. Raises the Git… errors and ChecksumMismatch."""
        from pybuild.context.git import remote_commit

        with self._lock:
            if url not in self._commits:
                source = self._source(url)
                found = remote_commit(source, self._own_options(action))
                self._commits[url] = found or self._check_out(url, action).commit
            self._check(url, action, self._commits[url])
            return self._commits[url]

    def folder(self, url: str, action: CopyAction) -> Path:
        """The checked-out files: the commit that `commit` told, if it was asked. Raises as it."""
        with self._lock:
            found = self._check_out(url, action)
            self._check(url, action, found.commit)
            return found.folder

    def _check_out(self, url: str, action: CopyAction) -> _CheckedOut:
        from pybuild.context.git import check_out

        known = self._folders.get((url, action.keep_git_dir))
        if known is None:
            source = self._source(url)
            source = replace(source, commit=self._commits.get(url, source.commit))
            options = self._own_options(action)
            folder, commit = check_out(source, options, self._sink, options.directory)
            known = self._folders[url, action.keep_git_dir] = _CheckedOut(folder, commit)
        return known

    def _own_options(self, action: CopyAction) -> ContextOptions:
        from pybuild.context.open import GitOptions

        git = GitOptions(insecure_skip_tls=self._options.git.insecure_skip_tls)
        return replace(
            self._options,
            directory=self._workspace.new_spool(),
            git=git,
            keep_git_dir=action.keep_git_dir,
        )

    def _source(self, url: str) -> GitSource:
        # git:// is git's own protocol here, as in Docker; kaniko's meaning is for contexts
        source = parse_git_url(url, {"GIT_PULL_METHOD": "git"})
        source = replace(source, submodules=True)
        secret = self._secrets.get(f"{TOKEN_SECRET}.{source.host}")
        secret = secret or self._secrets.get(TOKEN_SECRET)
        if secret is None or source.credentials or not source.remote.startswith("http"):
            return source
        token = secret.value.decode("utf-8", "replace").strip()
        return replace(source, credentials=GitCredentials(_TOKEN_USER, token))

    def _check(self, url: str, action: CopyAction, commit: str) -> None:
        if action.checksum and not commit.startswith(action.checksum.lower()):
            source = self._source(url)
            raise ChecksumMismatch(
                f"ADD {redact(source.remote, source.credentials)}: the commit is {commit}, "
                f"--checksum asks for {action.checksum}",
                hint="the branch or tag has moved, or the checksum is mistyped",
            )
