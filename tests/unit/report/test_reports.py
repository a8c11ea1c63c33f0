"""The three reports over one build: plain lines, JSON lines, progress on a terminal."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from typing import get_args

import pytest

from pybuild.events import (
    BasesFound,
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Event,
    ImageDescribed,
    ImagePushed,
    LayerSummary,
    Level,
    Notice,
    StageFinished,
    StageSkipped,
    StageStarted,
    StageSummary,
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
from pybuild.report.jsonl import event_name
from pybuild.report.open import open_report
from pybuild.report.progress import ProgressReport
from pybuild.report.text import Severity

FINISHED = BuildFinished(
    ("reg/a:1",),
    "sha256:00",
    2_000,
    (LayerSummary("sha256:11", 1_000, "new", "pushed", "RUN make"),),
    (StageSummary("build", 1.5, 1, 1, False),),
    1.6,
)
FAILED = BuildFailed("run-failed", "`make` ended with 2", "look above", "Dockerfile", 4, "RUN m", 2)
EVENTS: list[Event] = [
    Notice(Level.DEBUG, "a detail"),
    BuildStarted("/src", "Dockerfile", "namespace", "it works", ("lint", "build"), 2),
    StageSkipped(0, "lint"),
    StageStarted(1, "build", "debian", 1, 3),
    StepCached(1, 1, "COPY a b", 3, "k", 10),
    TransferStarted("t", TransferKind.PULL, "layer 1", 100),
    TransferProgress("t", 50),
    TransferFinished("t", TransferKind.PULL, "layer 1", TransferOutcome.DONE, 100, 0.5),
    StepStarted(1, 2, "RUN make", 4, "not in the cache"),
    StepOutput(1, 2, 1, b"one\nunfin"),
    StepOutput(1, 2, 2, b"\x1b[31mred\x1b[0m\x1b[2J\n"),
    StepFinished(1, 2, "RUN make", 4, 1.5, 1_000),
    StageFinished(1, "build", 1.5),
    BasesFound("linux/amd64", ()),
    ImagePushed("reg/a:1", "sha256:00", 2_000),
    ImageDescribed((), None),
    Notice(Level.WARNING, "careful", "rule"),
    FINISHED,
]


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def run(kind: str, verbosity: str = "info", events: list[Event] = EVENTS, **more: str) -> str:
    stream = io.StringIO()
    with open_report(kind, stream, verbosity, environment={}, **more) as sink:  # type: ignore[arg-type]
        for event in events:
            sink(event)
    return stream.getvalue()


def test_every_event_is_among_those_tried_here() -> None:
    assert {type(event) for event in [*EVENTS, FAILED]} == set(get_args(Event))


def test_plain() -> None:
    lines = [re.sub(r"^ *\d+\.\d ", "", line) for line in run("plain").splitlines()]
    assert lines == [
        "building Dockerfile in /src: 2 stages, 2 steps",
        "isolation namespace: it works",
        "[lint] skipped: all that is taken from it is in the cache",
        "[build 1/3] FROM debian",
        "[build 2/3] COPY a b (cached, 10 B)",
        "layer 1: pulled 100 B in 0.5 s",
        "[build 3/3] RUN make (not in the cache)",
        "[build 3/3] | one",
        "[build 3/3] | red",
        "[build 3/3] | unfin",
        "[build 3/3] done in 1.5 s, layer of 1.0 kB",
        "[build] finished in 1.5 s",
        "pushed reg/a:1 sha256:00",
        "warning: careful",
        "image   reg/a:1",
        "digest  sha256:00",
        "size    2.0 kB, 1 layer: 1 new; 1 pushed",
        "stage   build: 1.5 s, 1 run, 1 cached",
        "time    1.6 s",
    ]


def test_the_error_starts_its_line() -> None:
    text = run("plain", events=[StepOutput(0, 0, 1, b"last words"), FAILED])
    assert "| last words\nerror[run-failed]: `make` ended with 2\n  at Dockerfile:4\n" in text


@pytest.mark.parametrize(
    ("verbosity", "present", "absent"),
    [
        ("debug", ["a detail", "not in the cache"], []),
        ("info", ["RUN make"], ["a detail", "runs:"]),
        ("warn", ["careful"], ["RUN make", "| one", "digest"]),
        ("error", [], ["careful", "RUN make", "digest"]),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "text", "color", "json", "progress"])
def test_verbosity(kind: str, verbosity: str, present: list[str], absent: list[str]) -> None:
    if kind == "progress" and verbosity in ("warn", "error"):
        absent = [text for text in absent if text != "RUN make" and text != "digest"]
    text = run(kind, verbosity)
    assert all(words in text for words in present)
    assert not any(words in text for words in absent)


def test_stamps_with_date_and_time() -> None:
    lines = run("plain", timestamps="clock").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)


def test_kanikos_text_format() -> None:
    line = run("text", events=[Notice(Level.WARNING, 'say "hi" \\ there')]).rstrip("\n")
    assert re.fullmatch(
        r'time="[^"]+Z" level=warning msg="say \\"hi\\" \\\\ there"', line
    )  # fmt: skip


def test_colour_is_only_where_it_was_asked_for() -> None:
    coloured = run("color")
    assert "\x1b[31mred" in coloured
    assert re.search(r"^\x1b\[36mINFO\x1b\[0m\[\d{4}\] \[build 1/3\] FROM debian$", coloured, re.M)
    assert re.search(r"^\x1b\[33mWARN\x1b\[0m\[\d{4}\] careful$", coloured, re.M)
    clock = run("color", timestamps="clock")
    assert re.search(r"^\x1b\[36mINFO\x1b\[0m\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\] ", clock, re.M)
    assert "\x1b" not in run("plain") and "\x1b[2J" not in run("color")


def test_json_lines() -> None:
    lines = [json.loads(line) for line in run("json", "debug", [*EVENTS, FAILED]).splitlines()]
    assert all(list(line)[:4] == ["time", "level", "event", "msg"] for line in lines)
    by_name = {line["event"]: line for line in lines}
    for event in [*EVENTS, FAILED]:
        if isinstance(event, StepOutput):
            continue
        names = set(event.__struct_fields__) - {"level"}
        assert names <= by_name[event_name(event)].keys(), event
    assert [line["text"] for line in lines if line["event"] == "step-output"] == [
        "one", "\x1b[31mred\x1b[0m\x1b[2J", "unfin"
    ]  # fmt: skip
    assert by_name["build-finished"]["layers"][0]["created_by"] == "RUN make"
    assert by_name["build-failed"]["level"] == "error"
    assert by_name["build-failed"]["msg"] == "`make` ended with 2"
    assert by_name["transfer-finished"]["kind"] == "pull"


def test_json_without_progress_unless_debug() -> None:
    assert "transfer-progress" not in run("json")


def test_auto_takes_progress_on_a_terminal_only() -> None:
    stream = Terminal()
    with open_report("auto", stream, environment={"TERM": "xterm"}) as sink:
        assert isinstance(sink, ProgressReport)
    for environment in ({}, {"TERM": "dumb"}, {"TERM": "xterm", "CI": "true"}):
        with open_report("auto", Terminal(), environment=environment) as sink:
            assert not isinstance(sink, ProgressReport)
    with open_report("auto", io.StringIO(), environment={"TERM": "xterm"}) as sink:
        assert not isinstance(sink, ProgressReport)


def drawn(report: ProgressReport, width: int, height: int) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    console.print(report.drawing(width, height))
    return stream.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_row_of_the_drawing_is_wider_than_the_terminal(width: int) -> None:
    report = ProgressReport(io.StringIO(), Severity.INFO, {})
    for event in EVENTS[:6]:
        report(event)
    report(StepStarted(1, 1, "RUN " + "x" * 300, 4, ""))
    report(TransferStarted("u", TransferKind.PUSH, "a layer with a long name " * 4, 0))
    report(TransferProgress("t", 50))
    rows = drawn(report, width, 24)
    assert len(rows) == 4
    assert max(map(len, rows)) <= width


def test_more_stages_than_rows() -> None:
    report = ProgressReport(io.StringIO(), Severity.INFO, {})
    names = tuple(f"s{number}" for number in range(50))
    report(BuildStarted("/", "Dockerfile", "namespace", "", names, 50))
    for number in range(40, 45):
        report(StageStarted(number, f"s{number}", "scratch"))
    rows = drawn(report, 80, 10)
    assert len(rows) <= 10
    assert [row.split()[1] for row in rows[:5]] == ["s40", "s41", "s42", "s43", "s44"]


def test_a_stage_keeps_its_row_when_others_are_not_in_the_plan() -> None:
    report = ProgressReport(io.StringIO(), Severity.INFO, {})
    report(BuildStarted("/", "Dockerfile", "namespace", "", ("build", "2"), 2))
    report(StageStarted(1, "build", "scratch"))
    report(StageStarted(2, "2", "scratch"))
    assert [row.split()[1] for row in drawn(report, 80, 10)] == ["build", "stage-2"]


@pytest.mark.parametrize("kind", ["plain", "json", "color", "progress"])
def test_lines_of_many_threads_are_not_mixed(kind: str) -> None:
    stream = io.StringIO()
    with open_report(kind, stream, environment={"COLUMNS": "200"}) as sink:

        def speak(number: int) -> None:
            for turn in range(100):
                sink(StepOutput(number, 0, 1, f"<{number}-{turn}>\n".encode()))

        threads = [threading.Thread(target=speak, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = re.findall(r"<\d-\d+>", stream.getvalue())
    assert set(found) == {f"<{number}-{turn}>" for number in range(6) for turn in range(100)}


@pytest.mark.parametrize("kind", ["plain", "json", "progress"])
def test_a_stream_that_is_gone_fails_nothing(kind: str) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with open_report(kind, Gone(), environment={}) as sink:
        for event in EVENTS:
            sink(event)
        time.sleep(0.15)
        sink(FAILED)


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_an_event_costs_little(kind: str) -> None:
    """A RUN that writes 20,000 lines, as a ratio to merely formatting as many."""
    chunk = b"[INFO] some line of a build's output\n" * 100

    def seconds(action: object) -> float:
        started = time.process_time()
        action()  # type: ignore[operator]
        return time.process_time() - started

    def report() -> None:
        with open_report(kind, io.StringIO(), environment={}) as sink:
            for _ in range(200):
                sink(StepOutput(0, 0, 1, chunk))

    def bare() -> None:
        stream = io.StringIO()
        for number in range(20_000):
            stream.write(json.dumps({"time": str(number), "text": "some line"}) + "\n")

    base = min(seconds(bare) for _ in range(3))
    assert min(seconds(report) for _ in range(3)) < 15 * base
