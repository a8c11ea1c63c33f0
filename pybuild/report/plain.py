"""A log of plain lines, one event a line, for CI consoles and files."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

from pybuild.events import (
    BuildFailed,
    BuildFinished,
    Event,
    StepFinished,
    StepOutput,
    TransferProgress,
)
from pybuild.report.text import (
    Describer,
    Line,
    OutputLines,
    Severity,
    colours_only,
    harmless,
)

_COLOURS = {
    Severity.DEBUG: "\x1b[37m",
    Severity.INFO: "\x1b[36m",
    Severity.WARNING: "\x1b[33m",
    Severity.ERROR: "\x1b[31m",
}
_RESET = "\x1b[0m"
_WORD = 4  # letters of a level in kaniko's coloured log


class Style(Enum):
    PLAIN = "plain"  # `   1.2 [build 3] RUN make`
    COLOUR = "color"  # kaniko's `INFO[0012] …`, the level coloured
    LOGFMT = "text"  # kaniko's `time="…" level=info msg="…"`


class Stamp(Enum):
    SINCE_START = "seconds"
    CLOCK = "clock"  # RFC 3339 in UTC


class PlainReport:
    """An EventSink that writes a line or more for each event; any thread may call it."""

    def __init__(
        self,
        stream: TextIO,
        severity: Severity,
        *,
        style: Style = Style.PLAIN,
        stamp: Stamp = Stamp.SINCE_START,
    ) -> None:
        self._stream = stream
        self._severity = severity
        self._style = style
        self._stamp = stamp
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._describer = Describer()
        self._output = OutputLines()
        self._broken = False

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, TransferProgress):
            return
        with self._lock:
            lines = self._output_lines(event)
            lines += self._describer.lines(event)
            text = "".join(self._format(line) for line in lines if line.severity >= self._severity)
            if text and not self._broken:
                self._write(text)

    def _output_lines(self, event: Event) -> list[Line]:
        """Lines of RUN: those that are complete, and unfinished ones when their step is over."""
        prefix = self._describer.prefix
        if isinstance(event, StepOutput):
            at = prefix(event.stage, event.step)
            texts = self._output.feed(event.stage, event.step, event.stream, event.data)
            return [Line(Severity.INFO, at, f"| {text}") for text in texts]
        if isinstance(event, StepFinished):
            left = self._output.flush(event.stage, event.step)
        elif isinstance(event, BuildFailed | BuildFinished):
            left = self._output.flush()
        else:
            return []
        return [Line(Severity.INFO, prefix(stage, step), f"| {text}") for stage, step, text in left]

    def _format(self, line: Line) -> str:
        if self._style is Style.LOGFMT:
            message = harmless(str(line)).replace("\\", "\\\\").replace('"', '\\"')
            return f'time="{_clock()}" level={line.severity.word} msg="{message}"\n'
        if line.severity is Severity.ERROR:  # at the line's start, where people and greps look
            text = harmless(line.text)
            red, off = ("", "") if self._style is Style.PLAIN else (_COLOURS[line.severity], _RESET)
            return f"{red}{text}{off}\n"
        prefix = f"{harmless(line.prefix)} " if line.prefix else ""
        if self._style is Style.COLOUR:
            stamp = _clock() if self._stamp is Stamp.CLOCK else f"{int(self._seconds()):04}"
            word = line.severity.name[:_WORD]
            text = f"{prefix}{colours_only(line.text)}"
            return f"{_COLOURS[line.severity]}{word}{_RESET}[{stamp}] {text}\n"
        stamp = _clock() if self._stamp is Stamp.CLOCK else f"{self._seconds():6.1f}"
        mark = "warning: " if line.severity is Severity.WARNING else ""
        return f"{stamp} {prefix}{mark}{harmless(line.text)}\n"

    def _seconds(self) -> float:
        return time.monotonic() - self._start

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._broken = True  # nobody reads any more; the build goes on


def _clock() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
