"""A local folder as the stream that a build's Pod takes as its context."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pybuild.errors import InputError

_CHUNK = 1 << 18
_LEVEL = 1  # a cluster is rarely far enough away that more would pay
_GZIP = 31  # zlib's way to say: gzip's format, the largest window


class ContextChanges(InputError):
    """A file of the context changed while it was sent into the cluster."""

    code = "context-changes"
    advice = "let nothing write there meanwhile, or keep it out with .dockerignore"


def is_local(context: str) -> bool:
    """Whether a context is a folder or archive here, and not an address."""
    from pybuild.context.kinds import Archive, Folder, parse_context

    return isinstance(parse_context(context), Archive | Folder)


def local_stream(context: str, dockerfile: str) -> tuple[Callable[[], Iterator[bytes]], str]:
    """What makes the stream, anew for every Pod that needs it, and the Dockerfile's path in it.

    An archive goes as it is. Of a folder goes what .dockerignore leaves in, with the Dockerfile
    itself. Raises ContextMissing, DockerfileMissing, InputError.
    """
    from pybuild.context.kinds import Archive, Folder, parse_context
    from pybuild.context.unpack import file_chunks

    kind = parse_context(context)
    if isinstance(kind, Archive):
        path = Path(kind.path)
        if not path.is_file():
            raise InputError(f"the context archive {path} does not exist")
        return (lambda: file_chunks(path)), dockerfile
    assert isinstance(kind, Folder)
    folder = Path(kind.path)
    if folder.is_file():
        return (lambda: file_chunks(folder)), dockerfile
    inside = _inside(folder, dockerfile or "Dockerfile")
    return (lambda: compressed(tar_of(folder, inside))), inside


def _inside(folder: Path, dockerfile: str) -> str:
    """The Dockerfile's path in the context: as Docker has it, one that is named is looked for from
    here first."""
    top = Path(os.path.realpath(folder))
    for place in (Path(dockerfile), folder / dockerfile):
        found = Path(os.path.realpath(place))
        if place.is_file() and found.is_relative_to(top):
            return found.relative_to(top).as_posix()
    if Path(dockerfile).is_file():
        raise InputError(
            f"the Dockerfile {dockerfile} lies outside the context {folder}",
            hint="only the context goes into the cluster: put it there",
        )
    from pybuild.context.directory import DirectoryContext

    DirectoryContext(folder)  # a folder that is not there has an error of its own
    raise InputError(f"there is no {dockerfile} in {folder}", hint="name it with --file")


def tar_of(folder: Path, dockerfile: str) -> Iterator[bytes]:
    """A tar of the context in pieces. Raises ContextChanges, ContextUnreadable, BadPattern."""
    from pybuild.context.directory import DirectoryContext
    from pybuild.dockerfile.patterns import Patterns, parse_ignore_file
    from pybuild.layer.headers import end_of_archive, header_of, padding_of
    from pybuild.rootfs.entry import Kind

    plain = DirectoryContext(folder)
    kept = (dockerfile, f"{dockerfile}.dockerignore", ".dockerignore")
    lines: tuple[str, ...] = ()
    for name in kept[1:]:
        if plain.lookup(name) is not None:
            lines = parse_ignore_file(plain.read(name).decode(errors="replace"))
            break
    patterns = Patterns((*lines, *(f"!{name}" for name in kept))) if lines else None
    context = DirectoryContext(folder, patterns)
    for entry in context.walk(""):
        if not entry.path:
            continue
        yield header_of(entry)
        if entry.kind is Kind.FILE:
            yield from _content(context.content(entry.path), entry.size, entry.path)
            yield padding_of(entry.size)
    yield end_of_archive()


def _content(file: Path, size: int, shown: str) -> Iterator[bytes]:
    left = size
    with file.open("rb", buffering=0) as opened:
        while data := opened.read(min(_CHUNK, left + 1)):
            if len(data) > left:
                raise ContextChanges(f"{shown} grew while it was sent")
            left -= len(data)
            yield data
    if left:
        raise ContextChanges(f"{shown} shrank while it was sent")


def compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """As gzip, in pieces worth a frame each."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    pending = b""
    for chunk in chunks:
        pending += packer.compress(chunk)
        if len(pending) >= _CHUNK // 8:
            yield pending
            pending = b""
    yield pending + packer.flush()
