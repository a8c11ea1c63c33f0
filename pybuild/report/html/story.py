"""What the report tells, as one value, gathered from the events of a build."""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from pybuild.events import (
    BasesFound,
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Event,
    ImageDescribed,
    ImagePushed,
    Level,
    Notice,
    StageFinished,
    StageSkipped,
    StageStarted,
    StepCached,
    StepFinished,
    StepStarted,
    TransferFinished,
)

RAN, CACHED, UNFINISHED = "ran", "cached", "not finished"


class StepTold(Struct, frozen=True):
    """`start` is seconds since the build began, `size` bytes of the compressed layer."""

    place: int
    text: str
    line: int
    outcome: str
    reason: str
    start: float
    seconds: float = 0.0
    size: int = 0


class StageTold(Struct, frozen=True):
    number: int
    name: str
    base: str = ""
    start: float = 0.0
    seconds: float = 0.0
    skipped: bool = False
    steps: tuple[StepTold, ...] = ()


class TransferTold(Struct, frozen=True):
    kind: str
    label: str
    outcome: str
    size: int
    start: float
    seconds: float


class Story(Struct, frozen=True):
    """All that a report shows. `title` is what the image is called, "" where it has no name;
    `began` is RFC 3339 text in UTC, `seconds` how long it took."""

    title: str
    began: str
    tool: str
    seconds: float = 0.0
    plan: BuildStarted | None = None
    bases: BasesFound | None = None
    image: ImageDescribed | None = None
    stages: tuple[StageTold, ...] = ()
    transfers: tuple[TransferTold, ...] = ()
    warnings: tuple[Notice, ...] = ()
    pushed: tuple[ImagePushed, ...] = ()
    finished: BuildFinished | None = None
    failed: BuildFailed | None = None

    @property
    def steps(self) -> tuple[StepTold, ...]:
        return tuple(step for stage in self.stages for step in stage.steps)


class Gatherer:
    """Takes events from any thread; `clock` gives seconds that only grow. A stage that begins a
    second time, since a layer of the cache was lost, is told as it went the second time."""

    def __init__(self, title: str, began: str, tool: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._story = Story(title, began, tool)
        self._stages: dict[int, StageTold] = {}
        self._lock = threading.Lock()

    def story(self) -> Story:
        """What is known by now; steps that never finished are told as such."""
        with self._lock:
            stages = tuple(self._stages[number] for number in sorted(self._stages))
            ended = self._seconds()
            stages = tuple(self._closed(stage, ended) for stage in stages)
            return replace(self._story, stages=stages, seconds=ended)

    def take(self, event: Event) -> None:
        with self._lock:
            self._take(event)

    def _seconds(self) -> float:
        return self._clock() - self._started

    def _take(self, event: Event) -> None:
        now, story = self._seconds(), self._story
        match event:
            case BuildStarted():
                self._story = replace(story, plan=event)
            case BasesFound():
                self._story = replace(story, bases=event)
            case ImageDescribed():
                self._story = replace(story, image=event)
            case Notice(Level.WARNING):
                self._story = replace(story, warnings=(*story.warnings, event))
            case ImagePushed():
                self._story = replace(story, pushed=(*story.pushed, event))
            case TransferFinished():
                start = max(0.0, now - event.seconds)
                kind, outcome = event.kind.value, event.outcome.value
                told = TransferTold(kind, event.label, outcome, event.size, start, event.seconds)
                self._story = replace(story, transfers=(*story.transfers, told))
            case BuildFinished():
                self._story = replace(story, finished=event)
            case BuildFailed():
                self._story = replace(story, failed=event)
            case _:
                self._take_of_stage(event, now)

    def _take_of_stage(self, event: Event, now: float) -> None:
        match event:
            case StageStarted(number, name, base):
                self._stages[number] = StageTold(number, name, base, now)
            case StageSkipped(number, name):
                self._stages[number] = StageTold(number, name, skipped=True)
            case StageFinished(number, _, seconds):
                self._stages[number] = replace(self._stages[number], seconds=seconds)
            case StepStarted(stage, step, text, line, reason):
                self._add(stage, StepTold(step, text, line, UNFINISHED, reason, now))
            case StepCached(stage, step, text, line, _, size):
                self._add(stage, StepTold(step, text, line, CACHED, "", now, 0.0, size))
            case StepFinished(stage, step, _, _, seconds, size):
                told = self._stages[stage]
                steps = tuple(
                    replace(one, outcome=RAN, seconds=seconds, size=size)
                    if one.place == step
                    else one
                    for one in told.steps
                )
                self._stages[stage] = replace(told, steps=steps)

    def _add(self, stage: int, step: StepTold) -> None:
        told = self._stages.get(stage) or StageTold(stage, str(stage))
        self._stages[stage] = replace(told, steps=(*told.steps, step))

    def _closed(self, stage: StageTold, ended: float) -> StageTold:
        """One that was stopped has lasted until now, and so has the step that stopped it."""
        if stage.skipped or stage.seconds:
            return stage
        steps = tuple(
            replace(step, seconds=max(0.0, ended - step.start))
            if step.outcome == UNFINISHED
            else step
            for step in stage.steps
        )
        return replace(stage, seconds=max(0.0, ended - stage.start), steps=steps)
