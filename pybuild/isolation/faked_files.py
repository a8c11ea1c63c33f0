"""The calls that look at files or give them away, and that start programs: methods by the names
in filter.py's table.

Loaded by the small process that starts RUN commands: imports only what is cheap."""

from __future__ import annotations

import errno
import os
import stat
import struct

from pybuild.isolation import identity
from pybuild.isolation.owners import KEY, OFFSETS, WORD, Known, Owners
from pybuild.isolation.stat_layout import (
    SIZES,
    STATX_DEVICE,
    STATX_INODE,
    STATX_MODE,
    STATX_RDEV,
    STATX_SIZE,
    STATX_UID,
    as_stat32,
    as_stat64,
)
from pybuild.isolation.tracee import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_STATX_SYNC,
    AT_SYMLINK_NOFOLLOW,
    KEPT,
    Failed,
    Kernel,
    Notification,
    Passed,
)

TYPE_CHECKING = False  # `typing` is too much to load here
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybuild.isolation.listener import Identities

BASIC = 0x7FF  # STATX_BASIC_STATS
CAP_SYS_CHROOT = 18


class Files:
    def __init__(self, kernel: Kernel, who: Identities, owners: Owners) -> None:
        self._kernel = kernel
        self._who = who
        self._owners = owners
        self._machine = os.uname().machine
        self._mode_at, self._uid_at, self._gid_at, self._rdev_at = OFFSETS[self._machine]
        self._size = SIZES[self._machine]

    # --- stat(2) ---

    def stat(self, call: Notification) -> int:
        return self._stat(call, *self._kernel.place(call, AT_FDCWD, call.args[0]), call.args[1])

    def lstat(self, call: Notification) -> int:
        place = self._kernel.place(call, AT_FDCWD, call.args[0], AT_SYMLINK_NOFOLLOW)
        return self._stat(call, *place, call.args[1])

    def fstat(self, call: Notification) -> int:
        return self._stat(call, self._kernel.of_fd(call, call.args[0]), 0, call.args[1])

    def newfstatat(self, call: Notification) -> int:
        directory, path, address, flags = call.args[:4]
        return self._stat(call, *self._kernel.place(call, directory, path, flags), address)

    fstatat = newfstatat

    def _stat(self, call: Notification, path: bytes, flags: int, address: int) -> int:
        found = self._kernel.stat(path, flags)
        key = KEY.unpack_from(found, 0)
        known = None
        uid, gid = (
            WORD.unpack_from(found, self._uid_at)[0],
            WORD.unpack_from(found, self._gid_at)[0],
        )
        if self._owners.is_special(key):
            kept = bytes(found)  # the buffer is used again by what looks closely
            uid, gid, known = self._owners.shown(path, flags, key, uid, gid)
            found[:] = kept
        else:
            uid, gid = self._owners.usual(uid, gid)
        WORD.pack_into(found, self._uid_at, uid)
        WORD.pack_into(found, self._gid_at, gid)
        if known is not None and (known.kind or known.mode != KEPT):
            (mode,) = WORD.unpack_from(found, self._mode_at)
            WORD.pack_into(found, self._mode_at, _mode(mode, known))
            if known.kind:
                struct.pack_into("=Q", found, self._rdev_at, known.rdev)
        if call.width == 64:
            data = bytes(found[: self._size])
            self._kernel.write(call, address, as_stat64(self._machine, call.abi, data))
        elif call.width == 32:
            data = bytes(found[: self._size])
            self._kernel.write(call, address, as_stat32(self._machine, data))
        else:
            self._kernel.write_found(call, address, self._size)
        return 0

    def statx(self, call: Notification) -> int:
        directory, path_at, asked, mask, address = call.args[:5]
        path, flags = self._kernel.place(call, directory, path_at, asked)
        wanted = (mask & 0xFFFFFFFF) | BASIC
        data = bytearray(self._kernel.statx(path, flags | asked & AT_STATX_SYNC, wanted))
        (inode,) = struct.unpack_from("=Q", data, STATX_INODE)
        key = (os.makedev(*struct.unpack_from("=II", data, STATX_DEVICE)), inode)
        owner = struct.unpack_from("=II", data, STATX_UID)
        uid, gid, known = self._owners.shown(path, flags, key, *owner)
        struct.pack_into("=II", data, STATX_UID, uid, gid)
        if known is not None:
            (mode,) = struct.unpack_from("=H", data, STATX_MODE)
            struct.pack_into("=H", data, STATX_MODE, _mode(mode, known))
        if known is not None and known.kind:
            numbers = (os.major(known.rdev), os.minor(known.rdev))
            struct.pack_into("=II", data, STATX_RDEV, *numbers)
        self._kernel.write(call, address, bytes(data[:STATX_SIZE]))
        return 0

    # --- chown(2) ---

    def chown(self, call: Notification) -> int:
        return self._chown(call, *self._kernel.place(call, AT_FDCWD, call.args[0]), 1)

    def lchown(self, call: Notification) -> int:
        place = self._kernel.place(call, AT_FDCWD, call.args[0], AT_SYMLINK_NOFOLLOW)
        return self._chown(call, *place, 1)

    def fchown(self, call: Notification) -> int:
        return self._chown(call, self._kernel.of_fd(call, call.args[0]), 0, 1)

    def fchownat(self, call: Notification) -> int:
        flags = call.args[4] & 0xFFFFFFFF
        if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
            raise Failed(errno.EINVAL)
        return self._chown(call, *self._kernel.place(call, call.args[0], call.args[1], flags), 2)

    def _chown(self, call: Notification, path: bytes, flags: int, first: int) -> int:
        """The ids are the arguments from `first` on."""
        uid, gid = call.id_at(first), call.id_at(first + 1)
        who = self._who.of(call.pid)
        if not who.can(identity.CAP_CHOWN):
            found = self._owners.find(path, flags)
            groups = (KEPT, found.gid, who.gids[3], *who.groups)
            if who.uids[3] != found.uid or uid not in (KEPT, found.uid) or gid not in groups:
                raise Failed(errno.EPERM)
        self._kernel.check(call)
        self._kernel.touch(path, flags)
        known = self._owners.note(path, flags)
        known.uid = known.uid if uid == KEPT else uid
        known.gid = known.gid if gid == KEPT else gid
        known.capability = b""
        if known.mode != KEPT:
            known.mode &= ~(stat.S_ISUID | (stat.S_ISGID if known.mode & stat.S_IXGRP else 0))
        return 0

    # --- chmod(2) ---

    def chmod(self, call: Notification) -> int:
        return self._chmod(
            call, call.args[1], lambda: self._kernel.place(call, AT_FDCWD, call.args[0])
        )

    def fchmod(self, call: Notification) -> int:
        return self._chmod(call, call.args[1], lambda: (self._kernel.of_fd(call, call.args[0]), 0))

    def fchmodat(self, call: Notification) -> int:
        directory, path, mode = call.args[:3]
        return self._chmod(call, mode, lambda: self._kernel.place(call, directory, path))

    def fchmodat2(self, call: Notification) -> int:
        directory, path, mode, flags = call.args[:4]
        return self._chmod(call, mode, lambda: self._kernel.place(call, directory, path, flags))

    def _chmod(self, call: Notification, mode: int, place: Callable[[], tuple[bytes, int]]) -> int:
        """The kernel does what it can do as well."""
        who, mode = self._who.of(call.pid), mode & 0o7777
        may = who.can(identity.CAP_FOWNER)
        usual = mode & (stat.S_IRWXU | stat.S_ISGID) == stat.S_IRWXU
        if may and usual and not self._owners.has_modes:
            raise Passed
        path, flags = place()
        found = self._owners.find(path, flags)
        if stat.S_ISLNK(found.mode):
            raise Failed(errno.EOPNOTSUPP)
        if not may and who.uids[3] != found.uid:
            raise Failed(errno.EPERM)
        if not who.can(identity.CAP_FSETID) and found.gid not in (who.gids[3], *who.groups):
            mode &= ~stat.S_ISGID
        self._kernel.check(call)
        self._owners.set_mode(path, flags, mode)
        return 0

    # --- execve(2), chroot(2) ---

    def execve(self, call: Notification) -> int:
        return self._execute(call, AT_FDCWD, call.args[0], 0)

    def execveat(self, call: Notification) -> int:
        return self._execute(call, call.args[0], call.args[1], call.args[4])

    def _execute(self, call: Notification, directory: int, address: int, flags: int) -> int:
        """The kernel starts the program; who it runs as is known before. For root the setuid bit
        changes nothing in general, and for others it counts as if privileges could be had."""
        who = self._who.of(call.pid)
        if who.uids[1] == 0 and identity.execute(who) == who:
            raise Passed
        found = self._owners.find(*self._kernel.place(call, directory, address, flags))
        owner = group = None
        if found.mode & stat.S_ISUID:
            owner = found.uid
        if found.mode & stat.S_ISGID and found.mode & stat.S_IXGRP:
            group = found.gid
        capability = _capability(found.known)
        new = identity.execute(who, owner=owner, group=group, capability=capability)
        if new != who:
            self._kernel.check(call)
            self._who.change(call.pid, new)
        raise Passed

    def chroot(self, call: Notification) -> int:
        """Root may where a RUN has its capabilities; we may not, whoever the process is shown."""
        if not self._who.of(call.pid).can(CAP_SYS_CHROOT):
            raise Failed(errno.EPERM)
        if self._owners.may_chroot:
            self._kernel.chrooted = True
        else:
            path = self._kernel.text(call.pid, call.args[0])
            self._owners.refuse(b"chroot " + path)
        raise Passed


def _mode(on_disk: int, known: Known) -> int:
    bits = stat.S_IMODE(on_disk) if known.mode == KEPT else known.mode
    return bits | (known.kind or stat.S_IFMT(on_disk))


def _capability(known: Known | None) -> bytes:
    return b"" if known is None else known.capability
