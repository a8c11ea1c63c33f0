"""What can be wrong with a layer, or with the files one is made from."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pybuild.errors import HostileContent, HostUnsupported, InputError


class BadArchive(HostileContent):
    """An archive or compressed stream is cut off, damaged, or uses what no layer may use."""

    code = "bad-archive"


class OutsideRoot(HostileContent):
    """An archive names a path outside the directory it is unpacked to."""

    code = "outside-root"

    def __init__(self, name: str) -> None:
        super().__init__(f"the archive's entry {name!r} leads out of its root")


class BadWhiteout(HostileContent):
    """A whiteout removes no name: `.wh.` alone, or one that stands for a directory's own."""

    code = "bad-whiteout"

    def __init__(self, name: str) -> None:
        super().__init__(f"the archive's entry {name!r} is a whiteout of no name")


class LinkTargetMissing(HostileContent):
    """A hard link names a file that neither this layer nor the ones below have."""

    code = "link-target-missing"

    def __init__(self, path: str, target: str) -> None:
        super().__init__(f"the hard link /{path} names /{target}, which is no file of the image")


class ContextChanged(InputError):
    """A file of the build context was changed while the build ran."""

    code = "context-changed"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was changed while it was copied",
            hint="let nothing write to the build context while the image is built",
        )


class FileChanged(InputError):
    """A file grew, shrank or vanished while it was put into a layer."""

    code = "file-changed"

    def __init__(self, path: str, what: str) -> None:
        super().__init__(
            f"/{path} {what} while it was put into a layer",
            hint="let nothing write there while the build runs, or keep it out with .dockerignore",
        )


class FileUnreadable(InputError):
    """A file that a layer should hold can't be read by the user who builds."""

    code = "file-unreadable"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"/{path} can't be read: {why}",
            hint="check its mode and owner, or keep it out with .dockerignore",
        )


class ReservedName(InputError):
    """A file's name starts with `.wh.`, which removes another file when it stands in a layer."""

    code = "reserved-name"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"/{path} can't be part of an image: names that start with .wh. mean removals",
            hint="remove it in the same RUN, or keep it out with .dockerignore",
        )


class OverlayUnsupported(HostUnsupported):
    """An overlay's upper directory holds something that this builder never asked for."""

    code = "overlay-unsupported"


class AttributeRefused(HostUnsupported):
    """File capabilities or another security attribute of an image can't be kept here."""

    code = "attribute-refused"

    def __init__(self, path: str, name: str, reason: str) -> None:
        super().__init__(
            f"can't set {name} on /{path}: {reason}",
            hint="the container needs CAP_SETFCAP, and a volume that keeps extended attributes",
        )


class DiskFull(HostUnsupported):
    """The volume that layers, outputs or a RUN's files are written to has no space left."""

    code = "disk-full"

    def __init__(self, place: str, *, ended: str = "", status: int = 1) -> None:
        """`ended` says how a RUN ended for it, `status` with which exit status."""
        super().__init__(
            f"{ended or 'no space left while writing'} below {place}{_room(place)}",
            hint="give the Pod a larger volume or ephemeral-storage limit, or put the builder's "
            "folder on one (--kaniko-dir, TMPDIR)",
        )
        self.status = status

    @property
    def exit_status(self) -> int:
        return self.status


_SOME_BYTES = 64 << 10


def has_room(place: str) -> bool:
    """Whether a file of some size could still be written below `place`."""
    try:
        found = os.statvfs(place)
    except OSError:
        return True
    # Some filesystems hand out no inode numbers beforehand and say that there are none.
    return found.f_bavail * found.f_frsize >= _SOME_BYTES and (
        found.f_ffree > 0 or not found.f_files
    )


def _room(place: str) -> str:
    """How much there is, at the nearest folder that is still there."""
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    free, whole = (count * found.f_frsize / 1e6 for count in (found.f_bavail, found.f_blocks))
    files = f", no inode left of {found.f_files}" if found.f_files and not found.f_ffree else ""
    return f": its volume has {whole:.1f} MB, {free:.1f} MB of them free now{files}"


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
