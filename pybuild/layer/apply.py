"""A layer's tar to an index, and to files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pybuild.layer.disk import Disk, UnpackStyle
from pybuild.layer.errors import DiskFull, is_full
from pybuild.layer.place import LayerState, Verb
from pybuild.layer.tar import TarReader
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import LayerIndex, Tree
from pybuild.rootfs.packed import KEPT_LIMIT, KEPT_PATHS
from pybuild.rootfs.tops import Tops

__all__ = ["UnpackStyle", "read_layer", "unpack_layer"]

_EMPTY_SHA256 = hashlib.sha256(b"").digest()


def read_layer(tar_chunks: Iterable[bytes], below: Tree) -> LayerIndex:
    """The index of a layer on top of `below`; nothing is written.

    Entries that come through a symbolic link of `below` or of this layer have the path they
    resolve to; missing parents are not invented. Raises BadArchive, OutsideRoot and the other
    HostileContent errors.
    """
    state = LayerState(below)
    reader = TarReader(tar_chunks)
    while (member := reader.next()) is not None:
        placed = state.place(member)
        if placed is None:
            continue
        verb, entry = placed
        if verb is Verb.WRITE:
            if entry.kind != Kind.FILE:
                state.add(entry)
            elif not entry.size:
                _take(state, entry, _EMPTY_SHA256, b"")
            elif entry.path not in KEPT_PATHS:
                hasher = hashlib.sha256()
                reader.pour(hasher.update)
                state.add(entry, hasher.digest())
            else:
                content = _Content(reader, entry)
                content.pass_over()
                _take(state, entry, content.digest(), content.kept())
        elif verb is Verb.REMOVE:
            state.remove(entry.path)
        else:
            state.empty(entry.path)
    return state.finish()


def unpack_layer(
    tar_chunks: Iterable[bytes],
    directory: Path,
    below: Tree,
    *,
    style: UnpackStyle,
    lower_path: Callable[[str], Path | None],
    select: Callable[[str], bool] | None = None,
    skip: Callable[[str], bool] | None = None,
    tops: Tops | None = None,
) -> LayerIndex:
    """Writes a layer below `directory` and gives the index that `read_layer` gives.

    The styles of overlay need an empty `directory` of their own: removals become overlay's marks,
    missing parents get what `below` has for them, a hard link to a file of a lower layer becomes
    a copy of what `lower_path` names. The others work on a root that holds `below`; paths for
    which `skip` is true are left alone, and `tops` are the only names at its top.
    With `select`, only these paths are written.
    Nothing outside `directory` is touched, whatever the layer holds. Raises what `read_layer`
    raises, AttributeRefused where a file capability can't be kept, and DiskFull.
    """
    state = LayerState(below)
    disk = Disk(
        directory,
        state,
        style=style,
        lower_path=lower_path,
        skip=skip,
        tops=tops,
        partial=select is not None,
    )
    try:
        reader = TarReader(tar_chunks)
        while (member := reader.next()) is not None:
            placed = state.place(member)
            if placed is None:
                continue
            verb, entry = placed
            path = entry.path
            wanted = select is None or select(path)
            if verb is Verb.WRITE:
                _write(state, disk, reader, entry, wanted=wanted)
            elif verb is Verb.REMOVE:
                if wanted:
                    disk.remove(path)
                state.remove(path)
            else:
                if wanted:
                    disk.empty(path)
                state.empty(path)
        disk.finish()
    except OSError as error:
        if is_full(error):
            raise DiskFull(str(directory)) from error
        raise
    finally:
        disk.close()
    return state.finish()


def _write(state: LayerState, disk: Disk, reader: TarReader, entry: Entry, *, wanted: bool) -> None:
    if entry.kind != Kind.FILE:
        if wanted:
            disk.write(entry, ())
        state.add(entry)
        return
    content = _Content(reader, entry)
    if wanted:
        disk.write(entry, content)
    content.pass_over()  # what was not written, since the path is left alone
    _take(state, entry, content.digest(), content.kept())


def _take(state: LayerState, entry: Entry, digest: bytes, kept: bytes | None) -> None:
    state.add(entry, digest)
    if kept is not None and entry.path in KEPT_PATHS:
        state.builder.kept[entry.path] = kept


class _Content:
    """A file's content as it passes: its digest, and its bytes if an index keeps them."""

    __slots__ = ("_hasher", "_kept", "_reader")

    def __init__(self, reader: TarReader, entry: Entry) -> None:
        self._reader = reader
        self._hasher = hashlib.sha256()
        keep = entry.path in KEPT_PATHS and entry.size <= KEPT_LIMIT
        self._kept: list[bytes] | None = [] if keep else None

    def __iter__(self) -> Iterator[memoryview]:
        for piece in self._reader.content():
            self._hasher.update(piece)
            if self._kept is not None:
                self._kept.append(bytes(piece))
            yield piece

    def pass_over(self) -> None:
        for _ in self:
            pass

    def digest(self) -> bytes:
        return self._hasher.digest()

    def kept(self) -> bytes | None:
        return None if self._kept is None else b"".join(self._kept)
