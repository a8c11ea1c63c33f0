"""What is found out, and told, before anything runs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pybuild.executor.prepare import foreign_bases
from pybuild.image.platform import Platform
from pybuild.plan.steps import BaseImage
from tests.support.plans import base_image, plan_of


def base_for(platform: Platform) -> BaseImage:
    made = base_image("old")
    return replace(made, config=replace(made.config, platform=platform))


@pytest.mark.parametrize(
    ("platform", "warnings"),
    [
        pytest.param(Platform("linux", "amd64"), [], id="as wanted"),
        pytest.param(Platform("linux", "x86_64", "v1"), [], id="another spelling"),
        pytest.param(Platform("linux", ""), [], id="it does not say"),
        pytest.param(
            Platform("linux", "arm64", "v8"),
            ["the base image old is for linux/arm64/v8, and linux/amd64 is wanted"],
            id="another architecture",
        ),
        pytest.param(
            Platform("windows", "amd64"),
            ["the base image old is for windows/amd64, and linux/amd64 is wanted"],
            id="another system",
        ),
    ],
)
def test_a_base_of_another_platform_is_told_of(platform: Platform, warnings: list[str]) -> None:
    plan = plan_of(
        "FROM old AS one\nRUN a\nFROM old\nCOPY --from=one /a /", bases={"old": base_for(platform)}
    )
    assert foreign_bases(plan) == warnings
