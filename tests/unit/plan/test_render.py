"""The plan as a value, and how steps are counted."""

from __future__ import annotations

import json

import pytest

from pybuild.plan.render import plan_value, render
from tests.support.plans import plan_of

TEXT = """\
FROM debian AS build
ENV A=1
RUN make
WORKDIR /x
FROM build AS next
LABEL a=b
RUN more
FROM scratch
COPY --from=build /app /
COPY --from=next /app /
"""


@pytest.mark.parametrize(
    ("stage", "places", "count"),
    [
        pytest.param(0, {1: 1, 2: 2}, 3, id="FROM of an image is the first"),
        pytest.param(1, {1: 0}, 1, id="FROM of a stage is none"),
        pytest.param(2, {0: 0, 1: 1}, 2, id="nor is scratch"),
    ],
)
def test_places(stage: int, places: dict[int, int], count: int) -> None:
    found = plan_of(TEXT).stage(stage)
    assert (found.places, found.place_count) == (places, count)


def test_the_plan_as_a_value() -> None:
    value = json.loads(json.dumps(plan_value(plan_of(TEXT))))
    assert (value["target"], value["platform"], value["also"]) == ("2", "linux/amd64", [])
    build, following, last = value["stages"]
    assert build["base"] == "debian" and build["baseDigest"].startswith("sha256:")
    assert build["steps"] == [
        {"step": None, "line": 2, "text": "ENV A=1", "state": "config"},
        {"step": 2, "line": 3, "text": "RUN make", "state": "runs"},
        {"step": 3, "line": 4, "text": "WORKDIR /x", "state": "runs"},
    ]
    assert following["base"] == "build" and last["base"] == "scratch"
    assert last["needs"] == ["build", "next"] and [s["step"] for s in last["steps"]] == [1, 2]


def test_the_text_names_the_steps_as_the_log_does() -> None:
    text = render(plan_of(TEXT))
    assert "  - line 2: ENV A=1\n" in text and "  [2/3] line 3: RUN make\n" in text
    assert "  [1/2] line 9: COPY --from=build /app /\n" in text
