"""A build from a parsed Dockerfile to a finished image, with all its I/O handed in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.cache.layers import LayerLost
from pybuild.errors import Cancelled, PybuildError
from pybuild.events import (
    BuildFinished,
    BuildStarted,
    LayerSummary,
    Level,
    Notice,
    StageSkipped,
    StageSummary,
)
from pybuild.executor.assemble import assemble, squashed, too_many_layers
from pybuild.executor.background import Background
from pybuild.executor.ignored import IgnoredPaths, stripped
from pybuild.executor.lookup import required
from pybuild.executor.mounts import SharedCopies
from pybuild.executor.repository import is_repository
from pybuild.executor.scheduler import run_stages
from pybuild.executor.shared_blob import SharedBlob
from pybuild.executor.stack import Indexes, LayerOrigin, Stack, StackLayer
from pybuild.executor.stage import StageBuilder, StageServices, StageTally
from pybuild.executor.state import StageSource, StageState
from pybuild.executor.uploads import Uploads
from pybuild.image.digest import Digest
from pybuild.image.image import Image
from pybuild.image.layer import Layer, chain_ids
from pybuild.image.media_type import Family, layer_media_type
from pybuild.isolation.command import Isolation, Root
from pybuild.plan.keys import state_key
from pybuild.plan.steps import (
    CopyAction,
    FromImage,
    FromStage,
    ImageRequest,
    RunAction,
    StagePlan,
    Step,
)

if TYPE_CHECKING:
    from pybuild.layer.pack import PackOptions
from pybuild.executor.prepare import Prepared, prepare
from pybuild.executor.request import BuildRequest, BuildResult, Services


def _uncompressed(options: PackOptions) -> PackOptions:
    """For layers that nobody outside this build will see."""
    from pybuild.layer.compress import Compression, CompressionOptions

    return replace(
        options,
        compression=CompressionOptions(Compression.NONE),
        media_type=layer_media_type(Family.OCI, "none"),
    )


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


BeforePush = Callable[[Image, Callable[[], StageSource]], tuple[str, ...]]


def build(
    request: BuildRequest,
    services: Services,
    before_push: BeforePush = lambda _image, _files: (),
) -> BuildResult:
    """Builds and pushes. Raises PybuildError; nothing is tagged then.

    `before_push` gets the image, and its files for whoever reads them; it writes the image
    elsewhere too and gives the paths it wrote. The summary in the result is for the caller to tell,
    once all that comes after the push is done.

    A layer of the cache that turns out to be damaged or gone only when it is read may have others
    on top of it already: all begins again without it, and what has been made meanwhile is found in
    the cache. Each time there is a layer less to be lost.
    """
    started = time.monotonic()
    forgotten: set[Digest] = set()
    while True:
        try:
            return _build_once(request, services, before_push, started)
        except LayerLost as lost:
            if services.cancelled.is_set() or lost.digest in forgotten:
                raise
            forgotten.add(lost.digest)
            services.forget(lost.digest)
            told = f"{lost.message}; the build begins again without it"
            services.sink(Notice(Level.WARNING, told, code=lost.code))


def _build_once(
    request: BuildRequest,
    services: Services,
    before_push: BeforePush,
    started: float,
) -> BuildResult:
    prepared = prepare(request, services)
    background = Background(services.cancelled)
    build_ = _Build(request, services, prepared, background, started)
    try:
        return build_.run(before_push)
    except Cancelled as echo:
        raise background.failure or echo from None
    finally:
        background.close()
        build_.close()


class _Build:
    """One build's moving parts."""

    def __init__(
        self,
        request: BuildRequest,
        services: Services,
        prepared: Prepared,
        background: Background,
        started: float,
    ) -> None:
        self.request = request
        self.services = services
        self.prepared = prepared
        self.background = background
        self.started = started
        self.indexes = Indexes(services.indexes)
        self.states: dict[int, StageState] = {}
        self.image_states: dict[ImageRequest, StageState] = {}
        self.tallies: dict[int, StageTally] = {}
        self.guard = threading.Lock()
        self.shared: dict[Digest, SharedBlob] = {}  # what is read here and pushed elsewhere
        self.copies = SharedCopies()
        self.isolation: Isolation | None = None
        destinations = request.destinations if request.push else ()
        self.uploads = Uploads(services.client, destinations, background, services.sink)
        self.started_seconds = int(services.now())
        self.now_ns = self.started_seconds * 1_000_000_000
        if request.epoch is not None:
            self.now_ns = request.epoch * 1_000_000_000
        self.created = _time_text(self.now_ns / 1e9)
        self.lineage = self._lineage()

    def run(self, before_push: BeforePush) -> BuildResult:
        plan = self.prepared.plan
        needed = required(plan, self.prepared.fit)
        self.uploads.check()  # while the isolation is opened
        reason = self._open_isolation(needed)
        if not self._parallel():
            self._fetch_repositories(needed)
        self._tell_start(reason)
        self.background.finish()  # nothing is done for a registry that would refuse it
        self._upload_bases()
        services = self._stage_services()
        for stage in plan.stages:
            if stage.number not in needed:
                self.services.sink(StageSkipped(stage.number, stage.name))
        wanted = [stage for stage in plan.stages if stage.number in needed]
        at_once = self.request.parallel if self._parallel() else 1
        try:
            run_stages(
                wanted,
                lambda stage: self._build_stage(stage, services),
                at_once,
                self.services.cancelled,
            )
        except LayerLost:
            self.background.finish()  # what was made is found the next time
            raise
        except PybuildError:
            if self.background.failure is not None:  # which stopped the step that failed here
                raise self.background.failure from None
            raise
        if self.services.cancelled.is_set():
            self.background.finish()  # raises: a transfer failed, or a signal came
        self._mark_cache()
        image = self._assemble()
        target = self.states[self.prepared.plan.target]
        outputs = before_push(image, lambda: StageSource(target))
        if self.request.push:
            self.uploads.finish(image)
        else:
            self.background.finish()
        return self._result(image, outputs)

    def close(self) -> None:
        for state in (*self.states.values(), *self.image_states.values()):
            state.close_root()
        for blob in self.shared.values():
            blob.close()
        if self.isolation is not None:
            self.isolation.close()

    def _lineage(self) -> tuple[int, ...]:
        """The target and the stages it starts from, first base first."""
        plan, numbers = self.prepared.plan, [self.prepared.plan.target]
        while isinstance(origin := plan.stage(numbers[-1]).origin, FromStage):
            numbers.append(origin.stage)
        return tuple(reversed(numbers))

    def _open_isolation(self, needed: frozenset[int]) -> str:
        """An isolation is looked for only if a RUN may have to run."""
        if self.request.materialize:
            self.isolation, reason = self.services.open_isolation(self.services.workspace)
            return reason
        for stage in self.prepared.plan.stages:
            hits = self.prepared.fit.stages[stage.number].steps
            runs = [step for step in stage.file_steps if isinstance(step.action, RunAction)]
            if stage.number in needed and any(step.number not in hits for step in runs):
                self.isolation, reason = self.services.open_isolation(self.services.workspace)
                return reason
        return "no command has to run"

    def _fetch_repositories(self, needed: frozenset[int]) -> None:
        """Before `/` is the image's: the git program would not be found any more."""
        for stage in self.prepared.plan.stages:
            hits = self.prepared.fit.stages[stage.number].steps
            for step in stage.file_steps if stage.number in needed else ():
                if step.number in hits or not isinstance(step.action, CopyAction):
                    continue
                try:
                    for url in filter(is_repository, step.action.urls):
                        self.prepared.repositories.folder(url, step.action)
                except PybuildError as error:
                    raise error.at(step.source) from error.__cause__

    def _parallel(self) -> bool:
        return self.isolation is None or self.isolation.parallel

    def _tell_start(self, reason: str) -> None:
        self.request.on_plan(self.prepared)
        plan = self.prepared.plan
        self.services.sink(
            BuildStarted(
                str(self.request.context.root),
                self.request.dockerfile.file,
                self.isolation.name if self.isolation else "none",
                reason,
                tuple(stage.name for stage in plan.stages),
                sum(len(stage.file_steps) for stage in plan.stages),
            )
        )

    def _upload_bases(self) -> None:
        """What the image will stand on is asked for at the destinations right away."""
        first = self.prepared.plan.stage(self.lineage[0])
        if isinstance(first.origin, FromImage):
            image, workspace = self.prepared.images[first.origin.request], self.services.workspace
            if self.uploads.leave(image.source):
                for blob in image.manifest.layers:
                    download = partial(self.services.bases.open_blob, image.source, blob)
                    self.shared[blob.digest] = SharedBlob(download, workspace.new_blob)
            self.uploads.start_all(layer.layer for layer in self._image_stack(first.origin.request))

    def _image_stack(self, request: ImageRequest) -> Stack:
        """The layers of an image as the bottom of a stack; nothing is fetched yet."""
        image = self.prepared.images[request]
        diff_ids = image.config.diff_ids
        bases, source = self.services.bases, image.source
        made = []
        for blob, diff_id, chain in zip(
            image.manifest.layers, diff_ids, chain_ids(diff_ids), strict=True
        ):
            shared = self.shared.get(blob.digest)
            open_ = shared.open if shared else partial(bases.open_blob, source, blob)
            layer = Layer(blob, diff_id, open_, source)
            made.append(StackLayer(layer, chain, LayerOrigin.BASE, "", self._index_reader(chain)))
        return tuple(made)

    def _index_reader(self, chain: Digest) -> Callable[[], bytes | None]:
        indexes = self.services.indexes
        return (lambda: None) if indexes is None else (lambda: indexes.get_index(chain))

    def _new_state(self, stack: Stack) -> StageState:
        return StageState(
            stack,
            indexes=self.indexes,
            workspace=self.services.workspace,
            open_root=self._open_root,
        )

    def _open_root(self) -> Root:
        with self.guard:
            if self.isolation is None:
                self.isolation, _ = self.services.open_isolation(self.services.workspace)
        return self.isolation.open_root()

    def _result_of(self, number: int) -> Digest:
        state = self.states.get(number)
        return self.prepared.fit.stages[number].chain if state is None else state.chain

    def _image_state(self, origin: FromImage) -> StageState:
        with self.guard:
            state = self.image_states.get(origin.request)
            if state is None:
                state = self._new_state(self._image_stack(origin.request))
                self.image_states[origin.request] = state
            return state

    def _stage_services(self) -> StageServices:
        from pybuild.layer.pack import PackOptions

        prepared, request = self.prepared, self.request
        options = PackOptions(
            compression=request.compression,
            media_type=layer_media_type(self._family(), request.compression.compression.value),
            clamp_seconds=request.epoch,
            expected=None,
        )
        return StageServices(
            plan=prepared.plan,
            facts=prepared.facts,
            keys=prepared.keys,
            found=prepared.found,
            fit=prepared.fit,
            cache=self.services.cache,
            context=prepared.context,
            picked=prepared.picked,
            inputs=prepared.inputs,
            workspace=self.services.workspace,
            pack_options=options,
            started=self.started_seconds,
            now_ns=self.now_ns,
            created=self.created,
            stored_at=_time_text(self.services.now()),
            sink=self.services.sink,
            cancelled=self.services.cancelled,
            run_slots=threading.Semaphore(max(1, request.parallel)),
            state_of=self.states.__getitem__,
            result_of=self._result_of,
            image_state=self._image_state,
            on_layer=self._on_layer,
            store=self.background.submit,
            secrets=self.services.secrets,
            mount_caches=self.services.mount_caches,
            copies=self.copies,
            repositories=self.prepared.repositories,
            snapshot_seconds=request.snapshot_seconds,
        )

    def _family(self) -> Family:
        """The one asked for, else that of the base; scratch gives Docker's, as kaniko has it."""
        if self.request.family is not None:
            return self.request.family
        first = self.prepared.plan.stage(self.lineage[0])
        if isinstance(first.origin, FromImage):
            return self.prepared.images[first.origin.request].manifest.family
        return Family.DOCKER

    def _on_layer(self, stage: StagePlan, layer: StackLayer) -> None:
        later = self.request.single_snapshot or self.request.ignored
        if stage.number in self.lineage and not later:
            self.uploads.start(layer.layer)

    def _build_stage(self, stage: StagePlan, services: StageServices) -> None:
        match stage.origin:
            case FromStage(number):
                stack = self.states[number].stack
            case FromImage(request):
                stack = self._image_stack(request)
            case _:
                stack = ()
        state = self._new_state(stack)
        with self.guard:
            self.states[stage.number] = state
        if stage.number not in self.lineage and self.services.cache is None:
            services = replace(services, pack_options=_uncompressed(services.pack_options))
        self.tallies[stage.number] = StageBuilder(stage, state, services).build()
        if self.request.materialize and stage.number == self.prepared.plan.target:
            state.root()
        if not self._parallel():
            state.close_root()

    def _assemble(self) -> Image:
        state = self.states[self.prepared.plan.target]
        stack: Stack = state.stack
        instead: Mapping[Digest, StackLayer | None] = {}  # by chain ID, of layers packed again
        ignored = IgnoredPaths(self.request.ignored)
        workspace, options = self.services.workspace, self._stage_services().pack_options
        if self.request.single_snapshot:
            bases = sum(layer.origin is LayerOrigin.BASE for layer in stack)
            stack = squashed(state, stack[:bases], workspace, options, ignored)
        elif ignored:
            instead = stripped(stack, state.tree(), ignored, workspace, options)
            standing = (instead.get(layer.chain, layer) for layer in stack)
            stack = tuple(layer for layer in standing if layer is not None)

        def layer_of(number: int, step: Step) -> StackLayer | None:
            layer = self.tallies[number].layers.get(step.number)
            return None if layer is None else instead.get(layer.chain, layer)

        steps = [
            (step, layer_of(number, step))
            for number in self.lineage
            for step in self.prepared.plan.stage(number).steps
        ]
        base = self.prepared.plan.stage(self.lineage[0]).base_config
        config = self.prepared.plan.target_stage.config
        image = assemble(
            replace(config, created=self.created, history=base.history, diff_ids=base.diff_ids),
            stack,
            steps,
            family=self._family(),
            annotations=self.request.annotations,
            finish_config=self._with_inline_cache,
            squash=self.request.single_snapshot,
        )
        if warning := too_many_layers(image, len(stack) - len(base.diff_ids)):
            self.services.sink(Notice(Level.WARNING, warning, code="many-layers"))
        return image

    def _mark_cache(self) -> None:
        """Builds with the same destinations, whatever their tags, are one to the cache."""
        cache, plan = self.services.cache, self.prepared.plan
        if cache is None:
            return
        names = sorted({ref.name for ref in self.request.destinations})
        build = " ".join([*names, plan.target_stage.name, str(plan.platform)])
        self.background.submit(lambda: cache.mark(build))

    def _with_inline_cache(self, raw_config: bytes) -> bytes:
        """The image's config, with what was found out about each step if that is wanted."""
        if not self.request.inline_cache:
            return raw_config
        from pybuild.cache.inline import InlineStep, with_steps

        prepared, steps = self.prepared, []
        for stage in prepared.plan.stages:
            tally = self.tallies.get(stage.number)
            stored = prepared.fit.stages[stage.number].steps if tally is None else tally.stored
            for number, one in stored.items():
                state = state_key(stage, prepared.facts, parent=one.parent, content=one.content)
                steps.append(InlineStep((prepared.keys[stage.number, number], state), one))
        return with_steps(raw_config, steps)

    def _result(self, image: Image, outputs: tuple[str, ...]) -> BuildResult:
        plan = self.prepared.plan
        outcomes = self.uploads.outcomes
        stack = self.states[plan.target].stack
        origins = {layer.layer.descriptor.digest: layer for layer in stack}
        layers = []
        for layer in image.layers:
            digest = layer.descriptor.digest
            known = origins.get(digest)
            outcome = outcomes.get(digest)
            layers.append(
                LayerSummary(
                    str(digest),
                    layer.descriptor.size,
                    known.origin.value if known else LayerOrigin.NEW.value,
                    "" if outcome is None else outcome.value.replace("done", "pushed"),
                    known.created_by if known else "",
                )
            )
        stages = tuple(
            StageSummary(stage.name, tally.seconds, tally.steps_run, tally.steps_cached, False)
            if (tally := self.tallies.get(stage.number))
            else StageSummary(stage.name, 0.0, 0, len(stage.file_steps), True)
            for stage in plan.stages
        )
        pushed = self.request.destinations if self.request.push else ()
        summary = BuildFinished(
            tuple(str(ref) for ref in pushed),
            str(image.manifest.digest),
            image.size,
            tuple(layers),
            stages,
            time.monotonic() - self.started,
            outputs,
        )
        return BuildResult(image, summary)
