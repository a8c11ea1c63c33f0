"""The plan as text: what would run, what is cached, and why."""

from __future__ import annotations

from collections.abc import Mapping

from pybuild.image.digest import Digest
from pybuild.plan.fit import Fit
from pybuild.plan.keys import StepId
from pybuild.plan.steps import FromImage, FromScratch, FromStage, Plan, StagePlan


def render(
    plan: Plan, *, keys: Mapping[StepId, Digest] | None = None, fit: Fit | None = None
) -> str:
    """A line for each step; `keys` adds their first twelve digits, `fit` what the cache has."""
    lines = [f"target {plan.target_stage.name}, platform {plan.platform}"]
    for stage in plan.stages:
        lines += ["", _heading(plan, stage)]
        for step in stage.steps:
            state = _state(stage, step.number, fit) if step.action is not None else "config only"
            key = (keys or {}).get((stage.number, step.number))
            shown_key = f" {key.hex[:12]}" if key else ""
            lines.append(f"  {step.number + 1}. line {step.source.line}: {step.text}")
            lines.append(f"     {state}{shown_key}")
    lines += [f"warning: {text}" for text in plan.warnings]
    return "\n".join(lines) + "\n"


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


def _state(stage: StagePlan, step: int, fit: Fit | None) -> str:
    if fit is None:
        return "runs"
    entry = fit.stages[stage.number].steps.get(step)
    if entry is None:
        return f"runs: {fit.reason(stage.number, step)}"
    return f"cached, {entry.layer.size} bytes" if entry.layer else "cached, changes nothing"
