"""Every path the build writes, as one value. Removed as a whole when the build ends."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from msgspec import Struct, field


class Workspace(Struct, frozen=True):
    root: Path
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @staticmethod
    def create(parent: Path) -> Workspace:
        """A new folder of its own below `parent`, readable by nobody else."""
        import tempfile

        parent.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="pybuild-", dir=parent))
        for name in ("blobs", "spool", "roots"):
            (root / name).mkdir()
        return Workspace(root)

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

    def remove(self) -> None:
        """Removes everything, whatever its permission bits."""

        def open_up(_function: object, path: str, _error: object) -> None:
            Path(path).parent.chmod(0o700)
            if Path(path).is_dir() and not Path(path).is_symlink():
                Path(path).chmod(0o700)
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink(missing_ok=True)

        shutil.rmtree(self.root, onerror=open_up)
