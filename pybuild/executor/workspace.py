"""Every path the build writes, as one value. Removed as a whole when the build ends."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

from msgspec import Struct, field

from pybuild.executor.errors import WorkFolderUnusable
from pybuild.isolation.removal import make_locked, remove_later, remove_tree, unnoticed

PREFIX = "pybuild-work-"


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
        try:
            parent.mkdir(parents=True, exist_ok=True)
            root, lock = make_locked(parent, PREFIX)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise WorkFolderUnusable(
                f"the builder's own folder can't be made in {parent}: "
                f"{(error.strerror or str(error)).lower()}",
                hint="name a folder that this user may write to with --kaniko-dir or TMPDIR",
            ) from error
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
        spool = self.root / "spool"
        if spool.is_dir() and any(spool.iterdir()):  # a RUN in place may have removed it
            self.discard(self.root)
        else:
            with unnoticed(self.root.parent):
                remove_tree(self.root)
        os.close(self.lock)
