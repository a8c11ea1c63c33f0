"""The records of what files are to be: ownership.Record, changing while a RUN goes on.

Loaded by the small process that starts RUN commands: imports only what is cheap."""

from __future__ import annotations

import errno
import os
import stat
import struct

from pybuild.isolation.tracee import KEPT, Failed, Kernel

# as the fields of ownership.Record
RecordTuple = tuple[int, int, int, int, int, bytes, int, int, int]

# offsets of mode, uid, gid, rdev in the kernel's own struct stat; device and inode are the first
OFFSETS = {"x86_64": (24, 28, 32, 40), "aarch64": (16, 24, 28, 32)}
KEY, WORD = struct.Struct("=QQ"), struct.Struct("=I")
BIRTH, BIRTH_AT = 0x800, 80  # STATX_BTIME, offset of stx_btime
REFUSED_LIMIT = 20


def open_mode(mode: int, *, directory: bool) -> int:
    """The mode on disk of a file that is to have another."""
    return mode | (0o700 if directory else 0o600)


class Known:
    """What is recorded of one file."""

    __slots__ = ("birth", "capability", "gid", "kind", "mode", "rdev", "uid")

    def __init__(
        self,
        birth: int,
        uid: int = KEPT,
        gid: int = KEPT,
        capability: bytes = b"",
        rdev: int = 0,
        kind: int = 0,
        mode: int = KEPT,
    ) -> None:
        self.birth = birth
        self.uid = uid
        self.gid = gid
        self.capability = capability
        self.rdev = rdev
        self.kind = kind
        self.mode = mode


class Found:
    """A file: its owner and mode as shown; the type is that on disk."""

    __slots__ = ("gid", "key", "known", "mode", "uid")

    def __init__(
        self, key: tuple[int, int], mode: int, uid: int, gid: int, known: Known | None
    ) -> None:
        self.key = key
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.known = known


class Owners:
    """Places are those of Kernel.place: a path of ours, and 0 or AT_SYMLINK_NOFOLLOW. Methods
    that look at one raise Failed."""

    def __init__(self, kernel: Kernel, known: list[RecordTuple], absent: list[bytes]) -> None:
        self._kernel = kernel
        self._offsets = OFFSETS[os.uname().machine]
        self._own_uid, self._own_gid = os.getuid(), os.getgid()
        self._known = {(record[0], record[1]): Known(*record[2:]) for record in known}
        self._absent: dict[tuple[int, int], bytes] = {}
        for path in absent:
            try:
                found = os.lstat(path)
            except OSError:
                continue
            self._absent[found.st_dev, found.st_ino] = path
        self.has_modes = any(one.mode != KEPT for one in self._known.values())
        self._refused: dict[bytes, None] = {}
        self.may_chroot = False  # in a user namespace of our own

    @property
    def has_absent(self) -> bool:
        return bool(self._absent)

    def give(self, path: bytes, uid: int, gid: int) -> None:
        """A file that has an owner before anything runs."""
        try:
            known = self.note(path, 0)
        except Failed:
            return  # it is not there: then nobody is shown whose it is
        known.uid, known.gid = uid, gid

    def records(self) -> list[RecordTuple]:
        return [
            (*key, one.birth, one.uid, one.gid, one.capability, one.rdev, one.kind, one.mode)
            for key, one in self._known.items()
        ]

    def refuse(self, what: bytes) -> None:
        """Something was asked for that can't be had, and is not had."""
        if len(self._refused) < REFUSED_LIMIT:
            self._refused[what] = None

    def refused(self) -> list[bytes]:
        return list(self._refused)

    def shown(
        self, path: bytes, flags: int, key: tuple[int, int], uid: int, gid: int
    ) -> tuple[int, int, Known | None]:
        """The owner that is shown for the real one; Failed where the file is shown as missing."""
        if self._is_absent(key):
            raise Failed(errno.ENOENT)
        known = self._known.get(key)
        if known is not None and known.birth and self._birth(path, flags) != known.birth:
            del self._known[key]  # another file has the inode now
            known = None
        uid, gid = self.usual(uid, gid)
        if known is None:
            return uid, gid, None
        uid = uid if known.uid == KEPT else known.uid
        return uid, gid if known.gid == KEPT else known.gid, known

    def usual(self, uid: int, gid: int) -> tuple[int, int]:
        """The owner that is shown of a file without a record. What is not ours on disk is not the
        image's (mounted files, /proc) and shown as it is."""
        if uid == self._own_uid:
            return 0, 0
        return uid, 0 if gid == self._own_gid else gid

    def is_special(self, key: tuple[int, int]) -> bool:
        """Whether more has to be looked at than the file's real owner."""
        return key in self._known or key in self._absent

    def find(self, path: bytes, flags: int) -> Found:
        data = self._kernel.stat(path, flags)
        key = KEY.unpack_from(data, 0)
        mode, uid, gid = (WORD.unpack_from(data, at)[0] for at in self._offsets[:3])
        uid, gid, known = self.shown(path, flags, key, uid, gid)
        if known is not None and known.mode != KEPT:
            mode = stat.S_IFMT(mode) | known.mode
        return Found(key, mode, uid, gid, known)

    def note(self, path: bytes, flags: int) -> Known:
        """The record of a file, a new one if there is none. Its birth is that of the file as it is
        now: on an overlay, a change has made it another one with the same number."""
        data = self._kernel.stat(path, flags)
        key = KEY.unpack_from(data, 0)
        birth = self._birth(path, flags)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Known(birth)
        known.birth = birth
        return known

    def made(
        self, path: bytes, flags: int, owner: tuple[int, int], parent: bytes, *, rdev: int = 0
    ) -> Known:
        """The record of a new file; in a directory with the setgid bit it has that one's group."""
        self._known.pop(KEY.unpack_from(self._kernel.stat(path, flags), 0), None)
        known = self.note(path, flags)
        known.uid, known.gid = owner
        known.rdev = rdev
        above = self.find(parent, 0)
        if above.mode & stat.S_ISGID:
            known.gid = above.gid
        return known

    def set_mode(self, path: bytes, flags: int, mode: int) -> None:
        """chmod(2), but that the file stays open to our user. The kernel drops the setgid bit
        without a word where the file's group is none of ours."""
        (found,) = WORD.unpack_from(self._kernel.stat(path, flags), self._offsets[0])
        on_disk = open_mode(mode, directory=stat.S_ISDIR(found))
        try:
            os.chmod(path, on_disk)
        except OSError as error:
            if error.errno != errno.EPERM or not self._keeps_anothers_mode(path, flags, mode):
                raise Failed(error.errno or errno.EIO) from error
            return
        if on_disk & stat.S_ISGID:
            (on_disk,) = WORD.unpack_from(self._kernel.stat(path, flags), self._offsets[0])
            on_disk = stat.S_IMODE(on_disk)
        if on_disk != mode:
            self.has_modes = True
            self.note(path, flags).mode = mode
        elif self.has_modes:
            self.note(path, flags).mode = KEPT

    def _keeps_anothers_mode(self, path: bytes, flags: int, mode: int) -> bool:
        """Whether this is the image's directory, but somebody else's on disk, as names at the
        top of `/` are where the user is any: then its mode is in its record alone."""
        key = KEY.unpack_from(self._kernel.stat(path, flags), 0)
        known = self._known.get(key)
        if known is None:
            return False
        known.birth = 0  # what is made in it makes it another file, with its number
        known.mode = mode
        self.has_modes = True
        return True

    def _birth(self, path: bytes, flags: int) -> int:
        """In nanoseconds; 0 where the filesystem has none."""
        data = self._kernel.statx(path, flags, BIRTH)
        if not int.from_bytes(data[:4], "little") & BIRTH:
            return 0
        seconds, nanoseconds = struct.unpack_from("=qI", data, BIRTH_AT)
        return int(seconds * 1_000_000_000 + nanoseconds)

    def _is_absent(self, key: tuple[int, int]) -> bool:
        """Something in it makes a directory there for good."""
        if not self._absent or key not in self._absent:
            return False
        try:
            if not os.listdir(self._absent[key]):
                return True
        except OSError:
            pass
        del self._absent[key]
        return False

    def appear(self, path: bytes) -> bool:
        """Where `path` is shown as missing, it is there from now on."""
        if not self._absent:
            return False
        key = KEY.unpack_from(self._kernel.stat(path, 0), 0)
        if not self._is_absent(key):
            return False
        del self._absent[key]
        return True
