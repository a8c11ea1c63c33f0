"""What the cache has for a plan, asked before anything runs, and which stages that spares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

from pybuild.image.digest import Digest
from pybuild.plan.fit import Fit, StoredStep, fit
from pybuild.plan.keys import StepId
from pybuild.plan.steps import CopyAction, FromStage, Plan, Step

if TYPE_CHECKING:
    from pybuild.cache.layers import CachedStep, LayerCache


class Kept(Struct, frozen=True):
    """Which steps are looked up and kept: kaniko's --cache-run-layers (WORKDIR is with RUN there)
    and --cache-copy-layers."""

    runs: bool = True
    copies: bool = True

    def covers(self, step: Step) -> bool:
        return self.copies if isinstance(step.action, CopyAction) else self.runs


ALL_KEPT = Kept()


class Lookup(Struct, frozen=True):
    """`keys` are those of the steps that the cache is for; `found` are the entries under them, the
    preferred one first, `fit` those of them that may be used."""

    fit: Fit
    keys: Mapping[StepId, Digest] = field(default_factory=dict)
    found: Mapping[StepId, tuple[CachedStep, ...]] = field(default_factory=dict)

    def chosen(self, stage: int, step: int) -> CachedStep | None:
        """The entry that is to be used for a step, if there is one."""
        return chosen_one(self.fit.stages[stage].steps.get(step), self.found.get((stage, step), ()))


def chosen_one(stored: StoredStep | None, candidates: tuple[CachedStep, ...]) -> CachedStep | None:
    return next((one for one in candidates if one.stored == stored), None)


def look_up(
    cache: LayerCache, plan: Plan, keys: Mapping[StepId, Digest], kept: Kept = ALL_KEPT
) -> Lookup:
    """Asks for all keys at once. An entry whose layer the registry has lost counts as missing, if
    that layer is needed; layers of stages that are not needed are not asked for."""
    from pybuild.cache.layers import burst

    asked, unkept = _parted(plan, keys, kept)
    answers = cache.find(list(asked.values()))
    found = {identity: answers[key] for identity, key in asked.items() if answers[key]}
    while True:
        fitting = _fit(plan, found, unkept)
        lookup = Lookup(fitting, asked, found)
        used = [
            ((number, step), one)
            for number in required(plan, fitting)
            for step in fitting.stages[number].steps
            if (one := lookup.chosen(number, step)) is not None
        ]
        there = burst(lambda one: one[1].is_there(), used)
        lost = [item for item, is_there in zip(used, there, strict=True) if not is_there]
        if not lost:
            return lookup
        for identity, one in lost:
            found[identity] = tuple(other for other in found[identity] if other is not one)


def without_cache(plan: Plan) -> Lookup:
    return Lookup(_fit(plan, {}, frozenset()))


def _parted(
    plan: Plan, keys: Mapping[StepId, Digest], kept: Kept
) -> tuple[dict[StepId, Digest], frozenset[StepId]]:
    """The keys to ask for, and the steps that are left out."""
    steps = {
        (stage.number, step.number): kept.covers(step)
        for stage in plan.stages
        for step in stage.file_steps
    }
    asked = {identity: key for identity, key in keys.items() if steps[identity]}
    return asked, frozenset(identity for identity, covered in steps.items() if not covered)


def _fit(
    plan: Plan, found: Mapping[StepId, tuple[CachedStep, ...]], unkept: frozenset[StepId]
) -> Fit:
    stored = {identity: [one.stored for one in entries] for identity, entries in found.items()}
    return fit(plan, stored, unkept)


def required(plan: Plan, fitting: Fit) -> frozenset[int]:
    """The stages whose content is needed: the target, and what the steps that run stand on and
    take from. A stage of which all that others take is cached is not among them."""
    needed: set[int] = set()
    pending = [plan.target, *plan.also]
    while pending:
        number = pending.pop()
        if number in needed:
            continue
        needed.add(number)
        stage = plan.stage(number)
        if isinstance(stage.origin, FromStage):
            pending.append(stage.origin.stage)
        hits = fitting.stages[number].steps
        for step in stage.file_steps:
            if step.number not in hits:
                pending += [one.stage for one in step.takes if isinstance(one, FromStage)]
    return frozenset(needed)
