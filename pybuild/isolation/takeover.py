"""RUN in place: the image is unpacked onto the container's own `/`, as kaniko does it."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.isolation.command import Mounting, Network, Output, Root, RunCommand, StackedLayer
from pybuild.isolation.errors import IsolationUnsupported, PutBackFailed, RunFlagUnsupported
from pybuild.isolation.in_place import InPlaceLayers
from pybuild.isolation.moving import Kept, move_in, move_out, times_kept
from pybuild.isolation.process import Request, Runner, status_of
from pybuild.isolation.removal import empty_directory, mount_points, remove_tree
from pybuild.isolation.stand_in import stand_ins

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.layer.changes import Change
    from pybuild.rootfs.index import LayerIndex, Tree

SHELL_FOLDER = "/busybox"  # of the agent image, for Jenkins' `sh` step
KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
SHARED_PREFIXES = ("/", "/usr", "/usr/local")  # too much the image's own to be kept
PLACE = ".takeover"
PR_SET_DUMPABLE = 4


def kept_paths(workdir: Path, extra: Iterable[Path] = ()) -> Kept:
    """What a RUN in place finds besides the image, and can't be taken away: mounts, the builder,
    the shell, our own files, and what the caller names."""
    package = Path(__file__).resolve().parents[1]
    candidates = [workdir, package, Path(sys.prefix), Path(sys.base_prefix), *extra]
    found = {os.path.realpath(path) for path in candidates}
    found -= set(SHARED_PREFIXES)
    found |= {*KERNEL_FOLDERS, SHELL_FOLDER}
    return Kept(mount_points() | found)


def interpreter_stays(kept: Kept) -> bool:
    """Whether modules can still be imported once `/` is the image's."""
    return {os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)} <= kept.paths


def place_for(workdir: Path, kept: Kept) -> Path:
    """Where the container's files wait: in the builder's own folder if that is on the filesystem of
    `/`, where a move is a rename, and where the next build looks after a KILL; else the workdir."""
    prefix = os.path.realpath(sys.prefix)
    same_filesystem = Path(prefix).stat().st_dev == Path("/").stat().st_dev
    if prefix in kept.paths and same_filesystem and os.access(prefix, os.W_OK):
        return Path(prefix) / PLACE
    return workdir / PLACE


class Takeover:
    """One root at a time lies on `/`; the others, and the container's own files, wait in `place`.

    Differences from a RUN with a root of its own: it sees the kept paths and all processes of the
    container, can read files that the builder can read, such as mounted secrets, and a write
    through a hard link that an earlier layer made changes all names of that file, where overlay
    changes the one. RUN --mount is done by stand-ins (see stand_in), --network=none not at all.

    `runner` has to be started, and `preload` called, before the first root is opened."""

    name = "takeover"
    parallel = False
    fidelity = "full"

    def __init__(self, place: Path, kept: Kept, runner: Runner, *, reason: str = "") -> None:
        self.reason = reason
        self.kept = Kept(kept.paths | {str(place)})
        self.runner = runner
        self._place = place
        self._own = place / "container"  # the container's own files, while a root is on `/`
        self._state = place / "state"
        self._active: _TakeoverRoot | None = None
        self._number = 0
        self._closed = False
        with times_kept(str(place.parent)):
            (place / "stages").mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        hide_from_other_processes()
        self._recover()

    def _take_lock(self) -> int:
        fd = os.open(self._place / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise IsolationUnsupported(
                "another build in this container has its image on `/`",
                hint="run one build after the other, or give each a container",
            ) from error
        return fd

    def open_root(self) -> Root:
        self._number += 1
        stored = self._place / "stages" / str(self._number)
        stored.mkdir()
        return _TakeoverRoot(self, stored)

    def activate(self, root: _TakeoverRoot) -> None:
        """Makes `root` the one on `/`."""
        if self._active is root:
            return
        if self._active is not None:
            move_out("/", str(self._active.stored), self.kept)
            self._active = None
        elif not self._own.exists():
            self._move_own_aside()
        move_in(str(root.stored), "/")
        self._active = root

    def deactivate(self, root: _TakeoverRoot) -> None:
        """Removes `root` from `/`, or from where it waits."""
        if self._active is root:
            self._clear()
            self._active = None
        remove_tree(root.stored)

    def is_active(self, root: _TakeoverRoot) -> bool:
        return self._active is root

    def close(self) -> None:
        """The container is as it was. Raises PutBackFailed."""
        if self._closed:
            return
        self._closed = True
        self.runner.close()
        try:
            self._recover()
        except OSError as error:
            raise PutBackFailed(
                f"the container's own files could not be put back: {error}",
                hint=f"they are in {self._own}; the next build in this container tries again",
            ) from error
        finally:
            os.close(self._lock)
        with times_kept(str(self._place.parent)):
            remove_tree(self._place)

    def _clear(self) -> None:
        """Removes the image from `/`. Mounts are asked for again: one may have come meanwhile."""
        empty_directory("/", (self.kept.paths | mount_points()).__contains__)

    def _move_own_aside(self) -> None:
        self._note("moving")  # first: where `container` is, there is a state
        self._own.mkdir()
        move_out("/", str(self._own), self.kept)
        self._note("moved")

    def _note(self, state: str) -> None:
        draft = self._state.with_suffix(".new")
        draft.write_text(state)
        draft.rename(self._state)

    def _recover(self) -> None:
        """Puts everything back, from whatever point was reached, by this process or one that was
        killed. While "moving" or "restoring" no file of an image is on `/`."""
        self._active = None
        if self._own.exists():
            if self._state.read_text() == "moved":
                self._clear()
                self._note("restoring")
            move_in(str(self._own), "/")
            self._own.rmdir()
        for stored in (self._place / "stages").iterdir():
            remove_tree(stored)


class _TakeoverRoot:
    mounting = Mounting.NONE

    def __init__(self, takeover: Takeover, stored: Path) -> None:
        self.stored = stored  # where its files are while another root is on `/`
        self._takeover = takeover
        self._files = InPlaceLayers(Path("/"), takeover.kept.covers)
        self.folder = Path("/")

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        self._takeover.activate(self)
        self._files.apply(layers)

    def index(self, chain: Digest) -> LayerIndex | None:
        return self._files.index(chain)

    def run(self, command: RunCommand, output: Output, cancelled: threading.Event) -> int:
        if command.network is Network.NONE:
            raise RunFlagUnsupported(
                "RUN --network=none needs a network namespace, which can't be made here",
                hint="`pybuild doctor` says what the Pod would have to allow",
            )
        self._takeover.activate(self)
        self._files.note()
        aside = self.stored.with_name(f"{self.stored.name}-mounts")
        aside.mkdir()
        try:
            with stand_ins(command.mounts, aside, self._takeover.kept):
                request = request_for(command)
                return status_of(self._takeover.runner.run(request, output, cancelled), request)
        finally:
            remove_tree(aside)

    def changes(self, below: Tree) -> Iterator[Change]:
        self._takeover.activate(self)
        return self._files.changes(below)

    def settle(self, chain: Digest) -> None:
        """Nothing to do: the changes are where they belong already."""

    def content(self, path: str) -> Path | None:
        """None too for what the container keeps in the image's place, such as etc/hosts."""
        if self._takeover.is_active(self):
            return self._files.content(path)
        waiting = InPlaceLayers(self.stored, self._takeover.kept.covers)
        return waiting.content(path)

    def close(self) -> None:
        self._takeover.deactivate(self)


def request_for(command: RunCommand) -> Request:
    """No namespace, no mount: the command starts on `/` as it is."""
    return Request(
        argv=command.argv,
        env=command.env,
        cwd=command.cwd,
        uid=command.ids.uid,
        gid=command.ids.gid,
        groups=command.ids.groups,
        flags=0,
        operations=(("in_place",),),
        weak_bounding=True,
    )


def hide_from_other_processes() -> None:
    """Nobody without CAP_SYS_PTRACE reads our memory, environment and descriptors below /proc from
    here on, root included: prctl(2), PR_SET_DUMPABLE."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


PRELOADED = (
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8", "stringprep"),
    *("bz2", "concurrent.futures.thread", "ctypes", "datetime", "email.message", "email.parser"),
    *("getpass", "gzip", "hashlib", "hmac", "http.client", "ipaddress", "isal.igzip_threaded"),
    *("json", "linecache", "locale", "lzma", "mmap", "netrc", "pwd", "queue", "random", "secrets"),
    *("shutil", "socket", "ssl", "subprocess", "tempfile", "textwrap", "traceback", "unicodedata"),
    *("urllib.parse", "uuid", "zlib", "zoneinfo", "zstandard"),
)


def preload() -> None:
    """Imports what a build may ask for later, and the whole of pybuild: where the interpreter is
    not in a folder of its own, nothing can be imported once `/` is the image's. A trust store is
    the caller's to load."""
    import importlib
    import pkgutil

    import pybuild

    ours = (module.name for module in pkgutil.walk_packages(pybuild.__path__, "pybuild."))
    for name in (*PRELOADED, *ours):
        if not name.endswith("__main__"):
            importlib.import_module(name)
