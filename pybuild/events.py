"""What happened, as values. Every package tells it to an `EventSink`; `report/` shows it to people.

Stages are named by their number in the Dockerfile, steps by their place among those of the stage
that change files; both count from 0. A FROM that names an image is the first of these. Sizes are
bytes, times are seconds.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from msgspec import Struct


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


class Notice(Struct, frozen=True):
    """A line of log that belongs to no step; `code` names a warning that has one."""

    level: Level
    message: str
    code: str = ""


class BuildStarted(Struct, frozen=True):
    context: str
    dockerfile: str
    isolation: str
    reason: str  # why this isolation was taken
    stages: tuple[str, ...]  # names in the order of the Dockerfile
    steps: int


class StageStarted(Struct, frozen=True):
    stage: int
    name: str
    base: str
    first: int = 0  # the place of its first step: 1 where FROM counts
    steps: int = 0  # how many places there are


class StageFinished(Struct, frozen=True):
    stage: int
    name: str
    seconds: float


class StageSkipped(Struct, frozen=True):
    """All that others take from this stage was cached, so it never started."""

    stage: int
    name: str


NO_CACHE = "there is no cache"


class StepStarted(Struct, frozen=True):
    stage: int
    step: int
    text: str
    line: int
    reason: str  # why it runs: which key missed, or NO_CACHE


class StepCached(Struct, frozen=True):
    stage: int
    step: int
    text: str
    line: int
    key: str
    size: int


class StepOutput(Struct, frozen=True):
    """What a RUN wrote, as it came; `stream` is 1 or 2. Not cut at line ends."""

    stage: int
    step: int
    stream: int
    data: bytes


class StepFinished(Struct, frozen=True):
    stage: int
    step: int
    text: str
    line: int
    seconds: float
    size: int  # of the compressed layer; 0 where none came of it


class TransferStarted(Struct, frozen=True):
    id: str
    kind: TransferKind
    label: str
    size: int  # 0: not known


class TransferProgress(Struct, frozen=True):
    id: str
    done: int  # bytes so far, not since the last event


class TransferFinished(Struct, frozen=True):
    id: str
    kind: TransferKind
    label: str
    outcome: TransferOutcome
    size: int
    seconds: float


class ImagePushed(Struct, frozen=True):
    reference: str
    digest: str
    size: int


class LayerSummary(Struct, frozen=True):
    digest: str
    size: int
    origin: str  # "base", "new" or "cached"
    outcome: str  # "pushed", "mounted", "exists", or "" where nothing was pushed
    created_by: str


class StageSummary(Struct, frozen=True):
    name: str
    seconds: float
    steps_run: int
    steps_cached: int
    skipped: bool


class BuildFinished(Struct, frozen=True):
    """The closing summary. `references` are repository:tag; all have this one digest."""

    references: tuple[str, ...]
    digest: str
    size: int  # config and all layers as stored
    layers: tuple[LayerSummary, ...]
    stages: tuple[StageSummary, ...]
    seconds: float
    outputs: tuple[str, ...] = ()  # files written: archive, layout, digest file


class BuildFailed(Struct, frozen=True):
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
