"""docs/cli.md and docs/errors.md are what the code says, and every error can be listed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pybuild.cli.docs import all_errors, cli_page, errors_page, first_paragraph
from pybuild.cli.flags.table import FLAGS

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("name", "page"), [("cli.md", cli_page), ("errors.md", errors_page)], ids=["cli", "errors"]
)
def test_the_pages_are_current(name: str, page: object) -> None:
    assert (DOCS / name).read_text() == page(), "run `python -m pybuild.cli.docs`"  # type: ignore[operator]


def test_every_flag_is_on_the_page() -> None:
    page = cli_page()
    assert [flag.name for flag in FLAGS if f"--{flag.name}" not in page] == []


def test_no_two_errors_have_one_code() -> None:
    counts = Counter(error.code for error in all_errors())
    assert [code for code, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.code)
def test_an_error_says_what_it_is(error: type) -> None:
    text = first_paragraph(error)
    assert "." in text
    code = error.code  # type: ignore[attr-defined]
    assert code == code.lower() and " " not in code
