"""One stage, step by step: from the cache where an entry fits, else carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct, field

from pybuild.errors import Cancelled, PybuildError, RunFailed
from pybuild.events import (
    EventSink,
    StageFinished,
    StageStarted,
    StepCached,
    StepFinished,
    StepOutput,
    StepStarted,
)
from pybuild.executor.inputs import StepId, Taken, digest_taken
from pybuild.executor.stack import LayerOrigin, StackLayer
from pybuild.executor.state import ContextSource, StageSource, StageState
from pybuild.image.digest import Digest
from pybuild.image.layer import Layer, chain_id
from pybuild.plan.fit import Fit, StoredStep, follow, is_linked
from pybuild.plan.keys import KeyFacts, state_key, step_key
from pybuild.plan.steps import (
    CopyAction,
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
    from pybuild.executor.workspace import Workspace
    from pybuild.isolation.command import Root
    from pybuild.layer.changes import Change
    from pybuild.layer.pack import PackedLayer, PackOptions


class StageServices(Struct, frozen=True):
    """What every stage of one build is given."""

    plan: Plan
    facts: KeyFacts
    keys: Mapping[StepId, Digest]  # empty without a cache
    found: Mapping[StepId, CachedStep]
    fit: Fit
    cache: LayerCache | None
    context: ContextSource
    picked: Mapping[StepId, list[Picked]]
    inputs: Mapping[StepId, Taken]
    workspace: Workspace
    pack_options: PackOptions
    now_ns: int
    created: str  # of what is built, which may be a fixed time
    stored_at: str  # of cache entries, whose age counts
    sink: EventSink
    cancelled: threading.Event
    run_slots: threading.Semaphore
    state_of: Callable[[int], StageState]  # of a finished stage
    image_state: Callable[[FromImage], StageState]
    on_layer: Callable[[StagePlan, StackLayer], None]  # told of each layer as it is finished
    store: Callable[[Callable[[], None]], None]  # runs something beside the build


class StageTally(Struct):
    """What a stage came to, for the summary and the image's history."""

    layers: dict[int, StackLayer | None] = field(default_factory=dict)  # by step number
    steps_run: int = 0
    steps_cached: int = 0
    seconds: float = 0.0


class StageBuilder:
    def __init__(self, stage: StagePlan, state: StageState, services: StageServices) -> None:
        self.stage = stage
        self.state = state
        self.services = services
        self.tally = StageTally()

    def build(self) -> StageTally:
        """Carries out the stage. Raises PybuildError with the place of the step that failed."""
        services = self.services
        started = time.monotonic()
        services.sink(StageStarted(self.stage.number, self.stage.name, self._base_name()))
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
        hit = self._first_hit(step)
        reason = ""
        taken: Taken | None = None
        second: Digest | None = None
        if hit is None and self.services.cache is not None:
            taken = self._taken(step)
            second = self._second_key(step, taken)
            found = self.services.cache.get(second)
            if found is not None and (is_linked(step) or found.stored.parent == self.state.chain):
                hit = found
            reason = self.services.fit.reason(self.stage.number, step.number) or "not in the cache"
        if hit is not None:
            self._take(step, hit)
            return
        self._carry_out(step, taken, second, reason or "there is no cache")

    # From the cache

    def _first_hit(self, step: Step) -> CachedStep | None:
        """The entry under the first key, if it was made on what is here now."""
        found = self.services.found.get((self.stage.number, step.number))
        if found is None:
            return None
        stored = found.stored
        if not is_linked(step) and stored.parent != self.state.chain:
            return None
        if self._takes_elsewhere(step) and stored.taken != self._taken_result(step):
            return None
        return found

    def _takes_elsewhere(self, step: Step) -> bool:
        action = step.action
        return isinstance(action, CopyAction) and not isinstance(action.origin, FromContext)

    def _taken_result(self, step: Step) -> Digest | None:
        assert isinstance(step.action, CopyAction)
        origin = step.action.origin
        if isinstance(origin, FromStage):
            return self.services.state_of(origin.stage).chain
        if isinstance(origin, FromImage):
            return self.services.plan.image(origin.request).digest
        return None

    def _take(self, step: Step, hit: CachedStep) -> None:
        layer = None
        if hit.layer is not None:
            chain = follow(self.state.chain, hit.stored)
            layer = StackLayer(
                hit.layer, chain, LayerOrigin.CACHED, step.created_by, hit.read_index
            )
            self.state.push(layer)
            self.services.on_layer(self.stage, layer)
        self.tally.layers[step.number] = layer
        self.tally.steps_cached += 1
        size = hit.layer.descriptor.size if hit.layer else 0
        line = step.source.line
        self.services.sink(
            StepCached(self.stage.number, step.number, step.text, line, hit.key, size)
        )

    def _second_key(self, step: Step, taken: Taken | None) -> Digest:
        """Over what the parent and the taken files really are."""
        return step_key(
            self.stage,
            step,
            self.services.facts,
            parent=f"chain {self.state.chain}",
            taken=f"content {taken.digest}" if taken and self._takes_elsewhere(step) else "",
            inputs=taken.digest if taken and not self._takes_elsewhere(step) else None,
        )

    def _taken(self, step: Step) -> Taken | None:
        """What the step takes, with the digests of its files."""
        known = self.services.inputs.get((self.stage.number, step.number))
        if known is not None or not self._takes_elsewhere(step):
            return known
        assert isinstance(step.action, CopyAction)
        from pybuild.executor.copy import pick

        source = self._source(step.action)
        picked = pick(step.action, source)
        return digest_taken(picked, source, source.digests, with_owner=True)

    # Carried out

    def _carry_out(
        self, step: Step, taken: Taken | None, second: Digest | None, reason: str
    ) -> None:
        services = self.services
        started = time.monotonic()
        number = self.stage.number
        services.sink(StepStarted(number, step.number, step.text, step.source.line, reason))
        parent = self.state.chain
        if services.cache is None and self._runs_later(step):
            self.state.root()  # unpacking gives the index too; the base is read once then
        packed = self._pack(step, taken)
        layer = None if packed.empty else self._new_layer(packed, parent, step.created_by)
        if isinstance(step.action, RunAction):
            self.state.settle(layer)
        elif layer is not None:
            self.state.push(layer)
        if services.cache is not None and second is not None:
            layer = self._adopt_or_store(step, packed, layer, parent, second)
        if layer is not None:
            services.on_layer(self.stage, layer)
        self.tally.layers[step.number] = layer
        self.tally.steps_run += 1
        seconds = time.monotonic() - started
        size = layer.layer.descriptor.size if layer else 0
        services.sink(StepFinished(number, step.number, step.text, step.source.line, seconds, size))

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
        self,
        step: Step,
        packed: PackedLayer,
        layer: StackLayer | None,
        parent: Digest,
        second: Digest,
    ) -> StackLayer | None:
        """A layer made before on this very parent that differs in times only takes the place of
        the new one: then all that was built on it is valid still (early cut-off)."""
        services = self.services
        assert services.cache is not None
        state = state_key(parent, packed.content)
        if layer is not None:
            known = services.cache.get(state)
            if known is not None and known.layer is not None and known.stored.parent == parent:
                chain = follow(parent, known.stored)
                self.state.learn(chain, packed.index)
                layer = StackLayer(
                    known.layer, chain, LayerOrigin.CACHED, step.created_by, known.read_index
                )
                self.state.replace_top(layer)
        first = services.keys.get((self.stage.number, step.number))
        keys = tuple(key for key in (first, second, state if layer else None) if key)
        taken = self._taken_result(step) if self._takes_elsewhere(step) else None
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
        blob, index, cache = (layer.layer if layer else None), packed.index, services.cache
        services.store(lambda: cache.put(keys, stored, blob, index.to_bytes()))
        return layer

    def _pack(self, step: Step, taken: Taken | None) -> PackedLayer:
        from pybuild.layer.pack import pack_layer

        options = self.services.pack_options
        match step.action:
            case RunAction():
                changes = self._run(step, step.action)
            case CopyAction():
                changes, options = self._copy(step, step.action, taken)
            case MakeDirectory():
                from pybuild.executor.copying import directory_changes

                changes = directory_changes(step.action, self.state, self.services.now_ns)
            case _:
                raise AssertionError(step)
        wanted = self._until_cancelled(changes)
        return pack_layer(wanted, self.services.workspace.new_blob(), options)

    def _until_cancelled(self, changes: Iterable[Change]) -> Iterator[Change]:
        is_cancelled = self.services.cancelled.is_set
        for change in changes:
            if is_cancelled():
                raise Cancelled("the layer is not wanted any more")
            yield change

    def _run(self, step: Step, action: RunAction) -> Iterator[Change]:
        from pybuild.executor.run import make_command

        services = self.services
        root, tree = self.state.root(), self.state.tree()
        command = make_command(action, self.state, services.workspace)

        def output(stream: int, data: bytes) -> None:
            services.sink(StepOutput(self.stage.number, step.number, stream, data))

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
        copying = Copying(action, self._source(action), self.state, self.services)
        return copying.changes(picked, taken.files if taken else {})

    def _source(self, action: CopyAction) -> ContextSource | StageSource:
        match action.origin:
            case FromContext():
                return self.services.context
            case FromStage(number):
                return StageSource(self.services.state_of(number))
            case FromImage():
                return StageSource(self.services.image_state(action.origin))
            case _:
                assert_never(action.origin)


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
