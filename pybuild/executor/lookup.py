"""What the cache has for a plan, asked before anything runs, and which stages that spares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, field

from pybuild.image.digest import Digest
from pybuild.plan.fit import Fit, fit
from pybuild.plan.keys import StepId
from pybuild.plan.steps import FromStage, Plan

if TYPE_CHECKING:
    from pybuild.cache.layers import CachedStep, LayerCache

_AT_ONCE = 8
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Lookup(Struct, frozen=True):
    """`found` are the entries under the first keys, `fit` those of them that may be used."""

    fit: Fit
    keys: Mapping[StepId, Digest] = field(default_factory=dict)
    found: Mapping[StepId, CachedStep] = field(default_factory=dict)


def look_up(cache: LayerCache, plan: Plan, keys: Mapping[StepId, Digest]) -> Lookup:
    """Asks for all keys at once. An entry whose layer the registry has lost counts as missing, if
    that layer is needed; layers of stages that are not needed are not asked for."""
    answers = _burst(cache.get, list(keys.values()))
    found = {identity: hit for identity, hit in zip(keys, answers, strict=True) if hit}
    while True:
        fitting = _fit(plan, found)
        used = [
            (number, step)
            for number in required(plan, fitting)
            for step in fitting.stages[number].steps
        ]
        there = _burst(lambda identity: cache.has_layer(found[identity]), used)
        lost = [identity for identity, is_there in zip(used, there, strict=True) if not is_there]
        if not lost:
            return Lookup(fitting, keys, found)
        for identity in lost:
            del found[identity]


def without_cache(plan: Plan) -> Lookup:
    return Lookup(_fit(plan, {}))


def _fit(plan: Plan, found: Mapping[StepId, CachedStep]) -> Fit:
    return fit(plan, {identity: entry.stored for identity, entry in found.items()})


def _burst(ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """The first alone: it logs in, or finds that nobody answers, for all of them."""
    answers = [ask(item) for item in items[:1]]
    if len(items) > 1:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE, "lookup") as pool:
            answers += pool.map(ask, items[1:])
    return answers


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
