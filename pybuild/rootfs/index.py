"""The merged view of stacked layers: what a container would see, without anything on disk."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.errors import SymlinkLoop
from pybuild.rootfs.packed import IN_LOWER_LAYER, IndexBuilder, LayerIndex

__all__ = ["SYMLINK_LIMIT", "IndexBuilder", "LayerIndex", "Tree"]

SYMLINK_LIMIT = 40  # as the kernel's (path_resolution(7))
_MEMO_LIMIT = 8192  # directories whose contributing layers are remembered


class Tree:
    """Layers, lowest first, seen as one root filesystem.

    Immutable; it remembers which layers contribute to which directory, so that a look-up asks
    one or two layers and not all of them. May be used from several threads.
    """

    __slots__ = ("_lower", "_visible", "layers")

    def __init__(self, layers: tuple[LayerIndex, ...] = ()) -> None:
        self.layers = layers
        self._visible: dict[str, tuple[int, ...]] = {}
        self._lower: dict[int, Tree] = {}

    def with_layer(self, index: LayerIndex) -> Tree:
        """This tree with one more layer on top."""
        return Tree((*self.layers, index))

    def _layers_of(self, directory: str) -> tuple[int, ...]:
        """The layers whose entries in a directory are in sight, topmost first."""
        known = self._visible.get(directory)
        if known is not None:
            return known
        if directory:
            candidates = self._layers_of(directory.rpartition("/")[0])
        else:
            candidates = tuple(range(len(self.layers) - 1, -1, -1))
        result = []
        for number in candidates:
            kind, opaque, below = self.layers[number].glance(directory)
            if kind is not None and kind != Kind.DIRECTORY:
                break
            if below:
                result.append(number)
            if opaque:
                break
        if len(self._visible) >= _MEMO_LIMIT:
            self._visible.clear()
        self._visible[directory] = tuple(result)
        return tuple(result)

    def _find(self, path: str) -> tuple[int, Entry] | None:
        """The entry in sight as it stands in its layer."""
        if not path:
            return None
        implied = False
        for number in self._layers_of(path.rpartition("/")[0]):
            entry = self.layers[number].lookup(path)
            if entry is None:
                implied = implied or self.layers[number].glance(path)[2]
            elif entry.kind == Kind.WHITEOUT or (implied and entry.kind != Kind.DIRECTORY):
                break
            else:
                return number, entry
        # A directory that no layer has an entry for, only something in it
        return (-1, Entry(path, Kind.DIRECTORY)) if implied else None

    def _below(self, number: int) -> Tree:
        """The layers under one; hard links may name a file of theirs."""
        tree = self._lower.get(number)
        if tree is None:
            tree = self._lower[number] = Tree(self.layers[:number])
        return tree

    def locate(self, path: str) -> tuple[int, Entry] | None:
        """The number of the layer that holds the content of `path`, and the entry there; its path
        differs from `path` for a hard link. -1 for a directory that no layer has an entry for."""
        if not path:
            return self._root()
        found = self._find(path)
        if found is None or found[1].kind != Kind.HARDLINK:
            return found
        number, entry = found
        if entry.offset == IN_LOWER_LAYER:
            return self._below(number).locate(entry.link)
        target = self.layers[number].lookup(entry.link)
        if target is None:
            return None
        return None if target.kind == Kind.HARDLINK else (number, target)

    def _root(self) -> tuple[int, Entry]:
        for number in range(len(self.layers) - 1, -1, -1):
            entry = self.layers[number].lookup("")
            if entry is not None:
                return number, replace(entry, opaque=False)
        return -1, Entry("", Kind.DIRECTORY)

    def lookup(self, path: str) -> Entry | None:
        """What stands at exactly this path; no symbolic link is followed. A hard link comes back
        as what it is a name of; `opaque` is never set."""
        found = self.locate(path)
        if found is None:
            return None
        entry = found[1]
        if entry.path != path or entry.opaque:
            return replace(entry, path=path, opaque=False)
        return entry

    def content_digest(self, path: str) -> bytes:
        """The sha256 of a file's content as 32 bytes; empty where it is no file or not known."""
        found = self.locate(path)
        if found is None or found[0] < 0:
            return b""
        return self.layers[found[0]].content_digest(found[1].path)

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted as bytes are."""
        return [entry.path.rpartition("/")[2] for entry in self.children(path)]

    def children(self, path: str) -> Iterator[Entry]:
        """What is in a directory, sorted by name; nothing for what is none."""
        numbers = self._layers_of(path)
        if not numbers or (path and not self._is_directory(path)):
            return
        if len(numbers) == 1:
            for name, entry in self.layers[numbers[0]].names(path):
                if entry is None or entry.kind == Kind.HARDLINK or entry.opaque:
                    entry = self.lookup(f"{path}/{name}" if path else name)
                elif entry.kind == Kind.WHITEOUT:
                    entry = None
                if entry is not None:
                    yield entry
            return
        seen: dict[str, Entry | None] = {}
        for number in numbers:
            for name, entry in self.layers[number].names(path):
                if name not in seen:
                    seen[name] = entry
        for name in sorted(seen, key=_as_bytes):
            entry = seen[name]
            if entry is None or entry.kind == Kind.HARDLINK or entry.opaque:
                entry = self.lookup(f"{path}/{name}" if path else name)
            elif entry.kind == Kind.WHITEOUT:
                entry = None
            if entry is not None:
                yield entry

    def _is_directory(self, path: str) -> bool:
        found = self._find(path)
        return found is not None and found[1].kind == Kind.DIRECTORY

    def walk(self, path: str = "") -> Iterator[Entry]:
        """`path` itself first, then all below it, parents before children, sorted; nothing where
        there is nothing."""
        first = self.lookup(path)
        if first is None:
            return
        yield first
        stack = [self.children(path)] if first.kind == Kind.DIRECTORY else []
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            yield entry
            if entry.kind == Kind.DIRECTORY:
                stack.append(self.children(entry.path))

    def resolve(self, path: str, *, follow_last: bool) -> str:
        """The path without symbolic links on the way, as path_resolution(7) with this tree as
        root: absolute links start here, `..` stops here, a missing tail is kept as it is.
        Raises SymlinkLoop."""
        todo = [part for part in reversed(path.split("/")) if part and part != "."]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            done.append(part)
            if not todo and not follow_last:
                break
            entry = self.lookup("/".join(done))
            if entry is None or entry.kind != Kind.SYMLINK:
                continue
            links += 1
            if links > SYMLINK_LIMIT:
                raise SymlinkLoop(path)
            done.pop()
            if entry.link.startswith("/"):
                done.clear()
            todo.extend(p for p in reversed(entry.link.split("/")) if p and p != ".")
        return "/".join(done)

    def read_kept(self, path: str) -> bytes | None:
        """The content of a file that an index keeps (`etc/passwd`, `etc/group`); links are
        followed. None where there is none, or its content is not kept."""
        found = self.locate(self.resolve(path, follow_last=True))
        if found is None or found[0] < 0:
            return None
        return self.layers[found[0]].kept.get(found[1].path)


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
