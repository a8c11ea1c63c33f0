"""Layers on their way to the destinations while later steps run; manifests go last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from pybuild.cache.layers import LayerLost
from pybuild.errors import ContentMismatch, RegistryError
from pybuild.events import EventSink, ImagePushed, Level, Notice, TransferOutcome
from pybuild.image.media_type import is_foreign
from pybuild.registry.errors import PushIncomplete
from pybuild.registry.options import host_of

if TYPE_CHECKING:
    from pybuild.executor.background import Background
    from pybuild.image.image import Image
    from pybuild.image.layer import Layer
    from pybuild.image.reference import Reference
    from pybuild.registry.client import Client


class Uploads:
    """Registries are served at the same time; within one, each blob goes up once and is mounted
    by its other repositories. A destination that fails does not stop the others."""

    def __init__(
        self,
        client: Client,
        destinations: tuple[Reference, ...],
        background: Background,
        sink: EventSink,
    ) -> None:
        self._client = client
        self._destinations = destinations
        self._background = background
        self._sink = sink
        self._repositories = tuple({ref.name: ref for ref in destinations}.values())
        self._by_host: dict[str, list[Reference]] = {}
        for repository in self._repositories:
            self._by_host.setdefault(host_of(repository.registry), []).append(repository)
        self._started: set[str] = set()
        self._guard = threading.Lock()
        # By repository, and by reference where only the tag failed.
        self._failures: dict[str, RegistryError | ContentMismatch] = {}
        self.outcomes: dict[str, TransferOutcome] = {}  # at the first repository, by digest

    def check(self) -> None:
        """Begins to ask whether a push is allowed; a refusal is a failure of the background."""
        for repository in self._repositories:
            self._background.submit(partial(self._client.check_push, repository))

    def leave(self, source: Reference) -> bool:
        """Whether what is in `source` has to be carried to another registry."""
        return bool(self._by_host.keys() - {host_of(source.registry)})

    def start(self, layer: Layer) -> None:
        """Begins to bring a finished layer to all repositories."""
        if not self._repositories or is_foreign(layer.descriptor.media_type):
            return
        with self._guard:
            if layer.descriptor.digest in self._started:
                return
            self._started.add(layer.descriptor.digest)
        for repositories in self._by_host.values():
            self._background.submit(partial(self._upload, layer, repositories))

    def _upload(self, layer: Layer, repositories: list[Reference]) -> None:
        sources = [layer.source] if layer.source else []

        def push(repository: Reference) -> None:
            outcome = self._client.push_blob(
                repository, layer.descriptor, layer.open, mount_from=tuple(sources)
            )
            if repository is self._repositories[0]:
                self.outcomes[layer.descriptor.digest] = outcome
            sources.append(repository)

        for repository in repositories:
            self._try(repository, repository.name, partial(push, repository))

    def finish(self, image: Image) -> None:
        """Waits for the blobs, then pushes config and manifest under every tag.

        Raises PushIncomplete where only some of the destinations have the image then.
        """
        self.start_all(image.layers)
        for repository in self._repositories:
            push = partial(self._push_config, repository, image)
            self._background.submit(partial(self._try, repository, repository.name, push))
        self._background.finish()
        for destination in self._destinations:
            push = partial(self._push_manifest, destination, image)
            self._background.submit(partial(self._try, destination, str(destination), push))
        self._background.finish()
        if self._failures:
            raise self._incomplete()

    def start_all(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            self.start(layer)

    def _push_config(self, repository: Reference, image: Image) -> None:
        config = image.raw_config
        self._client.push_blob(repository, image.manifest.config, lambda: iter((config,)))

    def _push_manifest(self, destination: Reference, image: Image) -> None:
        digest = self._client.push_manifest(destination, image.manifest)
        self._sink(ImagePushed(str(destination), str(digest), image.size))

    def _try(self, destination: Reference, name: str, push: Callable[[], None]) -> None:
        """A part of the push to one destination; raises only once none is left."""
        if destination.name in self._failures:
            return
        try:
            push()
        except LayerLost:
            raise
        except (RegistryError, ContentMismatch) as error:
            with self._guard:
                self._failures[name] = error
                last = all(self._failure(other) for other in self._destinations)
            if last:
                raise
            told = f"{error.message}; the push to the other destinations goes on"
            self._sink(Notice(Level.WARNING, told, error.code))

    def _failure(self, destination: Reference) -> RegistryError | ContentMismatch | None:
        return self._failures.get(destination.name) or self._failures.get(str(destination))

    def _incomplete(self) -> PushIncomplete:
        failures = {str(ref): self._failure(ref) for ref in self._destinations}
        done = ", ".join(name for name, failure in failures.items() if failure is None)
        missing = "; ".join(
            f"{name} lacks it: {failure.message}" for name, failure in failures.items() if failure
        )
        hint = next(iter(self._failures.values())).hint
        return PushIncomplete(f"the image is at {done}, but {missing}", hint=hint)
