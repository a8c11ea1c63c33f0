"""What is found out, and told, before anything runs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pybuild.dockerfile.parser import parse
from pybuild.executor.prepare import explain, foreign_bases
from pybuild.image.platform import Platform
from pybuild.image.reference import BadReference
from pybuild.plan.steps import BaseImage
from pybuild.registry.errors import ManifestUnknown, RegistryUnreachable
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


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("bulid", "did you mean stage build? Otherwise: check it", id="mistyped"),
        pytest.param("Biuld", "did you mean stage build? Otherwise: check it", id="any case"),
        pytest.param("alpine", "check it", id="not alike"),
        pytest.param("bulid:1", "check it", id="a tag"),
        pytest.param("me/bulid", "check it", id="a slash"),
        pytest.param("build", "check it", id="an image of that very name"),
    ],
)
def test_a_mistyped_stage_is_guessed(name: str, hint: str) -> None:
    error = BadReference("no reference", hint="check it")
    explain(error, name, parse("FROM scratch AS build\nFROM scratch"))
    assert error.hint == hint


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("no answer", "docker.io/library/biuld:latest: no answer", id="unnamed"),
        pytest.param("docker.io/library/biuld is unknown", None, id="named already"),
    ],
)
def test_an_error_names_its_image(message: str, expected: str | None) -> None:
    for error in (RegistryUnreachable(message), ManifestUnknown(message)):
        explain(error, "biuld", parse("FROM scratch"))
        assert error.message == str(error) == (expected or message)
