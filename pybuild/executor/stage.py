"""One stage, step by step: from the cache where an entry fits, else carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct, field
from msgspec.structs import replace

from pybuild.errors import Cancelled, PybuildError, RunFailed
from pybuild.events import (
    NO_CACHE,
    EventSink,
    StageFinished,
    StageStarted,
    StepCached,
    StepFinished,
    StepOutput,
    StepStarted,
)
from pybuild.executor.errors import SnapshotTooSlow
from pybuild.executor.inputs import StepId, Taken, digest_taken
from pybuild.executor.lookup import chosen_one
from pybuild.executor.stack import LayerOrigin, StackLayer
from pybuild.executor.state import ContextSource, StageSource, StageState
from pybuild.image.digest import Digest
from pybuild.image.layer import Layer, chain_id
from pybuild.image.media_type import family_of, in_family
from pybuild.plan.fit import NOT_CACHED, NOT_KEPT, Fit, StoredStep, follow, taken_result
from pybuild.plan.keys import KeyFacts, state_key, step_key
from pybuild.plan.steps import (
    CopyAction,
    CopyOrigin,
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    MakeDirectory,
    Plan,
    RunAction,
    StagePlan,
    Step,
)

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from pybuild.cache.layers import CachedStep, LayerCache
    from pybuild.executor.copy import Picked
    from pybuild.executor.mount_cache import MountCaches
    from pybuild.executor.mounts import SharedCopies
    from pybuild.executor.repository import Repositories
    from pybuild.executor.workspace import Workspace
    from pybuild.isolation.command import Root, Secret
    from pybuild.layer.changes import Change
    from pybuild.layer.pack import PackedLayer, PackOptions


class StageServices(Struct, frozen=True):
    """What every stage of one build is given."""

    plan: Plan
    facts: KeyFacts
    keys: Mapping[StepId, Digest]  # of the steps that a cache is asked for
    found: Mapping[StepId, tuple[CachedStep, ...]]
    fit: Fit
    cache: LayerCache | None
    context: ContextSource
    picked: Mapping[StepId, list[Picked]]
    inputs: Mapping[StepId, Taken]
    workspace: Workspace
    pack_options: PackOptions
    started: int  # in seconds
    now_ns: int
    created: str  # of what is built, which may be a fixed time
    stored_at: str  # of cache entries, whose age counts
    sink: EventSink
    cancelled: threading.Event
    run_slots: threading.Semaphore
    state_of: Callable[[int], StageState]  # of a finished stage
    result_of: Callable[[int], Digest]  # also of one that was not started
    image_state: Callable[[FromImage], StageState]
    on_layer: Callable[[StagePlan, StackLayer], None]  # told of each layer as it is finished
    store: Callable[[Callable[[], None]], None]  # runs something beside the build
    secrets: Mapping[str, Secret]  # of RUN --mount, by id
    mount_caches: MountCaches
    copies: SharedCopies
    repositories: Repositories
    snapshot_seconds: float | None


class StageTally(Struct):
    """What a stage came to, for the summary and the image's history."""

    layers: dict[int, StackLayer | None] = field(default_factory=dict)  # by step number
    stored: dict[int, StoredStep] = field(default_factory=dict)  # what the caches were told
    steps_run: int = 0
    steps_cached: int = 0
    seconds: float = 0.0


class StageBuilder:
    def __init__(self, stage: StagePlan, state: StageState, services: StageServices) -> None:
        self.stage = stage
        self.state = state
        self.services = services
        self.tally = StageTally()
        self.places = stage.places

    def build(self) -> StageTally:
        """Carries out the stage. Raises PybuildError with the place of the step that failed."""
        services = self.services
        started = time.monotonic()
        stage, base = self.stage, self._base_name()
        services.sink(
            StageStarted(stage.number, stage.name, base, stage.first_place, stage.place_count)
        )
        for step in self.stage.file_steps:
            if services.cancelled.is_set():
                break
            try:
                self._step(step)
            except PybuildError as error:
                raise error.at(step.source) from error.__cause__
        self.tally.seconds = time.monotonic() - started
        services.sink(StageFinished(self.stage.number, self.stage.name, self.tally.seconds))
        return self.tally

    def _base_name(self) -> str:
        match self.stage.origin:
            case FromScratch():
                return "scratch"
            case FromStage(number):
                return self.services.plan.stage(number).name
            case FromImage(request):
                return request.name
            case _:
                assert_never(self.stage.origin)

    def _step(self, step: Step) -> None:
        cache, identity = self.services.cache, (self.stage.number, step.number)
        if cache is None or identity not in self.services.keys:
            reason = NO_CACHE if cache is None else NOT_KEPT
            self._carry_out(step, self.services.inputs.get(identity), None, reason)
            return
        hit = self._first_hit(step)
        if hit is not None:
            self._take(step, hit)
            return
        taken = self._taken(step)
        second = self._second_key(step, taken)
        hit = self._second_hit(step, second)
        if hit is None:
            reason = self.services.fit.reason(self.stage.number, step.number) or NOT_CACHED
            self._carry_out(step, taken, second, reason)
            return
        self._take(step, hit)
        # The next build of the same finds it before anything has run.
        stored = replace(hit.stored, taken=self._taken_result(step))
        self.tally.stored[step.number] = stored
        services, first, found = self.services, (self._first_key(step),), hit
        services.store(lambda: cache.put_again(first, stored, found))

    # From the cache

    def _first_key(self, step: Step) -> Digest:
        return self.services.keys[self.stage.number, step.number]

    def _first_hit(self, step: Step) -> CachedStep | None:
        """The entry under the first key that was made on what is here now; what was planned to be
        taken comes before what else there is."""
        found = self.services.found.get((self.stage.number, step.number), ())
        planned = self.services.fit.stages[self.stage.number].steps.get(step.number)
        chosen = chosen_one(planned, found)
        result = self._taken_result(step) if step.takes and found else None
        for one in (chosen, *found):
            if one is not None and self._fits(step, one) and one.stored.taken == result:
                return one
        return None

    def _second_hit(self, step: Step, key: Digest) -> CachedStep | None:
        """The entry under a key that has all that the step takes in it."""
        assert self.services.cache is not None
        if key == self._first_key(step):
            return None
        found = self.services.cache.get(key)
        return next((one for one in found if self._fits(step, one)), None)

    def _fits(self, step: Step, found: CachedStep) -> bool:
        on_this = step.stands_alone or found.stored.parent == self.state.chain
        return on_this and found.is_there()

    def _taken_result(self, step: Step) -> Digest | None:
        """Of the stages and images that the step takes from."""
        stages = (one.stage for one in step.takes if isinstance(one, FromStage))
        chains = {number: self.services.result_of(number) for number in stages}
        return taken_result(self.services.plan, step, chains)

    def _cached_layer(self, step: Step, found: CachedStep) -> StackLayer | None:
        """An entry's layer on top of what is here, with the media type that the image wants."""
        if found.layer is None:
            return None
        family = family_of(self.services.pack_options.media_type)
        blob = found.layer.descriptor
        blob = replace(blob, media_type=in_family(blob.media_type, family))
        return StackLayer(
            replace(found.layer, descriptor=blob),
            follow(self.state.chain, found.stored),
            LayerOrigin.CACHED,
            step.created_by,
            found.read_index,
        )

    def _take(self, step: Step, hit: CachedStep) -> None:
        layer = self._cached_layer(step, hit)
        if layer is not None:
            self.state.push(layer)
            self.services.on_layer(self.stage, layer)
        self.tally.layers[step.number] = layer
        self.tally.stored[step.number] = hit.stored
        self.tally.steps_cached += 1
        size = hit.layer.descriptor.size if hit.layer else 0
        place, line = self.places[step.number], step.source.line
        self.services.sink(StepCached(self.stage.number, place, step.text, line, hit.key, size))

    def _second_key(self, step: Step, taken: Taken | None) -> Digest:
        """Over what the parent and the taken files really are."""
        elsewhere = ""
        if step.takes and isinstance(step.action, CopyAction) and taken is not None:
            elsewhere = f"content {taken.digest}"
        elif step.takes:
            elsewhere = f"result {self._taken_result(step)}"
        return step_key(
            self.stage,
            step,
            self.services.facts,
            parent=f"chain {self.state.chain}",
            taken=elsewhere,
            inputs=taken.digest
            if taken is not None and not elsewhere.startswith("content")
            else None,
        )

    def _taken(self, step: Step) -> Taken | None:
        """What the step takes, with the digests of its files."""
        known = self.services.inputs.get((self.stage.number, step.number))
        if known is not None or not step.takes or not isinstance(step.action, CopyAction):
            return known
        from pybuild.executor.copy import pick, place_name

        source = self._source(step.action.origin)
        where = place_name(self.services.plan, step.action.origin)
        picked = pick(step.action, source, where)
        return digest_taken(step.action, picked, source, source.digests)

    # Carried out

    def _carry_out(
        self, step: Step, taken: Taken | None, second: Digest | None, reason: str
    ) -> None:
        services = self.services
        started = time.monotonic()
        number, place = self.stage.number, self.places[step.number]
        services.sink(StepStarted(number, place, step.text, step.source.line, reason))
        parent = self.state.chain
        if services.cache is None and self._runs_later(step):
            self.state.root()  # unpacking gives the index too; the base is read once then
        packed = self._pack(step, taken)
        layer = None if packed.empty else self._new_layer(packed, parent, step.created_by)
        if services.cache is not None and second is not None:
            layer = self._adopt_or_store(step, packed, layer, second)
        if isinstance(step.action, RunAction):
            if layer is not None:
                self.state.learn(layer.chain, packed.index)  # times are those on disk, then
            self.state.settle(layer)
        elif layer is not None:
            self.state.push(layer)
        if layer is not None:
            services.on_layer(self.stage, layer)
        self.tally.layers[step.number] = layer
        self.tally.steps_run += 1
        seconds = time.monotonic() - started
        size = layer.layer.descriptor.size if layer else 0
        services.sink(StepFinished(number, place, step.text, step.source.line, seconds, size))

    def _runs_later(self, step: Step) -> bool:
        later = self.stage.file_steps
        return any(isinstance(s.action, RunAction) for s in later if s.number > step.number)

    def _new_layer(self, packed: PackedLayer, parent: Digest, created_by: str) -> StackLayer:
        path = packed.path
        layer = Layer(packed.descriptor, packed.diff_id, lambda: read_file(path))
        chain = chain_id(parent, packed.diff_id)
        self.state.learn(chain, packed.index)
        return StackLayer(layer, chain, LayerOrigin.NEW, created_by, lambda: None)

    def _adopt_or_store(
        self, step: Step, packed: PackedLayer, layer: StackLayer | None, second: Digest
    ) -> StackLayer | None:
        """A layer made before on this very parent, that differs only in times which the builds
        gave by themselves, takes the place of the new one: then all that was built on it is valid
        still (early cut-off)."""
        services, cache = self.services, self.services.cache
        assert cache is not None
        parent, facts = self.state.chain, services.facts
        keys = tuple(dict.fromkeys((self._first_key(step), second)))
        taken = self._taken_result(step)
        if layer is not None:
            state = state_key(self.stage, facts, parent=parent, content=packed.content)
            keys = (*keys, state)
            known = next((one for one in cache.get(state) if self._was_made_here(one)), None)
            if known is not None:
                again = replace(known.stored, taken=taken, created=services.stored_at)
                self.tally.stored[step.number] = again
                found = known
                services.store(lambda: cache.put_again(keys, again, found))
                return self._cached_layer(step, known)
        stored = StoredStep(
            parent=parent,
            chain=layer.chain if layer else parent,
            taken=taken,
            content=packed.content,
            diff_id=layer.layer.diff_id if layer else None,
            layer=layer.layer.descriptor if layer else None,
            index=None,
            created=services.stored_at,
        )
        self.tally.stored[step.number] = stored
        blob, index = (layer.layer if layer else None), packed.index
        services.store(lambda: cache.put(keys, stored, blob, index.to_bytes()))
        return layer

    def _was_made_here(self, found: CachedStep) -> bool:
        return found.stored.parent == self.state.chain and found.is_there()

    def _pack(self, step: Step, taken: Taken | None) -> PackedLayer:
        from pybuild.layer.pack import pack_layer

        options = self.services.pack_options
        match step.action:
            case RunAction():
                changes = self._in_time(self._run(step, step.action, taken))
                options = replace(options, own_seconds=self._own_seconds())
            case CopyAction():
                changes, options = self._copy(step, step.action, taken)
                if step.action.is_add:  # of what is in archives the times count
                    options = replace(options, own_seconds=self._own_seconds())
            case MakeDirectory():
                from pybuild.executor.copying import directory_changes

                changes = directory_changes(step.action, self.state, self.services.now_ns)
            case _:
                raise AssertionError(step)
        wanted = self._until_cancelled(changes)
        return pack_layer(wanted, self.services.workspace.new_blob(), options)

    def _in_time(self, changes: Iterable[Change]) -> Iterator[Change]:
        limit = self.services.snapshot_seconds
        started = time.monotonic()
        for change in changes:
            if limit is not None and time.monotonic() - started > limit:
                raise SnapshotTooSlow(
                    f"finding what the command changed took longer than {limit:g} s",
                    hint="give SNAPSHOT_TIMEOUT_DURATION more time, or leave it out",
                )
            yield change

    def _own_seconds(self) -> range:
        """The times that files have because this build made them."""
        return range(self.services.started, int(time.time()) + 2)

    def _until_cancelled(self, changes: Iterable[Change]) -> Iterator[Change]:
        is_cancelled = self.services.cancelled.is_set
        for change in changes:
            if is_cancelled():
                raise Cancelled("the layer is not wanted any more")
            yield change

    def _run(self, step: Step, action: RunAction, taken: Taken | None) -> Iterator[Change]:
        from pybuild.executor.mounts import run_files
        from pybuild.executor.run import make_command

        services, state = self.services, self.state
        root, tree = state.root(), state.tree()
        known = None if taken is None else taken.files

        number, place = self.stage.number, self.places[step.number]

        def output(stream: int, data: bytes) -> None:
            services.sink(StepOutput(number, place, stream, data))

        with run_files(action, state, services, self._source, known) as files:
            command = make_command(action, state, services.workspace, files)
            with services.run_slots:
                status = root.run(command, output, services.cancelled)
        if services.cancelled.is_set():
            raise Cancelled("the command was stopped")
        if status != 0:
            raise _run_failure(status, root)
        return root.changes(tree)

    def _copy(
        self, step: Step, action: CopyAction, taken: Taken | None
    ) -> tuple[Iterator[Change], PackOptions]:
        from pybuild.executor.copying import Copying

        picked = self.services.picked.get((self.stage.number, step.number))
        copying = Copying(action, self._source(action.origin), self.state, self.services)
        return copying.changes(picked, taken)

    def _source(self, origin: CopyOrigin) -> ContextSource | StageSource:
        match origin:
            case FromContext():
                return self.services.context
            case FromStage(number):
                return StageSource(self.services.state_of(number))
            case FromImage():
                return StageSource(self.services.image_state(origin))
            case _:
                assert_never(origin)


def read_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            yield chunk


def _run_failure(status: int, root: Root) -> PybuildError:
    """A command that ended on a full volume most likely ended for it, whatever its status."""
    from pybuild.layer.errors import DiskFull, has_room

    if has_room(str(root.folder)):
        return RunFailed(_how_it_ended(status), status=status, hint=_run_hint(status))
    ended = f"{_how_it_ended(status)}, and no space is left"
    return DiskFull(str(root.folder), ended=ended, status=status)


def _how_it_ended(status: int) -> str:
    if status > 128:
        return f"the command was ended by signal {status - 128}"
    return f"the command ended with status {status}"


def _run_hint(status: int) -> str:
    if status == 137:
        return "signal 9 is often the memory limit: see the limits of the container"
    if status == 127:
        return "127 says that a program was not found: is it in the base image and in PATH?"
    return ""
