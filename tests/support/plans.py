"""Plans from a Dockerfile's text, with made-up base images."""

from __future__ import annotations

from collections.abc import Mapping

from pybuild.dockerfile.parser import parse
from pybuild.image.config import ImageConfig
from pybuild.image.digest import digest_of
from pybuild.image.platform import Platform
from pybuild.plan.make import PlanRequest, images_needed, make_plan
from pybuild.plan.steps import BaseImage, ImageRequest, Plan

AMD64 = Platform("linux", "amd64")


def base_image(name: str, **fields: object) -> BaseImage:
    """An image of one layer; its digests come from its name."""
    config = ImageConfig(
        AMD64,
        env=(("PATH", "/usr/bin:/bin"),),
        diff_ids=(digest_of(f"layer of {name}".encode()),),
        **fields,  # type: ignore[arg-type]
    )
    return BaseImage(digest_of(name.encode()), config)


def plan_of(
    text: str,
    *,
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    bases: Mapping[str, BaseImage] | None = None,
    labels: tuple[tuple[str, str], ...] = (),
) -> Plan:
    dockerfile = parse(text)
    request = PlanRequest(build_args or {}, target, AMD64, AMD64, labels)
    known: dict[ImageRequest, BaseImage] = {}
    while missing := images_needed(dockerfile, request, known):
        for need in missing:
            known[need] = (bases or {}).get(need.name) or base_image(need.name)
    return make_plan(dockerfile, request, known)
