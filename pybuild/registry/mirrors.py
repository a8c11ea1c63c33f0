"""Where a reference may be pulled from: its mirrors in order, then its own registry."""

from __future__ import annotations

from pybuild.image.reference import Reference
from pybuild.registry.options import DOCKER_HUB, DOCKER_HUB_NAMES, RegistryOptions


def sources(ref: Reference, options: RegistryOptions) -> tuple[Reference, ...]:
    """At least one reference; the original last, unless mirrors are all that may be asked."""
    registry = _canonical(ref.registry)
    places = [
        place for name, new in options.map.items() if _canonical(name) == registry for place in new
    ]
    if registry == DOCKER_HUB:
        places += options.mirrors
    found = [_placed(ref, place) for place in places]
    if options.default_fallback or not found:
        found.append(ref)
    return tuple(dict.fromkeys(found))


def _canonical(registry: str) -> str:
    return DOCKER_HUB if registry in DOCKER_HUB_NAMES else registry


def _placed(ref: Reference, place: str) -> Reference:
    """`place` is `host[/prefix]`, with or without a scheme, as people write mirrors."""
    host, _, prefix = (
        place.partition("://")[2].partition("/") if "://" in place else (place.partition("/"))
    )
    prefix = prefix.strip("/")
    repository = f"{prefix}/{ref.repository}" if prefix else ref.repository
    return Reference(host, repository, ref.tag, ref.digest)
