"""What a RUN mount shows of a context, stage or image: found, digested for the cache keys, and
written to a folder where the isolation can't show it in place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from pybuild.executor.copy import SourceTree
from pybuild.executor.errors import SourceMissing
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.isolation.moving import set_owner
from pybuild.layer.errors import ContextChanged
from pybuild.plan.steps import FromContext, PlannedMount
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.xattrs import write_xattrs

_CHUNK = 1 << 20
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ROOT_MODE = 0o755


class FileSource(SourceTree, Protocol):
    """A `SourceTree` whose bytes can be had."""

    def files(self, paths: Iterable[str]) -> Mapping[str, Path]: ...


class Shown(Struct, frozen=True):
    """A folder or file of `tree`, links on the way to it followed."""

    tree: FileSource
    entry: Entry

    @property
    def is_folder(self) -> bool:
        return self.entry.kind is Kind.DIRECTORY


def shown_by(mount: PlannedMount, tree: FileSource) -> Shown:
    """What `mount` shows of its origin. Raises SourceMissing."""
    entry = tree.lookup(tree.resolve(mount.source, follow_last=True))
    if entry is None:
        raise SourceMissing(
            f"RUN --mount with source={mount.source}: there is no such file in what it shows",
            hint="check the path, and .dockerignore where it comes from the build context",
        )
    if isinstance(mount.origin, FromContext) and not entry.path:
        entry = replace(entry, mode=_ROOT_MODE)  # a context's root is nobody's folder
    return Shown(tree, entry)


class Digested(Struct, frozen=True):
    """`files` are the digests of the files that are not empty, by path in the source."""

    digest: Digest
    files: Mapping[str, Digest]


def digest_shown(shown: Shown, digests_of: Callable[[list[str]], Mapping[str, Digest]]) -> Digested:
    """Over names, types, modes, owners, links, attributes and bytes; never times."""
    from pybuild.layer.pack import content_record

    rows = list(_rows(shown))
    files = digests_of([entry.path for _, entry in rows if _has_bytes(entry)])
    hasher = hashlib.sha256()
    for name, entry in rows:
        known = bytes.fromhex(files[entry.path].hex) if _has_bytes(entry) else b""
        hasher.update(content_record(replace(entry, path=name, opaque=False), known))
    return Digested(digest_from_hex(hasher.hexdigest()), files)


def write_shown(shown: Shown, target: Path, known: Mapping[str, Digest] | None = None) -> None:
    """Writes it as `target`, which does not exist, with all attributes and times. With `known`, a
    file that has another digest there raises ContextChanged, as does one that is not there."""
    rows = list(_rows(shown))
    places = shown.tree.files([entry.path for _, entry in rows if _has_bytes(entry)])
    written: dict[object, str] = {}  # of files with several names
    folders: list[tuple[str, Entry]] = []
    for name, entry in rows:
        path = f"{target}/{name}" if name else str(target)
        match entry.kind:
            case Kind.DIRECTORY:
                os.mkdir(path, 0o700)
                folders.append((path, entry))
                continue
            case Kind.SYMLINK:
                os.symlink(entry.link, path)
            case Kind.FILE:
                identity = shown.tree.identity(entry.path)
                if identity is not None and identity in written:
                    os.link(written[identity], path)
                    continue
                written[identity] = path
                _write_file(entry, places.get(entry.path), path, known)
            case _:
                os.mknod(path, _node_mode(entry), os.makedev(entry.major, entry.minor))
        _dress(path, entry)
    for path, entry in reversed(folders):
        _dress(path, entry)


def _rows(shown: Shown) -> Iterator[tuple[str, Entry]]:
    """Names below the entry, parents first; the entry itself has none."""
    pending = [("", shown.entry)]
    while pending:
        name, entry = pending.pop()
        yield name, entry
        if entry.kind is Kind.DIRECTORY:
            children = [
                (child.path.rpartition("/")[2], child) for child in shown.tree.children(entry.path)
            ]
            prefix = f"{name}/" if name else ""
            pending += [(prefix + last, child) for last, child in reversed(children)]


def _has_bytes(entry: Entry) -> bool:
    return entry.kind is Kind.FILE and entry.size > 0


def _write_file(
    entry: Entry, place: Path | None, path: str, known: Mapping[str, Digest] | None
) -> None:
    hasher = hashlib.sha256()
    with open(path, "xb", buffering=0) as target:
        if place is None:
            return
        try:
            source = os.open(place, _READ_FLAGS)
        except OSError as error:
            raise ContextChanged(entry.path) from error
        try:
            while data := os.read(source, _CHUNK):
                target.write(data)
                if known is not None:
                    hasher.update(data)
        finally:
            os.close(source)
    if known is not None and known.get(entry.path) != digest_from_hex(hasher.hexdigest()):
        raise ContextChanged(entry.path)


def _node_mode(entry: Entry) -> int:
    import stat

    kinds = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}
    return kinds[entry.kind] | 0o600


def _dress(path: str, entry: Entry) -> None:
    """A new owner clears set-id bits and capabilities, so it comes first."""
    set_owner(path, entry.uid, entry.gid)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(path, entry.mode)
    write_xattrs(path, entry.xattrs)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
