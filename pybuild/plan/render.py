"""The plan as text and as a value for programs: what would run, what is cached, and why."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from pybuild.image.digest import Digest
from pybuild.plan.fit import Fit
from pybuild.plan.keys import StepId
from pybuild.plan.steps import (
    FromImage,
    FromScratch,
    FromStage,
    ImageRequest,
    Plan,
    StagePlan,
    Step,
)

Keys = Mapping[StepId, Digest]


class CacheView(Struct, frozen=True):
    """What is taken from where: `origins` names the cache of each hit, `skipped` are stages that
    are not built, `kept` the images whose layers are in the cache folder."""

    origins: Mapping[StepId, str] = {}
    skipped: frozenset[int] = frozenset()
    kept: frozenset[ImageRequest] = frozenset()


NO_VIEW = CacheView()


def render(
    plan: Plan, *, keys: Keys | None = None, fit: Fit | None = None, view: CacheView = NO_VIEW
) -> str:
    """A line for each step; `keys` adds their first twelve digits, `fit` what the cache has. Steps
    are numbered as in the log; those that change only the config have no number."""
    names = ", ".join(plan.stage(number).name for number in (plan.target, *plan.also))
    lines = [f"target {names}, platform {plan.platform}"]
    for stage in plan.stages:
        lines += ["", _heading(plan, stage, view)]
        if stage.number in view.skipped:
            lines.append("  not built: all that others take from it is cached")
        places = stage.places
        for step in stage.steps:
            key = (keys or {}).get((stage.number, step.number))
            place = places.get(step.number)
            mark = "-" if place is None else f"[{place + 1}/{stage.place_count}]"
            lines.append(f"  {mark} line {step.source.line}: {step.text}")
            state = _state(stage, step, fit)
            if origin := view.origins.get((stage.number, step.number)):
                state += f", in {origin}"
            lines.append(f"     {state}{f' {key.hex[:12]}' if key else ''}")
    lines += [f"warning: {text}" for text in plan.warnings]
    return "\n".join(lines) + "\n"


def plan_value(
    plan: Plan, *, keys: Keys | None = None, fit: Fit | None = None, view: CacheView = NO_VIEW
) -> dict[str, object]:
    """The same as text, numbers, lists and objects. `step` is the number in the log, from 1; null
    for a step that changes only the config. `state` is "runs", "cached" or "config"; `size` is the
    bytes of the cached layer."""
    return {
        "target": plan.target_stage.name,
        "also": [plan.stage(number).name for number in plan.also],
        "platform": str(plan.platform),
        "stages": [_stage_value(plan, stage, keys or {}, fit, view) for stage in plan.stages],
        "warnings": list(plan.warnings),
    }


def _stage_value(
    plan: Plan, stage: StagePlan, keys: Keys, fit: Fit | None, view: CacheView
) -> dict[str, object]:
    base: dict[str, object] = {"base": "scratch"}
    if isinstance(stage.origin, FromStage):
        base = {"base": plan.stage(stage.origin.stage).name}
    elif isinstance(stage.origin, FromImage):
        name, digest = stage.origin.request.name, plan.image(stage.origin.request).digest
        kept = stage.origin.request in view.kept
        base = {"base": name, "baseDigest": str(digest), "baseInCacheFolder": kept}
    return {
        "stage": stage.number,
        "name": stage.name,
        **base,
        "needs": [plan.stage(number).name for number in stage.needs],
        "skipped": stage.number in view.skipped,
        "steps": [_step_value(stage, step, keys, fit, view) for step in stage.steps],
    }


def _step_value(
    stage: StagePlan, step: Step, keys: Keys, fit: Fit | None, view: CacheView
) -> dict[str, object]:
    place = stage.places.get(step.number)
    key = keys.get((stage.number, step.number))
    entry = fit.stages[stage.number].steps.get(step.number) if fit is not None else None
    value: dict[str, object] = {
        "step": None if place is None else place + 1,
        "line": step.source.line,
        "text": step.text,
        "state": "config" if place is None else "runs" if entry is None else "cached",
    }
    if place is not None and entry is None and fit is not None:
        value["reason"] = fit.reason(stage.number, step.number)
    if entry is not None:
        value["size"] = entry.layer.size if entry.layer else 0
        value["cache"] = view.origins.get((stage.number, step.number), "")
    return value | ({"key": str(key)} if key else {})


def _heading(plan: Plan, stage: StagePlan, view: CacheView) -> str:
    match stage.origin:
        case FromScratch():
            base = "scratch"
        case FromStage(number):
            base = f"stage {plan.stage(number).name}"
        case FromImage(request):
            kept = ", in the cache folder" if request in view.kept else ""
            base = f"{request.name} ({plan.image(request).digest}{kept})"
    needs = [plan.stage(number).name for number in stage.needs]
    after = f", after {', '.join(needs)}" if needs else ""
    return f"stage {stage.name} from {base}{after}"


def _state(stage: StagePlan, step: Step, fit: Fit | None) -> str:
    if step.action is None:
        return "config only"
    if fit is None:
        return "runs"
    entry = fit.stages[stage.number].steps.get(step.number)
    if entry is None:
        return f"runs: {fit.reason(stage.number, step.number)}"
    if entry.layer is not None:
        return f"cached, {entry.layer.size} bytes"
    return "cached, changes nothing" if entry.diff_id is None else "cached, its result alone"
