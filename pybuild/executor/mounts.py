"""RUN --mount carried out: each mount as the isolation has to make it, and what they take, digested
for the cache keys. Locks of caches are held while the command runs."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from pybuild.errors import PybuildError
from pybuild.events import Level, Notice
from pybuild.executor.errors import BadDestination, SecretMissing, SourceMissing
from pybuild.executor.inputs import StepId, Taken
from pybuild.executor.mount_cache import CacheWish
from pybuild.executor.mounted import Shown, digest_shown, shown_by, write_shown
from pybuild.executor.state import ContextSource, StageSource
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.isolation.command import Mounting, RunMount
from pybuild.isolation.moving import set_owner
from pybuild.plan.steps import (
    CopyOrigin,
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    Plan,
    PlannedMount,
    RunAction,
    Step,
)
from pybuild.rootfs.entry import Kind

if TYPE_CHECKING:
    from pybuild.executor.stage import StageServices
    from pybuild.executor.state import StageState
    from pybuild.isolation.command import Root

SourceOf = Callable[[CopyOrigin], ContextSource | StageSource]


class RunFiles(Struct, frozen=True):
    """What a command gets beside its root."""

    mounts: tuple[RunMount, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


# For the cache keys


def check_mounts(plan: Plan, context: ContextSource) -> None:
    """Raises SourceMissing, with the place, for what a mount names and the context lacks."""
    for _, step, mounts in _context_mounts(plan):
        for mount in mounts:
            with _at(step):
                shown_by(mount, context)


def mounted_inputs(plan: Plan, context: ContextSource) -> dict[StepId, Taken]:
    """What each RUN has mounted of the context. What it has of stages and images is known by what
    these are. Errors have the place."""
    found: dict[StepId, Taken] = {}
    for identity, step, mounts in _context_mounts(plan):
        hasher = sha256()
        files: dict[str, Digest] = {}
        with _at(step):
            for mount in mounts:
                digested = digest_shown(shown_by(mount, context), context.digests)
                hasher.update(digested.digest.encode())
                files.update(digested.files)
        found[identity] = Taken(digest_from_hex(hasher.hexdigest()), files)
    return found


def _context_mounts(plan: Plan) -> Iterator[tuple[StepId, Step, list[PlannedMount]]]:
    for stage in plan.stages:
        for step in stage.file_steps:
            mounts = step.action.mounts if isinstance(step.action, RunAction) else ()
            of_context = [mount for mount in mounts if isinstance(mount.origin, FromContext)]
            if of_context:
                yield (stage.number, step.number), step, of_context


@contextmanager
def _at(step: Step) -> Iterator[None]:
    try:
        yield
    except PybuildError as error:
        raise error.at(step.source) from error.__cause__


# Carried out


class SharedCopies:
    """Copies of parts of the context that RUNs have mounted read-only: each is made once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, Path] = {}

    def place(self, shown: Shown, write: Callable[[], Path]) -> Path:
        with self._lock:
            if shown.entry.path not in self._places:
                self._places[shown.entry.path] = write()
            return self._places[shown.entry.path]


@contextmanager
def run_files(
    action: RunAction,
    state: StageState,
    services: StageServices,
    source_of: SourceOf,
    known: Mapping[str, Digest] | None,
) -> Iterator[RunFiles]:
    """All that the mounts of a RUN show, held until the context ends. `known` are the digests that
    files of the context have in the key. Raises SourceMissing, SecretMissing, BadDestination,
    CacheMountUnusable, ContextChanged, Cancelled."""
    if not action.mounts:
        yield RunFiles()
        return
    maker = _Maker(state, services, source_of, known)
    with ExitStack() as held:
        # always in the same order, so that two RUNs never wait for each other's caches
        caches = [mount for mount in action.mounts if mount.type == "cache"]
        for mount in sorted(caches, key=maker.identity):
            maker.hold(mount, held)
        made = [maker.make(mount) for mount in action.mounts]
        # of several at one target the last one is seen
        mounts = {mount.target: mount for mount in made if mount is not None}
        yield RunFiles(tuple(mounts.values()), tuple(maker.env))


class _Maker:
    """The mounts of one RUN."""

    def __init__(
        self,
        state: StageState,
        services: StageServices,
        source_of: SourceOf,
        known: Mapping[str, Digest] | None,
    ) -> None:
        self.env: list[tuple[str, str]] = []
        self._root: Root = state.root()
        self._tree = state.tree()
        self._services = services
        self._source_of = source_of
        self._known = known
        self._held: dict[str, Path] = {}

    def make(self, mount: PlannedMount) -> RunMount | None:
        """None for a secret that is only a variable, or is not there and need not be."""
        match mount.type:
            case "tmpfs":
                self._check_target(mount, is_folder=True)
                size, read_only = mount.size, mount.read_only
                return RunMount("tmpfs", mount.target, size=size, read_only=read_only)
            case "secret":
                return self._secret(mount)
            case "cache":
                self._check_target(mount, is_folder=True)
                place = self._held[self.identity(mount)]
                owner = (mount.uid, mount.gid)
                return RunMount("bind", mount.target, place, mount.read_only, 0, *owner)
            case _:
                return self._bind(mount)

    def _secret(self, mount: PlannedMount) -> RunMount | None:
        secret = self._services.secrets.get(mount.id)
        if secret is None:
            if mount.required:
                raise SecretMissing(
                    f"RUN --mount needs the secret {mount.id}, and it was not given",
                    hint=f"give it with --secret=id={mount.id},src=FILE or ,env=VARIABLE",
                )
            return None
        if mount.env:
            self.env.append((mount.env, os.fsdecode(secret.value)))
        if not mount.target:
            return None
        self._check_target(mount, is_folder=False)
        return RunMount(
            "secret",
            mount.target,
            read_only=True,
            uid=mount.uid,
            gid=mount.gid,
            mode=mount.mode,
            data=secret,
        )

    def _bind(self, mount: PlannedMount) -> RunMount:
        if isinstance(mount.origin, FromScratch):
            self._check_target(mount, is_folder=True)
            place = self._services.workspace.new_spool() / "empty"
            _make_empty(mount, place, 0o755)
            return RunMount("bind", mount.target, place, mount.read_only, private=True)
        assert mount.origin is not None
        source = self._source_of(mount.origin)
        shown = shown_by(mount, source)
        self._check_target(mount, is_folder=shown.is_folder)
        if isinstance(source, StageSource) and self._root.mounting is Mounting.ROOTS:
            root, read_only = source.root(), mount.read_only
            return RunMount(
                "root", mount.target, read_only=read_only, root=root, path=shown.entry.path
            )
        write = partial(self._write, shown)
        shared = (
            mount.read_only
            and isinstance(source, ContextSource)
            and self._root.mounting is not Mounting.NONE
        )
        place = self._services.copies.place(shown, write) if shared else write()
        kind: Literal["bind", "file"] = "bind" if shown.is_folder else "file"
        return RunMount(kind, mount.target, place, mount.read_only, private=not shared)

    def _write(self, shown: Shown) -> Path:
        place = self._services.workspace.new_spool() / "shown"
        known = self._known if isinstance(shown.tree, ContextSource) else None
        write_shown(shown, place, known)
        return place

    def _check_target(self, mount: PlannedMount, *, is_folder: bool) -> None:
        there = self._tree.lookup(self._tree.resolve(mount.target, follow_last=True))
        if there is None or (there.kind is Kind.DIRECTORY) == is_folder:
            return
        shown, found = ("a folder", "a file") if is_folder else ("a file", "a folder")
        raise BadDestination(
            f"RUN --mount with target={mount.target} shows {shown}, and {found} is there",
            hint="name another target=",
        )

    # Caches

    def identity(self, mount: PlannedMount) -> str:
        """Another first content, owner or mode is another cache, as in BuildKit."""
        origin = ""
        if isinstance(mount.origin, FromStage):
            origin = self._services.state_of(mount.origin.stage).chain
        elif isinstance(mount.origin, FromImage):
            origin = self._services.plan.image(mount.origin.request).digest
        return json.dumps([mount.id, origin, mount.source, mount.uid, mount.gid, mount.mode])

    def hold(self, mount: PlannedMount, held: ExitStack) -> None:
        identity = self.identity(mount)
        if identity in self._held:
            return
        services = self._services
        wish = CacheWish(identity, mount.sharing, partial(self._fill, mount))

        def waits() -> None:
            services.sink(Notice(Level.INFO, f"waiting for the cache {mount.id}: it is in use"))

        place = held.enter_context(services.mount_caches.take(wish, services.cancelled, waits))
        self._held[identity] = place
        in_place = self._root.mounting is Mounting.NONE
        if in_place and place.stat().st_dev != Path("/").stat().st_dev:
            text = f"{mount.target} is a link for the RUN: its cache lies on another volume than /"
            services.sink(Notice(Level.INFO, text))

    def _fill(self, mount: PlannedMount, place: Path) -> None:
        if isinstance(mount.origin, FromScratch):
            _make_empty(mount, place, mount.mode)
            return
        assert mount.origin is not None
        shown = shown_by(mount, self._source_of(mount.origin))
        if not shown.is_folder:
            raise SourceMissing(f"RUN --mount=type=cache with source={mount.source}: no folder")
        write_shown(shown, place)


def _make_empty(mount: PlannedMount, place: Path, mode: int) -> None:
    if mount.source:
        raise SourceMissing(
            f"RUN --mount with source={mount.source}: what is empty has no such file",
            hint="say with from= where it is taken from",
        )
    place.mkdir()
    set_owner(str(place), mount.uid, mount.gid)
    place.chmod(mode)
