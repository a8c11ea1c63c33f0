from __future__ import annotations

import pytest

from pybuild.dockerfile.flags import parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("5s", 5_000_000_000),
        ("1h2m3s4ms5us6ns", 3_723_004_005_006),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("3µs", 3000),
        ("3μs", 3000),
        ("+2m", 120_000_000_000),
        ("-2m", -120_000_000_000),
        ("1.0000000009s", 1_000_000_000),
    ],
)
def test_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "1d", "1s ", " 1s", "1 s", ".s", "--1s", "2562048h"]
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)
