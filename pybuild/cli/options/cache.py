"""Flags to what is kept between builds."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.cli.errors import BadFlag, FlagsContradict
from pybuild.cli.parse import Values
from pybuild.events import EventSink

if TYPE_CHECKING:
    from pybuild.cache.bases import Bases
    from pybuild.cache.layers import IndexStore, LayerCache
    from pybuild.executor.lookup import Kept
    from pybuild.image.platform import Platform
    from pybuild.image.reference import Reference
    from pybuild.registry.client import Client
    from pybuild.registry.options import RegistryOptions

_LOOKUP_SECONDS = 10.0  # that a registry may take to answer whether something is cached


class CachePlaces(Struct, frozen=True):
    """Where layers are kept, and where else they are looked for, the preferred one first.

    A place is a repository of entries (a reference without tag), an image that has them in its
    config (one with tag or digest), or a folder.
    """

    target: Reference | Path | None = None
    sources: tuple[Reference | Path, ...] = ()
    inline: bool = False  # the image pushed is to be a cache too

    def __bool__(self) -> bool:
        return self.inline or bool(self.sources)


def cache_places(values: Values, destinations: tuple[Reference, ...]) -> CachePlaces:
    """Layers are kept in --cache-repo, else in `cache` below the first destination; none of it
    without --cache. They are looked for there and at each --cache-from, for which --cache is not
    needed. Raises FlagsContradict, BadReference, BadFlag."""
    if "cache" in values.given and not values.switch("cache"):
        return CachePlaces()
    target = _target(values, destinations) if values.switch("cache") else None
    further = tuple(place("cache-from", text) for text in values.many("cache-from"))
    sources = ((target,) if target is not None else ()) + further
    args = dict(text.partition("=")[::2] for text in values.many("build-arg"))
    wanted = args.get("BUILDKIT_INLINE_CACHE", "0") in ("1", "true")
    inline = "inline-cache" in values.texts and (values.switch("inline-cache") or wanted)
    if "no-push-cache" in values.texts and values.switch("no-push-cache"):
        target = None
    return CachePlaces(target, tuple(dict.fromkeys(sources)), inline)


def _target(values: Values, destinations: tuple[Reference, ...]) -> Reference | Path:
    from pybuild.image.reference import parse_reference

    named = values.text("cache-repo")
    if named:
        found = place("cache-repo", named)
        # kaniko's users write a tag now and then; it has never meant anything.
        return found if isinstance(found, Path) else replace(found, tag="", digest=None)
    if not destinations:
        raise FlagsContradict(
            "--cache does not know where to keep layers: "
            "without a destination, specify the cache repo with --cache-repo",
            hint="--cache-repo=registry/repository, or --cache-repo=oci:FOLDER",
        )
    return parse_reference(f"{destinations[0].name}/cache", tag="")


def place(flag: str, text: str) -> Reference | Path:
    """`oci:FOLDER`, `registry/repository`, or Docker's `type=registry,ref=…` of either."""
    from pybuild.image.reference import parse_reference

    if text.startswith("type="):
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        text = parts.get("ref", "")
        if parts["type"] != "registry" or not text:
            raise BadFlag(
                f"--{flag} knows no cache of type {parts['type']!r}"
                + ("" if text else " without `ref`"),
                hint="a repository, an image that was built with --inline-cache, or oci:FOLDER",
            )
    if text.startswith("oci:"):
        folder = _folder_of(text)
        if folder is None:
            raise BadFlag(f"--{flag}={text} names no folder", hint="oci:FOLDER")
        return folder
    return parse_reference(text, tag="")


def layer_folders(values: Values) -> tuple[str, ...]:
    """The folders of `oci:`, absolute. The one that is to be written to is made: a build in place
    has to know it before it takes the root over."""
    target = _folder_of(values.text("cache-repo"))
    if target is not None and values.switch("cache"):
        with suppress(OSError):  # whoever writes there tells
            target.mkdir(parents=True, exist_ok=True)
    found = (target, *(_folder_of(text) for text in values.many("cache-from")))
    return tuple(str(folder) for folder in found if folder is not None)


def _folder_of(text: str) -> Path | None:
    folder = text.removeprefix("oci:")
    return Path(folder).absolute() if folder and folder != text else None


def kept(values: Values) -> Kept:
    """What is looked up and kept. COPY always is, unless that is refused in so many words: kaniko's
    default is from when the key of a COPY was dear."""
    from pybuild.executor.lookup import Kept

    copies = "cache-copy-layers" not in values.given or values.switch("cache-copy-layers")
    return Kept(runs=values.switch("cache-run-layers"), copies=copies)


def layer_cache(
    values: Values,
    places: CachePlaces,
    client: Client,
    make_hurried: Callable[[], Client],
    platform: Platform,
    sink: EventSink,
) -> LayerCache | None:
    """All caches as one. `make_hurried` gives the client that asks what there is."""
    if not places:
        return None
    from datetime import timedelta

    from pybuild.cache.entries import EntryCache
    from pybuild.cache.inline import InlineCache
    from pybuild.cache.layers import CacheSource, LayerCache
    from pybuild.cache.shelf import FolderShelf, RepositoryShelf

    ttl = timedelta(seconds=values.seconds("cache-ttl"))
    quick = client
    if any(not isinstance(place, Path) for place in places.sources):
        quick = make_hurried()

    def source(place: Reference | Path) -> CacheSource:
        if isinstance(place, Path):
            return EntryCache(FolderShelf(place), sink, ttl=ttl)
        if place.tag or place.digest:
            return InlineCache(client, quick, place, platform, sink)
        return EntryCache(RepositoryShelf(client, quick, place), sink, ttl=ttl)

    sources = {place: source(place) for place in places.sources}
    target = sources[places.target] if places.target is not None else None
    assert target is None or isinstance(target, EntryCache)
    return LayerCache(tuple(sources.values()), target)


def hurried(options: RegistryOptions) -> RegistryOptions:
    """For look-ups: one that is not answered soon is not worth waiting for."""
    from pybuild.registry.retry import RetryPolicy

    retry = RetryPolicy(tries=2, first_wait_seconds=0.2)
    return replace(options, retry=retry, timeout_seconds=_LOOKUP_SECONDS)


def cache_folder(values: Values) -> Path | None:
    """--cache-dir, if it is given or there: kaniko's default is a mount that most builds have not,
    and it is never made."""
    folder = Path(values.text("cache-dir"))
    return folder if "cache-dir" in values.given or folder.is_dir() else None


def bases(values: Values, client: Client, sink: EventSink) -> Bases:
    """Base images, from --cache-dir where that has them."""
    from datetime import timedelta

    from pybuild.cache.bases import Bases
    from pybuild.cache.images import ImageFolder

    folder = cache_folder(values)
    ttl = timedelta(seconds=values.seconds("cache-ttl"))
    return Bases(client, None if folder is None else ImageFolder(folder), sink, ttl=ttl)


def indexes(values: Values, cache: LayerCache | None, sink: EventSink) -> IndexStore | None:
    """Indexes of base layers: in --cache-dir if that is there, and in the layer cache."""
    from pybuild.cache.folder import IndexFolder

    folder = cache_folder(values)
    return cache if folder is None else IndexFolder(folder, cache, sink)


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
