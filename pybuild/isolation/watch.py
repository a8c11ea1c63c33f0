"""What changes below the paths that an image in place can't have, while a RUN runs.

Nothing tells who changed a file: the shell beside the build, an agent on the same volume and the
RUN all do. So folders that are known to be others' are left out, and the rest is told as it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Set

from pybuild.isolation.moving import Kept

WATCHED = 30_000  # entries of one path; more would cost more than the word is worth
NAMED = 10  # files, in a warning
OURS = ("pybuild-work-", "pybuild-new-", "pybuild-removed-", "pybuild-isolation-", "pybuild-mounts")
JENKINS_FOLDER = "@tmp"  # beside a workspace, for the steps that run in it
# in no image of any builder, since each mounts its own
NOT_IMAGE = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")

_Status = tuple[int, ...]


def is_told(path: str) -> bool:
    """Whether who writes to an absolute kept path has to know that the image has it differently."""
    return not any(path == other or path.startswith(f"{other}/") for other in NOT_IMAGE)


class Watch:
    """The kept paths as they are now, but those in `left_out` and what is below these."""

    def __init__(self, kept: Kept, left_out: Set[str] = frozenset()) -> None:
        self._kept = kept
        self._left_out = left_out
        self._outputs = {_identity(fd) for fd in (1, 2)}  # a log in the workspace grows by itself
        self.too_large: list[str] = []
        self._seen: dict[str, dict[str, _Status]] = {}
        for path in sorted(kept.paths - left_out):
            if is_told(path) and not self._is_ours(path):
                seen = self._look(path)
                if seen is None:
                    self.too_large.append(path)
                else:
                    self._seen[path] = seen

    def changed(self) -> list[str]:
        """Files that are new, gone or other than before; folders count if they are new or gone and
        nothing in them tells it."""
        found: set[str] = set()
        for path, before in self._seen.items():
            now = self._look(path)
            if now is not None:
                names = before.keys() | now.keys()
                found |= {name for name in names if before.get(name) != now.get(name)}
        parents = {os.path.dirname(name) for name in found}
        return sorted(found - parents)

    def _look(self, path: str) -> dict[str, _Status] | None:
        found: dict[str, _Status] = {}
        try:
            _note(found, path, os.lstat(path), self._outputs)
            pending = [path] if stat.S_ISDIR(os.lstat(path).st_mode) else []
            while pending:
                for entry in self._entries(pending.pop()):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    _note(found, entry.path, status, self._outputs)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                if len(found) > WATCHED:
                    return None
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass  # the RUN removed it, or it is not ours to see
        return found

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.path not in self._kept.paths and not self._is_ours(entry.path):
                        yield entry
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return

    def _is_ours(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        own = name.startswith(OURS) or name.endswith(JENKINS_FOLDER)
        return own or path in self._left_out


def _note(
    found: dict[str, _Status], path: str, status: os.stat_result, outputs: Set[_Status]
) -> None:
    if stat.S_ISDIR(status.st_mode):  # its times and size tell what is in it
        found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_ino)
    elif (status.st_dev, status.st_ino) not in outputs:
        found[path] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_ino),
            *(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        )


def _identity(fd: int) -> _Status:
    try:
        status = os.fstat(fd)
    except OSError:
        return ()
    return status.st_dev, status.st_ino


def shortened(names: list[str]) -> str:
    """A list that fits a line of a log, of whatever bytes the names are made."""
    shown = ", ".join(os.fsencode(name).decode(errors="backslashreplace") for name in names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
