"""Flags to what is kept between builds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import FlagsContradict
from pybuild.cli.parse import Values
from pybuild.errors import NotCarriedOut
from pybuild.events import EventSink

if TYPE_CHECKING:
    from pybuild.cache.layers import LayerCache
    from pybuild.image.reference import Reference
    from pybuild.registry.client import Client


def cache_repository(values: Values, destinations: tuple[Reference, ...]) -> Reference | None:
    """Where cached layers are kept: --cache-repo, else `cache` below the first destination; None
    without --cache. Raises FlagsContradict, BadReference, NotCarriedOut for a layout on disk."""
    from pybuild.image.reference import parse_reference

    if not values.switch("cache"):
        return None
    named = values.text("cache-repo")
    if named.startswith("oci:"):
        raise NotCarriedOut(
            "a layer cache in a folder is not carried out yet", hint="name a repository"
        )
    if named:
        return parse_reference(named)
    if not destinations:
        raise FlagsContradict(
            "--cache does not know where to keep layers",
            hint="give --cache-repo=registry/repository; without a destination none can be derived",
        )
    return parse_reference(f"{destinations[0].name}/cache")


def layer_cache(
    values: Values, repository: Reference | None, client: Client, sink: EventSink
) -> LayerCache | None:
    """The layer cache in the repository; indexes of bases also in --cache-dir if that is there."""
    if repository is None:
        return None
    from datetime import timedelta

    from pybuild.cache.folder import IndexFolder, ReadOnlyCache
    from pybuild.cache.layers import RegistryCache

    ttl = timedelta(seconds=values.seconds("cache-ttl"))
    cache: LayerCache = RegistryCache(client, repository, sink, ttl=ttl)
    if "no-push-cache" in values.texts and values.switch("no-push-cache"):
        cache = ReadOnlyCache(cache)
    folder = Path(values.text("cache-dir"))
    # kaniko's default is a mount that most builds have not: it is never made.
    if "cache-dir" in values.given or folder.is_dir():
        cache = IndexFolder(folder, cache, sink)
    return cache


def mount_caches(values: Values, fallback: Path) -> Path:
    """Where the folders of RUN --mount=type=cache are kept: in --cache-dir if that is given or
    there, and can be written to; else in `fallback`, for as long as the container lives."""
    if "cache-dir" in values.texts:
        folder = Path(values.text("cache-dir")).absolute()
        if ("cache-dir" in values.given or folder.is_dir()) and _is_writable(folder):
            return folder / "mounts"
    return fallback.absolute() / "pybuild-mounts"


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
