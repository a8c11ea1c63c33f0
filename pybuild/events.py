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


class BaseSummary(Struct, frozen=True):
    """An image that stages start from or take files of; `platform` as in os/architecture."""

    name: str  # as the Dockerfile has it, variables filled in
    digest: str  # of its manifest
    source: str  # the repository that it came from, after mirrors
    platform: str
    size: int
    layers: int


class BasesFound(Struct, frozen=True):
    """What the build stands on. Told where a report is written."""

    platform: str  # of the image that is built
    bases: tuple[BaseSummary, ...]


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


class PathSize(Struct, frozen=True):
    """A folder or file of an image, and the bytes of all that it holds, uncompressed."""

    path: str
    size: int
    files: int


class LayerContent(Struct, frozen=True):
    """What fills a layer: its biggest folders and files, biggest first. `known` is False for a
    layer that nobody had to read."""

    digest: str
    known: bool
    size: int = 0  # of all files, uncompressed
    files: int = 0
    removed: int = 0  # paths of lower layers
    biggest: tuple[PathSize, ...] = ()


class SoftwareSummary(Struct, frozen=True):
    """What the SBOM counts: packages by kind ("deb", "maven"…) and licenses, most first."""

    distribution: str
    packages: int
    kinds: tuple[tuple[str, int], ...]
    licenses: tuple[tuple[str, int], ...]
    unlicensed: int  # packages that state no license
    unread: int  # files that should tell of more and could not be read


class ImageDescribed(Struct, frozen=True):
    """What is in the finished image; `software` is None where no SBOM was asked for. Told where
    a report is written."""

    layers: tuple[LayerContent, ...]
    software: SoftwareSummary | None


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
    | BasesFound
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
    | ImageDescribed
    | BuildFinished
    | BuildFailed
)


class EventSink(Protocol):
    """Takes events from any thread; never raises and never blocks for long."""

    def __call__(self, event: Event, /) -> None: ...
