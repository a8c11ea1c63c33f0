"""A build from a parsed Dockerfile to a finished image, with all its I/O handed in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from pybuild.context.directory import DirectoryContext
from pybuild.dockerfile.instructions import Copy, Dockerfile, Run
from pybuild.errors import Cancelled, PybuildError, Source
from pybuild.events import (
    BuildFinished,
    BuildStarted,
    EventSink,
    LayerSummary,
    Level,
    Notice,
    StageSkipped,
    StageSummary,
)
from pybuild.executor.assemble import assemble, squashed
from pybuild.executor.background import Background
from pybuild.executor.inputs import StepId, Taken, check_sources, digest_taken, take_all
from pybuild.executor.lookup import look_up, required, without_cache
from pybuild.executor.mount_cache import MountCaches
from pybuild.executor.mounts import SharedCopies, check_mounts, mounted_inputs
from pybuild.executor.scheduler import run_stages
from pybuild.executor.stack import Indexes, LayerOrigin, Stack, StackLayer
from pybuild.executor.stage import StageBuilder, StageServices, StageTally
from pybuild.executor.state import ContextSource, StageState
from pybuild.executor.uploads import Uploads
from pybuild.executor.workspace import Workspace
from pybuild.image.descriptor import BadManifest
from pybuild.image.digest import Digest
from pybuild.image.image import Image
from pybuild.image.layer import Layer, chain_ids
from pybuild.image.media_type import Family, layer_media_type
from pybuild.image.platform import Platform
from pybuild.image.reference import Reference, parse_reference
from pybuild.isolation.command import Isolation, Root, Secret
from pybuild.plan.fit import Fit
from pybuild.plan.keys import KeyFacts, first_keys
from pybuild.plan.make import PlanRequest, images_needed, make_plan
from pybuild.plan.steps import (
    BaseImage,
    CopyAction,
    FromImage,
    FromStage,
    ImageRequest,
    Plan,
    RunAction,
    StagePlan,
)
from pybuild.registry.errors import BadCertificateFile, BrokenConfig

if TYPE_CHECKING:
    from pybuild.cache.layers import CachedStep, LayerCache
    from pybuild.executor.copy import Picked
    from pybuild.executor.download import Download
    from pybuild.layer.compress import CompressionOptions
    from pybuild.registry.client import Client, ResolvedImage

_LOOKUPS_AT_ONCE = 8


class BuildRequest(Struct, frozen=True):
    """What is to be built. `epoch` (seconds) makes equal inputs give equal bytes."""

    dockerfile: Dockerfile
    context: DirectoryContext
    build_args: Mapping[str, str]
    platform: Platform
    build_platform: Platform
    compression: CompressionOptions
    target: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    destinations: tuple[Reference, ...] = ()
    push: bool = True
    single_snapshot: bool = False
    epoch: int | None = None
    parallel: int = 4


class OpenIsolation(Protocol):
    """Chooses how RUNs are confined; gives it with the reason. Called when one is needed."""

    def __call__(self, roots: Workspace, /) -> tuple[Isolation, str]: ...


class Services(Struct, frozen=True):
    """The I/O of a build. `cache` is None where no layer cache is asked for; `secrets` are those of
    RUN --mount, by id."""

    client: Client
    workspace: Workspace
    open_isolation: OpenIsolation
    cache: LayerCache | None
    sink: EventSink
    cancelled: threading.Event
    mount_caches: MountCaches
    secrets: Mapping[str, Secret] = {}
    now: Callable[[], float] = time.time


class BuildResult(Struct, frozen=True):
    image: Image
    pushed: tuple[Reference, ...]
    summary: BuildFinished


class Prepared(Struct, frozen=True):
    """All that is known before anything runs: what `pybuild plan` shows."""

    plan: Plan
    images: Mapping[ImageRequest, ResolvedImage]
    keys: Mapping[StepId, Digest]
    found: Mapping[StepId, CachedStep]
    fit: Fit
    context: ContextSource
    picked: Mapping[StepId, list[Picked]]
    inputs: Mapping[StepId, Taken]
    facts: KeyFacts


def prepare(request: BuildRequest, services: Services) -> Prepared:
    """Looks up the images, makes the plan, checks what COPY names, asks the cache; no step runs."""
    plan, images = _plan(request, services)
    for warning in plan.warnings:
        services.sink(Notice(Level.WARNING, warning))
    context = ContextSource(request.context)
    picked = check_sources(plan, context)
    check_mounts(plan, context)
    facts = _key_facts(request)
    inputs: dict[StepId, Taken] = {}
    lookup = without_cache(plan)
    if services.cache is not None:
        inputs = take_all(
            plan, picked, lambda action, found: _take(action, found, context, services)
        )
        inputs |= mounted_inputs(plan, context)
        digests = {identity: taken.digest for identity, taken in inputs.items()}
        lookup = look_up(services.cache, plan, first_keys(plan, facts, digests))
    return Prepared(
        plan, images, lookup.keys, lookup.found, lookup.fit, context, picked, inputs, facts
    )


def _key_facts(request: BuildRequest) -> KeyFacts:
    """The level of the compression only where bytes are promised."""
    options = request.compression
    compression = options.compression.value
    if options.reproducible:
        compression += f" {options.level}"
    return KeyFacts(epoch=request.epoch, compression=compression)


def _take(
    action: CopyAction, picked: Sequence[Picked], context: ContextSource, services: Services
) -> Taken:
    """With the content of addresses, unless a checksum says what that is."""
    downloads: tuple[Download, ...] = ()
    if action.urls and not action.checksum:
        from pybuild.executor.download import download_all

        downloads = download_all(
            action, services.workspace, services.sink, cancelled=services.cancelled
        )
    return digest_taken(action, picked, context, context.digests, downloads=downloads)


def _plan(
    request: BuildRequest, services: Services
) -> tuple[Plan, dict[ImageRequest, ResolvedImage]]:
    wanted = PlanRequest(
        request.build_args, request.target, request.platform, request.build_platform, request.labels
    )
    images: dict[ImageRequest, ResolvedImage] = {}
    known: dict[ImageRequest, BaseImage] = {}
    while missing := images_needed(request.dockerfile, wanted, known):
        for need, resolved in zip(missing, _resolve(missing, request, services), strict=True):
            images[need] = resolved
            known[need] = BaseImage(resolved.manifest.digest, resolved.config)
    return make_plan(request.dockerfile, wanted, known), images


def _resolve(
    missing: tuple[ImageRequest, ...], request: BuildRequest, services: Services
) -> list[ResolvedImage]:
    def resolve(need: ImageRequest) -> ResolvedImage:
        try:
            image = services.client.resolve(parse_reference(need.name), need.platform)
            _check_layers(need.name, image)
            return image
        except (BrokenConfig, BadCertificateFile):
            raise  # no instruction is to blame
        except PybuildError as error:
            raise error.at(_place_of(need.name, request.dockerfile)) from error.__cause__

    if len(missing) == 1:
        return [resolve(missing[0])]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "resolve") as pool:
        return list(pool.map(resolve, missing))


def _check_layers(name: str, image: ResolvedImage) -> None:
    layers, diff_ids = len(image.manifest.layers), len(image.config.diff_ids)
    if layers != diff_ids:
        raise BadManifest(
            f"{name} has {layers} layers in its manifest and {diff_ids} in its config",
            hint="the image is damaged: take another one",
        )


def _place_of(name: str, dockerfile: Dockerfile) -> Source | None:
    """The FROM or --from that names the image as it stands, else the first with a variable."""
    named = [(stage.origin.image, stage.origin.source) for stage in dockerfile.stages]
    for stage in dockerfile.stages:
        for one in stage.instructions:
            if isinstance(one, Copy):
                named.append((one.from_, one.source))
            elif isinstance(one, Run):
                named += [(mount.from_, one.source) for mount in one.mounts]
    exact = [source for image, source in named if image == name]
    loose = [source for image, source in named if "$" in image]
    return next(iter(exact + loose), None)


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(
    request: BuildRequest,
    services: Services,
    before_push: Callable[[Image], tuple[str, ...]] = lambda _: (),
) -> BuildResult:
    """Builds and pushes. Raises PybuildError; nothing is tagged then.

    `before_push` writes the image elsewhere too and gives the paths it wrote. The summary in the
    result is for the caller to tell, once all that comes after the push is done.
    """
    started = time.monotonic()
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
        self.indexes = Indexes(services.cache)
        self.states: dict[int, StageState] = {}
        self.image_states: dict[ImageRequest, StageState] = {}
        self.tallies: dict[int, StageTally] = {}
        self.guard = threading.Lock()
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

    def run(self, before_push: Callable[[Image], tuple[str, ...]]) -> BuildResult:
        plan = self.prepared.plan
        needed = required(plan, self.prepared.fit)
        reason = self._open_isolation(needed)
        self._tell_start(reason)
        self.uploads.check()
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
        except PybuildError:
            if self.background.failure is not None:  # which stopped the step that failed here
                raise self.background.failure from None
            raise
        if self.services.cancelled.is_set():
            self.background.finish()  # raises: a transfer failed, or a signal came
        image = self._assemble()
        outputs = before_push(image)
        if self.request.push:
            self.uploads.finish(image)
        else:
            self.background.finish()
        return self._result(image, outputs)

    def close(self) -> None:
        for state in (*self.states.values(), *self.image_states.values()):
            state.close_root()
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
        for stage in self.prepared.plan.stages:
            hits = self.prepared.fit.stages[stage.number].steps
            runs = [step for step in stage.file_steps if isinstance(step.action, RunAction)]
            if stage.number in needed and any(step.number not in hits for step in runs):
                self.isolation, reason = self.services.open_isolation(self.services.workspace)
                return reason
        return "no command has to run"

    def _parallel(self) -> bool:
        return self.isolation is None or self.isolation.parallel

    def _tell_start(self, reason: str) -> None:
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
            self.uploads.start_all(layer.layer for layer in self._image_stack(first.origin.request))

    def _image_stack(self, request: ImageRequest) -> Stack:
        """The layers of an image as the bottom of a stack; nothing is fetched yet."""
        image = self.prepared.images[request]
        diff_ids = image.config.diff_ids
        client, source = self.services.client, image.source
        made = []
        for blob, diff_id, chain in zip(
            image.manifest.layers, diff_ids, chain_ids(diff_ids), strict=True
        ):
            layer = Layer(blob, diff_id, partial(client.open_blob, source, blob), source)
            made.append(StackLayer(layer, chain, LayerOrigin.BASE, "", self._index_reader(chain)))
        return tuple(made)

    def _index_reader(self, chain: Digest) -> Callable[[], bytes | None]:
        cache = self.services.cache
        return (lambda: None) if cache is None else (lambda: cache.get_index(chain))

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
        )

    def _family(self) -> Family:
        """The image keeps to its base's family; scratch gives Docker's, as kaniko has it."""
        first = self.prepared.plan.stage(self.lineage[0])
        if isinstance(first.origin, FromImage):
            return self.prepared.images[first.origin.request].manifest.family
        compression = self.request.compression.compression.value
        return Family.OCI if compression == "zstd" else Family.DOCKER

    def _on_layer(self, stage: StagePlan, layer: StackLayer) -> None:
        if stage.number in self.lineage and not self.request.single_snapshot:
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
        self.tallies[stage.number] = StageBuilder(stage, state, services).build()
        if not self._parallel():
            state.close_root()

    def _assemble(self) -> Image:
        state = self.states[self.prepared.plan.target]
        stack: Stack = state.stack
        if self.request.single_snapshot:
            bases = sum(layer.origin is LayerOrigin.BASE for layer in stack)
            options = self._stage_services().pack_options
            stack = squashed(state, stack[:bases], self.services.workspace, options)
        steps = [
            (step, self.tallies[number].layers.get(step.number))
            for number in self.lineage
            for step in self.prepared.plan.stage(number).steps
        ]
        base = self.prepared.plan.stage(self.lineage[0]).base_config
        config = self.prepared.plan.target_stage.config
        return assemble(
            replace(config, created=self.created, history=base.history, diff_ids=base.diff_ids),
            stack,
            steps,
            family=self._family(),
            squash=self.request.single_snapshot,
        )

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
        return BuildResult(image, pushed, summary)
