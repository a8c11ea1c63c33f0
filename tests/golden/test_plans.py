"""The plan as text, a folder a case. `pytest --update-golden` writes plan.txt anew for review."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybuild.plan.keys import KeyFacts, first_keys
from pybuild.plan.render import render
from tests.support.plans import plan_of

CASES = Path(__file__).parent / "plans"


@pytest.mark.parametrize("case", sorted(CASES.iterdir()), ids=lambda path: path.name)
def test_plan(case: Path, request: pytest.FixtureRequest) -> None:
    plan = plan_of((case / "Dockerfile").read_text())
    text = render(plan, keys=first_keys(plan, KeyFacts(), {}))
    golden = case / "plan.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert golden.read_text() == text
