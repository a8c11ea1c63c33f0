"""The part of a container's root that images are put on, one after the other."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from msgspec import Struct

from pybuild.isolation import moving
from pybuild.isolation.moving import Kept, Links, Twice
from pybuild.isolation.removal import empty_directory, mount_points
from pybuild.rootfs.tops import LINKS, Tops


class Ground(Struct, frozen=True):
    """`folders` are names below `root` whose content is exchanged, while they themselves stay where
    they are; "" is the whole root. A tree that waits aside has the same names in it."""

    root: str = "/"
    folders: tuple[str, ...] = ("",)

    def places(self) -> Iterator[tuple[str, str]]:
        """Absolute path, and name."""
        for name in self.folders:
            yield f"{self.root.rstrip('/')}/{name}" if name else self.root, name

    def move_out(self, target: str, kept: Kept) -> None:
        """All that is on the ground, but what is kept, to the existing directory `target`."""
        links: Links = {}
        for here, name in self.places():
            if here in kept.paths:
                continue
            there = f"{target}/{name}" if name else target
            if name:
                os.makedirs(there, exist_ok=True)
            moving.move_out(here, there, kept, links)

    def move_in(self, source: str, *, whole: Twice = Twice.SOURCE) -> None:
        """The opposite; `source` is empty then."""
        links: Links = {}
        for there, name in self.places():
            here = f"{source}/{name}" if name else source
            if os.path.lexists(here):
                moving.move_in(here, there, links, whole=whole)
                if name:
                    os.rmdir(here)

    def empty(self, kept: Callable[[str], bool]) -> None:
        """Removes all that is not kept; `kept` has to name every mount."""
        for path, name in self.places():
            if not name or not kept(path):  # the whole root is a mount itself
                empty_directory(path, kept)


def ground_of(root: str = "/") -> Ground:
    """The whole root where this process is root as its files are, else what it has for others."""
    if os.geteuid() == 0 and os.access(root, os.W_OK):
        return Ground(root)
    tops = find_tops(root)
    if tops is None:
        return Ground(root, ())
    return Ground(root, tuple(sorted((*tops.folders, LINKS))))


def find_tops(root: str = "/") -> Tops | None:
    """The names at the top of a root that is made to be taken over by an ordinary user, as far as
    this one may fill them; None for another root. A volume is no such folder."""
    base = root.rstrip("/")
    if not _is_writable_folder(f"{base}/{LINKS}"):
        return None
    mounts = mount_points()
    folders, links = set(), set()
    for name in os.listdir(root):
        path = f"{base}/{name}"
        if os.path.islink(path):
            if os.readlink(path) == f"{LINKS}/{name}":
                links.add(name)
        elif name != LINKS and path not in mounts and _is_writable_folder(path):
            folders.add(name)
    return Tops(frozenset(folders), frozenset(links))


def _is_writable_folder(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.R_OK | os.W_OK | os.X_OK)


def stuck_paths(ground: Ground) -> list[str]:
    """What an ordinary user can't move out of the way: the runtime made it, as root. Nothing for
    root itself."""
    found: list[str] = []
    if os.geteuid() == 0:
        return found
    mounts, uid = mount_points(), os.geteuid()
    pending = [path for path, _ in ground.places()]
    while pending:
        path = pending.pop()
        about = os.lstat(path)
        sticky = bool(about.st_mode & stat.S_ISVTX) and about.st_uid != uid
        for name in os.listdir(path):
            here = f"{path}/{name}"
            if here in mounts:
                continue
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode):
                (pending if _is_writable_folder(here) else found).append(here)
            elif sticky and status.st_uid != uid:
                found.append(here)
    return found
