"""One JSON object a line, for programs.

Every line has `time` (RFC 3339), `level` (debug, info, warning, error), `event` (the kind, such as
`step-started`) and `msg` (a sentence, as kaniko's JSON log has it); the other keys are the event's
own fields under their own names. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

from msgspec import Struct

from pybuild.events import (
    BuildFailed,
    BuildFinished,
    Event,
    Notice,
    StepFinished,
    StepOutput,
    TransferProgress,
    TransferStarted,
)
from pybuild.report.text import Describer, Line, OutputLines, Severity


class JsonReport:
    """An EventSink that writes one line for each event; any thread may call it."""

    def __init__(self, stream: TextIO, severity: Severity) -> None:
        self._stream = stream
        self._severity = severity
        self._lock = threading.Lock()
        self._describer = Describer()
        self._output = OutputLines()
        self._broken = False

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, TransferProgress) and self._severity > Severity.DEBUG:
            return
        with self._lock:
            if isinstance(event, StepOutput):
                texts = self._output.feed(event.stage, event.step, event.stream, event.data)
                for text in texts:
                    self._write_output(event.stage, event.step, text, event.stream)
                return
            if isinstance(event, StepFinished):
                left = self._output.flush(event.stage, event.step)
            elif isinstance(event, BuildFailed | BuildFinished):
                left = self._output.flush()
            else:
                left = []
            for stage, step, text in left:
                self._write_output(stage, step, text, 1)
            self._write_event(event)

    def _write_output(self, stage: int, step: int, text: str, stream: int) -> None:
        own = {"stage": stage, "step": step, "stream": stream, "text": text}
        self._write(Severity.INFO, "step-output", text, own)

    def _write_event(self, event: Event) -> None:
        lines = self._describer.lines(event)
        severity = _severity(event, lines)
        message = event.message if isinstance(event, BuildFailed) else "; ".join(
            str(line) for line in lines if line.severity >= severity
        )  # fmt: skip
        own = {name: _value(getattr(event, name)) for name in event.__struct_fields__}
        own.pop("level", None)  # a notice's own, which is the line's
        self._write(severity, event_name(event), message, own)

    def _write(self, severity: Severity, event: str, message: str, own: dict[str, object]) -> None:
        if severity < self._severity or self._broken:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"time": now, "level": severity.word, "event": event, "msg": message}
        try:
            self._stream.write(json.dumps(head | own) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._broken = True


def event_name(event: Event) -> str:
    """`StepStarted` as `step-started`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(event).__name__).lower()


def _severity(event: Event, lines: tuple[Line, ...]) -> Severity:
    if isinstance(event, TransferProgress | TransferStarted):
        return Severity.DEBUG
    if isinstance(event, Notice) or lines:
        return max((line.severity for line in lines), default=Severity.INFO)
    return Severity.INFO


def _value(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_value(item) for item in value]
    if isinstance(value, Struct):
        return {name: _value(getattr(value, name)) for name in value.__struct_fields__}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
