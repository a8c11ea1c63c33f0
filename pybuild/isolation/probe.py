"""What works here, found by doing it: a tiny program is executed on a tiny overlay."""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Mapping, Sequence
from errno import ENOSPC
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pybuild.isolation.capabilities import has_capability
from pybuild.isolation.errors import describe_errno
from pybuild.isolation.mounts import Entering, OverlayStack, Setup, root_operations
from pybuild.isolation.namespace import maps_of
from pybuild.isolation.ownership import Faked
from pybuild.isolation.process import Request, Runner
from pybuild.isolation.removal import remove_tree
from pybuild.rootfs.ids import Ids

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21

# _exit(0), as machine code: the program must not depend on anything that may be missing here
EXIT_CODE = {
    "x86_64": (62, bytes.fromhex("31ff b83c000000 0f05")),  # xor edi,edi; mov eax,60; syscall
    "aarch64": (183, bytes.fromhex("000080d2 a80b80d2 010000d4")),  # mov x0,0; mov x8,93; svc 0
}


def tiny_program(machine: str, codes: Mapping[str, tuple[int, bytes]] = EXIT_CODE) -> bytes | None:
    """A static ELF executable, which ends with status 0; None for a processor not known here."""
    if machine not in codes:
        return None
    elf_machine, code = codes[machine]
    base, start = 0x400000, 64 + 56
    size = start + len(code)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little endian
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, elf_machine, 1, base + start, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code


class Found(Struct, frozen=True):
    """`setup` is None where the isolation can't work, and `reason` says why, `hint` what would
    help. Else `directory` is where its files can lie."""

    setup: Setup | None
    reason: str
    hint: str = ""
    directory: Path | None = None


class Problem(Struct, frozen=True):
    step: str
    errno: int
    detail: str


def find_namespace(helper: Runner, candidates: Sequence[Path]) -> Found:
    """Tries directory after directory for an overlay, then the first one with a plain directory.
    `candidates` need not exist; their parents have to."""
    first = Setup(user_namespace=not has_capability(CAP_SYS_ADMIN))
    if first.user_namespace and not (has_capability(CAP_SETUID) and has_capability(CAP_SETGID)):
        first = replace(first, one_id=True, overlay=False)
    reasons: list[str] = []
    for overlay in (True, False) if first.overlay else (False,):
        for directory in candidates:
            found = _settle(helper, directory, replace(first, overlay=overlay))
            if isinstance(found, Setup):
                return Found(found, "; ".join([found.describe(), *reasons]), "", directory)
            if found.step != "overlay":
                return Found(None, *_explain(found, user_namespace=first.user_namespace))
            reasons.append(f"no overlay on {directory}: {describe_errno(found.errno)}")
    return Found(None, "; ".join(reasons), "give the Pod an emptyDir and put the workspace there")


def _settle(helper: Runner, directory: Path, setup: Setup) -> Setup | Problem:
    """Drops, one at a time, what is refused here and can be done without."""
    while True:
        problem, setup = _try(helper, directory, setup)
        if problem is None:
            return setup
        if problem.step == "mount-proc" and setup.pid_namespace:
            setup = replace(setup, pid_namespace=False)
        elif problem.step == "pivot-root" and setup.entering is Entering.PIVOT:
            setup = replace(setup, entering=Entering.MOVE)
        elif problem.step == "overlay" and setup.overlay and setup.volatile:
            setup = replace(setup, volatile=False)  # before Linux 5.10
        else:
            return problem


def _try(helper: Runner, directory: Path, setup: Setup) -> tuple[Problem | None, Setup]:
    """One RUN of the tiny program; everything made for it is removed again."""
    place = directory / f"probe-{os.urandom(6).hex()}"
    try:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        if setup.overlay:
            setup = replace(setup, user_xattrs=not _takes_trusted_xattrs(place))
            os.mknod(place / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    except OSError as error:
        return Problem("overlay", error.errno or 0, str(error.filename or place)), setup
    else:
        return _run_tiny(helper, place, setup), setup
    finally:
        remove_tree(place)


def _run_tiny(helper: Runner, place: Path, setup: Setup) -> Problem | None:
    program = tiny_program(os.uname().machine)
    if program is not None:
        (place / "lower/exit").write_bytes(program)
        (place / "lower/exit").chmod(0o755)
    stack = OverlayStack(place, ("lower",), "upper", "work", place / "merged")
    request = Request(
        argv=("/exit",),
        env=(),
        cwd="/",
        uid=0,
        gid=0,
        groups=(),
        flags=setup.clone_flags(),
        operations=root_operations(stack if setup.overlay else place / "lower", setup, ()),
        maps=maps_of(setup),
        faked=Faked(Ids(0, 0, (), "/")) if setup.one_id else None,
    )
    outcome = helper.run(request, lambda _stream, _data: None, threading.Event())
    if outcome.failed is None:
        return None if outcome.status == 0 else Problem("execute", 0, f"status {outcome.status}")
    step, number, detail = outcome.failed
    if step == "program-missing" and program is None:
        return None  # everything before it worked
    return Problem(step, number, detail)


def _takes_trusted_xattrs(place: Path) -> bool:
    """Needs CAP_SYS_ADMIN in the machine's own user namespace. Raises OSError where the volume
    takes the user.* ones neither."""
    try:
        os.setxattr(place, "trusted.overlay.probe", b"y")
    except OSError:
        os.setxattr(place, "user.overlay.probe", b"y")
        return False
    return True


def _explain(problem: Problem, *, user_namespace: bool) -> tuple[str, str]:
    """Reason and hint: the call that failed, and the Pod setting that would allow it."""
    what = describe_errno(problem.errno)
    detail = f" {problem.detail}" if problem.detail else ""
    if problem.step == "clone" and user_namespace and problem.errno == ENOSPC:
        return (
            f"clone(CLONE_NEWUSER): {what}",
            "the node's sysctl user.max_user_namespaces is 0 or used up",
        )
    if problem.step == "clone" and user_namespace:
        return (
            f"clone(CLONE_NEWUSER | CLONE_NEWNS): {what}",
            "set the container's seccompProfile to Unconfined, or add CAP_SYS_ADMIN (harmless "
            "with `hostUsers: false`); on Debian see kernel.unprivileged_userns_clone",
        )
    if problem.step == "id-map":
        return f"writing {problem.detail}: {what}", "the container needs CAP_SETUID and CAP_SETGID"
    if problem.step == "program-not-executable":
        return (
            f"execve in the workspace: {what}",
            "the workspace's volume must not be mounted noexec",
        )
    return (
        f"{problem.step}{detail}: {what}",
        "an AppArmor or SELinux rule of the node denies mounts (appArmorProfile: Unconfined, or "
        "sysctl kernel.apparmor_restrict_unprivileged_userns)"
        if user_namespace
        else "the container's seccomp, AppArmor or SELinux rules deny it",
    )
