"""What fills a layer: its biggest folders and files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pybuild.events import LayerContent, PathSize
from pybuild.image.digest import Digest
from pybuild.rootfs.entry import Entry, Kind

_SHOWN = 8
_MOST_OF_IT = 0.9  # a folder that one child fills so far is no news; the child is


def content_of(layer: Digest, entries: Iterable[Entry]) -> LayerContent:
    """From the entries of a layer's index: sizes as they are unpacked, hard links once."""
    sizes: dict[str, list[int]] = {"": [0, 0]}  # bytes and files by path, folders with all below
    below: dict[str, set[str]] = {}
    removed = 0
    for entry in entries:
        if entry.kind is Kind.WHITEOUT:
            removed += 1
        elif entry.kind is Kind.FILE:
            _count(entry.path, entry.size, sizes, below)
    biggest = [] if not sizes[""][1] else _biggest(sizes, below)
    shown = tuple(PathSize(f"/{path}", *sizes[path]) for path in biggest)
    return LayerContent(str(layer), True, sizes[""][0], sizes[""][1], removed, shown)


def _count(path: str, size: int, sizes: dict[str, list[int]], below: dict[str, set[str]]) -> None:
    """Adds a file to itself and to every folder above it."""
    sizes[path] = [size, 1]
    while path:
        above = path.rpartition("/")[0]
        below.setdefault(above, set()).add(path)
        known = sizes.setdefault(above, [0, 0])
        known[0] += size
        known[1] += 1
        path = above


def _biggest(sizes: Mapping[str, list[int]], below: Mapping[str, set[str]]) -> list[str]:
    """Starting from what holds nearly everything, its biggest children, each followed down to
    what holds nearly everything of it."""
    start = _followed("", sizes, below)
    children = sorted(below.get(start, {start}), key=lambda path: (-sizes[path][0], path))
    return [_followed(path, sizes, below) for path in children[:_SHOWN]]


def _followed(path: str, sizes: Mapping[str, list[int]], below: Mapping[str, set[str]]) -> str:
    while children := below.get(path):
        largest = min(children, key=lambda child: (-sizes[child][0], child))
        if sizes[largest][0] < _MOST_OF_IT * sizes[path][0] or not sizes[path][0]:
            break
        path = largest
    return path
