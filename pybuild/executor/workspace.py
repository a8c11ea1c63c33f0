"""Every path the build writes, as one value. Removed as a whole when the build ends."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

from msgspec import Struct, field

from pybuild.executor.errors import WorkFolderUnusable
from pybuild.isolation.removal import REMOVED, lock_directory, remove_later, remove_tree

_PREFIX = "pybuild-work-"
_NEW = "pybuild-new-"


class Workspace(Struct, frozen=True):
    """`lock` is held as long as the build lives, so that the next one tells what was left behind
    from what is in use."""

    root: Path
    lock: int
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @staticmethod
    def create(parent: Path) -> Workspace:
        """A new folder of its own below `parent`, readable by nobody else. What builds that were
        killed left there is removed."""
        import tempfile

        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_left(parent)
            # Under another name until it is locked: a build that starts now would take it for
            # one that was left.
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise WorkFolderUnusable(
                f"the builder's own folder can't be made in {parent}: "
                f"{(error.strerror or str(error)).lower()}",
                hint="name a folder that this user may write to with --kaniko-dir or TMPDIR",
            ) from error
        lock = lock_directory(new)
        assert lock is not None, "a new folder is nobody else's"
        root = new.rename(parent / new.name.replace(_NEW, _PREFIX))
        for name in ("blobs", "spool", "roots"):
            (root / name).mkdir()
        return Workspace(root, lock)

    @property
    def roots(self) -> Path:
        """Where the isolation keeps what it unpacks."""
        return self.root / "roots"

    def new_blob(self) -> Path:
        return self.root / "blobs" / str(next(self._numbers))

    def new_spool(self) -> Path:
        path = self.root / "spool" / str(next(self._numbers))
        path.mkdir()
        return path

    def discard(self, path: Path) -> None:
        """Removes a large folder of the build's; nobody has to wait for it."""
        remove_later(path, self.root.parent)

    def remove(self) -> None:
        if any((self.root / "spool").iterdir()):
            self.discard(self.root)
        else:
            remove_tree(self.root)
        os.close(self.lock)


def _remove_left(parent: Path) -> None:
    """Folders of builds that ended without removing them: nobody holds their lock."""
    for path in (*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{REMOVED}*")):
        try:
            lock = lock_directory(path)
        except OSError:
            continue  # gone meanwhile, or somebody else's
        if lock is not None:
            remove_later(path, parent)
            os.close(lock)
