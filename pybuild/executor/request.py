"""What a build is asked to do, the I/O it is given, and what comes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from pybuild.context.directory import DirectoryContext
from pybuild.dockerfile.instructions import Dockerfile
from pybuild.events import (
    BuildFinished,
    EventSink,
)
from pybuild.executor.lookup import ALL_KEPT, Kept
from pybuild.executor.mount_cache import MountCaches
from pybuild.executor.workspace import Workspace
from pybuild.image.descriptor import Annotations
from pybuild.image.digest import Digest
from pybuild.image.image import Image
from pybuild.image.media_type import Family
from pybuild.image.platform import Platform
from pybuild.image.reference import Reference
from pybuild.isolation.command import Isolation, Secret

if TYPE_CHECKING:
    from pybuild.cache.bases import Bases
    from pybuild.cache.layers import IndexStore, LayerCache
    from pybuild.context.open import ContextOptions
    from pybuild.executor.prepare import Prepared
    from pybuild.layer.compress import CompressionOptions
    from pybuild.registry.client import Client


class BuildRequest(Struct, frozen=True):
    """What is to be built. `epoch` (seconds) makes equal inputs give equal bytes."""

    dockerfile: Dockerfile
    context: DirectoryContext
    build_args: Mapping[str, str]
    platform: Platform
    build_platform: Platform
    compression: CompressionOptions
    target: str = ""
    also: tuple[str, ...] = ()  # further stages that are built, and are no part of the image
    labels: tuple[tuple[str, str], ...] = ()
    destinations: tuple[Reference, ...] = ()
    push: bool = True
    single_snapshot: bool = False
    epoch: int | None = None
    fidelity: str = "full"  # at least that of the isolation, for the cache keys
    parallel: int = 4
    ignored: tuple[str, ...] = ()  # paths, with patterns, that the image does not get
    materialize: bool = False  # the image is unpacked, also where all of it was cached
    snapshot_seconds: float | None = None  # how long it may take to find what a RUN changed
    kept: Kept = ALL_KEPT
    inline_cache: bool = False
    on_plan: Callable[[Prepared], None] = lambda _: None  # told before the first step
    family: Family | None = None  # of the manifest; None: that of the base
    annotations: Annotations = ()  # of the manifest; only OCI's have any


class OpenIsolation(Protocol):
    """Chooses how RUNs are confined; gives it with the reason. Called when one is needed."""

    def __call__(self, roots: Workspace, /) -> tuple[Isolation, str]: ...


class Services(Struct, frozen=True):
    """The I/O of a build. `bases` are the images that others are built on. `cache` is None where no
    layer cache is asked for, `indexes` where those of base layers are kept nowhere; `secrets` are
    those of RUN --mount, by id."""

    client: Client
    bases: Bases
    workspace: Workspace
    open_isolation: OpenIsolation
    cache: LayerCache | None
    indexes: IndexStore | None
    sink: EventSink
    cancelled: threading.Event
    mount_caches: MountCaches
    fetching: ContextOptions  # how repositories that ADD names are fetched
    secrets: Mapping[str, Secret] = {}
    now: Callable[[], float] = time.time

    def forget(self, layer: Digest) -> None:
        """A layer that was lost is not taken from any cache again."""
        self.bases.forget(layer)
        if self.cache is not None:
            self.cache.forget(layer)


class BuildResult(Struct, frozen=True):
    image: Image
    summary: BuildFinished
