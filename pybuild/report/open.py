"""Chooses how a build is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from pybuild.events import EventSink
from pybuild.report.text import severity_of


@contextmanager
def open_report(
    kind: str,
    stream: TextIO,
    verbosity: str = "info",
    *,
    timestamps: str = "seconds",
    environment: Mapping[str, str] | None = None,
) -> Iterator[EventSink]:
    """An EventSink for `kind`: "progress", "plain", "json", "text" and "color" (kaniko's words),
    or "auto": progress on a terminal, else plain. `timestamps` is "seconds" or "clock"."""
    environment = os.environ if environment is None else environment
    severity = severity_of(verbosity)
    if kind == "auto":
        kind = "progress" if _shows_progress(stream, environment) else "plain"
    if kind == "json":
        from pybuild.report.jsonl import JsonReport

        yield JsonReport(stream, severity)
        return
    if kind == "progress":
        from pybuild.report.progress import ProgressReport

        with ProgressReport(stream, severity, environment) as report:
            yield report
        return
    from pybuild.report.plain import PlainReport, Stamp, Style

    yield PlainReport(stream, severity, style=Style(kind), stamp=Stamp(timestamps))


def _shows_progress(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """A terminal that can move its cursor and show what is not ASCII."""
    return (
        stream.isatty()
        and environment.get("TERM", "dumb") not in ("dumb", "unknown", "")
        and (stream.encoding or "").lower().replace("-", "") == "utf8"
        and not environment.get("CI")
    )
