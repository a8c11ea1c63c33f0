"""A root on disk all of whose files belong to one ordinary user, told as what it is to be.

Owners, capabilities and devices are those of the records that a RUN left (ownership.Record), else
those of the layers below; paths are those of the image, wherever `tops` has them on disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from pybuild.isolation.errors import TopNameMissing
from pybuild.isolation.ownership import NEVER, Record
from pybuild.layer.disk import open_mode
from pybuild.layer.snapshot import Surface
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.ids import Ids
from pybuild.rootfs.index import Tree
from pybuild.rootfs.tops import LINKS, Tops
from pybuild.rootfs.walk import Listing, entry_from, listing

Key = tuple[int, int]
CAPABILITY = "security.capability"
NEW_FOLDER_MODE = 0o755  # of one that is at the top of the container, and not of the image
_AS_ROOT = Record(0, 0, 0, 0, 0)
_NODES = {stat.S_IFCHR: Kind.CHAR, stat.S_IFBLK: Kind.BLOCK}


def birth_of(path: str) -> int:
    """statx(2), stx_btime, in nanoseconds; 0 where the filesystem has none."""
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    at_fdcwd, nofollow, wanted, offset = -100, 0x100, 0x800, 80
    if ctypes.CDLL(None).statx(at_fdcwd, os.fsencode(path), nofollow, wanted, buffer) != 0:
        return 0
    data = buffer.raw
    if not int.from_bytes(data[:4], "little") & wanted:
        return 0
    seconds = int.from_bytes(data[offset : offset + 8], "little", signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(data[offset + 8 : offset + 12], "little")


class Unowned(Surface):
    """`directory` is "/", or where the root waits. `skip` is asked with paths of the image."""

    def __init__(self, directory: Path, tops: Tops | None, skip: Callable[[str], bool]) -> None:
        super().__init__(directory, skip)
        self._tops = tops
        self._records: dict[Key, Record] = {}
        self._modes: dict[Key, tuple[int, int]] = {}  # birth and true mode of those made more open
        self._folder_modes: dict[str, int] = {}  # of the container's own folders, before a RUN
        self._uid = os.geteuid()
        self._user = Ids(0, 0, (), "")
        self.present: frozenset[str] = frozenset()  # of the folders at the top, those of the image

    def elsewhere(self, directory: Path) -> Unowned:
        """The same root where it waits; good for asking where things are."""
        return Unowned(directory, self._tops, self._skip)

    # -- where things are

    def on_disk(self, path: str) -> str:
        return self._tops.on_disk(path) if self._tops else path

    def place(self, path: str) -> str:
        return f"{self._base.rstrip('/')}/{self.on_disk(path)}"

    def listing(self, path: str) -> Listing:
        above = f"{path}/" if path else ""
        found = self._top_listing() if self._tops and not path else self._open_listing(path)
        return [item for item in found if not self._skip(above + item[0])]

    def _top_listing(self) -> Listing:
        assert self._tops is not None
        folders, links = self._tops.folders, self._tops.links
        found = [item for item in listing(self._base) if item[0] in folders]
        waiting = f"{self._base.rstrip('/')}/{LINKS}"
        found += [item for item in listing(waiting) if item[0] in links]
        return sorted(found, key=lambda item: os.fsencode(item[0]))

    def _open_listing(self, path: str) -> Listing:
        """Of a directory that the RUN may have closed to its owner, who is not root."""
        place = self.place(path)
        try:
            return listing(place)
        except PermissionError:
            self._open(place, os.lstat(place))
            return listing(place)

    def _open(self, place: str, status: os.stat_result) -> None:
        """Makes a file readable and writable for its owner; the next layers have its true mode."""
        mode = stat.S_IMODE(status.st_mode)
        wanted = open_mode(mode, directory=stat.S_ISDIR(status.st_mode))
        if wanted != mode and status.st_uid == self._uid:
            self._modes[status.st_dev, status.st_ino] = (birth_of(place), mode)
            os.chmod(place, wanted)

    # -- what is known besides

    def learn(self, entries: Iterable[Entry]) -> None:
        """Of files that were unpacked: what the disk does not have of them. Hard links need not be
        among them."""
        for entry in entries:
            if entry.kind in (Kind.WHITEOUT, Kind.HARDLINK) or self._skip(entry.path):
                continue
            is_folder = entry.kind == Kind.DIRECTORY
            is_file = is_folder or entry.kind != Kind.SYMLINK
            closed = is_file and open_mode(entry.mode, directory=is_folder) != entry.mode
            record = _recorded(entry)
            if not closed and record is None:
                continue
            place = self.place(entry.path)
            try:
                status = os.lstat(place)
            except (FileNotFoundError, NotADirectoryError):
                continue  # something stands in its way that has to stay
            key = (status.st_dev, status.st_ino)
            # A folder of the container's own is another file once it is changed, with its number.
            birth = 0 if self._tops and entry.path in self._tops.folders else birth_of(place)
            if closed:
                self._modes[key] = (birth, entry.mode)
                record = replace(record or _AS_ROOT, mode=entry.mode)
            if record is not None:
                self._records[key] = replace(record, device=key[0], inode=key[1], birth_ns=birth)

    def begin(self, user: Ids) -> None:
        """Before a RUN, which works as `user`."""
        self._user = user
        for name in self._tops.folders if self._tops else ():
            status = os.lstat(self.place(name))
            self._folder_modes[name] = stat.S_IMODE(status.st_mode)
            key = (status.st_dev, status.st_ino)
            if status.st_uid != self._uid and key not in self._records:
                self._records[key] = Record(*key, 0, uid=0, gid=0)

    def records(self) -> tuple[Record, ...]:
        return tuple(self._records.values())

    def take_records(self, records: Iterable[Record]) -> None:
        """All that are known after a RUN."""
        self._records = {(record.device, record.inode): record for record in records}

    def absent(self) -> tuple[str, ...]:
        """Folders at the top that only the container has, and nothing in them."""
        names = sorted(self._tops.folders - self.present) if self._tops else ()
        places = [self.place(name) for name in names if not self._skip(name)]
        return tuple(place for place in places if not any(Path(place).iterdir()))

    def note_present(self, tree: Tree) -> None:
        if self._tops:
            names = self._tops.folders
            self.present = frozenset(name for name in names if tree.lookup(name) is not None)

    def mark(self, status: os.stat_result) -> int:
        record = self._records.get((status.st_dev, status.st_ino))
        if record is None:
            return 0
        owner = (record.uid, record.gid)
        return hash((*owner, record.capability, record.rdev, record.kind, record.mode)) | 1

    # -- what a file is to be

    def entry(self, path: str, status: os.stat_result, old: Entry | None, *, same: bool) -> Entry:
        place = self.place(path)
        record = self._record(place, status)
        found = entry_from(path, place, status)
        known = old if same else None
        uid, gid = self._owner(path, record, known)
        is_top = self._tops is not None and path in self._tops.folders
        if is_top and old is not None and old.kind != Kind.DIRECTORY:
            raise TopNameMissing([path])  # what was written here belongs where a link leads
        if record is not None and record.mode != NEVER:
            mode = record.mode
        elif is_top:
            mode = self._top_mode(status, path, old)
        else:
            mode = self._mode(place, status, known)
        found = replace(found, uid=uid, gid=gid, mode=mode, xattrs=_xattrs(found, record, known))
        if record is not None and record.kind and found.kind == Kind.FILE:
            major, minor = os.major(record.rdev), os.minor(record.rdev)
            found = replace(found, kind=_NODES[record.kind], size=0, major=major, minor=minor)
        if found.kind == Kind.SYMLINK and found.link.startswith(f"/{LINKS}/"):
            found = replace(found, link=found.link.removeprefix(f"/{LINKS}"))
        if found.kind in (Kind.FILE, Kind.DIRECTORY) and not is_top:
            self._open(place, status)
        return found

    def _record(self, place: str, status: os.stat_result) -> Record | None:
        record = self._records.get((status.st_dev, status.st_ino))
        if record is not None and record.birth_ns and birth_of(place) != record.birth_ns:
            return None  # another file has the inode now
        return record

    def _owner(self, path: str, record: Record | None, known: Entry | None) -> tuple[int, int]:
        if known is not None:
            uid, gid = known.uid, known.gid
        else:
            uid, gid = self._user.uid, self._user.gid
            above = os.lstat(os.path.dirname(self.place(path)))
            if above.st_mode & stat.S_ISGID:  # a new file has its folder's group there
                parent = self._records.get((above.st_dev, above.st_ino))
                gid = parent.gid if parent is not None and parent.gid != NEVER else 0
        if record is not None:
            uid = uid if record.uid == NEVER else record.uid
            gid = gid if record.gid == NEVER else record.gid
        return uid, gid

    def _mode(self, place: str, status: os.stat_result, known: Entry | None) -> int:
        """The true one, unless the RUN has changed what stood for it."""
        mode = stat.S_IMODE(status.st_mode)
        is_folder = stat.S_ISDIR(status.st_mode)
        if known is not None and mode == open_mode(known.mode, directory=is_folder):
            return known.mode
        birth, true = self._modes.get((status.st_dev, status.st_ino), (0, mode))
        if mode == open_mode(true, directory=is_folder) and birth in (0, birth_of(place)):
            return true
        return mode

    def _top_mode(self, status: os.stat_result, name: str, old: Entry | None) -> int:
        mode = stat.S_IMODE(status.st_mode)
        if mode != self._folder_modes.get(name, mode):
            return mode  # the RUN's doing
        return NEW_FOLDER_MODE if old is None else old.mode


def _recorded(entry: Entry) -> Record | None:
    """What a RUN is to know of an unpacked file; None where that is what it sees anyway."""
    kind = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}.get(entry.kind, 0)
    capability = dict(entry.xattrs).get(CAPABILITY, b"")
    if not (entry.uid or entry.gid or capability or kind):
        return None
    rdev = os.makedev(entry.major, entry.minor) if kind else 0
    return Record(0, 0, 0, entry.uid, entry.gid, capability, rdev, kind)


def _xattrs(
    found: Entry, record: Record | None, known: Entry | None
) -> tuple[tuple[str, bytes], ...]:
    """Those on disk, and of the others what the file had, as long as it is the same. A write takes
    a capability away, as a new owner does (capabilities(7)); the latter the record tells."""
    xattrs = dict(found.xattrs)
    if known is not None:
        others = ((name, value) for name, value in known.xattrs if not name.startswith("user."))
        xattrs = dict(others) | xattrs
    xattrs.pop(CAPABILITY, None)
    written = known is not None and _seconds_and_size(known) != _seconds_and_size(found)
    if record is not None and record.capability and not written:
        xattrs[CAPABILITY] = record.capability
    return tuple(sorted(xattrs.items()))


def _seconds_and_size(entry: Entry) -> tuple[int, int]:
    """A layer's times are whole seconds."""
    return entry.mtime_ns // 1_000_000_000, entry.size
