"""Turns what the user wrote as context into a folder on disk, and finds the Dockerfile for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Signal

from msgspec import Struct, field

from pybuild.context.directory import DirectoryContext
from pybuild.context.errors import (
    ContextMissing,
    ContextUnknown,
    ContextUnreadable,
    DockerfileMissing,
)
from pybuild.context.git_url import is_git_url, parse_git_url, without_password
from pybuild.errors import NotCarriedOut
from pybuild.events import EventSink

_NOT_YET = {
    "tar://": "an archive as context",
    "s3://": "a context in an S3 bucket",
    "gs://": "a context in a Google bucket",
    "https://": "an archive fetched over https as context",
    "http://": "an archive fetched over http as context",
}


class GitOptions(Struct, frozen=True):
    """kaniko's `--git` keys. `recurse_submodules` None: as the form of the URL has it (kaniko's
    `git://` without, all others with); `depth` 0: the whole history."""

    branch: str = ""
    single_branch: bool = False
    recurse_submodules: bool | None = None
    insecure_skip_tls: bool = False
    depth: int = 1


class ContextOptions(Struct, frozen=True):
    """`directory`: where a fetched context is put, in a folder of its own that is removed after
    the build. `keep_git_dir` keeps `.git` in a git context (Docker removes it)."""

    directory: Path
    sub_path: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    git: GitOptions = GitOptions()
    keep_git_dir: bool = False
    timeout_seconds: float = 1800.0
    cancelled: Signal = field(default_factory=Signal)


class DockerfileFound(Struct, frozen=True):
    """`file` is how it is shown to people; `ignore` is the text of the ignore file, "" if none."""

    file: str
    text: str
    ignore: str
    ignore_file: str


@contextmanager
def open_context(url: str, options: ContextOptions, sink: EventSink) -> Iterator[Path]:
    """The folder that holds the context; what was fetched for it is removed at the end.

    Raises ContextMissing, ContextUnknown, NotCarriedOut, and the Git… errors.
    """
    if is_git_url(url):
        from pybuild.context.git import fetched

        with fetched(parse_git_url(url, options.environment), options, sink) as folder:
            yield _inside(folder, options.sub_path, without_password(url))
        return
    for prefix, what in _NOT_YET.items():
        if url.startswith(prefix):
            hint = "give a folder, or a git repository (a URL that ends in .git)"
            raise NotCarriedOut(
                f"{what} is not carried out yet: {without_password(url)}", hint=hint
            )
    known = re.match(r"[A-Za-z0-9+.-]+://", url)
    if known and known[0] != "dir://":
        raise ContextUnknown(
            f"there is no kind of context {known[0]}",
            hint="give a folder, dir://folder, git://host/repository.git#ref "
            "or https://host/repository.git#ref:folder",
        )
    folder = Path(url.removeprefix("dir://") or ".")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        hint = "give the folder to build from with --context; in a Pod: is its volume mounted?"
        if not folder.is_absolute():
            hint += f" ({Path.cwd()} is the working folder)"
        raise ContextMissing(f"the context folder {folder} {what}", hint=hint)
    yield _inside(folder.resolve(), options.sub_path, url)


def _inside(root: Path, sub_path: str, shown: str) -> Path:
    """The folder `sub_path` below `root`, links followed inside it only."""
    if not sub_path.strip("/"):
        return root
    context = DirectoryContext(root)
    inner = root / context.resolve(sub_path.strip("/"), follow_last=True)
    if not inner.is_dir():
        raise ContextMissing(
            f"the context {shown} has no folder {sub_path}",
            hint="check --context-sub-path, or the part behind the colon",
        )
    return inner


def find_dockerfile(name: str, context: Path, working_directory: Path | None) -> DockerfileFound:
    """Reads the Dockerfile and the ignore file that goes with it.

    As kaniko: `name` is tried against the working folder first (unless that is None), then inside
    the context; there a link that leads out of the context counts as missing. The ignore file is
    `<name>.dockerignore` beside the Dockerfile, else `.dockerignore` at the context's root.
    Raises DockerfileMissing, NotCarriedOut for a URL, ContextUnreadable.
    """
    if re.match(r"https?://", name):
        raise NotCarriedOut(f"a Dockerfile fetched from a URL is not carried out yet: {name}")
    inside = DirectoryContext(context)
    if working_directory is not None and (working_directory / name).is_file():
        path = working_directory / name
        text = _read_text(path.read_bytes, name)
        beside = path.with_name(path.name + ".dockerignore")
        own = _read_text(beside.read_bytes, beside.name) if beside.is_file() else None
        shown = name
    else:
        relative = _relative_to(context, name)
        if relative is None or not _is_file(inside, relative):
            raise _missing(name, context, working_directory)
        text = _read_context(inside, relative)
        own_name = relative + ".dockerignore"
        own = _read_context(inside, own_name) if _is_file(inside, own_name) else None
        shown = relative
    if own is not None:
        return DockerfileFound(shown, text, own, shown + ".dockerignore")
    if _is_file(inside, ".dockerignore"):
        return DockerfileFound(shown, text, _read_context(inside, ".dockerignore"), ".dockerignore")
    return DockerfileFound(shown, text, "", "")


def _relative_to(context: Path, name: str) -> str | None:
    if not name.startswith("/"):
        return os.path.normpath(name) if not name.startswith("../") else None
    try:
        return str(Path(os.path.realpath(name)).relative_to(os.path.realpath(context)))
    except ValueError:
        return None


def _is_file(context: DirectoryContext, path: str) -> bool:
    return context.content(context.resolve(path, follow_last=True)).is_file()


def _read_context(context: DirectoryContext, path: str) -> str:
    found = context.resolve(path, follow_last=True)
    return _read_text(lambda: context.read(found), path)


def _read_text(read: Callable[[], bytes], name: str) -> str:
    try:
        return read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ContextUnreadable(
            f"can't read {name}: {(error.strerror or str(error)).lower()}",
            hint="check its mode and owner: the builder runs as a user who may not read it",
        ) from error


def _missing(name: str, context: Path, working_directory: Path | None) -> DockerfileMissing:
    places = [str(place) for place in (working_directory, context) if place is not None]
    where = " nor in ".join(dict.fromkeys(places))
    similar = ""
    if (context / name).is_dir():
        return DockerfileMissing(
            f"{name} in {context} is a folder, not a Dockerfile",
            hint=f"name the file with --dockerfile, such as {name}/Dockerfile",
        )
    if context.is_dir():
        near = sorted(item.name for item in context.iterdir() if "dockerfile" in item.name.lower())
        near = [item for item in near if not item.endswith(".dockerignore")]
        similar = f"; the context has {', '.join(near[:3])}" if near else ""
    return DockerfileMissing(
        f"there is no Dockerfile {name} in {where}",
        hint=f"name it with --dockerfile{similar}",
    )
