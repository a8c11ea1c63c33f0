"""A root that is one directory: layers are applied onto it, and what a RUN changed is found by a
walk before and after. Used where overlay can't be had, and by takeover on the container's `/`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.events import EventSink, Level, Notice
from pybuild.isolation.command import Mounting, Output, RunCommand, StackedLayer
from pybuild.isolation.watch import shortened
from pybuild.rootfs.entry import Entry, Kind

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.layer.changes import Change
    from pybuild.layer.snapshot import WalkTable
    from pybuild.rootfs.index import LayerIndex, Tree


class InPlaceLayers:
    """The part of a Root that has to do with files; `skip` names paths (relative to the root)
    that are not the image's."""

    def __init__(self, directory: Path, skip: Callable[[str], bool]) -> None:
        self.directory = directory
        self._skip = skip
        self._before: WalkTable | None = None
        self._indexes: dict[str, LayerIndex] = {}

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        from pybuild.layer.apply import UnpackStyle, unpack_layer

        for layer in layers:
            self._indexes[layer.chain] = unpack_layer(
                layer.open_tar(),
                self.directory,
                layer.below,
                style=UnpackStyle.IN_PLACE,
                lower_path=self.content,
                skip=self._skip,
            )
        self._before = None

    def index(self, chain: Digest) -> LayerIndex | None:
        return self._indexes.get(chain)

    def note(self) -> None:
        """Takes the table that the next changes are told from."""
        from pybuild.layer.snapshot import Surface, WalkTable

        self._before = WalkTable.take(Surface(self.directory, self._skip))

    def changes(self, below: Tree) -> Iterator[Change]:
        from pybuild.layer.snapshot import Surface, walk_changes

        assert self._before is not None, "changes() before any run()"
        return walk_changes(self._before, Surface(self.directory, self._skip), below)

    def content(self, path: str) -> Path | None:
        """The path is resolved, and the root is quiet: no link is met on the way."""
        found = self.directory / path
        if self._skip(path) or not os.path.isfile(found) or found.is_symlink():  # noqa: PTH113
            return None
        return found


def is_file(entry: Entry) -> bool:
    return entry.kind not in (Kind.DIRECTORY, Kind.WHITEOUT)


def links_told(changes: Iterator[Change], below: Tree, sink: EventSink) -> Iterator[Change]:
    """The changes as they are. A write through one name of a file that has several in the layers
    below has changed them all here; on overlay, as other builders use it, it is that one name's.
    Which one it was can't be known, so who reads the log is told."""
    names: list[str] = []
    for change in changes:
        entry = change.entry
        if entry.kind is Kind.HARDLINK and _was_one_file(below, entry.path, entry.link):
            names += [name for name in (entry.link, entry.path) if name not in names]
        yield change
    if names:
        text = "names of one file, which all changed with it; elsewhere only the one written to may"
        told = shortened([f"/{name}" for name in names])
        sink(Notice(Level.WARNING, f"{text}: {told}", code="linked-names-changed"))


def _was_one_file(below: Tree, one: str, other: str) -> bool:
    found = below.locate(one), below.locate(other)
    return None not in found and found[0] == found[1]


class PlainRoot:
    """A directory of its own for each root, entered as overlay roots are."""

    mounting = Mounting.BINDS

    def __init__(
        self,
        directory: Path,
        enter: Callable[[Path, Path, RunCommand, Output, threading.Event], int],
        discard: Callable[[Path], None],
    ) -> None:
        self._files = InPlaceLayers(directory, lambda _path: False)
        self._enter = enter
        self._discard = discard
        self.folder = directory

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        self._files.apply(layers)

    def index(self, chain: Digest) -> LayerIndex | None:
        return self._files.index(chain)

    def run(self, command: RunCommand, output: Output, cancelled: threading.Event) -> int:
        self._files.note()
        directory = self._files.directory
        return self._enter(directory, directory, command, output, cancelled)

    def changes(self, below: Tree) -> Iterator[Change]:
        return self._files.changes(below)

    def settle(self, chain: Digest) -> None:
        """Nothing to do: the changes are where they belong already."""

    def content(self, path: str) -> Path | None:
        return self._files.content(path)

    def close(self) -> None:
        self._discard(self._files.directory)
