from __future__ import annotations

from typing import Any

import pytest

from pybuild.dockerfile.errors import BadPattern
from pybuild.dockerfile.patterns import Patterns, parse_ignore_file

Case = dict[str, Any]
FILE = "dockerignore.json"


@pytest.mark.conformance(FILE, "pattern", "patterns")
def test_match(case: Case) -> None:
    lines = [case["pattern"]] if case["kind"] == "pattern" else case["patterns"]
    path = case["text"] if case["kind"] == "pattern" else case["path"]
    if "error" in case:
        with pytest.raises(BadPattern):
            Patterns(lines)
        return
    assert Patterns(lines).excludes(path) == case["match"]


@pytest.mark.conformance(FILE, "compile")
def test_compile(case: Case) -> None:
    patterns = Patterns(case["patterns"])
    found = (len(patterns.kept), patterns.has_exceptions)
    assert found == (case["count"], case["has_exclusions"])


@pytest.mark.conformance(FILE, "file")
def test_file(case: Case) -> None:
    assert parse_ignore_file(case["content"]) == tuple(case["patterns"])
