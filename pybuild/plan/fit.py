"""Which of the found cache entries may be used: the chain ID rule.

Two builds that stored the same key, or an entry that was evicted between two others, must never
stack a layer on a parent it was not made on. So an entry names the chain ID it was made on and the
result of each stage and image it took from, and counts only where these agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.layer import EMPTY_CHAIN, chain_id, chain_ids
from pybuild.plan.keys import StepId
from pybuild.plan.steps import FromImage, FromStage, Plan, StagePlan, Step

NOT_CACHED = "not in the cache"
NOT_KEPT = "not to be kept in the cache"


class StoredStep(Struct, frozen=True):
    """What a cache entry says of itself. A step that changed nothing has no layer."""

    parent: Digest  # chain ID it was made on
    chain: Digest  # chain ID with its layer
    taken: Digest | None  # result of the stage, or digest of the image, it took from
    content: Digest  # as in layer.pack.PackedLayer
    diff_id: Digest | None
    layer: Descriptor | None
    index: Descriptor | None
    created: str = ""


class StageHits(Struct, frozen=True):
    """The steps of one stage that are taken from the cache: always the first ones, without a gap.

    `chain` is where they lead; `stopped` is the first step that has to run and why, None where
    the whole stage is cached.
    """

    steps: Mapping[int, StoredStep]
    chain: Digest
    stopped: tuple[int, str] | None = None


class Fit(Struct, frozen=True):
    stages: Mapping[int, StageHits] = field(default_factory=dict)

    def reason(self, stage: int, step: int) -> str:
        stopped = self.stages[stage].stopped if stage in self.stages else None
        if stopped is None:
            return ""
        return stopped[1] if stopped[0] == step else "a step before it runs"


def base_chain(stage: StagePlan, chains: Mapping[int, Digest]) -> Digest | None:
    """The chain ID a stage starts on; None where its base is a stage whose result is not known."""
    if isinstance(stage.origin, FromStage):
        return chains.get(stage.origin.stage)
    diff_ids = stage.base_config.diff_ids if isinstance(stage.origin, FromImage) else ()
    return chain_ids(diff_ids)[-1] if diff_ids else EMPTY_CHAIN


def taken_result(plan: Plan, step: Step, chains: Mapping[int, Digest]) -> Digest | None:
    """The identity of the stages and images a step takes from; None where that of one is not known,
    or where there are none."""
    found = []
    for origin in step.takes:
        if isinstance(origin, FromImage):
            found.append(plan.image(origin.request).digest)
        elif origin.stage in chains:
            found.append(chains[origin.stage])
        else:
            return None
    if len(found) < 2:
        return found[0] if found else None
    return digest_of(" ".join(found).encode())


def fit(
    plan: Plan,
    found: Mapping[StepId, Sequence[StoredStep]],
    unkept: frozenset[StepId] = frozenset(),
) -> Fit:
    """Walks the stages in order and keeps the entries that stand on each other. `found` may hold
    several of one step, from several caches; `unkept` are steps that no cache is asked for."""
    stages: dict[int, StageHits] = {}
    whole: dict[int, Digest] = {}  # results of the stages that are cached as a whole
    for stage in plan.stages:
        hits = _fit_stage(plan, stage, found, whole)
        if hits.stopped is not None and (stage.number, hits.stopped[0]) in unkept:
            hits = replace(hits, stopped=(hits.stopped[0], NOT_KEPT))
        stages[stage.number] = hits
        if hits.stopped is None:
            whole[stage.number] = hits.chain
    return Fit(stages)


def _fit_stage(
    plan: Plan,
    stage: StagePlan,
    found: Mapping[StepId, Sequence[StoredStep]],
    whole: Mapping[int, Digest],
) -> StageHits:
    """Follows all ways at once that the entries lead, and takes the one that leads furthest: two
    caches may each have a step, and only one of them the next."""
    base = base_chain(stage, whole)
    ways: dict[Digest, dict[int, StoredStep]] = {EMPTY_CHAIN if base is None else base: {}}
    for step in stage.file_steps:
        if base is None:
            return StageHits({}, EMPTY_CHAIN, (step.number, "the stage below it runs"))
        entries = found.get((stage.number, step.number), ())
        further: dict[Digest, dict[int, StoredStep]] = {}
        reason = "" if entries else NOT_CACHED
        for chain, steps in ways.items():
            for entry in entries:
                misfit = _misfit(plan, step, entry, chain, whole)
                if misfit:
                    reason = reason or misfit
                else:
                    further.setdefault(follow(chain, entry), {**steps, step.number: entry})
        if not further:
            chain, steps = next(iter(ways.items()))
            return StageHits(steps, chain, (step.number, reason))
        ways = further
    chain, steps = next(iter(ways.items()))
    return StageHits(steps, chain)


def follow(chain: Digest, entry: StoredStep) -> Digest:
    """The chain ID after the entry: a linked COPY fits on any parent, so it is computed anew."""
    return chain if entry.diff_id is None else chain_id(chain, entry.diff_id)


def _misfit(
    plan: Plan,
    step: Step,
    entry: StoredStep,
    chain: Digest,
    whole: Mapping[int, Digest],
) -> str:
    """Why the entry can't be used; empty where it can."""
    if not step.stands_alone and entry.parent != chain:
        return "the cached layer was made on another parent"
    if not step.takes:
        return ""
    result = taken_result(plan, step, whole)
    if result is None:
        return "a stage it takes files from runs"
    return "" if entry.taken == result else "the cached layer took its files from another result"
