"""The plan as text and as a value for programs: what would run, what is cached, and why."""

from __future__ import annotations

from collections.abc import Mapping

from pybuild.image.digest import Digest
from pybuild.plan.fit import Fit
from pybuild.plan.keys import StepId
from pybuild.plan.steps import FromImage, FromScratch, FromStage, Plan, StagePlan, Step

Keys = Mapping[StepId, Digest]


def render(plan: Plan, *, keys: Keys | None = None, fit: Fit | None = None) -> str:
    """A line for each step; `keys` adds their first twelve digits, `fit` what the cache has. Steps
    are numbered as in the log; those that change only the config have no number."""
    names = ", ".join(plan.stage(number).name for number in (plan.target, *plan.also))
    lines = [f"target {names}, platform {plan.platform}"]
    for stage in plan.stages:
        lines += ["", _heading(plan, stage)]
        places = stage.places
        for step in stage.steps:
            key = (keys or {}).get((stage.number, step.number))
            place = places.get(step.number)
            mark = "-" if place is None else f"[{place + 1}/{stage.place_count}]"
            lines.append(f"  {mark} line {step.source.line}: {step.text}")
            lines.append(f"     {_state(stage, step, fit)}{f' {key.hex[:12]}' if key else ''}")
    lines += [f"warning: {text}" for text in plan.warnings]
    return "\n".join(lines) + "\n"


def plan_value(
    plan: Plan, *, keys: Keys | None = None, fit: Fit | None = None
) -> dict[str, object]:
    """The same as text, numbers, lists and objects. `step` is the number in the log, from 1; null
    for a step that changes only the config. `state` is "runs", "cached" or "config"; `size` is the
    bytes of the cached layer."""
    return {
        "target": plan.target_stage.name,
        "also": [plan.stage(number).name for number in plan.also],
        "platform": str(plan.platform),
        "stages": [_stage_value(plan, stage, keys or {}, fit) for stage in plan.stages],
        "warnings": list(plan.warnings),
    }


def _stage_value(plan: Plan, stage: StagePlan, keys: Keys, fit: Fit | None) -> dict[str, object]:
    base: dict[str, object] = {"base": "scratch"}
    if isinstance(stage.origin, FromStage):
        base = {"base": plan.stage(stage.origin.stage).name}
    elif isinstance(stage.origin, FromImage):
        name, digest = stage.origin.request.name, plan.image(stage.origin.request).digest
        base = {"base": name, "baseDigest": str(digest)}
    return {
        "stage": stage.number,
        "name": stage.name,
        **base,
        "needs": [plan.stage(number).name for number in stage.needs],
        "steps": [_step_value(stage, step, keys, fit) for step in stage.steps],
    }


def _step_value(stage: StagePlan, step: Step, keys: Keys, fit: Fit | None) -> dict[str, object]:
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
    return value | ({"key": str(key)} if key else {})


def _heading(plan: Plan, stage: StagePlan) -> str:
    match stage.origin:
        case FromScratch():
            base = "scratch"
        case FromStage(number):
            base = f"stage {plan.stage(number).name}"
        case FromImage(request):
            base = f"{request.name} ({plan.image(request).digest})"
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
    return f"cached, {entry.layer.size} bytes" if entry.layer else "cached, changes nothing"
