"""The calls that make files: a file belongs to whoever its maker is believed to be, and device
nodes are empty files with a record. Methods by the names in filter.py's table.

Root's files need no record, so the kernel makes them itself; everybody else's are made here, by the
same user, with the same words.

Loaded by the small process that starts RUN commands: imports only what is cheap."""

from __future__ import annotations

import errno
import os
import stat
import struct

from pybuild.isolation import identity
from pybuild.isolation.owners import Owners, open_mode
from pybuild.isolation.tracee import (
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    Failed,
    Kernel,
    Notification,
    Passed,
)

TYPE_CHECKING = False  # `typing` is too much to load here
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybuild.isolation.listener import Identities

TMPFILE_BIT = 0o20000000
OPEN = 0o600  # bits of a file's mode that let our own user at it
DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


class Making:
    def __init__(self, kernel: Kernel, who: Identities, owners: Owners) -> None:
        self._kernel = kernel
        self._who = who
        self._owners = owners

    # --- open(2) ---

    def open(self, call: Notification) -> int | None:
        return self._open(call, AT_FDCWD, *call.args[:3])

    def creat(self, call: Notification) -> int | None:
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return self._open(call, AT_FDCWD, call.args[0], flags, call.args[1])

    def openat(self, call: Notification) -> int | None:
        return self._open(call, *call.args[:4])

    def openat2(self, call: Notification) -> int | None:
        """What openat(2) has no words for is left to the kernel, and the file is root's."""
        data = self._kernel.read(call.pid, call.args[2], 24)
        if len(data) < 24:
            raise Passed
        flags, mode, resolve = struct.unpack("=QQQ", data)
        if resolve or not flags & (os.O_CREAT | TMPFILE_BIT):
            raise Passed
        return self._open(call, call.args[0], call.args[1], flags, mode)

    def _open(
        self, call: Notification, directory: int, address: int, flags: int, mode: int
    ) -> int | None:
        owner = self._owner(call)
        nofollow = flags & (os.O_EXCL | os.O_NOFOLLOW)
        usual = owner == (0, 0) and mode & OPEN == OPEN and not self._owners.has_modes
        if usual and not (nofollow and self._kernel.links):
            raise Passed
        place = self._kernel.place(call, directory, address, AT_SYMLINK_NOFOLLOW if nofollow else 0)
        path = place[0]
        if usual and not self._kernel.led_on:
            raise Passed
        unnamed = bool(flags & TMPFILE_BIT)
        if not unnamed and (os.path.lexists if nofollow else os.path.exists)(path):
            raise Passed
        self._kernel.check(call)
        mode = self._mode(call, mode)
        try:
            fd = os.open(path, flags & 0x7FFFFFFF, open_mode(mode, directory=False))
        except OSError as error:
            raise Failed(error.errno or errno.EIO) from error
        try:
            own = b"/proc/self/fd/%d" % fd
            parent = path if unnamed else os.path.dirname(os.path.realpath(path))
            self._owners.made(own, 0, owner, parent)
            if mode & OPEN != OPEN:
                self._owners.set_mode(own, 0, mode)
            return self._kernel.give(call, fd, close_on_exec=bool(flags & os.O_CLOEXEC))
        finally:
            os.close(fd)

    # --- directories, links, nodes ---

    def mkdir(self, call: Notification) -> int:
        return self._mkdir(call, AT_FDCWD, *call.args[:2])

    def mkdirat(self, call: Notification) -> int:
        return self._mkdir(call, *call.args[:3])

    def _mkdir(self, call: Notification, directory: int, address: int, mode: int) -> int:
        """One that is shown as missing is made by showing it."""
        path, flags = self._kernel.place(call, directory, address, AT_SYMLINK_NOFOLLOW)
        if self._owners.has_absent and os.path.isdir(path) and self._owners.appear(path):
            self._owners.made(path, flags, self._owner(call), os.path.dirname(path))
            self._owners.set_mode(path, flags, self._mode(call, mode & 0o1777))
            return 0
        owner = self._owner(call)
        open_ = mode & stat.S_IRWXU == stat.S_IRWXU
        usual = owner == (0, 0) and open_ and not self._owners.has_modes
        if usual and not self._kernel.led_on:
            raise Passed
        mode = self._mode(call, mode & 0o1777)
        made = open_mode(mode, directory=True)
        self._make(call, path, owner, lambda: os.mkdir(path, made))
        above = self._owners.find(os.path.dirname(path.rstrip(b"/")), 0).mode
        wanted = mode | above & stat.S_ISGID  # which may be in the record alone, so not inherited
        if made != wanted:
            self._owners.set_mode(path.rstrip(b"/"), flags, wanted)
        return 0

    def symlink(self, call: Notification) -> int:
        return self._symlink(call, call.args[0], AT_FDCWD, call.args[1])

    def symlinkat(self, call: Notification) -> int:
        return self._symlink(call, *call.args[:3])

    def _symlink(self, call: Notification, content: int, directory: int, address: int) -> int:
        path, _ = self._kernel.place(call, directory, address, AT_SYMLINK_NOFOLLOW)
        owner = self._maker(call)
        text = self._kernel.text(call.pid, content)
        return self._make(call, path, owner, lambda: os.symlink(text, path))

    def mknod(self, call: Notification) -> int:
        return self._mknod(call, AT_FDCWD, *call.args[:3])

    def mknodat(self, call: Notification) -> int:
        return self._mknod(call, *call.args[:4])

    def _mknod(
        self, call: Notification, directory: int, address: int, mode: int, device: int
    ) -> int:
        kind = stat.S_IFMT(mode)
        if kind not in DEVICES:
            path, _ = self._kernel.place(call, directory, address, AT_SYMLINK_NOFOLLOW)
            owner = self._maker(call)
            ours = kind | self._mode(call, mode)
            return self._make(call, path, owner, lambda: os.mknod(path, ours))
        if not self._who.of(call.pid).can(identity.CAP_MKNOD):
            raise Failed(errno.EPERM)
        path, flags = self._kernel.place(call, directory, address, AT_SYMLINK_NOFOLLOW)
        ours = stat.S_IFREG | self._mode(call, mode)
        self._make(call, path, self._owner(call), lambda: os.mknod(path, ours))
        known = self._owners.note(path, flags)
        known.kind, known.rdev = kind, device & 0xFFFFFFFF
        return 0

    def _make(
        self,
        call: Notification,
        path: bytes,
        owner: tuple[int, int],
        make: Callable[[], None],
    ) -> int:
        self._kernel.check(call)
        try:
            make()
        except OSError as error:
            raise Failed(error.errno or errno.EIO) from error
        parent = os.path.dirname(path.rstrip(b"/"))
        self._owners.made(path.rstrip(b"/"), AT_SYMLINK_NOFOLLOW, owner, parent)
        return 0

    # --- whose it is, and its mode ---

    def _owner(self, call: Notification) -> tuple[int, int]:
        who = self._who.of(call.pid)
        return who.uids[3], who.gids[3]

    def _maker(self, call: Notification) -> tuple[int, int]:
        """As `_owner`. Raises Passed for root, but where the kernel would find a link of ours."""
        owner = self._owner(call)
        if owner == (0, 0) and not self._kernel.led_on:
            raise Passed
        return owner

    def _mode(self, call: Notification, mode: int) -> int:
        """Without what the process's umask(2) takes away; proc(5), /proc/PID/status, Umask."""
        try:
            with open(f"/proc/{call.pid}/status", "rb") as lines:
                umask = next(line for line in lines if line.startswith(b"Umask:"))
        except (OSError, StopIteration) as error:
            raise Passed from error
        return mode & 0o7777 & ~int(umask.split()[1], 8)
