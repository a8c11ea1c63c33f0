"""What a RUN changed: from an overlay's upper directory, or from a walk before and after."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from pybuild.layer.changes import Change
from pybuild.layer.errors import OverlayUnsupported
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree
from pybuild.rootfs.walk import Listing, entry_from, listing
from pybuild.rootfs.xattrs import is_portable

_CHUNK = 1 << 20


class Surface:
    """A root as it lies on disk. Where paths have other places there, or files are to be something
    else than what the kernel says of them, another class gives the same answers."""

    def __init__(self, root: Path, skip: Callable[[str], bool]) -> None:
        self._base = os.fspath(root)
        self._skip = skip

    def listing(self, path: str) -> Listing:
        """What a directory has, without what `skip` names."""
        above = f"{path}/" if path else ""
        found = listing(f"{self._base}/{path}")
        return [item for item in found if not self._skip(above + item[0])]

    def place(self, path: str) -> str:
        """Where the content of a file can be read."""
        return f"{self._base}/{path}"

    def mark(self, status: os.stat_result) -> int:
        """A number that changes with whatever is to be true of a file besides its status."""
        del status
        return 0

    def entry(self, path: str, status: os.stat_result, old: Entry | None, *, same: bool) -> Entry:
        """What the file is to be. `old` is what the layers below have there; `same` tells that it
        is the file which was there before, and no other under its name."""
        del old, same
        return entry_from(path, self.place(path), status)


class _Emitter:
    """Makes changes from what is found, in order: drops what the layers below have already,
    names further names of one file as hard links, and puts parents before their children.

    A directory that is as it was is only given as a parent of something that changed, as in
    BuildKit's layers; its times alone are no change.
    """

    def __init__(self, surface: Surface, below: Tree) -> None:
        self._surface = surface
        self._below = below
        # Directories above what is looked at now that were not given yet; the bare path of one
        # that did not change, whose entry is read only if it is needed
        self._parents: list[Entry | str] = []
        self._first_names: dict[tuple[int, int], str] = {}

    def enter(self, entry: Entry, old: Entry | None) -> Iterator[Change]:
        """A directory; what follows may be in it."""
        self._leave_for(entry.path)
        self._parents.append(entry)
        if entry.opaque or old is None or not _same_directory(entry, old):
            yield from self._give_parents()

    def pass_through(self, path: str) -> None:
        """A directory that is as it was."""
        self._leave_for(path)
        self._parents.append(path)

    def _leave_for(self, path: str) -> None:
        """Forgets directories that had nothing in them, now that the walk is elsewhere."""
        parents = self._parents
        while parents:
            last = parents[-1]
            if path.startswith(f"{last if isinstance(last, str) else last.path}/"):
                return
            parents.pop()

    def _give_parents(self) -> Iterator[Change]:
        for parent in self._parents:
            if isinstance(parent, str):
                status = os.lstat(self._surface.place(parent))
                old = self._below.lookup(parent)
                parent = self._surface.entry(parent, status, old, same=True)
            yield Change(parent)
        self._parents.clear()

    def leaf(self, entry: Entry, status: os.stat_result, old: Entry | None) -> Iterator[Change]:
        """Anything but a directory."""
        if entry.kind == Kind.SOCKET:
            return  # belongs to a process that is gone; tar has no type for it
        if old is not None and self._is_as_before(entry, old):
            return
        self._leave_for(entry.path)
        yield from self._give_parents()
        if status.st_nlink > 1:
            identity = (status.st_dev, status.st_ino)
            first = self._first_names.setdefault(identity, entry.path)
            if first != entry.path:
                link = replace(entry, kind=Kind.HARDLINK, link=first, size=0, xattrs=())
                yield Change(replace(link, major=0, minor=0))
                return
        has_content = entry.kind == Kind.FILE and entry.size
        yield Change(entry, self._surface.place(entry.path) if has_content else None)

    def removal(self, path: str) -> Iterator[Change]:
        self._leave_for(path)
        yield from self._give_parents()
        yield Change(Entry(path, Kind.WHITEOUT, 0))

    def _is_as_before(self, entry: Entry, old: Entry) -> bool:
        if (
            entry.kind != old.kind
            or (entry.mode != old.mode and entry.kind != Kind.SYMLINK)
            or entry.uid != old.uid
            or entry.gid != old.gid
            or entry.size != old.size
            or entry.mtime_ns != old.mtime_ns
            or entry.link != old.link
            or (entry.major, entry.minor) != (old.major, old.minor)
            or entry.xattrs != old.xattrs
        ):
            return False
        if entry.kind != Kind.FILE:
            return True
        # A build that sets times (SOURCE_DATE_EPOCH, tar, touch -r) can change only the bytes
        known = self._below.content_digest(entry.path)
        return bool(known) and known == _sha256(self._surface.place(entry.path))


def _same_directory(entry: Entry, old: Entry) -> bool:
    return (
        old.kind == Kind.DIRECTORY
        and entry.mode == old.mode
        and entry.uid == old.uid
        and entry.gid == old.gid
        and entry.xattrs == old.xattrs
    )


def _sha256(place: str) -> bytes:
    hasher = hashlib.sha256()
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while chunk := os.read(descriptor, _CHUNK):
            hasher.update(chunk)
    finally:
        os.close(descriptor)
    return hasher.digest()


# -- overlay ---------------------------------------------------------------------------------


def overlay_changes(
    upper: Path, below: Tree, *, user_xattrs: bool, ignore: Callable[[str], bool]
) -> Iterator[Change]:
    """What an overlay's upper directory says, in the order a layer is to have it.

    `below` is the tree under it; `user_xattrs` tells that the mount had `userxattr`. Paths for
    which `ignore` is true (stubs of mounts) are passed over with all that is in them. Sockets are
    left out. Raises OverlayUnsupported when the mount renamed directories or copied metadata
    alone, which ours never do.
    """
    prefix = "user.overlay." if user_xattrs else "trusted.overlay."
    root = os.fspath(upper)
    emitter = _Emitter(Surface(upper, ignore), below)
    # Each level: the rest of its listing, its path with a slash, whether the layers below count
    stack = [(iter(listing(root)), "", True)]
    while stack:
        rest, above, has_below = stack[-1]
        found = next(rest, None)
        if found is None:
            stack.pop()
            continue
        name, status = found
        path = above + name
        if ignore(path):
            continue
        old = below.lookup(path) if has_below else None
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            if old is not None:
                yield from emitter.removal(path)
            continue
        place = f"{root}/{path}"
        xattrs, private = _split_xattrs(place, prefix)
        entry = entry_from(path, place, status, xattrs)
        if entry.kind != Kind.DIRECTORY:
            yield from emitter.leaf(entry, status, old)
            continue
        was_directory = old is not None and old.kind == Kind.DIRECTORY
        opaque = was_directory and private.get("opaque") == b"y"
        yield from emitter.enter(replace(entry, opaque=True) if opaque else entry, old)
        stack.append((iter(listing(place)), f"{path}/", was_directory and not opaque))


def _split_xattrs(
    place: str, prefix: str
) -> tuple[tuple[tuple[str, bytes], ...], dict[str, bytes]]:
    """The attributes that belong to the image, and overlay's own by their last word."""
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return (), {}
    if not names:
        return (), {}
    own: list[tuple[str, bytes]] = []
    private: dict[str, bytes] = {}
    for name in names:
        if is_portable(name):
            own.append((name, os.getxattr(place, name, follow_symlinks=False)))
        elif name.startswith(prefix):
            private[name[len(prefix) :]] = os.getxattr(place, name, follow_symlinks=False)
    if "redirect" in private or "metacopy" in private:
        raise OverlayUnsupported(
            f"overlay left a redirect at {place}",
            hint="the kernel turned on redirect_dir or metacopy for a mount that asked for neither",
        )
    return tuple(sorted(own)), private


# -- walk ------------------------------------------------------------------------------------

# mtime ns, ctime ns, inode, size, mode, uid, gid, device it names, links to it, mark
_STATUS = struct.Struct("<qqQqIIIQQq")


class WalkTable:
    """What every path of a root looked like: one piece of packed bytes for each directory."""

    __slots__ = ("_directories",)

    def __init__(self, directories: dict[str, bytes]) -> None:
        self._directories = directories

    @staticmethod
    def take(surface: Surface) -> WalkTable:
        """Reads no file. A change after this is seen if the clock's tick has passed."""
        directories: dict[str, bytes] = {}
        todo = [""]
        while todo:
            path = todo.pop()
            above = f"{path}/" if path else ""
            items = surface.listing(path)
            directories[path] = _pack_listing(items, surface)
            todo.extend(above + name for name, status in items if stat.S_ISDIR(status.st_mode))
        return WalkTable(directories)

    def __len__(self) -> int:
        """How many directories there are."""
        return len(self._directories)

    def of(self, directory: str) -> bytes:
        return self._directories.get(directory, b"")


def _pack_listing(items: Listing, surface: Surface) -> bytes:
    mark = surface.mark
    return b"".join(
        [os.fsencode(name) + b"\0" + _pack_status(status, mark(status)) for name, status in items]
    )


def _pack_status(status: os.stat_result, mark: int) -> bytes:
    return _STATUS.pack(
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_size,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_nlink,
        mark,
    )


def _unpack_listing(data: bytes) -> dict[str, bytes]:
    result = {}
    position = 0
    while position < len(data):
        end = data.index(b"\0", position)
        result[os.fsdecode(data[position:end])] = data[end + 1 : end + 1 + _STATUS.size]
        position = end + 1 + _STATUS.size
    return result


def walk_changes(before: WalkTable, surface: Surface, below: Tree) -> Iterator[Change]:
    """What differs from `before`, in the order a layer is to have it. Only files whose status
    differs are looked at, and read only if nothing but their content can have changed. `below`
    is the tree that the root held; what it does not have needs no removal."""
    emitter = _Emitter(surface, below)
    stack = [(_compare(before, surface, ""), "")]
    while stack:
        rest, above = stack[-1]
        found = next(rest, None)
        if found is None:
            stack.pop()
            continue
        name, old_status, status = found
        path = above + name
        if status is None:
            if below.lookup(path) is not None:
                yield from emitter.removal(path)
            continue
        changed = old_status != _pack_status(status, surface.mark(status))
        if stat.S_ISDIR(status.st_mode):
            stack.append((_compare(before, surface, path), f"{path}/"))
            if not changed:
                emitter.pass_through(path)
                continue
        elif not changed:
            continue
        old = below.lookup(path)
        entry = surface.entry(path, status, old, same=_inode(old_status) == status.st_ino)
        if entry.kind != Kind.DIRECTORY:
            yield from emitter.leaf(entry, status, old)
            continue
        if old is None and _is_same_stub(old_status, status, surface.mark(status)):
            old = entry  # was there before, though no layer has it: only what is in it changed
        yield from emitter.enter(entry, old)


def _inode(packed: bytes) -> int:
    return _STATUS.unpack(packed)[2] if packed else -1


def _is_same_stub(old_status: bytes, status: os.stat_result, mark: int) -> bool:
    """The same directory with the same mode and owner."""
    if not old_status:
        return False
    old = _STATUS.unpack(old_status)
    now = (status.st_ino, status.st_mode, status.st_uid, status.st_gid, mark)
    return (old[2], *old[4:7], old[9]) == now


def _compare(
    before: WalkTable, surface: Surface, path: str
) -> Iterator[tuple[str, bytes, os.stat_result | None]]:
    """Sorted names of a directory with their status before (empty: not there) and now (None).
    Where the whole listing is the same bytes, only directories are given."""
    items = surface.listing(path)
    packed = before.of(path)
    if not packed:  # a new directory, or one that was empty
        for name, status in items:
            yield name, b"", status
        return
    if packed == _pack_listing(items, surface):
        for name, status in items:
            if stat.S_ISDIR(status.st_mode):
                yield name, _pack_status(status, surface.mark(status)), status
        return
    old = _unpack_listing(packed)
    now: dict[str, os.stat_result | None] = dict(items)
    for name in old:
        now.setdefault(name, None)
    for name in sorted(now, key=os.fsencode):
        yield name, old.get(name, b""), now[name]
