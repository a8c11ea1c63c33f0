"""Events in words, and RUN's output made into harmless lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.events import (
    NO_CACHE,
    BuildFailed,
    BuildFinished,
    LayerSummary,
    Level,
    Notice,
    StageStarted,
    StageSummary,
    StepCached,
    StepStarted,
    TransferFinished,
    TransferKind,
    TransferOutcome,
)
from pybuild.report.text import (
    Describer,
    OutputLines,
    Severity,
    bytes_text,
    colours_only,
    duration,
    failure,
    harmless,
    one_line,
    severity_of,
    summary,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain é ✓", "plain é ✓", id="plain"),
        pytest.param("a\tb", "a\tb", id="tab stays"),
        pytest.param("\x1b[31mred\x1b[0m", "red", id="colour"),
        pytest.param("\x1b]0;title\x07x", "x", id="title"),
        pytest.param("\x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\", "link", id="link"),
        pytest.param("\x1b[2J\x1b[1;1Hgone", "gone", id="cursor"),
        pytest.param("\x1bPq...\x1b\\x", "x", id="device control"),
        pytest.param("bell\x07 del\x7f c1\x9b", "bell\\x07 del\\x7f c1\\x9b", id="controls"),
        pytest.param("one\nfake", "one\\x0afake", id="a line end can't fake a line"),
        pytest.param("name\udcff", "name\\xff", id="no UTF-8"),
    ],
)
def test_harmless(text: str, expected: str) -> None:
    assert harmless(text) == expected


@given(st.text())
def test_nothing_harmful_is_left(text: str) -> None:
    left = harmless(text)
    assert not any((character < " " and character != "\t") or "\x7f" <= character <= "\x9f"
                   for character in left)  # fmt: skip
    left.encode()


def test_colours_stay_and_are_switched_off() -> None:
    assert colours_only("\x1b[32mok\x1b[2J\x1b[1m!") == "\x1b[32mok\x1b[1m!\x1b[0m"
    assert colours_only("none") == "none"


@pytest.mark.parametrize(
    ("chunks", "lines", "rest"),
    [
        pytest.param([b"a\nb\n"], ["a", "b"], [], id="whole lines"),
        pytest.param([b"a", b"b\nc"], ["ab"], ["c"], id="cut anywhere"),
        pytest.param([b"10%\r50%\r100%\n"], ["10%", "50%", "100%"], [], id="progress bar"),
        pytest.param([b"\r10%\r\r20%"], ["10%"], ["20%"], id="returns first"),
        pytest.param([b"a\r", b"\nb\r", b"c\n"], ["a", "b", "c"], [], id="cut at the return"),
        pytest.param([b"a\r\r\n\r\n"], ["a", ""], [], id="several returns, empty line"),
        pytest.param([b"a\r"], [], ["a"], id="return at the end"),
        pytest.param([b"dos\r\n"], ["dos"], [], id="carriage return before the end"),
        pytest.param(
            [b"\xc3", b"\xa9\n\xff\n"], ["é", "�"], [], id="a letter cut in two; no UTF-8"
        ),
        pytest.param([b"\n\n"], ["", ""], [], id="empty lines"),
    ],
)
def test_output_lines(chunks: list[bytes], lines: list[str], rest: list[str]) -> None:
    output = OutputLines()
    assert [line for chunk in chunks for line in output.feed(0, 1, 1, chunk)] == lines
    assert output.flush(0, 1) == [(0, 1, text) for text in rest]
    assert output.flush() == []


def test_streams_and_steps_are_kept_apart() -> None:
    output = OutputLines()
    output.feed(0, 0, 1, b"out")
    output.feed(0, 0, 2, b"err")
    output.feed(1, 0, 1, b"other")
    assert output.feed(0, 0, 2, b"or\n") == ["error"]
    assert output.flush(0, 0) == [(0, 0, "out")]
    assert output.flush() == [(1, 0, "other")]


def test_a_line_without_end_takes_no_memory_without_end() -> None:
    output = OutputLines(longest=100)
    lines = [line for _ in range(50) for line in output.feed(0, 0, 1, b"x" * 30)]
    assert sum(map(len, lines)) > 1300 and all(len(line) <= 130 for line in lines)
    bars = [line for _ in range(50) for line in output.feed(0, 1, 1, b"\r" + b"y" * 30)]
    assert bars == ["y" * 30] * 49 and output.flush(0, 1) == [(0, 1, "y" * 30)]
    assert output.feed(0, 2, 1, b"\r" * 1000) == []


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"a"])).map(b"".join) | st.binary(),
    st.lists(st.integers(0, 50)),
)
def test_lines_do_not_depend_on_how_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    whole, parts = OutputLines(), OutputLines()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    expected = whole.feed(0, 0, 1, data) + [text for *_, text in whole.flush()]
    found = [line for piece in pieces for line in parts.feed(0, 0, 1, piece)]
    assert found + [text for *_, text in parts.flush()] == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (45_600_000, "45.6 MB"), (2_500_000_000, "2.5 GB"), (3e12, "3.0 TB")],
)  # fmt: skip
def test_bytes(size: float, expected: str) -> None:
    assert bytes_text(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s"), (185, "3 min 05 s"),
     (3599.6, "1 h 00 min"), (7380, "2 h 03 min")],
)  # fmt: skip
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_an_instruction_of_many_lines_becomes_one() -> None:
    assert one_line("RUN a && \\\n    b \\\n  c") == "RUN a && b c"
    assert len(one_line("x" * 500)) == 200


def words(describer: Describer, *events: object) -> list[str]:
    return [str(line) for event in events for line in describer.lines(event)]  # type: ignore[arg-type]


def test_stages_are_called_by_their_names() -> None:
    said = words(
        Describer(),
        StageStarted(2, "build", "maven:3", 1, 3),
        StepStarted(2, 1, "RUN mvn", 7, "not in the cache"),
        StepCached(2, 2, "COPY a b", 8, "key", 2_000),
        StageStarted(3, "3", "scratch", 0, 1),
        StepStarted(3, 0, "COPY --from=build a b", 10, NO_CACHE),
    )
    assert said == [
        "[build 1/3] FROM maven:3",
        "[build 2/3] RUN mvn (not in the cache)",
        "[build 3/3] COPY a b (cached, 2.0 kB)",
        "[stage-3] FROM scratch",
        "[stage-3 1/1] COPY --from=build a b",
    ]


def test_how_severe_things_are() -> None:
    describer = Describer()
    (step,) = describer.lines(StepStarted(0, 0, "RUN x", 1, NO_CACHE))
    failed = TransferFinished("1", TransferKind.PULL, "l", TransferOutcome.FAILED, 0, 1.0)
    assert (step.severity, step.text) == (Severity.INFO, "RUN x")
    assert describer.lines(failed)[0].severity is Severity.DEBUG
    assert describer.lines(Notice(Level.WARNING, "a\nb"))[1].severity is Severity.WARNING


@pytest.mark.parametrize(
    ("word", "expected"),
    [("trace", Severity.DEBUG), ("debug", Severity.DEBUG), ("info", Severity.INFO),
     ("warn", Severity.WARNING), ("warning", Severity.WARNING), ("panic", Severity.ERROR)],
)  # fmt: skip
def test_kanikos_levels(word: str, expected: Severity) -> None:
    assert severity_of(word) is expected


def test_a_failure_has_its_place_and_its_hint() -> None:
    event = BuildFailed("run-failed", "`make` ended with 2", "read above", "Dockerfile", 9,
                        "RUN a \\\n  && make", 2)  # fmt: skip
    assert list(failure(event)) == [
        "error[run-failed]: `make` ended with 2",
        "  at Dockerfile:9",
        "   9 | RUN a \\",
        "  10 |   && make",
        "hint: read above",
    ]


def test_a_long_instruction_is_cut_in_a_failure() -> None:
    text = "\n".join(f"line {number}" for number in range(40))
    lines = list(failure(BuildFailed("c", "m", "", "f", 1, text, 1)))
    assert lines[-1].endswith("… 28 more lines") and len(lines) == 2 + 12 + 1


def test_a_failure_without_place_or_hint() -> None:
    assert list(failure(BuildFailed("c", "two\nlines", "", "", 0, "", 1))) == [
        "error[c]: two",
        "  lines",
    ]


def test_summary() -> None:
    event = BuildFinished(
        ("reg/a:1", "reg/a:2"),
        "sha256:00",
        99_000_000,
        (
            LayerSummary("1", 1, "base", "mounted", ""),
            LayerSummary("2", 1, "new", "pushed", ""),
            LayerSummary("3", 1, "cached", "exists", ""),
        ),
        (StageSummary("build", 4.0, 3, 1, False), StageSummary("lint", 0.0, 0, 2, True)),
        5.1,
        ("out.tar",),
    )
    assert list(summary(event)) == [
        "image   reg/a:1",
        "image   reg/a:2",
        "digest  sha256:00",
        "size    99.0 MB, 3 layers: 1 of the base, 1 new, 1 cached; "
        "1 mounted, 1 pushed, 1 there already",
        "wrote   out.tar",
        "stage   build: 4.0 s, 3 run, 1 cached",
        "stage   lint: skipped, all cached",
        "time    5.1 s",
    ]
