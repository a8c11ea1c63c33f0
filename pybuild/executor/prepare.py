"""All that is found out before anything runs: images, plan, keys, what the cache has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.dockerfile.errors import nearest
from pybuild.dockerfile.instructions import Copy, Dockerfile, Run
from pybuild.errors import PybuildError, RegistryError, Source
from pybuild.events import (
    Level,
    Notice,
)
from pybuild.executor.inputs import StepId, Taken, check_sources, digest_taken, take_all
from pybuild.executor.lookup import Lookup, look_up, required, without_cache
from pybuild.executor.mounts import check_mounts, mounted_inputs
from pybuild.executor.repository import Repositories, is_repository
from pybuild.executor.state import ContextSource
from pybuild.image.descriptor import BadManifest
from pybuild.image.digest import Digest
from pybuild.image.platform import choose
from pybuild.image.reference import BadReference, parse_reference
from pybuild.plan.fit import Fit
from pybuild.plan.keys import KeyFacts, first_keys
from pybuild.plan.make import PlanRequest, images_needed, make_plan
from pybuild.plan.render import CacheView
from pybuild.plan.steps import (
    BaseImage,
    CopyAction,
    FromImage,
    ImageRequest,
    Plan,
)
from pybuild.registry.errors import BadCertificateFile, BrokenConfig

if TYPE_CHECKING:
    from pybuild.cache.layers import CachedStep
    from pybuild.executor.copy import Picked
    from pybuild.executor.download import Download
    from pybuild.registry.client import ResolvedImage
from pybuild.executor.request import BuildRequest, Services

_LOOKUPS_AT_ONCE = 8
_COMMIT_LENGTH = 40  # in hex digits, of SHA-1


class Prepared(Struct, frozen=True):
    """All that is known before anything runs: what `pybuild plan` shows."""

    plan: Plan
    images: Mapping[ImageRequest, ResolvedImage]
    keys: Mapping[StepId, Digest]
    found: Mapping[StepId, tuple[CachedStep, ...]]
    fit: Fit
    context: ContextSource
    picked: Mapping[StepId, list[Picked]]
    inputs: Mapping[StepId, Taken]
    facts: KeyFacts
    repositories: Repositories
    view: CacheView


def prepare(request: BuildRequest, services: Services) -> Prepared:
    """Looks up the images, makes the plan, checks what COPY names, asks the cache; no step runs."""
    plan, images = _plan(request, services)
    for warning in plan.warnings:
        services.sink(Notice(Level.WARNING, warning))
    for warning in foreign_bases(plan):
        services.sink(Notice(Level.WARNING, warning, code="base-platform"))
    context = ContextSource(request.context, services.sink)
    picked = check_sources(plan, context)
    check_mounts(plan, context)
    facts = _key_facts(request)
    repositories = Repositories(
        services.fetching, services.secrets, services.workspace, services.sink
    )
    inputs: dict[StepId, Taken] = {}
    lookup = without_cache(plan)
    if services.cache is not None:
        inputs = take_all(
            plan,
            picked,
            lambda action, found: _take(action, found, context, services, repositories),
        )
        inputs |= mounted_inputs(plan, context)
        digests = {identity: taken.digest for identity, taken in inputs.items()}
        lookup = look_up(services.cache, plan, first_keys(plan, facts, digests), request.kept)
    return Prepared(
        plan,
        images,
        lookup.keys,
        lookup.found,
        lookup.fit,
        context,
        picked,
        inputs,
        facts,
        repositories,
        _view(plan, lookup, images, services.bases.is_kept),
    )


def _view(
    plan: Plan,
    lookup: Lookup,
    images: Mapping[ImageRequest, ResolvedImage],
    is_kept: Callable[[ResolvedImage], bool],
) -> CacheView:
    """Which cache each hit is in, and what that spares."""
    chosen = {identity: lookup.chosen(*identity) for identity in lookup.found}
    skipped = frozenset(stage.number for stage in plan.stages) - required(plan, lookup.fit)
    return CacheView(
        {identity: hit.origin for identity, hit in chosen.items() if hit is not None},
        skipped,
        frozenset(wish for wish, image in images.items() if is_kept(image)),
    )


def foreign_bases(plan: Plan) -> list[str]:
    """Warnings about bases of another platform than the wanted one. An image that stands in no
    index comes whatever was asked for; only its config says what it is, if that does."""
    told = []
    for stage in plan.stages:
        if isinstance(stage.origin, FromImage):
            wanted, found = stage.origin.request.platform, stage.base_config.platform
            if found.architecture and choose([found], wanted) is None:
                name = stage.origin.request.name
                told.append(f"the base image {name} is for {found}, and {wanted} is wanted")
    return list(dict.fromkeys(told))


def _key_facts(request: BuildRequest) -> KeyFacts:
    """The level of the compression only where bytes are promised."""
    options = request.compression
    compression = options.compression.value
    if options.reproducible:
        compression += f" {options.level}"
    return KeyFacts(request.fidelity, request.epoch, compression)


def _take(
    action: CopyAction,
    picked: Sequence[Picked],
    context: ContextSource,
    services: Services,
    repositories: Repositories,
) -> Taken:
    """With the content of addresses, unless a checksum says what that is. One that is shorter than
    a commit may be that of several."""
    downloads: tuple[Download, ...] = ()
    commits: tuple[str, ...] = ()
    if action.urls and len(action.checksum) < _COMMIT_LENGTH:
        found = [url for url in action.urls if is_repository(url)]
        commits = tuple(repositories.commit(url, action) for url in found)
    if action.urls and not action.checksum:
        from pybuild.executor.download import download_all

        downloads = download_all(
            action, services.workspace, services.sink, cancelled=services.cancelled
        )
    return digest_taken(
        action, picked, context, context.digests, downloads=downloads, commits=commits
    )


def _plan(
    request: BuildRequest, services: Services
) -> tuple[Plan, dict[ImageRequest, ResolvedImage]]:
    wanted = PlanRequest(
        request.build_args,
        request.target,
        request.platform,
        request.build_platform,
        request.labels,
        request.also,
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
            image = services.bases.resolve(parse_reference(need.name), need.platform)
            _check_layers(need.name, image)
            return image
        except (BrokenConfig, BadCertificateFile):
            raise  # no instruction is to blame
        except PybuildError as error:
            if isinstance(error, RegistryError | BadReference):
                explain(error, need.name, request.dockerfile)
            raise error.at(_place_of(need.name, request.dockerfile)) from error.__cause__

    if len(missing) == 1:
        return [resolve(missing[0])]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "resolve") as pool:
        return list(pool.map(resolve, missing))


def explain(error: RegistryError | BadReference, name: str, dockerfile: Dockerfile) -> None:
    """Says which image an error is about, and whether a stage may be meant: a mistyped name of a
    stage is a fine name of an image."""
    if isinstance(error, RegistryError):
        reference = parse_reference(name)
        if reference.name not in error.message:
            error.message = f"{reference}: {error.message}"
            error.args = (error.message,)
    stages = [stage.name for stage in dockerfile.stages if stage.name not in ("", name)]
    near = "" if any(mark in name for mark in "/:@") else nearest(name, stages)
    if near:
        otherwise = f" Otherwise: {error.hint}" if error.hint else ""
        error.hint = f"did you mean stage {near}?{otherwise}"


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
