"""Gives `@pytest.mark.conformance(file, kinds…)` tests one `case` for each entry of that file.

The files are test tables of the field's own tools, kept outside this repository: CONFORMANCE_DIR
names their folder, `../shared/conformance` next to the repository is the default.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CONFORMANCE_DIR") or ROOT.parent / "shared" / "conformance")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance(file, *kinds): one test for each case")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("conformance")
    if marker is None:
        return
    name, *kinds = marker.args
    if not (FOLDER / name).is_file():
        skip = pytest.mark.skip(reason=f"no conformance cases: {FOLDER / name} is missing")
        metafunc.parametrize("case", [pytest.param(None, marks=skip)], ids=["missing"])
        return
    found = [case for case in json.loads((FOLDER / name).read_text("utf-8")) if fits(case, kinds)]
    assert found, f"{name} has no case of {kinds}"
    metafunc.parametrize("case", found, ids=[case["id"] for case in found])


def fits(case: dict[str, Any], kinds: list[str]) -> bool:
    if case.get("platform") == "windows" or case.get("ambiguous"):
        return False
    return not kinds or case["kind"] in kinds


@pytest.fixture
def folder() -> Path:
    return FOLDER
