"""RUN in place by an ordinary user, in an agent image whose top-level names are made for it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.isolation.command import (
    Mounting,
    Network,
    Output,
    Root,
    RunCommand,
    RunMount,
    StackedLayer,
)
from pybuild.isolation.errors import (
    RootPathKept,
    RunFlagUnsupported,
    TopNameMissing,
    TopNameRefused,
)
from pybuild.isolation.ground import find_tops, ground_of
from pybuild.isolation.in_place import links_told
from pybuild.isolation.ownership import Faked, Record
from pybuild.isolation.process import Request, status_of
from pybuild.isolation.removal import remove_tree
from pybuild.isolation.run_environment import with_settings
from pybuild.isolation.stand_in import stand_ins
from pybuild.rootfs.tops import LINKS

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.isolation.takeover import Takeover
    from pybuild.layer.changes import Change
    from pybuild.layer.snapshot import WalkTable
    from pybuild.rootfs.index import LayerIndex, Tree

NEEDLE = f"/{LINKS}/".encode()
_CHUNK = 1 << 20
_TAIL = 1 << 14  # of what a RUN writes, to tell why it failed
# `mkdir: cannot create directory '/x': Permission denied`, in the words of many programs
_DENIED = re.compile(
    rb"""['"`\s\x98]/([^/\n'"`:\xe2]+)/?(?:['"`:]|\xe2\x80\x99)[^\n]*(?:denied|exists)"""
    rb"""|denied: ['"]/([^/\n'"]+)['"]"""  # Python's way
)


class Rootless:
    """Takeover as far as files and turns go. What a RUN asks for and an ordinary user can't have is
    recorded beside the files, and part of the image: see ownership, listener and unowned."""

    name = "rootless"
    parallel = False
    fidelity = "rootless"

    def __init__(self, takeover: Takeover, *, reason: str = "", allow_root_path: bool) -> None:
        self.reason = reason
        self.takeover = takeover
        self.allow_root_path = allow_root_path
        # Where the whole root is this user's there is nothing special about its top.
        self.tops = find_tops() if ground_of().folders != ("",) else None

    def open_root(self) -> Root:
        stored = self.takeover.new_place()
        if self.tops is not None:
            # A link that climbs out of /lib with `..` is in LINKS then, and has to find /usr.
            (stored / LINKS).mkdir()
            for name in self.tops.folders:
                (stored / LINKS / name).symlink_to(f"../{name}")
        return _RootlessRoot(self, stored)

    def skip(self, path: str) -> bool:
        """Of paths of the image: what the container keeps, and what can't be on its disk."""
        if self.tops is None:
            return self.takeover.kept.covers(path)
        return not self.tops.has(path) or self.takeover.kept.covers(self.tops.on_disk(path))

    def close(self) -> None:
        self.takeover.close()


class _RootlessRoot:
    mounting = Mounting.NONE

    def __init__(self, isolation: Rootless, stored: Path) -> None:
        from pybuild.isolation.unowned import Unowned

        self.stored = stored
        self.folder = Path("/")
        self._isolation = isolation
        self._takeover = isolation.takeover
        self._surface = Unowned(Path("/"), isolation.tops, isolation.skip)
        self._before: WalkTable | None = None
        self._indexes: dict[str, LayerIndex] = {}

    # -- files

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        from pybuild.layer.apply import UnpackStyle, unpack_layer

        self._takeover.activate(self)
        for layer in layers:
            index = unpack_layer(
                layer.open_tar(),
                Path("/"),
                layer.below,
                style=UnpackStyle.UNOWNED,
                lower_path=self.content,
                skip=self._isolation.skip,
                tops=self._isolation.tops,
            )
            self._indexes[layer.chain] = index
            self._surface.learn(index.entries())
            self._surface.note_present(layer.below.with_layer(index))
            self._check_names(layer, index)
            self._takeover.tell_kept(layer, index)

    def _check_names(self, layer: StackedLayer, index: LayerIndex) -> None:
        """What a step of this build put at the top, a RUN has to see; a base may have more than it
        needs."""
        tops = self._isolation.tops
        if tops is None or layer.is_base:
            return
        kept = self._takeover.kept
        found = {entry.path.partition("/")[0] for entry in index.entries() if entry.path}
        names = sorted(name for name in found if not tops.has(name) and not kept.covers(name))
        if names:
            raise TopNameMissing(names)

    def index(self, chain: Digest) -> LayerIndex | None:
        return self._indexes.get(chain)

    def content(self, path: str) -> Path | None:
        surface = self._surface
        if not self._takeover.is_active(self):
            surface = surface.elsewhere(self.stored)
        place = Path(surface.place(path))
        if self._isolation.skip(path) or not place.is_file() or place.is_symlink():
            return None
        return place

    def changes(self, below: Tree) -> Iterator[Change]:
        from pybuild.layer.snapshot import walk_changes

        self._takeover.activate(self)
        assert self._before is not None, "changes() before any run()"
        found = walk_changes(self._before, self._surface, below)
        found = links_told(found, below, self._takeover.sink)
        return found if self._isolation.allow_root_path else _without_root_path(found)

    def settle(self, chain: Digest) -> None:
        """Nothing to do: the changes are where they belong already."""

    def close(self) -> None:
        self._takeover.deactivate(self)

    # -- commands

    def run(self, command: RunCommand, output: Output, cancelled: threading.Event) -> int:
        from pybuild.layer.snapshot import WalkTable

        if command.network is Network.NONE:
            raise RunFlagUnsupported(
                "RUN --network=none needs a network namespace, which can't be made here",
                hint="`pybuild doctor` says what the Pod would have to allow",
            )
        self._takeover.activate(self)
        self._surface.begin(command.ids)
        self._before = WalkTable.take(self._surface)
        aside = self.stored.with_name(f"{self.stored.name}-mounts")
        aside.mkdir()
        tail = _Tail(output)
        try:
            command = with_programs(command, aside)
            command = replace(command, env=with_settings(command.env, aside))
            self._check_targets(command)
            fixed = [path for path, name in ground_of().places() if name]
            mounts = stand_ins(command.mounts, aside, self._takeover.kept, fixed)
            with mounts, self._takeover.guarded(command.cwd):
                request = self._request(command)
                outcome = self._takeover.runner.run(request, tail, cancelled)
        finally:
            remove_tree(aside)
        self._surface.take_records(outcome.records)
        status = status_of(outcome, request)
        if status and (name := tail.denied_name()):
            raise TopNameRefused(name, status, there=os.path.lexists(f"/{name}"))
        return status

    def _check_targets(self, command: RunCommand) -> None:
        """A mount shows itself at a name at the top that is there."""
        tops = self._isolation.tops
        names = {mount.target.strip("/").partition("/")[0] for mount in command.mounts}
        kept = self._takeover.kept
        missing = [name for name in names if tops and not (tops.has(name) or kept.covers(name))]
        if missing:
            raise TopNameMissing(sorted(missing))

    def _request(self, command: RunCommand) -> Request:
        """With all mounts in place."""
        tops = self._isolation.tops
        return Request(
            argv=command.argv,
            env=command.env,
            cwd=command.cwd,
            uid=os.geteuid(),
            gid=os.getegid(),
            groups=None,
            flags=0,
            operations=(("in_place",),),
            capabilities=0,
            weak_bounding=True,
            faked=Faked(
                command.ids,
                (*self._surface.records(), *_owners_of(command.mounts)),
                self._surface.absent(),
                tuple((f"/{name}", f"/{LINKS}/{name}") for name in tops.links) if tops else (),
            ),
        )


def _owners_of(mounts: Sequence[RunMount]) -> Iterator[Record]:
    """What stands for a mount belongs to whom the mount says."""
    from pybuild.isolation.unowned import birth_of

    for mount in mounts:
        if mount.uid or mount.gid:
            place = os.path.realpath(mount.target)
            found = os.lstat(place)
            birth = birth_of(place)  # else the next file with this inode were its owner's too
            yield Record(found.st_dev, found.st_ino, birth, mount.uid, mount.gid)


class _Tail:
    """Passes on what a RUN writes, and keeps the end of it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._kept = b""

    def __call__(self, stream: int, data: bytes) -> None:
        self._kept = (self._kept + data)[-_TAIL:]
        self._output(stream, data)

    def denied_name(self) -> str:
        """The name in `/` that the last complaint of this kind is about; "" for none."""
        found = _DENIED.findall(self._kept)
        return os.fsdecode(found[-1][0] or found[-1][1]) if found else ""


def with_programs(command: RunCommand, folder: Path) -> RunCommand:
    """Here-documents with a program of their own are files below /dev, where an ordinary user can
    make none: they are executed from `folder`."""
    moved: dict[str, str] = {}
    for mount in command.mounts:
        if mount.kind == "file" and mount.target.startswith("/dev/") and mount.source is not None:
            place = folder / f"program-{len(moved)}" / Path(mount.target).name
            place.parent.mkdir()
            mount.source.replace(place)
            moved[mount.target] = str(place)
    return replace(
        command,
        argv=tuple(moved.get(word, word) for word in command.argv),
        mounts=tuple(mount for mount in command.mounts if mount.target not in moved),
    )


def _without_root_path(changes: Iterator[Change]) -> Iterator[Change]:
    """Raises RootPathKept at the end, for all files that hold NEEDLE."""
    found = []
    for change in changes:
        if isinstance(change.content, str) and holds_root_path(change.content):
            found.append(change.entry.path)
        yield change
    if found:
        raise RootPathKept(found)


def holds_root_path(path: str) -> bool:
    """Whether the file has NEEDLE in it, wherever."""
    overlap = b""
    with Path(path).open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            if NEEDLE in chunk or NEEDLE in overlap + chunk[: len(NEEDLE)]:
                return True
            overlap = (overlap + chunk)[-len(NEEDLE) + 1 :]
    return False
