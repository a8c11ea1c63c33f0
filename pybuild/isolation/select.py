"""Which isolation to take: the first that works, found by trying."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from pybuild.errors import InputError, NotCarriedOut
from pybuild.isolation.command import Isolation
from pybuild.isolation.container import signs_of_container
from pybuild.isolation.errors import IsolationUnsupported, NotInContainer
from pybuild.isolation.namespace import Namespace
from pybuild.isolation.probe import Found, find_namespace, has_capability
from pybuild.isolation.process import Runner
from pybuild.isolation.removal import make_locked, remove_tree
from pybuild.isolation.takeover import (
    Takeover,
    interpreter_stays,
    kept_paths,
    preload,
)
from pybuild.isolation.turns import Waiting, shared_place

NAMES = ("namespace", "takeover", "rootless")
ROOTLESS_REASON = "builds by an ordinary user without capabilities are not carried out yet"
ROOTLESS_HINT = "run the builder as root in the container: a default Pod's rights are enough"
NEEDED_IN_PLACE = (
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
)


class ProbeResult(Struct, frozen=True):
    """One line of `pybuild doctor`: what the isolation needs that is missing, or how it works."""

    name: str
    works: bool
    reason: str
    hint: str


class Wishes(Struct, frozen=True):
    """`candidates`: other directories, on volumes that overlay may take as an upper directory
    where the workdir is not one. `keep`: what a build in place must leave alone (context,
    credentials, cache, outputs)."""

    candidates: tuple[Path, ...] = ()
    keep: tuple[Path, ...] = ()
    discard: Callable[[Path], None] = remove_tree  # what becomes of directories at the end
    force: bool = False  # replace `/` even where this does not look like a container
    waiting: Waiting = Waiting()  # for a build that has its image on `/`


_NO_WISHES = Wishes()


def choose(name: str, workdir: Path, wishes: Wishes = _NO_WISHES) -> Isolation:
    """`name` is "auto" or one of NAMES; `workdir` is an existing directory of ours. Call it early:
    it starts the runner process. Raises IsolationUnsupported, NotInContainer, NotCarriedOut, and
    InputError for another name."""
    if name == "rootless":
        raise NotCarriedOut(ROOTLESS_REASON, hint=ROOTLESS_HINT)
    if name not in ("auto", *NAMES):
        raise InputError(f"unknown isolation {name}", hint=f"one of auto, {', '.join(NAMES)}")
    runner = Runner()
    try:
        return _choose(name, workdir, wishes, runner)
    except BaseException:
        runner.close()
        raise


def _choose(name: str, workdir: Path, wishes: Wishes, runner: Runner) -> Isolation:
    refused: list[tuple[str, Found]] = []
    if name in ("auto", "namespace"):
        found = find_namespace(runner, (workdir, *wishes.candidates))
        if found.setup is not None and found.directory is not None:
            # volumes are shared, and outlive the container
            directory, lock = make_locked(found.directory, "pybuild-isolation-")

            def discard(path: Path) -> None:
                wishes.discard(path)
                os.close(lock)

            return Namespace(directory, found.setup, runner, reason=found.reason, discard=discard)
        refused.append(("namespace", found))
    if name in ("auto", "takeover"):
        found = find_takeover()
        if not found.reason:
            if not wishes.force and not signs_of_container():
                raise NotInContainer(
                    "isolation takeover unpacks the image onto `/`, and this is not a container",
                    hint="run it in a container; --force endangers this machine",
                )
            kept = kept_paths(workdir, wishes.keep)
            if not interpreter_stays(kept):
                preload()
            reason = "; ".join(f"no {other}: {no.reason}" for other, no in refused)
            place = shared_place()
            assert place is not None, "found writable by find_takeover"
            return Takeover(place, kept, runner, reason=reason, waiting=wishes.waiting)
        refused.append(("takeover", found))
    raise IsolationUnsupported(
        "; ".join(f"isolation {other} can't work here: {no.reason}" for other, no in refused),
        hint=refused[0][1].hint,
    )


def find_takeover() -> Found:
    """An empty `reason` means that it can work; nothing is changed by looking."""
    missing = [name for name, number in NEEDED_IN_PLACE if not has_capability(number)]
    if os.geteuid() != 0:
        return Found(None, f"uid {os.geteuid()} is not root", "set runAsUser: 0")
    if missing:
        return Found(
            None,
            f"{', '.join(missing)} missing",
            "leave the container its default capabilities (no `drop: [ALL]`), or add these",
        )
    if os.statvfs("/").f_flag & os.ST_RDONLY or shared_place() is None:
        return Found(
            None,
            f"/ is read-only ({errno.errorcode[errno.EROFS]})",
            "set readOnlyRootFilesystem: false",
        )
    return Found(None, "")


def probe_all(workdir: Path) -> tuple[ProbeResult, ...]:
    """Tries each; what it makes in `workdir` it removes again."""
    runner = Runner()
    try:
        namespace = find_namespace(runner, (workdir,))
    finally:
        runner.close()
    takeover = find_takeover()
    reason, hint = takeover.reason, takeover.hint
    if not reason and not signs_of_container():
        reason, hint = "this is not a container", "--force would endanger this machine"
    return (
        ProbeResult("namespace", namespace.setup is not None, namespace.reason, namespace.hint),
        ProbeResult("takeover", not reason, reason or "root with default capabilities", hint),
        ProbeResult("rootless", False, ROOTLESS_REASON, ROOTLESS_HINT),
    )
