"""A root in a folder of its own, all of whose files are one ordinary user's; what they are to be is
kept beside them. A RUN sees it in namespaces, behind the filter."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.isolation.command import Mounting, Output, RunCommand, StackedLayer
from pybuild.isolation.ownership import Faked
from pybuild.isolation.process import Outcome, Request, status_of
from pybuild.isolation.removal import remove_tree
from pybuild.isolation.unowned import Unowned
from pybuild.layer.apply import unpack_layer
from pybuild.layer.disk import UnpackStyle, open_mode
from pybuild.layer.snapshot import WalkTable, walk_changes

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.layer.changes import Change
    from pybuild.rootfs.index import LayerIndex, Tree

Enter = Callable[[Path, RunCommand, Faked, Output, threading.Event], tuple[Request, Outcome]]


def _nothing(_path: str) -> bool:
    return False


class UnownedRoot:
    """Owns `folder`, which is empty at first."""

    mounting = Mounting.BINDS

    def __init__(self, folder: Path, enter: Enter) -> None:
        self.folder = folder
        self._enter = enter
        self._surface = Unowned(folder, None, _nothing)
        self._before: WalkTable | None = None
        self._indexes: dict[str, LayerIndex] = {}

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        for layer in layers:
            index = unpack_layer(
                layer.open_tar(),
                self.folder,
                layer.below,
                style=UnpackStyle.UNOWNED,
                lower_path=self.content,
                skip=_nothing,
            )
            self._indexes[layer.chain] = index
            self._surface.learn(index.entries())

    def index(self, chain: Digest) -> LayerIndex | None:
        return self._indexes.get(chain)

    def run(self, command: RunCommand, output: Output, cancelled: threading.Event) -> int:
        self._surface.begin(command.ids)
        self._before = WalkTable.take(self._surface)
        mounts = [mount for mount in command.mounts if mount.uid or mount.gid]
        owned = tuple((mount.target, mount.uid, mount.gid) for mount in mounts)
        faked = Faked(command.ids, self._surface.records(), owned=owned)
        request, outcome = self._enter(self.folder, command, faked, output, cancelled)
        self._surface.take_records(outcome.records)
        return status_of(outcome, request)

    def changes(self, below: Tree) -> Iterator[Change]:
        assert self._before is not None, "changes() before any run()"
        return walk_changes(self._before, self._surface, below)

    def settle(self, chain: Digest) -> None:
        """Nothing to do: the changes are where they belong already."""

    def content(self, path: str) -> Path | None:
        place = self.folder / path
        return None if place.is_symlink() or not place.is_file() else place

    def close(self) -> None:
        if self.folder.exists():
            make_removable(self.folder)
            remove_tree(self.folder)


def make_removable(folder: Path) -> None:
    """A RUN may have closed folders to their owner, who needs to write in them to empty them."""
    for here, names, _ in os.walk(folder, onerror=_stop):
        for name in names:
            path = os.path.join(here, name)  # noqa: PTH118
            found = os.lstat(path)
            mode = stat.S_IMODE(found.st_mode)
            if stat.S_ISDIR(found.st_mode) and mode != open_mode(mode, directory=True):
                os.chmod(path, open_mode(mode, directory=True))  # noqa: PTH101


def _stop(error: OSError) -> None:
    raise error
