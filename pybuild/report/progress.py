"""Progress on a terminal: stages and transfers at the bottom, the log and RUN's output above.

Events only change numbers under a lock; one thread draws, ten times a second, so that a RUN that
writes a hundred thousand lines costs no more than plain output does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from msgspec import Struct
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

from pybuild.events import (
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Event,
    StageFinished,
    StageSkipped,
    StageStarted,
    StepCached,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
)
from pybuild.report.text import (
    Describer,
    Line,
    OutputLines,
    Severity,
    bytes_text,
    colours_only,
    duration,
    harmless,
    layers_text,
    one_line,
    stage_text,
    stage_title,
)

_DRAWS_A_SECOND = 10
_BAR = 16
_KEPT_LINES = 5000  # of output between two drawings; a terminal scrolls no faster
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ARROWS = {TransferKind.PUSH: "↑", TransferKind.CACHE_WRITE: "↑"}
_STYLES = {
    Severity.DEBUG: "dim",
    Severity.INFO: "",
    Severity.WARNING: "yellow",
    Severity.ERROR: "red",
}


class _Stage(Struct):
    name: str
    state: str = "waiting"  # waiting, running, done, skipped
    text: str = ""
    started: float = 0.0
    seconds: float = 0.0
    done: int = 0  # steps run or taken from the cache
    steps: int = 0


class _Transfer(Struct):
    kind: TransferKind
    label: str
    size: int
    started: float
    done: int = 0


class ProgressReport:
    """An EventSink for a terminal; a context manager that owns the drawing thread."""

    def __init__(self, stream: TextIO, severity: Severity, environment: Mapping[str, str]) -> None:
        self._console = _Terminal(
            file=stream, force_terminal=True, highlight=False, _environ=environment
        )
        self._severity = severity
        self._lock = threading.Lock()
        self._describer = Describer()
        self._output = OutputLines()
        self._rows: list[_Stage] = []
        self._stages: dict[int, _Stage] = {}  # those rows whose number is known
        self._transfers: dict[str, _Transfer] = {}
        self._pending: list[Text] = []
        self._left_out = 0
        self._over = threading.Event()
        self._live = Live(_Drawing(self), console=self._console, auto_refresh=False, transient=True)
        self._thread = threading.Thread(target=self._draw_on, name="report", daemon=True)

    def __enter__(self) -> ProgressReport:
        with suppress(OSError):
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._draw()
        with suppress(OSError):
            self._live.stop()

    def __call__(self, event: Event, /) -> None:
        with self._lock:
            if isinstance(event, TransferProgress):
                transfer = self._transfers.get(event.id)
                if transfer is not None:
                    transfer.done = event.done
                return
            if isinstance(event, StepOutput):
                self._add_output(event)
                return
            self._update(event)
            self._flush_output(event)
            if isinstance(event, BuildFinished):
                self._pending += _summary_rows(event)
                return
            for line in self._describer.lines(event):
                if line.severity >= self._severity and not _is_noise(event):
                    self._pending.append(_styled(line))

    def _update(self, event: Event) -> None:
        """Brings the numbers of the drawing up to date."""
        now = time.monotonic()
        match event:
            case BuildStarted(stages=stages):
                self._rows = [_Stage(name) for name in stages]
            case StageStarted(stage, name, base, _, steps):
                known = self._stage(stage, name)
                known.steps = steps
                known.state, known.text, known.started = "running", f"FROM {base}", now
            case StepStarted(stage, step, text, _, _):
                known = self._stage(stage)
                known.text = f"{step + 1}/{known.steps} {one_line(text)}"
                if known.state == "waiting":
                    known.state, known.started = "running", now
            case StepCached(stage) | StepFinished(stage):
                self._stage(stage).done += 1
            case StageFinished(stage, name, seconds):
                known = self._stage(stage, name)
                known.state, known.seconds, known.text = "done", seconds, ""
            case StageSkipped(stage, name):
                known = self._stage(stage, name)
                known.state, known.text = "skipped", "all that is taken from it is cached"
            case TransferStarted(identity, kind, label, size):
                self._transfers[identity] = _Transfer(kind, label, size, now)
            case TransferFinished(identity):
                self._transfers.pop(identity, None)
            case BuildFailed():
                self._transfers.clear()
            case _:
                pass

    def _stage(self, number: int, name: str = "") -> _Stage:
        """The row of a stage; the first event that names it tells which one that is."""
        known = self._stages.get(number)
        if known is None:
            taken = {id(row) for row in self._stages.values()}
            free = [row for row in self._rows if row.name == name and id(row) not in taken]
            known = free[0] if free else _Stage(name or str(number))
            if not free:
                self._rows.append(known)
            self._stages[number] = known
        return known

    def _add_output(self, event: StepOutput) -> None:
        texts = self._output.feed(event.stage, event.step, event.stream, event.data)
        if self._severity > Severity.INFO or not texts:
            return
        prefix = self._describer.prefix(event.stage, event.step)
        room = _KEPT_LINES - len(self._pending)
        self._left_out += max(0, len(texts) - room)
        self._pending += [_output_row(prefix, text) for text in texts[: max(0, room)]]

    def _flush_output(self, event: Event) -> None:
        """Shows what a RUN left unfinished on its last line."""
        if isinstance(event, StepFinished):
            left = self._output.flush(event.stage, event.step)
        elif isinstance(event, BuildFailed | BuildFinished):
            left = self._output.flush()
        else:
            return
        if self._severity <= Severity.INFO:
            self._pending += [
                _output_row(self._describer.prefix(stage, step), text) for stage, step, text in left
            ]

    def _draw_on(self) -> None:
        while not self._over.wait(1 / _DRAWS_A_SECOND):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            rows, self._pending = self._pending, []
            left_out, self._left_out = self._left_out, 0
        if left_out:
            rows.append(Text(f"… {left_out} lines of output not shown", "dim"))
        try:
            if rows:
                self._console.print(Group(*rows), soft_wrap=True)
            self._live.refresh()
        except (OSError, ValueError):
            self._over.set()  # the terminal is gone; the build goes on

    def drawing(self, width: int, height: int) -> RenderableType:
        """The live part: at most `height` rows, none wider than `width`."""
        with self._lock:
            stages = list(self._rows)
            transfers = list(self._transfers.values())
        now = time.monotonic()
        if all(stage.state in ("done", "skipped") for stage in stages) and not transfers:
            return Text("")
        # Where there are more stages than rows, those that run are worth most.
        order = {"running": 0, "waiting": 1, "done": 2, "skipped": 3}
        room = max(3, height - 2)
        if len(stages) > room - min(4, len(transfers)):
            stages.sort(key=lambda stage: order[stage.state])
            stages = stages[: room - min(4, len(transfers))]
        column = min(20, max((len(stage_title(stage.name)) for stage in stages), default=0))
        rows = [_stage_row(stage, now, column, width) for stage in stages]
        rows += [_transfer_row(item, now, width) for item in transfers[: room - len(rows)]]
        return Group(*rows)


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """rich would end the program; a build goes on without its log."""
        self.quiet = True


class _Drawing:
    """What rich asks for each time it draws."""

    def __init__(self, report: ProgressReport) -> None:
        self._report = report

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield self._report.drawing(options.max_width, options.size.height)


def _is_noise(event: Event) -> bool:
    """What the drawing shows already, or what a glance has no use for."""
    return isinstance(event, StageStarted) or (
        isinstance(event, TransferFinished) and event.outcome is not TransferOutcome.FAILED
    )


def _styled(line: Line) -> Text:
    text = Text(no_wrap=False)
    if line.prefix:
        text.append(f"{harmless(line.prefix)} ", "cyan")
    if line.severity is Severity.WARNING:
        text.append("warning: ", "bold yellow")
    text.append(harmless(line.text), _STYLES[line.severity])
    return text


def _output_row(prefix: str, text: str) -> Text:
    row = Text(f"{harmless(prefix)} ", "dim cyan")
    return row.append_text(Text.from_ansi(colours_only(text)))


def _stage_row(stage: _Stage, now: float, column: int, width: int) -> Text:
    mark, style, clock = {
        "running": (_SPINNER[int(now * 10) % len(_SPINNER)], "cyan", duration(now - stage.started)),
        "done": ("✓", "green", duration(stage.seconds)),
        "skipped": ("✓", "green", ""),
        "waiting": ("·", "dim", ""),
    }[stage.state]
    text = stage.text if stage.state != "waiting" else "waiting"
    if stage.state == "done":
        text = f"{stage.done} step{'' if stage.done == 1 else 's'}"
    name = harmless(stage_title(stage.name))
    head = Text(f"{mark} ", style).append(f"{_cut(name, column):<{column}} ", "bold")
    room = max(0, width - column - 3 - (len(clock) + 1 if clock else 0))
    shown = _cut(harmless(text), room)
    head.append(f"{shown:<{room}}", "" if stage.state == "running" else "dim")
    return head.append(f" {clock}", "dim") if clock else head


def _transfer_row(transfer: _Transfer, now: float, width: int) -> Text:
    speed = transfer.done / max(0.2, now - transfer.started)
    size = f"/{bytes_text(transfer.size)}" if transfer.size else ""
    numbers = f"{bytes_text(transfer.done)}{size} {bytes_text(speed)}/s"
    row = Text(f"{_ARROWS.get(transfer.kind, '↓')} ", "blue")
    bar = _BAR if transfer.size and width >= 80 else 0
    room = max(8, width - len(numbers) - 3 - (bar + 1 if bar else 0))
    row.append(f"{_cut(harmless(transfer.label), room):<{room}} ")
    if bar:
        full = min(bar, round(bar * transfer.done / transfer.size))
        row.append("━" * full, "blue").append("━" * (bar - full), "bright_black").append(" ")
    row.append(_cut(numbers, max(0, width - room - 3)), "dim")
    row.no_wrap = True
    return row


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _summary_rows(event: BuildFinished) -> list[Text]:
    """The closing summary; aligned by hand, so that it copies as plain text."""
    rows = [Text("")]

    def row(name: str, text: str, style: str = "") -> None:
        rows.append(Text(f"{name:<8}", "bold green").append(harmless(text), style))

    for reference in event.references:
        row("image", reference, "bold")
    row("digest", event.digest)
    row("size", f"{bytes_text(event.size)}, {layers_text(event)}")
    for path in event.outputs:
        row("wrote", path)
    for stage in event.stages:
        row(
            "stage",
            f"{stage_title(stage.name)}: {stage_text(stage)}",
            "dim" if stage.skipped else "",
        )
    row("time", duration(event.seconds))
    return rows
