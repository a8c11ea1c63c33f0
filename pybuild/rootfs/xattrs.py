"""Extended attributes of files on disk, without those that belong to the machine."""

from __future__ import annotations

import errno
import os

Xattrs = tuple[tuple[str, bytes], ...]

# Labels of the machine's policy, and the private marks of overlay mounts
_MACHINE = ("security.selinux", "security.ima", "security.evm", "system.nfs4_acl")
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.EACCES)


def is_portable(name: str) -> bool:
    """Whether an attribute may be part of a layer or a cache key."""
    return name not in _MACHINE and not name.startswith(_OVERLAY)


def portable(xattrs: Xattrs) -> Xattrs:
    if all(is_portable(name) for name, _ in xattrs):
        return xattrs
    return tuple((name, value) for name, value in xattrs if is_portable(name))


def read_xattrs(path: str | int) -> Xattrs:
    """Sorted; symbolic links are not followed. Empty where the filesystem has none."""
    try:
        names = os.listxattr(path, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return ()
        raise
    if not names:
        return ()
    found = []
    for name in names:
        if is_portable(name):
            try:
                value = os.getxattr(path, name, follow_symlinks=isinstance(path, int))
            except OSError as error:
                if error.errno in (*_UNSUPPORTED, errno.ENODATA):
                    continue
                raise
            found.append((name, value))
    return tuple(sorted(found))


def write_xattrs(path: str | int, xattrs: Xattrs) -> tuple[str, OSError] | None:
    """Sets what this filesystem and user may set. What was refused is passed over, as containerd
    does, but for `security.capability`, without which programs lose what they may do: that one is
    given back with its error."""
    for name, value in xattrs:
        if not is_portable(name):
            continue
        try:
            os.setxattr(path, name, value, follow_symlinks=isinstance(path, int))
        except OSError as error:
            if name == "security.capability":
                return name, error
            if error.errno not in (*_UNSUPPORTED, errno.EINVAL, errno.ENOENT):
                raise
    return None


def clear_xattrs(path: str | int, keep: Xattrs) -> None:
    """Removes the portable attributes that are not in `keep`."""
    wanted = {name for name, _ in keep}
    for name, _ in read_xattrs(path):
        if name not in wanted:
            os.removexattr(path, name, follow_symlinks=isinstance(path, int))
