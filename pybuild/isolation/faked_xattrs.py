"""The calls for extended attributes, as far as they are about security.capability, which only a
real root can write: methods by the names in filter.py's table. The kernel answers for all others.

Loaded by the small process that starts RUN commands: imports only what is cheap."""

from __future__ import annotations

import errno
import os
import stat

from pybuild.isolation import identity
from pybuild.isolation.owners import Known, Owners
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
    from pybuild.isolation.listener import Identities

CAPABILITY = b"security.capability"
SIZES = {0x01000000: 12, 0x02000000: 20}  # VFS_CAP_REVISION_1, _2; linux/capability.h
REVISION_2, REVISION_3, SIZE_3 = 0x02000000, 0x03000000, 24
XATTR_CREATE, XATTR_REPLACE = 1, 2

Place = tuple[bytes, int]


class Attributes:
    def __init__(self, kernel: Kernel, who: Identities, owners: Owners) -> None:
        self._kernel = kernel
        self._who = who
        self._owners = owners

    def setxattr(self, call: Notification) -> int:
        return self._set(call, self._followed(call))

    def lsetxattr(self, call: Notification) -> int:
        return self._set(call, self._itself(call))

    def fsetxattr(self, call: Notification) -> int:
        return self._set(call, self._open(call))

    def getxattr(self, call: Notification) -> int:
        return self._get(call, self._followed(call))

    def lgetxattr(self, call: Notification) -> int:
        return self._get(call, self._itself(call))

    def fgetxattr(self, call: Notification) -> int:
        return self._get(call, self._open(call))

    def listxattr(self, call: Notification) -> int:
        return self._list(call, self._followed(call))

    def llistxattr(self, call: Notification) -> int:
        return self._list(call, self._itself(call))

    def flistxattr(self, call: Notification) -> int:
        return self._list(call, self._open(call))

    def removexattr(self, call: Notification) -> int:
        return self._remove(call, self._followed(call))

    def lremovexattr(self, call: Notification) -> int:
        return self._remove(call, self._itself(call))

    def fremovexattr(self, call: Notification) -> int:
        return self._remove(call, self._open(call))

    # --- places, only looked up once it is clear that they are needed ---

    def _followed(self, call: Notification) -> Place:
        return self._kernel.place(call, AT_FDCWD, call.args[0])

    def _itself(self, call: Notification) -> Place:
        return self._kernel.place(call, AT_FDCWD, call.args[0], AT_SYMLINK_NOFOLLOW)

    def _open(self, call: Notification) -> Place:
        return self._kernel.of_fd(call, call.args[0]), 0

    # --- what is done ---

    def _is_capability(self, call: Notification) -> None:
        """Raises Passed for another attribute."""
        if self._kernel.text(call.pid, call.args[1]) != CAPABILITY:
            raise Passed

    def _recorded(self, place: Place) -> Known | None:
        known = self._owners.find(*place).known
        return known if known is not None and known.capability else None

    def _set(self, call: Notification, place: Place) -> int:
        self._is_capability(call)
        size, flags = call.args[3], call.args[4] & 0xFFFFFFFF
        value = self._kernel.read(call.pid, call.args[2], min(size, 64)) if size else b""
        found = self._owners.find(*place)
        if not stat.S_ISREG(found.mode) or not self._who.of(call.pid).can(identity.CAP_SETFCAP):
            raise Failed(errno.EPERM)
        there = found.known is not None and found.known.capability
        if flags & XATTR_CREATE and there:
            raise Failed(errno.EEXIST)
        if flags & XATTR_REPLACE and not there:
            raise Failed(errno.ENODATA)
        value = _version_2(value, size)
        self._kernel.check(call)
        os.chmod(place[0], stat.S_IMODE(found.mode))  # the time of change, and a file of our own
        self._owners.note(*place).capability = value
        return 0

    def _get(self, call: Notification, place: Place) -> int:
        self._is_capability(call)
        known = self._recorded(place)
        if known is None:
            raise Passed
        size = call.args[3]
        if size:
            if size < len(known.capability):
                raise Failed(errno.ERANGE)
            self._kernel.write(call, call.args[2], known.capability)
        return len(known.capability)

    def _list(self, call: Notification, place: Place) -> int:
        if self._recorded(place) is None:
            raise Passed
        follow = not place[1]
        try:
            names = [os.fsencode(name) for name in os.listxattr(place[0], follow_symlinks=follow)]
        except OSError as error:
            raise Failed(error.errno or errno.EIO) from error
        data = b"".join(name + b"\0" for name in sorted({*names, CAPABILITY}))
        size = call.args[2]
        if size:
            if size < len(data):
                raise Failed(errno.ERANGE)
            self._kernel.write(call, call.args[1], data)
        return len(data)

    def _remove(self, call: Notification, place: Place) -> int:
        self._is_capability(call)
        known = self._recorded(place)
        if known is None:
            raise Passed
        if not self._who.of(call.pid).can(identity.CAP_SETFCAP):
            raise Failed(errno.EPERM)
        self._kernel.check(call)
        os.chmod(place[0], stat.S_IMODE(self._owners.find(*place).mode))
        self._owners.note(*place).capability = b""
        return 0


def _version_2(value: bytes, size: int) -> bytes:
    """As layers hold it. Version 3 is for a user namespace, whose root is the image's."""
    revision = int.from_bytes(value[:4], "little") & 0xFF000000
    if revision == REVISION_3 and size == SIZE_3:
        flags = int.from_bytes(value[:4], "little") & 0x00FFFFFF
        return (REVISION_2 | flags).to_bytes(4, "little") + value[4:20]
    if SIZES.get(revision) != size:
        raise Failed(errno.EINVAL)
    return value
