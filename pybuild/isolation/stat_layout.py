"""The forms in which stat(2) answers: one a way of calling the kernel. Pure."""

from __future__ import annotations

import errno
import struct

from pybuild.isolation.tracee import Failed

SIZES = {"x86_64": 144, "aarch64": 128}  # of the kernel's own struct stat
# struct statx: mode, uid and gid, rdev and device (major, minor), inode
STATX_MODE, STATX_UID, STATX_RDEV, STATX_DEVICE, STATX_INODE = 28, 20, 128, 136, 32
STATX_SIZE = 256

I386, ARM = 0x40000003, 0x40000028  # AUDIT_ARCH_*, linux/audit.h
# dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, three times, in the order of _FIELDS
_NATIVE = {
    "x86_64": struct.Struct("=QQQIII4xQqqq6Q24x"),
    "aarch64": struct.Struct("=QQIIIIQ8xqi4xq6Q8x"),
}
_STAT64 = {
    I386: struct.Struct("=Q4xIIIIIQ4xqIQ6IQ"),
    ARM: struct.Struct("=Q4xIIIIIQ8xqI4xQ6IQ"),
}
_STAT32 = struct.Struct("=IIHHHHIIII6I8x")


def _fields(machine: str, data: bytes) -> tuple[int, ...]:
    """dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, then the times."""
    found = _NATIVE[machine].unpack(data)
    if machine == "x86_64":
        return found
    return (*found[:2], found[3], found[2], *found[4:])


def as_stat64(machine: str, abi: int, data: bytes) -> bytes:
    """From the kernel's own struct stat to struct stat64 of a 32-bit machine."""
    dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, *times = _fields(machine, data)
    low = [value & 0xFFFFFFFF for value in times]
    return _STAT64[abi].pack(
        *(dev, ino & 0xFFFFFFFF, mode, nlink, uid, gid, rdev, size, blksize, blocks, *low, ino)
    )


def as_stat32(machine: str, data: bytes) -> bytes:
    """To struct compat_stat. Raises Failed where a number does not fit, as the kernel does."""
    dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, *times = _fields(machine, data)
    low = [value & 0xFFFFFFFF for value in times]
    owner = [min(value, 65534) for value in (uid, gid)]  # overflowuid
    try:
        return _STAT32.pack(
            *(dev & 0xFFFF, ino, mode, nlink, *owner, rdev & 0xFFFF, size, blksize, blocks, *low)
        )
    except struct.error as error:
        raise Failed(errno.EOVERFLOW) from error
