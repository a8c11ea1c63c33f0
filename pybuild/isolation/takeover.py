"""RUN in place: the image is unpacked onto the container's own `/`, as kaniko does it."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pybuild.events import Level, Notice
from pybuild.isolation.command import Mounting, Network, Output, Root, RunCommand, StackedLayer
from pybuild.isolation.errors import BuilderFilesLost, RunFlagUnsupported
from pybuild.isolation.ground import ground_of
from pybuild.isolation.guard import Guard
from pybuild.isolation.in_place import InPlaceLayers, is_file, links_told
from pybuild.isolation.moving import Kept
from pybuild.isolation.own_files import OwnFiles, failing_by_name
from pybuild.isolation.process import Request, Runner, status_of
from pybuild.isolation.removal import mount_points, remove_tree
from pybuild.isolation.stand_in import make_folders_for_now, stand_ins
from pybuild.isolation.turns import SHARED_PREFIXES, Place, Waiting
from pybuild.isolation.watch import Watch, is_told, shortened

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.layer.changes import Change
    from pybuild.rootfs.index import LayerIndex, Tree

SHELL_FOLDER = "/busybox"  # of the agent image, for Jenkins' `sh` step
KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
PR_SET_DUMPABLE = 4
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
JENKINS_COOKIES = ("JENKINS_SERVER_COOKIE", "JENKINS_NODE_COOKIE")
_NOBODY_WAITS = Waiting()


def kept_paths(workdir: Path, extra: Iterable[Path] = ()) -> Kept:
    """What a RUN in place finds besides the image, and can't be taken away: mounts, the builder,
    the shell, our own files, and what the caller names."""
    found = {os.path.realpath(path) for path in (workdir, *extra)} - set(SHARED_PREFIXES)
    return Kept(mount_points() | found | _builder_folders() | set(KERNEL_FOLDERS))


def _builder_folders() -> set[str]:
    package = Path(__file__).resolve().parents[1]
    found = {os.path.realpath(path) for path in (package, sys.prefix, sys.base_prefix)}
    return found - set(SHARED_PREFIXES) | {SHELL_FOLDER}


def interpreter_stays(kept: Kept) -> bool:
    """Whether modules can still be imported once `/` is the image's."""
    return {os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)} <= kept.paths


class Waits(Protocol):
    """A root of which `stored` has the files while another one is on `/`."""

    stored: Path


class Takeover:
    """One root at a time lies on `/`; the others, and the container's own files, wait in `place`.

    Differences from a RUN with a root of its own: it sees the kept paths and all processes of the
    container, can read files that the builder can read, such as mounted secrets, and a write
    through a hard link that an earlier layer made changes all names of that file, where overlay
    changes the one. RUN --mount is done by stand-ins (see stand_in), --network=none not at all.

    `runner` has to be started, and `preload` called, before the first root is opened. Other builds
    of the container that want its `/` wait for this one, from its making until it is closed.
    Raises Cancelled."""

    name = "takeover"
    parallel = False
    fidelity = "full"

    def __init__(
        self,
        place: Path,
        kept: Kept,
        runner: Runner,
        *,
        reason: str = "",
        waiting: Waiting = _NOBODY_WAITS,
        work: Path | None = None,  # the build's own folder, which has to outlive its RUNs
    ) -> None:
        self.reason = reason
        self._work = work
        self.runner = runner
        self._place = place
        self._own = OwnFiles(place)
        self._ground = ground_of()
        self._guard: Guard | None = None
        self._guard_failed = False
        self.sink = waiting.sink
        self._active: Waits | None = None
        self._number = 0
        self._closed = False
        self._turns = Place(place)
        self._lock = self._turns.alone(waiting)
        (place / "stages").mkdir(exist_ok=True)
        theirs = [os.fsdecode(path) for other in self._turns.others() for path in other.keep]
        self.kept = Kept({*kept.paths, str(place), *theirs} - set(SHARED_PREFIXES))
        hide_from_other_processes()
        with failing_by_name(place):
            self._own.put_back()

    def open_root(self) -> Root:
        return _TakeoverRoot(self, self.new_place())

    def new_place(self) -> Path:
        """A folder for the files of one more root, while they wait."""
        self._number += 1
        stored = self._place / "stages" / str(self._number)
        stored.mkdir()
        return stored

    def activate(self, root: Waits) -> None:
        """Makes `root` the one on `/`."""
        if self._active is root:
            return
        if self._active is not None:
            self._ground.move_out(str(self._active.stored), self.kept)
            self._active = None
        elif not self._own.are_aside:
            self._own.move_aside(self.kept, self.runner.pid)
        self._ground.move_in(str(root.stored))
        self._active = root

    def deactivate(self, root: Waits) -> None:
        """Removes `root` from `/`, or from where it waits."""
        if self._active is root:
            self._own.clear(self.kept.paths)
            self._active = None
        remove_tree(root.stored)

    @contextmanager
    def guarded(self, working_directory: str) -> Iterator[None]:
        """While a RUN runs: what it does to more than the image is mended afterwards, and told.
        A working directory below a kept path is there for the time. Raises MountMoved,
        BuilderFilesLost."""
        guard = self._guard_now()
        with ExitStack() as undo:
            if self.kept.covers(working_directory.strip("/")):
                make_folders_for_now(working_directory, undo)
            watch = Watch(self.kept, {str(self._place), *_builder_folders()})
            try:
                yield
            finally:
                self._make_place()
                self._tell_of_run(guard.put_back() if guard is not None else [], watch.changed())
        if self._work is not None and not self._work.is_dir():
            raise BuilderFilesLost(str(self._work))
        self._own.after_run()

    def _make_place(self) -> None:
        """What a RUN may have removed. Files of roots that waited are read from their layers then,
        as those that were never on disk are."""
        self._place.mkdir(mode=0o711, parents=True, exist_ok=True)
        for number in range(1, self._number + 1):
            (self._place / "stages" / str(number)).mkdir(parents=True, exist_ok=True)

    def _tell_of_run(self, mended: list[str], changed: list[str]) -> None:
        mended = [path for path in mended if not path.startswith(f"{self._place}/")] or mended
        if mended:
            text = "the command changed files of the builder, which are as they were again"
            self._warn(f"{text}: {shortened(mended)}", "builder-files-changed")
        if changed:
            text = "not in the image, since the container has its own there, but changed while"
            self._warn(f"{text} the command ran: {shortened(changed)}", "kept-path-written")

    def tell_kept(self, layer: StackedLayer, index: LayerIndex) -> None:
        """Names files of the image that a RUN in place finds the container's own instead of."""
        paths = (entry.path for entry in index.entries() if is_file(entry))
        hidden = [f"/{path}" for path in paths if self.kept.covers(path) and is_told(f"/{path}")]
        if hidden:
            text = "in the image, but a RUN here finds what the container has in its place"
            level = Level.INFO if layer.is_base else Level.WARNING
            self.sink(Notice(level, f"{text}: {shortened(hidden)}", code="kept-path-hidden"))

    def _guard_now(self) -> Guard | None:
        """An ordinary user's RUN can't write to the builder's files, but to the container's. None
        where there is no room for a copy."""
        if self._guard is None and not self._guard_failed:
            own = self._own_folders() if os.geteuid() == 0 else set()
            others = self.kept.paths - _builder_folders()
            try:
                self._guard = Guard((*own, self._own.folder), others, self._place)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self._guard_failed = True
        return self._guard

    def _own_folders(self) -> set[str]:
        """The outermost of them."""
        own = {path for path in _builder_folders() if path in self.kept.paths}
        return {path for path in own if not any(path.startswith(f"{above}/") for above in own)}

    def _warn(self, text: str, code: str) -> None:
        self.sink(Notice(Level.WARNING, text, code=code))

    def is_active(self, root: Waits) -> bool:
        return self._active is root

    def close(self) -> None:
        """The container is as it was. Raises PutBackFailed."""
        if self._closed:
            return
        self._closed = True
        self.runner.close()
        self._active = None
        if self._guard is not None:
            self._guard.close()
        try:
            with failing_by_name(self._place):
                self._own.put_back()
        finally:
            os.close(self._lock)
        self._turns.leave()


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
        for layer in layers:
            index = self._files.index(layer.chain)
            assert index is not None
            self._takeover.tell_kept(layer, index)

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
            mounts = stand_ins(command.mounts, aside, self._takeover.kept)
            with mounts, self._takeover.guarded(command.cwd):
                request = request_for(command)
                outcome = self._takeover.runner.run(request, output, cancelled)
        finally:
            remove_tree(aside)
        return status_of(outcome, request)

    def changes(self, below: Tree) -> Iterator[Change]:
        self._takeover.activate(self)
        return links_told(self._files.changes(below), below, self._takeover.sink)

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
    here on, root included: prctl(2), PR_SET_DUMPABLE. But Jenkins finds what it has to stop by a
    word in /proc/*/environ; the shells of its `sh` step show the same environment anyway."""
    import ctypes

    if not any(name in os.environ for name in JENKINS_COOKIES):
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
