"""What happened, as values. Every package tells it to an `EventSink`; `report/` shows it to people.

Stages are named by their number in the plan, steps by their number in the stage; both count from 0.
Sizes are bytes, times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class Level(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


class TransferKind(Enum):
    PULL = "pull"
    PUSH = "push"
    CACHE_READ = "cache-read"
    CACHE_WRITE = "cache-write"
    CONTEXT = "context"
    DOWNLOAD = "download"


class TransferOutcome(Enum):
    DONE = "done"
    MOUNTED = "mounted"
    EXISTS = "exists"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Notice:
    """A line of log that belongs to no step; `code` names a warning that has one."""

    level: Level
    message: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class BuildStarted:
    context: str
    dockerfile: str
    isolation: str
    reason: str  # why this isolation was taken
    stages: tuple[str, ...]  # names in the order of the Dockerfile
    steps: int


@dataclass(frozen=True, slots=True)
class StageStarted:
    stage: int
    name: str
    base: str


@dataclass(frozen=True, slots=True)
class StageFinished:
    stage: int
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StageSkipped:
    """All that others take from this stage was cached, so it never started."""

    stage: int
    name: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    stage: int
    step: int
    text: str
    line: int
    reason: str  # why it runs: which key missed, or that there is no cache


@dataclass(frozen=True, slots=True)
class StepCached:
    stage: int
    step: int
    text: str
    line: int
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a RUN wrote, as it came; `stream` is 1 or 2. Not cut at line ends."""

    stage: int
    step: int
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StepFinished:
    stage: int
    step: int
    text: str
    line: int
    seconds: float
    size: int  # of the compressed layer; 0 where none came of it


@dataclass(frozen=True, slots=True)
class TransferStarted:
    id: str
    kind: TransferKind
    label: str
    size: int  # 0: not known


@dataclass(frozen=True, slots=True)
class TransferProgress:
    id: str
    done: int  # bytes so far, not since the last event


@dataclass(frozen=True, slots=True)
class TransferFinished:
    id: str
    kind: TransferKind
    label: str
    outcome: TransferOutcome
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ImagePushed:
    reference: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class LayerSummary:
    digest: str
    size: int
    origin: str  # "base", "new" or "cached"
    outcome: str  # "pushed", "mounted", "exists", or "" where nothing was pushed
    created_by: str


@dataclass(frozen=True, slots=True)
class StageSummary:
    name: str
    seconds: float
    steps_run: int
    steps_cached: int
    skipped: bool


@dataclass(frozen=True, slots=True)
class BuildFinished:
    """The closing summary. `references` are repository:tag; all have this one digest."""

    references: tuple[str, ...]
    digest: str
    size: int  # config and all layers as stored
    layers: tuple[LayerSummary, ...]
    stages: tuple[StageSummary, ...]
    seconds: float
    outputs: tuple[str, ...] = field(default=())  # files written: archive, layout, digest file


@dataclass(frozen=True, slots=True)
class BuildFailed:
    code: str
    message: str
    hint: str
    file: str
    line: int
    text: str
    exit_status: int


Event = (
    Notice
    | BuildStarted
    | StageStarted
    | StageFinished
    | StageSkipped
    | StepStarted
    | StepCached
    | StepOutput
    | StepFinished
    | TransferStarted
    | TransferProgress
    | TransferFinished
    | ImagePushed
    | BuildFinished
    | BuildFailed
)


class EventSink(Protocol):
    """Takes events from any thread; never raises and never blocks for long."""

    def __call__(self, event: Event, /) -> None: ...
