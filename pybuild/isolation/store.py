"""Unpacked layers by chain ID, each once, for all the stages of a build."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from stat import S_ISCHR, S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from msgspec import Struct, field

from pybuild.isolation.removal import remove_tree

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.isolation.command import StackedLayer
    from pybuild.rootfs.entry import Entry
    from pybuild.rootfs.index import LayerIndex

UNPACK_THREADS = 2


class _Slot(Struct):
    """One layer: who claims it first unpacks it, others wait for `done`."""

    name: str
    done: threading.Event = field(default_factory=threading.Event)
    problem: BaseException | None = None
    index: LayerIndex | None = None  # what unpacking learned


class _Seen(Enum):
    """What one layer's directory says of a path."""

    HERE = "here"
    HIDDEN = "hidden"  # removed, or below something that replaced its parent: look no further
    ABSENT = "absent"


class LayerStore:
    """Directories of unpacked layers below `directory`, with short names that overlay's option
    string is made of. Thread-safe."""

    def __init__(self, directory: Path, *, user_xattrs: bool) -> None:
        self.directory = directory
        self._user_xattrs = user_xattrs
        self._opaque_mark = f"{'user' if user_xattrs else 'trusted'}.overlay.opaque"
        self._lock = threading.Lock()
        self._next = 0
        self._slots: dict[str, _Slot] = {}

    def new_name(self) -> str:
        """A name that is not taken, of a directory that does not exist yet."""
        with self._lock:
            self._next += 1
            return str(self._next)

    def path(self, name: str) -> Path:
        return self.directory / name

    def empty(self) -> str:
        """A new empty directory with the attributes of a root that no layer speaks of."""
        name = self.new_name()
        self.path(name).mkdir(mode=0o755)
        return name

    def settle(self, chain: Digest, name: str) -> None:
        """A directory that is a layer already, such as the upper one of a RUN."""
        slot = _Slot(name)
        slot.done.set()
        with self._lock:
            self._slots.setdefault(chain, slot)

    def index(self, chain: Digest) -> LayerIndex | None:
        """The index of a layer that was unpacked here."""
        with self._lock:
            slot = self._slots.get(chain)
        return None if slot is None else slot.index

    def ensure(self, layers: Sequence[StackedLayer], below: Sequence[str]) -> list[str]:
        """The names of the directories of `layers`, unpacked on top of `below`."""
        slots, mine = self._claim(layers)
        stack = [*below, *(slot.name for slot in slots)]
        waits = {slot.name: slot for slot in slots}

        def unpack(index: int) -> None:
            place = len(below) + index
            self._unpack(layers[index], slots[index], self._finder(stack[:place], waits))

        _in_threads(unpack, mine)
        for layer, slot in zip(layers, slots, strict=True):
            slot.done.wait()
            if slot.problem is not None:
                with self._lock:
                    self._slots.pop(layer.chain, None)
                raise slot.problem
        return [slot.name for slot in slots]

    def find(
        self, stack: Sequence[str], path: str, known: dict[str, tuple[str, ...]]
    ) -> Path | None:
        """The regular file that the stack (lowest first) shows at an exact path. `known` is the
        caller's memory of which layers of this stack have a directory."""
        parent, _, name = path.rpartition("/")
        holders = known.get(parent)
        if holders is None:
            holders = known[parent] = self._holders(stack, parent)
        for holder in holders:
            candidate = self.path(holder) / parent / name
            try:
                mode = candidate.lstat().st_mode
            except FileNotFoundError:
                continue
            return candidate if S_ISREG(mode) else None
        return None

    def _holders(self, stack: Sequence[str], directory: str) -> tuple[str, ...]:
        """The layers, highest first, that a merged directory is made of."""
        found = []
        for name in reversed(stack):
            seen, opaque = self._look(name, directory)
            if seen is _Seen.HERE and S_ISDIR((self.path(name) / directory).lstat().st_mode):
                found.append(name)
            if opaque or seen is _Seen.HIDDEN:
                break
        return tuple(found)

    def _look(self, name: str, path: str) -> tuple[_Seen, bool]:
        """Also whether what lies below is hidden. A lower layer may have a link where a higher
        one has a directory, so no component is followed."""
        here = str(self.path(name))
        opaque = False
        parts = path.split("/") if path else []
        for index, part in enumerate(parts):
            here = f"{here}/{part}"
            try:
                found = os.lstat(here)
            except FileNotFoundError:
                return (_Seen.HIDDEN if opaque else _Seen.ABSENT), opaque
            if S_ISDIR(found.st_mode):
                opaque = opaque or self._is_opaque(here)
            elif S_ISCHR(found.st_mode) and found.st_rdev == 0:
                return _Seen.HIDDEN, True
            else:
                return (_Seen.HERE if index == len(parts) - 1 else _Seen.HIDDEN), True
        return _Seen.HERE, opaque

    def _is_opaque(self, path: str) -> bool:
        try:
            return os.getxattr(path, self._opaque_mark, follow_symlinks=False) == b"y"
        except OSError:
            return False

    def _claim(self, layers: Sequence[StackedLayer]) -> tuple[list[_Slot], list[int]]:
        """All at once, so that two callers never wait for each other in a circle."""
        slots, mine = [], []
        with self._lock:
            for index, layer in enumerate(layers):
                slot = self._slots.get(layer.chain)
                if slot is None:
                    self._next += 1
                    slot = self._slots[layer.chain] = _Slot(str(self._next))
                    mine.append(index)
                slots.append(slot)
        return slots, mine

    def _finder(
        self, stack: Sequence[str], waits: dict[str, _Slot]
    ) -> Callable[[str], Path | None]:
        """Finds a file of the layers below; waits for those that are still being unpacked."""

        def find(path: str) -> Path | None:
            for name in reversed(stack):
                if name in waits:
                    waits[name].done.wait()
                seen, _ = self._look(name, path)
                if seen is not _Seen.ABSENT:
                    return self.path(name) / path if seen is _Seen.HERE else None
            return None

        return find

    def _unpack(
        self, layer: StackedLayer, slot: _Slot, lower_path: Callable[[str], Path | None]
    ) -> None:
        from pybuild.layer.apply import UnpackStyle, unpack_layer

        style = UnpackStyle.OVERLAY_USER if self._user_xattrs else UnpackStyle.OVERLAY_TRUSTED
        directory = self.path(slot.name)
        try:
            directory.mkdir(mode=0o755)
            root = layer.below.lookup("")
            if root is not None:
                set_attributes(directory, root)
            slot.index = unpack_layer(
                layer.open_tar(), directory, layer.below, style=style, lower_path=lower_path
            )
        except BaseException as problem:
            slot.problem = problem
            remove_tree(directory)
            raise
        finally:
            slot.done.set()


def set_attributes(directory: Path, entry: Entry) -> None:
    os.chown(directory, entry.uid, entry.gid)
    directory.chmod(entry.mode)
    os.utime(directory, ns=(entry.mtime_ns, entry.mtime_ns))


def copy_attributes(source: Path, target: Path) -> None:
    """Mode, owner and times of a directory; overlay shows those of the upper root as the root's."""
    found = source.stat()
    os.chown(target, found.st_uid, found.st_gid)
    target.chmod(found.st_mode & 0o7777)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _in_threads(work: Callable[[int], None], items: list[int]) -> None:
    """Inflating and writing let go of the interpreter's lock, so that two at once are faster. The
    first problem is raised when all have ended."""
    if len(items) < 2:
        for item in items:
            work(item)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(UNPACK_THREADS, "unpack") as pool:
        for future in [pool.submit(work, item) for item in items]:
            future.result()
