"""What a RUN's root is mounted from, as a list of operations for the runner; nothing is done here.

Paths in operations are bytes. Those below the root are relative to it, and the runner follows
links there inside the root only; what has to be made to be mounted on it reports as stubs.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

from msgspec import Struct

from pybuild.isolation import runner
from pybuild.isolation.command import RunMount
from pybuild.isolation.errors import TooManyLayers

Operation = tuple[object, ...]

OVERLAY_STACK_LIMIT = 500  # OVL_MAX_STACK in the kernel's fs/overlayfs
SHM_SIZE = "64m"  # as Docker's default
TTY_GROUP = 5
DEVICES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
LINKS = (
    (b"/proc/self/fd", b"dev/fd"),
    (b"/proc/self/fd/0", b"dev/stdin"),
    (b"/proc/self/fd/1", b"dev/stdout"),
    (b"/proc/self/fd/2", b"dev/stderr"),
    (b"/proc/kcore", b"dev/core"),
    (b"pts/ptmx", b"dev/ptmx"),
)
# In a fresh /proc the root of the machine's own user namespace could change the kernel's settings
# even without a capability: the modes there ask for the user id only. The lists are Docker's.
PROC_MASKED = (
    b"proc/acpi",
    b"proc/asound",
    b"proc/interrupts",
    b"proc/kcore",
    b"proc/keys",
    b"proc/latency_stats",
    b"proc/sched_debug",
    b"proc/scsi",
    b"proc/timer_list",
    b"proc/timer_stats",
    b"sys/devices/virtual/powercap",
    b"sys/firmware",
)
PROC_READ_ONLY = (b"proc/bus", b"proc/fs", b"proc/irq", b"proc/sys", b"proc/sysrq-trigger")
CONTAINER_FILES = (Path("/etc/resolv.conf"), Path("/etc/hosts"))


class Entering(Enum):
    """How the old root is left."""

    PIVOT = "pivot"
    MOVE = "move"  # where seccomp refuses pivot_root


class Setup(Struct, frozen=True):
    """What was found to work here; the first, with all of it, is the best."""

    user_namespace: bool = False
    one_id: bool = False  # all that an ordinary user can map: owners are records, see ownership.py
    pid_namespace: bool = True  # and with it a fresh /proc
    entering: Entering = Entering.PIVOT
    overlay: bool = True
    volatile: bool = True  # overlay does not sync what will be thrown away
    user_xattrs: bool = False  # overlay keeps its marks in user.overlay.*, not trusted.overlay.*

    def clone_flags(self) -> int:
        flags = runner.CLONE_NEWNS | runner.CLONE_NEWIPC | runner.CLONE_NEWUTS
        flags |= runner.CLONE_NEWUSER if self.user_namespace else 0
        return flags | (runner.CLONE_NEWPID if self.pid_namespace else 0)

    def describe(self) -> str:
        words = [
            "new user namespace" if self.user_namespace else "CAP_SYS_ADMIN",
            *([f"owners as records of uid {os.geteuid()}"] if self.one_id else []),
            "overlay" if self.overlay else "plain directory and walk",
            "own /proc" if self.pid_namespace else "the container's /proc",
        ]
        return ", ".join(words + ([] if self.entering is Entering.PIVOT else ["chroot"]))


class OverlayStack(Struct, frozen=True):
    """Names are relative to `directory`, lowest first, and hold neither comma nor colon."""

    directory: Path
    lowers: tuple[str, ...]
    upper: str
    work: str
    mount_point: Path


def overlay_options(stack: OverlayStack, setup: Setup) -> str:
    """`volatile`: an upper directory is never mounted as one again; crashed builds start anew.

    Raises TooManyLayers: mount(2) takes a longer string without error and copies one page."""
    marks = "userxattr" if setup.user_xattrs else "redirect_dir=nofollow,metacopy=off"
    marks += ",volatile" if setup.volatile else ""
    lowers = ":".join(reversed(stack.lowers))
    text = f"lowerdir={lowers},upperdir={stack.upper},workdir={stack.work},index=off,{marks}"
    if len(stack.lowers) > OVERLAY_STACK_LIMIT:
        raise TooManyLayers(len(stack.lowers), f"the kernel stacks {OVERLAY_STACK_LIMIT}")
    if len(text) >= mmap.PAGESIZE:
        raise TooManyLayers(len(stack.lowers), "their names fill the page that mount(2) reads")
    return text


class Aside(Struct, frozen=True):
    """What the mounts of one RUN need beside its root: `staging`, an empty directory where secrets
    lie in memory until they are mounted, and the `stacks` of the "root" mounts by their target."""

    staging: Path | None = None
    stacks: Mapping[str, OverlayStack] = {}


_NOTHING_ASIDE = Aside()


def root_operations(
    base: OverlayStack | Path,
    setup: Setup,
    mounts: Sequence[RunMount],
    aside: Aside = _NOTHING_ASIDE,
) -> tuple[Operation, ...]:
    """From the container's mounts to a root of its own: `base` is an overlay or one directory."""
    found: list[Operation] = [("private",)]
    if isinstance(base, OverlayStack):
        options = overlay_options(base, setup).encode()
        mount_point = os.fsencode(base.mount_point)
        found.append(("overlay", os.fsencode(base.directory), mount_point, options))
    else:
        found.append(("plain", os.fsencode(base)))
    found += _devices(setup)
    found += _proc_and_sys(setup)
    found += _container_files(mounts)
    for mount in sorted(mounts, key=lambda mount: len(_relative(mount.target).split(b"/"))):
        found.append(_run_mount(mount, setup, aside))
    found.append((setup.entering.value,))
    return tuple(found)


def _devices(setup: Setup) -> Iterator[Operation]:
    flags = runner.MS_NOSUID | runner.MS_NODEV | runner.MS_STRICTATIME
    yield ("filesystem", b"tmpfs", b"dev", flags, b"mode=755,size=64k")
    for name in DEVICES:
        yield ("device", name)
    for content, path in LINKS:
        yield ("link", content, path)
    quiet = runner.MS_NOSUID | runner.MS_NOEXEC
    group = 0 if setup.one_id else TTY_GROUP
    options = f"newinstance,ptmxmode=0666,mode=0620,gid={group}".encode()
    for name in (b"pts", b"shm", b"mqueue"):
        yield ("directory", b"dev/" + name)
    yield ("optional", "filesystem", b"devpts", b"dev/pts", quiet, options)
    shm = f"mode=1777,size={SHM_SIZE}".encode()
    yield ("filesystem", b"tmpfs", b"dev/shm", quiet | runner.MS_NODEV, shm)
    yield ("optional", "filesystem", b"mqueue", b"dev/mqueue", quiet | runner.MS_NODEV, b"")


def _proc_and_sys(setup: Setup) -> Iterator[Operation]:
    """The container's /sys shows its cgroup, which a JVM sizes itself by; read-only throughout.
    The container's /proc, where we may not mount one, comes with the masks it has."""
    quiet = runner.MS_NOSUID | runner.MS_NOEXEC | runner.MS_NODEV
    if setup.pid_namespace:
        yield ("filesystem", b"proc", b"proc", quiet, b"")
    else:
        yield ("bind", b"/proc", b"proc", False)
    yield ("optional", "bind", b"/sys", b"sys", True)
    if setup.pid_namespace:
        for path in PROC_MASKED:
            yield ("mask", path)
        for path in PROC_READ_ONLY:
            yield ("read_only", path)


def _container_files(mounts: Sequence[RunMount]) -> Iterator[Operation]:
    taken = {_relative(mount.target) for mount in mounts}
    for path in CONTAINER_FILES:
        name = os.fsencode(path)
        if name.strip(b"/") not in taken and path.is_file():
            yield ("bind", name, name.strip(b"/"), True)


def _run_mount(mount: RunMount, setup: Setup, aside: Aside) -> Operation:
    target = _relative(mount.target)
    owner = (0, 0) if setup.one_id else (mount.uid, mount.gid)
    if mount.kind == "tmpfs":
        data = "uid={},gid={}".format(*owner)
        data += f",size={mount.size}" if mount.size else ""
        flags = runner.MS_NOSUID | runner.MS_NODEV
        flags |= runner.MS_RDONLY if mount.read_only else 0
        mode = -1 if mount.mode is None else mount.mode
        return ("temporary", target, flags, data.encode(), mode)
    if mount.kind == "secret":
        assert mount.data is not None and aside.staging is not None
        mode = 0o400 if mount.mode is None else mount.mode
        return ("secret", os.fsencode(aside.staging), target, mount.data.value, *owner, mode)
    if mount.kind == "root":
        stack = aside.stacks[mount.target]
        options = overlay_options(stack, setup).encode()
        place = (os.fsencode(stack.directory), os.fsencode(stack.mount_point), options)
        return ("other_root", *place, os.fsencode(mount.path), target, mount.read_only)
    assert mount.source is not None
    return ("bind", os.fsencode(mount.source), target, mount.read_only)


def _relative(target: str) -> bytes:
    return os.fsencode(target).strip(b"/")
