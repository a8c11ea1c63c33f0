"""Which isolation to take: the first that works, found by trying."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from pybuild.errors import InputError
from pybuild.isolation.command import Isolation
from pybuild.isolation.container import signs_of_container
from pybuild.isolation.errors import IsolationUnsupported, NotInContainer
from pybuild.isolation.faked_probe import try_faked
from pybuild.isolation.fidelity import FULL, expected_fidelity, missing_in_place
from pybuild.isolation.ground import ground_of, stuck_paths
from pybuild.isolation.namespace import Namespace
from pybuild.isolation.probe import Found, find_namespace
from pybuild.isolation.process import Runner
from pybuild.isolation.removal import make_locked, remove_tree, times_kept
from pybuild.isolation.rootless import Rootless
from pybuild.isolation.takeover import (
    Takeover,
    interpreter_stays,
    kept_paths,
    preload,
)
from pybuild.isolation.turns import Waiting, shared_place

NAMES = ("namespace", "takeover", "rootless")


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
    allow_root_path: bool = False  # a RUN may leave the path of LINKS in files
    force: bool = False  # replace `/` even where this does not look like a container
    waiting: Waiting = Waiting()  # for a build that has its image on `/`


_NO_WISHES = Wishes()


def choose(name: str, workdir: Path, wishes: Wishes = _NO_WISHES) -> Isolation:
    """`name` is "auto" or one of NAMES; `workdir` is an existing directory of ours. Call it early:
    it starts the runner process. Raises IsolationUnsupported, NotInContainer, and InputError for
    another name."""
    if name not in ("auto", *NAMES):
        raise InputError(f"unknown isolation {name}", hint=f"one of auto, {', '.join(NAMES)}")
    runner = Runner()
    try:
        chosen = _choose(name, workdir, wishes, runner)
        if chosen.fidelity != FULL and expected_fidelity(name) == FULL:
            raise IsolationUnsupported(  # cache entries would promise more than they keep
                f"only isolation {chosen.name} works here, with less than root's usual rights",
                hint=f"ask for it: --isolation={chosen.name}",
            )
        return chosen
    except BaseException:
        runner.close()
        raise


def _choose(name: str, workdir: Path, wishes: Wishes, runner: Runner) -> Isolation:
    refused: list[tuple[str, Found]] = []
    if name in ("auto", "namespace"):
        with ExitStack() as quiet:  # trying leaves no trace in others' folders
            for folder in wishes.candidates:
                quiet.enter_context(times_kept(str(folder)))
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
            return _take_over(runner, workdir, wishes, "; ".join(_because(refused)))
        refused.append(("takeover", found))
    if name in ("auto", "rootless"):
        found = find_rootless(runner, workdir)
        if not found.reason:
            takeover = _take_over(runner, workdir, wishes, "")
            reason = "; ".join([f"as uid {os.geteuid()}", *_because(refused)])
            return Rootless(takeover, reason=reason, allow_root_path=wishes.allow_root_path)
        refused.append(("rootless", found))
    raise IsolationUnsupported(
        "; ".join(f"isolation {other} can't work here: {no.reason}" for other, no in refused),
        hint=refused[-1 if os.geteuid() else 0][1].hint,  # an ordinary user wants another image
    )


def _because(refused: list[tuple[str, Found]]) -> list[str]:
    return [f"no {other}: {found.reason}" for other, found in refused]


def _take_over(runner: Runner, workdir: Path, wishes: Wishes, reason: str) -> Takeover:
    if not wishes.force and not signs_of_container():
        raise NotInContainer(
            "isolation takeover unpacks the image onto `/`, and this is not a container",
            hint="run it in a container; --force endangers this machine",
        )
    kept = kept_paths(workdir, (*wishes.keep, *map(Path, stuck_paths(ground_of()))))
    if not interpreter_stays(kept):
        preload()
    place = shared_place()
    assert place is not None, "found writable before"
    return Takeover(place, kept, runner, reason=reason, waiting=wishes.waiting, work=workdir)


def find_takeover() -> Found:
    """An empty `reason` means that it can work; nothing is changed by looking."""
    missing = missing_in_place()
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


def find_rootless(runner: Runner, workdir: Path) -> Found:
    """An empty `reason` means that it can work; what it makes in `workdir` it removes again."""
    if not ground_of().folders:
        return Found(
            None,
            f"uid {os.geteuid()} can't write to /, and this image is not made to be taken over",
            "use the agent image's `rootless` target; docs/agent-image.md says how it is made",
        )
    if shared_place() is None:
        return Found(
            None,
            "neither / nor the builder's own folder can be written to",
            "set readOnlyRootFilesystem: false",
        )
    return try_faked(runner, workdir)


def probe_all(workdir: Path) -> tuple[ProbeResult, ...]:
    """Tries each; what it makes in `workdir` it removes again."""
    runner = Runner()
    try:
        namespace = find_namespace(runner, (workdir,))
        takeover, rootless = find_takeover(), find_rootless(runner, workdir)
    finally:
        runner.close()
    in_place = (
        ("takeover", takeover, "root with default capabilities"),
        (
            "rootless",
            rootless,
            "an ordinary user, whose RUNs see root's rights",
        ),
    )
    results = [
        ProbeResult("namespace", namespace.setup is not None, namespace.reason, namespace.hint)
    ]
    for name, found, how in in_place:
        reason, hint = found.reason, found.hint
        if not reason and not signs_of_container():
            reason, hint = "this is not a container", "--force would endanger this machine"
        results.append(ProbeResult(name, not reason, reason or how, hint))
    return tuple(results)
