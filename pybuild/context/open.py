"""Turns what the user wrote as context into a folder on disk.

Each kind's own modules are loaded when it is asked for: a build from a folder loads none of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Signal
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct, field

from pybuild.context.directory import DirectoryContext
from pybuild.context.errors import ContextMissing, NoArchive
from pybuild.context.git_url import parse_git_url, without_password
from pybuild.context.kinds import (
    Address,
    Archive,
    AzureBlob,
    Bucket,
    Folder,
    Repository,
    Stdin,
    parse_context,
)
from pybuild.events import EventSink
from pybuild.registry.options import RegistryOptions

if TYPE_CHECKING:
    from pybuild.context.download import Download, Remote
    from pybuild.context.unpack import Source


class GitOptions(Struct, frozen=True):
    """kaniko's `--git` keys. `recurse_submodules` None: as the form of the URL has it (kaniko's
    `git://` without, all others with); `depth` 0: the whole history."""

    branch: str = ""
    single_branch: bool = False
    recurse_submodules: bool | None = None
    insecure_skip_tls: bool = False
    depth: int = 1


def _never(_: Callable[[], None]) -> None:
    """Nobody cancels."""


class ContextOptions(Struct, frozen=True):
    """`directory`: where a fetched context is put, in a folder of its own that is removed after
    the build. `keep_git_dir` keeps `.git` in a git context (Docker removes it). `cancelled` is
    polled; what can't poll is handed to `when_cancelled`. `web` is how hosts are reached, `stdin`
    the descriptor that standard input has."""

    directory: Path
    sub_path: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    git: GitOptions = GitOptions()
    keep_git_dir: bool = False
    timeout_seconds: float = 1800.0
    cancelled: Signal = field(default_factory=Signal)
    when_cancelled: Callable[[Callable[[], None]], None] = _never
    web: RegistryOptions = field(default_factory=RegistryOptions)
    stdin: int = 0


@contextmanager
def open_context(url: str, options: ContextOptions, sink: EventSink) -> Iterator[Path]:
    """The folder that holds the context; what was fetched for it is removed at the end.

    Raises ContextMissing, ContextUnknown, the other Context… errors, NoArchive, StdinEmpty,
    DiskFull, HostileContent for an archive that is, and the Git… errors.
    """
    kind = parse_context(url)
    match kind:
        case Folder():
            yield _inside(_folder(kind, url), options.sub_path, url)
        case Repository():
            from pybuild.context.git import fetched

            with fetched(parse_git_url(url, options.environment), options, sink) as folder:
                yield _inside(folder, options.sub_path, without_password(url))
        case Archive() | Stdin() | Address() | Bucket() | AzureBlob():
            with _private_folder(options.directory) as folder:
                shown = _unpacked(kind, folder, options, sink)
                yield _inside(folder, options.sub_path, shown)
        case _:
            assert_never(kind)


def _folder(kind: Folder, url: str) -> Path:
    folder = Path(kind.path)
    if folder.is_dir():
        return folder.resolve()
    # kaniko steps to / before it looks: its tutorial has dir://workspace, in /workspace.
    if url.startswith("dir://") and Path("/", folder).is_dir():
        return Path("/", folder).resolve()
    what = "is not a folder" if folder.exists() else "does not exist"
    hint = "give the folder to build from with --context; in a Pod: is its volume mounted?"
    if folder.is_file():
        hint = f"write tar://{folder} for an archive"
    elif not folder.is_absolute():
        hint += f" ({Path.cwd()} is the working folder)"
    raise ContextMissing(f"the context folder {folder} {what}", hint=hint)


@contextmanager
def _private_folder(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="files-", dir=directory))
    try:
        folder.chmod(0o755)  # the mode of a context's root can be seen where it is mounted
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpacked(
    kind: Archive | Stdin | Address | Bucket | AzureBlob,
    folder: Path,
    options: ContextOptions,
    sink: EventSink,
) -> str:
    """Fills the folder; the context's name for people."""
    from pybuild.context.unpack import unpack

    match kind:
        case Archive():
            source = _file_source(kind, sink)
        case Stdin():
            source = _stdin_source(options, sink)
            if kind.may_be_dockerfile:
                from pybuild.context.unpack import archive_or_dockerfile

                archive = archive_or_dockerfile(source, folder)
                if archive is None:
                    return "standard input"
                source = archive
        case Address() | Bucket() | AzureBlob():
            remote = remote_of(kind, options)
            download = open_download(remote, options, sink)
            source = _download_source(remote.shown, download)
        case _:
            assert_never(kind)
    unpack(source, folder, sink)
    return source.shown


def _file_source(kind: Archive, sink: EventSink) -> Source:
    from pybuild.context.unpack import Source, file_chunks, told

    path = Path(kind.path)
    if path.is_dir():
        raise NoArchive(f"the context {path} is a folder", hint=f"write dir://{path}")
    if not path.is_file():
        raise ContextMissing(
            f"the context archive {path} does not exist",
            hint="in a Pod: is its volume mounted?",
        )
    chunks = told(file_chunks(path), str(path), path.stat().st_size, sink)
    return Source(str(path), chunks, lambda: None)


def _stdin_source(options: ContextOptions, sink: EventSink) -> Source:
    from pybuild.context.unpack import Source, stdin_chunks, told

    given_up = Signal()
    chunks = stdin_chunks(options.stdin, lambda: given_up.is_set() or options.cancelled.is_set())
    return Source("standard input", told(chunks, "standard input", 0, sink), given_up.set)


def _download_source(shown: str, download: Download) -> Source:
    from pybuild.context.unpack import Source

    return Source(shown, download.chunks(), download.close)


def open_download(remote: Remote, options: ContextOptions, sink: EventSink) -> Download:
    """The stream of a file on a server, which ends when the build is cancelled."""
    from pybuild.context.download import Download

    download = Download(remote, options.web, options.environment, sink)
    options.when_cancelled(download.close)
    return download


def remote_of(kind: Address | Bucket | AzureBlob, options: ContextOptions) -> Remote:
    """How it is asked for. Raises ContextInsecure, ContextDenied where no credentials fit."""
    from pybuild.context.web import WebFile, check_plain

    match kind:
        case Address():
            check_plain(kind.url, kind.checksum, options.web)
            return WebFile(kind.url, kind.checksum)
        case Bucket(scheme="s3"):
            from pybuild.context.s3 import s3_object

            return s3_object(kind, options)
        case Bucket():
            from pybuild.context.gcs import gcs_object

            return gcs_object(kind, options)
        case AzureBlob():
            from pybuild.context.azure import azure_blob

            return azure_blob(kind, options)
        case _:
            assert_never(kind)


def _inside(root: Path, sub_path: str, shown: str) -> Path:
    """The folder `sub_path` below `root`, links followed inside it only."""
    if not sub_path.strip("/"):
        return root
    if os.path.normpath(sub_path.strip("/")).split("/")[0] == "..":
        raise ContextMissing(
            f"--context-sub-path={sub_path} leads out of the context {shown}",
            hint="name a folder inside it, or another --context",
        )
    context = DirectoryContext(root)
    inner = root / context.resolve(sub_path.strip("/"), follow_last=True)
    if not inner.is_dir():
        raise ContextMissing(
            f"the context {shown} has no folder {sub_path}",
            hint="check --context-sub-path, or the part behind the colon",
        )
    return inner
