"""Finds the Dockerfile, and the ignore file that goes with it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from pybuild.context.directory import DirectoryContext
from pybuild.context.errors import (
    ContextDenied,
    ContextNotFound,
    ContextRefused,
    ContextUnreadable,
    DockerfileMissing,
)
from pybuild.context.open import ContextOptions, open_download
from pybuild.events import EventSink

_LIMIT = 4 << 20  # bytes of a Dockerfile, and of an ignore file


class DockerfileFound(Struct, frozen=True):
    """`file` is how it is shown to people; `ignore` is the text of the ignore file, "" if none."""

    file: str
    text: str
    ignore: str
    ignore_file: str


def find_dockerfile(
    name: str,
    context: Path,
    working_directory: Path | None,
    options: ContextOptions,
    sink: EventSink,
) -> DockerfileFound:
    """Reads the Dockerfile and the ignore file that goes with it.

    As kaniko: `name` is tried against the working folder first (unless that is None), then inside
    the context; there a link that leads out of the context counts as missing. It may be an address,
    or `-` for standard input as with Docker. The ignore file is `<name>.dockerignore` beside the
    Dockerfile, else `.dockerignore` at the context's root.
    Raises DockerfileMissing, ContextUnreadable, StdinEmpty, and for an address the errors of
    `Download.chunks`.
    """
    inside = DirectoryContext(context)
    if re.match(r"https?://", name, re.IGNORECASE):
        return _at_address(name, inside, options, sink)
    if name == "-":
        from pybuild.context.unpack import stdin_chunks

        chunks = stdin_chunks(options.stdin, options.cancelled.is_set)
        return _with_common("Dockerfile", _text(b"".join(chunks)), inside)
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
    return _with_common(shown, text, inside)


def _with_common(shown: str, text: str, inside: DirectoryContext) -> DockerfileFound:
    """With the ignore file of the whole context, if it has one."""
    if _is_file(inside, ".dockerignore"):
        return DockerfileFound(shown, text, _read_context(inside, ".dockerignore"), ".dockerignore")
    return DockerfileFound(shown, text, "", "")


def _at_address(
    url: str, inside: DirectoryContext, options: ContextOptions, sink: EventSink
) -> DockerfileFound:
    """Plain http is taken too, as kaniko does; an ignore file counts that a server has beside it,
    and that is no page made for people."""
    from pybuild.context.web import WebFile

    remote = WebFile(url.partition("#")[0])
    text = _text(open_download(remote, options, sink).whole(_LIMIT))
    beside = WebFile(_with_ending(remote.url, ".dockerignore"))
    try:
        own = _text(open_download(beside, options, sink).whole(_LIMIT))
    except (ContextNotFound, ContextDenied, ContextRefused):
        own = ""
    if own and not own.lstrip().startswith("<"):
        return DockerfileFound(remote.shown, text, own, beside.shown)
    return _with_common(remote.shown, text, inside)


def _with_ending(url: str, ending: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + ending))


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


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
        return _text(read())
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
