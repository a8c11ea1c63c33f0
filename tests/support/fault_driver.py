"""Takes over the root of the container that it runs in, and is stopped at each point of the moves
in turn: killed there, or answered with an error. After each the next build has to make everything
as it was. Prints a JSON object: how many points there were, and what differed after which.

What overlay does to files of the container's image the first time they are moved is done here each
time: a folder can't be renamed, and a file with several names falls apart.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolation_driver import Image, layer_tar, listing

from pybuild.errors import PybuildError
from pybuild.isolation.moving import Kept
from pybuild.isolation.takeover import Takeover, kept_paths
from pybuild.isolation.turns import shared_place

MUTATING = (
    *("rename", "mkdir", "rmdir", "unlink", "link", "symlink", "chown", "chmod", "utime", "mknod"),
    *("setxattr", "removexattr", "ftruncate", "pwrite"),
)
COUNTED = ("pybuild.isolation.", "pathlib")
KILLED = 99
KILL, REFUSE = "kill", "refuse"


class NoRunner:
    pid = 0

    def close(self) -> None:
        pass


class Faults:
    """Counts the calls that change something, and strikes at one of them."""

    def __init__(self, point: int, how: str) -> None:
        self.count = 0
        self.point = point
        self.how = how
        self._real = {name: getattr(os, name) for name in MUTATING}
        for name in MUTATING:
            setattr(os, name, self._wrapped(name))

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*arguments: Any, **named: Any) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith(COUNTED):
                self.count += 1
                if self.count == self.point:
                    if self.how == KILL:
                        os._exit(KILLED)
                    raise OSError(errno.EIO, "struck")
                if name == "rename":
                    return self._rename(*arguments)
            return real(*arguments, **named)

        return call

    def _rename(self, source: str, target: str) -> None:
        """As overlay does it with what lies in its lower directory."""
        found = os.lstat(source)
        is_new = os.fspath(source).startswith((str(shared_place()), "/image", "/mnt", "/elsewhere"))
        if os.path.isdir(source) and not os.path.islink(source) and not is_new:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if found.st_nlink > 1 and os.path.isfile(source):
            shutil.copy2(source, f"{target}.part")
            self._real["chown"](f"{target}.part", found.st_uid, found.st_gid)
            self._real["chmod"](f"{target}.part", found.st_mode & 0o7777)
            times = (found.st_atime_ns, found.st_mtime_ns)
            self._real["utime"](f"{target}.part", ns=times)
            self._real["rename"](f"{target}.part", target)
            self._real["unlink"](source)
            return
        self._real["rename"](source, target)


def small_image(name: bytes) -> Image:
    return Image(
        layer_tar(
            {
                "etc": (5, 0o711, b""),
                "etc/passwd": (0, 0o600, name),
                "var": (5, 0o700, b""),
                "image": (5, 0o755, b""),
                "image/file": (0, 0o644, b"of the image\n"),
                "image/link": (2, 0o777, "file"),
            }
        )
    )


def build(workdir: str) -> None:
    """Two stages in turns on `/`, with a RUN's doings played by this process."""
    place = shared_place()
    assert place is not None
    kept = Kept({*kept_paths(Path(workdir)).paths, "/driver"})
    takeover = Takeover(place, kept, NoRunner())  # type: ignore[arg-type]
    try:
        one, two = takeover.open_root(), takeover.open_root()
        one.apply(small_image(b"one").layers)
        Path("/made").write_text("by a RUN")
        os.link("/made", "/image/made-too")
        os.chmod("/", 0)
        os.rename("/mnt", "/elsewhere")  # with a volume below
        os.unlink("/dev/full")
        os.mknod("/dev/more", 0o600 | 0o020000, os.makedev(1, 3))
        os.rename("/elsewhere", "/mnt")
        two.apply(small_image(b"two").layers)
        one.apply([])
        one.close()
        two.apply([])
        os.rename("/mnt", "/elsewhere")
    finally:
        takeover.close()


def struck(point: int, how: str) -> int:
    """The exit status of a build that is struck at `point`: 0 where it was not reached."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        faults = Faults(point, how)
        try:
            build("/workspace/first")
            status = 0 if faults.count < point else 4
        except (OSError, PybuildError) as error:
            status = 2 if faults.count >= point else 3
            if status == 3:
                traceback.print_exception(error)
    finally:
        os._exit(status)


def state() -> dict[str, tuple[object, ...]]:
    """All but the builder's files, which are many and are not moved."""
    found = listing("/kaniko")
    found |= {f"/dev/{name}": (os.lstat(f"/dev/{name}").st_mode,) for name in os.listdir("/dev")}
    found["mounts"] = tuple(sorted(Path("/proc/self/mountinfo").read_text().splitlines()))
    volume = Path("/mnt/deep/volume")
    found["volume"] = tuple(sorted((p.name, p.stat().st_mtime_ns) for p in volume.iterdir()))
    found["builder"] = tuple(sorted(os.listdir("/kaniko")))
    return found


def undone_by_the_next() -> None:
    place = shared_place()
    assert place is not None
    Takeover(place, kept_paths(Path("/workspace/second")), NoRunner()).close()  # type: ignore[arg-type]


def sweep(steps: dict[str, int]) -> dict[str, Any]:
    before = state()
    found: dict[str, Any] = {
        "entries": len(before),
        "points": {},
        "statuses": {},
        "differences": [],
    }
    for how, step in steps.items():
        point = 1
        statuses: dict[int, int] = {}
        while True:
            status = struck(point, how)
            statuses[status] = statuses.get(status, 0) + 1
            undone_by_the_next()
            after = state()
            for path in sorted(before.keys() | after.keys()):
                if before.get(path) != after.get(path):
                    text = f"{how} {point}: {path}: {before.get(path)} → {after.get(path)}"
                    found["differences"].append(text[:600])
            if status in (0, 3) or len(found["differences"]) > 20:
                break
            point += step
        found["points"][how] = point
        found["statuses"][how] = statuses
    return found


if __name__ == "__main__":
    started = time.monotonic()
    result = sweep(json.loads(sys.argv[1]))
    result["seconds"] = time.monotonic() - started
    json.dump(result, sys.stdout)
