"""Layers on their way to the destinations while later steps run; manifests go last."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.events import EventSink, ImagePushed, TransferOutcome
from pybuild.image.media_type import is_foreign

if TYPE_CHECKING:
    from pybuild.executor.background import Background
    from pybuild.image.image import Image
    from pybuild.image.layer import Layer
    from pybuild.image.reference import Reference
    from pybuild.registry.client import Client


class Uploads:
    """Each blob goes once to each repository, the second ones mounted from the first."""

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
        self._started: set[str] = set()
        self._guard = threading.Lock()
        self.outcomes: dict[str, TransferOutcome] = {}  # at the first repository, by digest

    def check(self) -> None:
        """Asks at once whether a push is allowed, so that a refusal ends the build before its
        first command has run for minutes."""
        for repository in self._repositories:
            self._background.submit(partial(self._client.check_push, repository))

    def leave(self, source: Reference) -> bool:
        """Whether what is in `source` has to be carried to another registry."""
        from pybuild.registry.options import host_of

        hosts = {host_of(repository.registry) for repository in self._repositories}
        return bool(hosts - {host_of(source.registry)})

    def start(self, layer: Layer) -> None:
        """Begins to bring a finished layer to all repositories."""
        if not self._repositories or is_foreign(layer.descriptor.media_type):
            return
        with self._guard:
            if layer.descriptor.digest in self._started:
                return
            self._started.add(layer.descriptor.digest)
        self._background.submit(lambda: self._upload(layer))

    def _upload(self, layer: Layer) -> None:
        sources = [layer.source] if layer.source else []
        for repository in self._repositories:
            outcome = self._client.push_blob(
                repository, layer.descriptor, layer.open, mount_from=tuple(sources)
            )
            self.outcomes.setdefault(layer.descriptor.digest, outcome)
            sources.append(repository)

    def finish(self, image: Image) -> None:
        """Waits for the blobs, then pushes config and manifest under every tag."""
        self.start_all(image.layers)
        for repository in self._repositories:
            self._background.submit(partial(self._push_config, repository, image))
        self._background.finish()
        if len(self._repositories) > 1:
            # Under its digest first: one that refuses is found before any tag has been moved.
            for repository in self._repositories:
                untagged = replace(repository, tag="", digest=image.manifest.digest)
                self._client.push_manifest(untagged, image.manifest)
        for destination in self._destinations:
            digest = self._client.push_manifest(destination, image.manifest)
            self._sink(ImagePushed(str(destination), str(digest), image.size))

    def start_all(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            self.start(layer)

    def _push_config(self, repository: Reference, image: Image) -> None:
        config = image.raw_config
        self._client.push_blob(repository, image.manifest.config, lambda: iter((config,)))
