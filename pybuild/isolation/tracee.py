"""What the listener of a RUN's filter takes from and gives to the kernel: notifications of
seccomp_unotify(2), the memory and the paths of the process that waits for an answer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

TYPE_CHECKING = False  # `typing` is too much to load here
if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = -1  # an id that a call leaves as it is

# linux/seccomp.h, struct seccomp_notif, seccomp_notif_resp and seccomp_notif_addfd
RECEIVE, SEND, IS_VALID, ADD_FD, SET_FLAGS = (
    *(0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0x40082104),
)
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
ID = struct.Struct("=Q")
ONE_VECTOR, TWO_VECTORS = struct.Struct("=4Q"), struct.Struct("=6Q")
RESPONSE = struct.Struct("=Qqii")
ADDED = struct.Struct("=QIIII")
CONTINUE, ADD_AND_SEND, SYNC_WAKE_UP = 1, 2, 1
X32_BIT = 0x40000000

AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_STATX_SYNC = -100, 0x100, 0x1000, 0x6000
PATH_MAX, PAGE, SHORT = 4096, 4096, 128
NUMBERS = {  # newfstatat, statx, process_vm_readv, process_vm_writev
    "x86_64": (262, 332, 310, 311),
    "aarch64": (79, 291, 270, 271),
}
OPENAT2, RESOLVE_IN_ROOT = 437, 0x10
OWN_LINKS = (b"self", b"thread-self")  # in /proc, name whoever looks
DEV_LINKS = {b"fd": b"fd", b"stdin": b"fd/0", b"stdout": b"fd/1", b"stderr": b"fd/2"}  # in /dev

LIBC = ctypes.PyDLL(None, use_errno=True)


class Failed(Exception):
    """The call gives this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Passed(Exception):
    """The kernel is to carry out the call itself."""


class Gone(Exception):
    """Nobody waits for the answer any more: the process was killed, or a signal came."""


class Notification:
    """A process that waits: `pid` is that of its thread, `args` are the six words of the call.
    `width` is 16 for calls whose ids have so many bits, 32 or 64 for those of the stat family that
    32-bit machines have, else 0."""

    __slots__ = ("abi", "args", "id", "pid", "width")

    def __init__(self, id: int, pid: int, abi: int, args: tuple[int, ...], width: int) -> None:
        self.id = id
        self.pid = pid
        self.abi = abi
        self.args = args
        self.width = width

    def id_at(self, index: int) -> int:
        """A user's or group's id, or KEPT."""
        mask = 0xFFFF if self.width == 16 else 0xFFFFFFFF
        value = self.args[index] & mask
        return KEPT if value == mask else value


def _system_call(*arguments: type) -> Callable[..., int]:
    """syscall(2) for calls with these arguments; conversions that are known beforehand are fast."""
    found = LIBC["syscall"]  # a new one each time, unlike the attribute
    found.argtypes = (ctypes.c_long, *arguments)
    found.restype = ctypes.c_long
    return found


def signed(word: int) -> int:
    """An `int` argument."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


class Kernel:
    """One listener. Every method that reads or writes raises Gone where the process is no more,
    Passed where it may not be looked into."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        machine = os.uname().machine
        self._newfstatat, self._statx, self._readv, self._writev = NUMBERS[machine]
        long, text, pointer = ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p
        self._copy = _system_call(*(long, long, long, long, long, long))
        self._look = _system_call(long, text, pointer, long)
        self._open_safely = _system_call(long, text, text, long)
        self._look_closely = _system_call(long, text, long, long, pointer)
        self.chrooted = False  # whether any process may have another root than ours
        self.links: dict[bytes, bytes] = {}  # as ownership.Faked has them
        self.led_on = b""  # where one of these led the last time, if it did
        self._held: list[int] = []
        self._used_fd = b""
        self._in = bytearray(NOTIFICATION.size)
        self._zeros = bytes(NOTIFICATION.size)
        self._out = bytearray(RESPONSE.size)
        self._page = ctypes.create_string_buffer(PATH_MAX)
        self._page_at = ctypes.addressof(self._page)
        self._vectors = bytearray(48)  # struct iovec: one of ours, two of theirs
        view = (ctypes.c_char * 48).from_buffer(self._vectors)
        self._ours = ctypes.addressof(view)
        self._theirs = self._ours + 16
        self._small = bytearray(256)  # struct stat, struct statx
        self._small_at = ctypes.addressof((ctypes.c_char * 256).from_buffer(self._small))
        try:
            # Linux 6.6: the waiting process and its listener take turns on one processor
            fcntl.ioctl(fd, SET_FLAGS, struct.pack("=Q", SYNC_WAKE_UP))
        except OSError:
            pass  # slower, no worse

    # --- notifications ---

    def receive(self) -> tuple[int, ...] | None:
        """As NOTIFICATION has it; None where the process was gone before it was asked for."""
        buffer = self._in
        buffer[:] = self._zeros
        self._used_fd = b""
        while self._held:
            os.close(self._held.pop())
        try:
            fcntl.ioctl(self.fd, RECEIVE, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        return NOTIFICATION.unpack(buffer)

    def answer(self, id: int, value: int, number: int, flags: int) -> None:
        RESPONSE.pack_into(self._out, 0, id, value, -number, flags)
        try:
            fcntl.ioctl(self.fd, SEND, self._out)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise

    def check(self, notification: Notification) -> None:
        """Raises Gone. Until it has been asked, the pid may be another process's."""
        try:
            fcntl.ioctl(self.fd, IS_VALID, ID.pack(notification.id))
        except OSError as error:
            raise Gone from error

    def give(self, notification: Notification, fd: int, *, close_on_exec: bool) -> int | None:
        """Puts a copy of `fd` into the process. None: that was the answer, too; else its number
        there, still to be answered (before Linux 5.14)."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        try:
            fcntl.ioctl(self.fd, ADD_FD, ADDED.pack(notification.id, ADD_AND_SEND, fd, 0, flags))
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise Gone from error
        try:
            request = bytearray(ADDED.pack(notification.id, 0, fd, 0, flags))
            number: int = fcntl.ioctl(self.fd, ADD_FD, request)
            return number
        except OSError as error:
            raise Gone from error

    # --- memory ---

    def read(self, pid: int, address: int, size: int) -> bytes:
        """At most `size` bytes and at most 4096; fewer where the memory ends."""
        first = min(size, PAGE - address % PAGE)
        words = (self._page_at, size, address, first, address + first, size - first)
        TWO_VECTORS.pack_into(self._vectors, 0, *words)
        count = 2 if size > first else 1
        got = self._copy(self._readv, pid, self._ours, 1, self._theirs, count, 0)
        if got < 0:
            self._refused()
        return ctypes.string_at(self._page_at, got)

    def write(self, notification: Notification, address: int, data: bytes) -> None:
        size = len(data)
        if size > PATH_MAX:
            self.write(notification, address, data[:PATH_MAX])
            self.write(notification, address + PATH_MAX, data[PATH_MAX:])
            return
        self.check(notification)
        ctypes.memmove(self._page_at, data, size)
        self._write(notification, self._page_at, address, size)

    def write_found(self, notification: Notification, address: int, size: int) -> None:
        """The first bytes of what `stat` gave. Not checked beforehand, as this is done most often
        by far: a pid is not used again before all others were."""
        self._write(notification, self._small_at, address, size)

    def _write(self, notification: Notification, ours: int, address: int, size: int) -> None:
        ONE_VECTOR.pack_into(self._vectors, 0, ours, size, address, size)
        got = self._copy(self._writev, notification.pid, self._ours, 1, self._theirs, 1, 0)
        if got < 0:
            self._refused()
        if got != size:
            raise Failed(errno.EFAULT)

    def _refused(self) -> None:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise Gone
        if number == errno.EFAULT:
            raise Failed(errno.EFAULT)
        raise Passed

    def text(self, pid: int, address: int) -> bytes:
        """A path or a name; most are short."""
        data = self.read(pid, address, SHORT)
        end = data.find(b"\0")
        if end < 0 and len(data) == SHORT:
            data = self.read(pid, address, PATH_MAX)
            end = data.find(b"\0")
        if end < 0:
            raise Failed(errno.ENAMETOOLONG if len(data) == PATH_MAX else errno.EFAULT)
        return data[:end]

    # --- paths ---

    def place(
        self, notification: Notification, directory: int, address: int, flags: int = 0
    ) -> tuple[bytes, int]:
        """A path of ours for the file that a call names, and the flags to use with it: 0 or
        AT_SYMLINK_NOFOLLOW."""
        nothing = address == 0 and flags & AT_EMPTY_PATH  # Linux 6.11
        path = b"" if nothing else self.text(notification.pid, address)
        follow = not flags & AT_SYMLINK_NOFOLLOW
        self.led_on = b""
        if self.links and not follow:
            self.led_on = self._behind_link(notification, directory, path)
            if self.led_on:
                return self.led_on, AT_SYMLINK_NOFOLLOW
        if self.chrooted and path:
            other = self._in_other_root(notification, directory, path, follow=follow)
            if other is not None:
                return other, flags & AT_SYMLINK_NOFOLLOW
        if path.startswith(b"/"):
            return _seen_by(path, notification.pid, follow=follow), flags & AT_SYMLINK_NOFOLLOW
        if path:
            whole = self.of_fd(notification, directory) + b"/" + path
            return whole, flags & AT_SYMLINK_NOFOLLOW
        if not flags & AT_EMPTY_PATH:
            raise Failed(errno.ENOENT)
        return self.of_fd(notification, directory), 0

    def _behind_link(self, notification: Notification, directory: int, path: bytes) -> bytes:
        """Where the name in `/` that a path is leads, if it is one of `links`; else b""."""
        name = path.strip(b"/")
        place = self.links.get(b"/" + name, b"")
        if place and not path.startswith(b"/"):
            try:
                start = os.readlink(self.of_fd(notification, directory))
            except OSError as error:
                raise Failed(error.errno or errno.EIO) from error
            return place if start == b"/" else b""
        return place

    def _in_other_root(
        self, notification: Notification, directory: int, path: bytes, *, follow: bool
    ) -> bytes | None:
        """For a process after chroot(2); None where its root is ours."""
        link = b"/proc/%d/root" % notification.pid
        try:
            root = os.readlink(link)
            if root == b"/":
                return None
            start = b""
            if not path.startswith(b"/"):
                start = os.readlink(self.of_fd(notification, directory))
                if start != root and not start.startswith(root + b"/"):
                    return None  # it has kept a directory from before
            inside = start[len(root) :] + b"/" + path
            fd = os.open(link, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Failed(error.errno or errno.EIO) from error
        self._held.append(fd)
        if follow:
            found = self._open_in(fd, inside)
            if found >= 0:
                return b"/proc/self/fd/%d" % found
        above, _, name = inside.rstrip(b"/").rpartition(b"/")
        found = self._open_in(fd, above or b"/")
        if found < 0:
            raise Failed(ctypes.get_errno())
        return b"/proc/self/fd/%d/%s" % (found, name or b".")

    def _open_in(self, root: int, path: bytes) -> int:
        """Links lead nowhere out of `root`: openat2(2)."""
        how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
        fd = self._open_safely(OPENAT2, root, path, how, len(how))
        if fd >= 0:
            self._held.append(fd)
        return fd

    def of_fd(self, notification: Notification, fd: int) -> bytes:
        """Where the fd's file can be reached; an fd that is not open shows by ENOENT, see
        `was_not_open`."""
        fd = signed(fd)
        if fd == AT_FDCWD:
            return b"/proc/%d/cwd" % notification.pid
        if fd < 0:
            raise Failed(errno.EBADF)
        self._used_fd = b"/proc/%d/fd/%d" % (notification.pid, fd)
        return self._used_fd

    def was_not_open(self) -> bool:
        """After ENOENT: whether it is for an fd that this call used."""
        return bool(self._used_fd) and not os.path.lexists(self._used_fd)

    def stat(self, path: bytes, flags: int) -> bytearray:
        """The kernel's struct stat, in a buffer that the next call uses again. Raises Failed."""
        if self._look(self._newfstatat, AT_FDCWD, path, self._small_at, flags) < 0:
            raise Failed(ctypes.get_errno())
        return self._small

    def statx(self, path: bytes, flags: int, mask: int) -> bytearray:
        """As `stat`, with struct statx."""
        if self._look_closely(self._statx, AT_FDCWD, path, flags, mask, self._small_at) < 0:
            raise Failed(ctypes.get_errno())
        return self._small

    def touch(self, path: bytes, flags: int) -> None:
        """What chown(2) does beside setting an owner: the errors it gives, the setuid bit, the time
        of change, and on an overlay a file of our own."""
        if LIBC.fchownat(AT_FDCWD, path, -1, -1, flags) < 0:
            raise Failed(ctypes.get_errno())


def _seen_by(path: bytes, pid: int, *, follow: bool) -> bytes:
    """Links that lead everybody elsewhere are taken by name; those that lead there by another
    link are not met by programs."""
    if path.startswith(b"/proc/"):
        head, slash, rest = path[6:].partition(b"/")
        if head in OWN_LINKS and (rest or follow):
            return b"/proc/%d%s%s" % (pid, slash, rest)
    elif path.startswith(b"/dev/"):
        head, slash, rest = path[5:].partition(b"/")
        if head in DEV_LINKS and (rest or follow):
            return b"/proc/%d/%s%s%s" % (pid, DEV_LINKS[head], slash, rest)
    return path
