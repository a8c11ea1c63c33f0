"""Cache keys. A *first key* is known before any work; a *second key* is taken over what a parent
and the taken files really are, once something before them has run.

The rule that makes both safe is not here but in `fit`: an entry is used only on the chain ID it
was made on. A key only finds candidates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import astuple, replace

from pybuild.image.digest import Digest, digest_of
from pybuild.plan.steps import (
    Action,
    CopyAction,
    FromImage,
    FromScratch,
    FromStage,
    MakeDirectory,
    Plan,
    PlannedMount,
    RunAction,
    StagePlan,
    Step,
)

SCHEMA = "pybuild-cache-1"

StepId = tuple[int, int]  # number of the stage, number of the step in it


class KeyFacts(Struct, frozen=True):
    """What holds for a whole build. `fidelity` keeps an entry of an isolation that keeps less
    from one that keeps more; `epoch` is the time that reproducible layers are clamped to;
    `compression` says how layers are compressed, as far as that is asked for."""

    fidelity: str = "full"
    epoch: int | None = None
    compression: str = "gzip"


def first_keys(
    plan: Plan, facts: KeyFacts, inputs: Mapping[StepId, Digest]
) -> dict[StepId, Digest]:
    """A key for each step that may change files; `inputs` holds the digest of what each COPY, ADD
    and RUN takes from the context or the network."""
    keys: dict[StepId, Digest] = {}
    last: dict[int, str] = {}
    for stage in plan.stages:
        parent = _base_identity(plan, stage, last)
        for step in stage.file_steps:
            key = step_key(
                stage,
                step,
                facts,
                parent=parent,
                taken=_taken_identity(plan, step, last),
                inputs=inputs.get((stage.number, step.number)),
            )
            keys[stage.number, step.number] = key
            parent = f"step {key}"
        last[stage.number] = parent
    return keys


def _base_identity(plan: Plan, stage: StagePlan, last: Mapping[int, str]) -> str:
    match stage.origin:
        case FromScratch():
            return "scratch"
        case FromStage(number):
            return last[number]
        case FromImage(request):
            return f"image {plan.image(request).digest}"
        case _:
            assert_never(stage.origin)


def _taken_identity(plan: Plan, step: Step, last: Mapping[int, str]) -> str:
    return " ".join(
        f"stage {last[origin.stage]}"
        if isinstance(origin, FromStage)
        else f"image {plan.image(origin.request).digest}"
        for origin in step.takes
    )


def step_key(
    stage: StagePlan,
    step: Step,
    facts: KeyFacts,
    *,
    parent: str,
    taken: str,
    inputs: Digest | None,
) -> Digest:
    """`parent` and `taken` say what the step stands on and takes from: keys for a first key,
    chain ID and content for a second one. A COPY that stands alone has no parent."""
    assert step.action is not None
    return _digest(
        SCHEMA,
        *_build_facts(stage, facts),
        "" if step.stands_alone else parent,
        taken,
        inputs or "",
        _action_facts(step.action),
    )


def state_key(stage: StagePlan, facts: KeyFacts, *, parent: Digest, content: Digest) -> Digest:
    """Finds a layer with this content that was made on this parent before."""
    return _digest(SCHEMA, "state", *_build_facts(stage, facts), parent, content)


def index_key(chain: Digest) -> Digest:
    """Finds the index of a layer by its place: where an entry belongs depends on the links in the
    layers below it."""
    return _digest(SCHEMA, "index", chain)


def _build_facts(stage: StagePlan, facts: KeyFacts) -> tuple[object, ...]:
    return str(stage.platform), facts.fidelity, facts.epoch, facts.compression


def _action_facts(action: Action) -> list[object]:
    match action:
        case RunAction():
            script = [action.script.name, action.script.content] if action.script else None
            env = sorted(action.env)
            mounts = _mount_facts(action.mounts)
            return [
                "run",
                action.argv,
                env,
                action.user,
                action.cwd,
                action.network,
                script,
                mounts,
            ]
        case CopyAction():
            return [
                "add" if action.is_add else "copy",
                action.sources,
                [[file.name, file.content] for file in action.inline],
                action.urls,
                action.checksum,
                action.destination,
                action.chown,
                action.chmod,
                action.link,
                action.parents,
                action.exclude,
                action.unpack,
                action.keep_git_dir,
            ]
        case MakeDirectory():
            return ["workdir", action.path, action.user]
        case _:
            assert_never(action)


def _mount_facts(mounts: tuple[PlannedMount, ...]) -> list[object]:
    """Of the stages and images only which mount takes from which: what they are is in `taken`. A
    secret's value is nowhere."""
    numbers: dict[object, int] = {}
    facts: list[object] = []
    for mount in mounts:
        taken = isinstance(mount.origin, FromStage | FromImage)
        number = numbers.setdefault(mount.origin, len(numbers)) if taken else -1
        kind = "" if mount.origin is None else type(mount.origin).__name__
        facts.append([kind, number, *astuple(replace(mount, origin=None))])
    return facts


def _digest(*facts: object) -> Digest:
    return digest_of(json.dumps(facts, separators=(",", ":")).encode())
