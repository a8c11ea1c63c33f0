"""A root that is one directory: layers are applied onto it, and what a RUN changed is found by a
walk before and after. Used where overlay can't be had, and by takeover on the container's `/`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.isolation.command import Mounting, Output, RunCommand, StackedLayer

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
