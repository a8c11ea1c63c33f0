"""What a build found out, in the config of the image that it pushed: such an image is a cache too.

The config is where it is, and not the manifest's annotations, since Docker's manifests have none;
engines pass over fields that they don't know. Steps of stages that are not part of the image stand
there as well, without a layer: they let whole stages be skipped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import cast

from msgspec import Struct

from pybuild.cache.entries import EntryCache
from pybuild.cache.layers import CachedStep
from pybuild.cache.shelf import RepositoryShelf
from pybuild.errors import PybuildError
from pybuild.events import EventSink, Level, Notice
from pybuild.image.digest import BadDigest, Digest, parse_digest
from pybuild.image.platform import Platform
from pybuild.image.reference import Reference
from pybuild.plan.fit import StoredStep
from pybuild.registry.client import Client, ResolvedImage
from pybuild.registry.errors import ManifestUnknown, RepositoryUnknown

FIELD = "org.pybuild.cache.v1"
_FACTS = ("parent", "chain", "taken", "content", "diff-id")


class InlineStep(Struct, frozen=True):
    """A step with the keys that it is found under."""

    keys: tuple[Digest, ...]
    stored: StoredStep


def with_steps(raw_config: bytes, steps: Iterable[InlineStep]) -> bytes:
    """The config with the steps in it. Times are left out, so that equal builds give equal bytes;
    which of the image's layers is a step's is told by its diff ID."""
    body = json.loads(raw_config)
    body[FIELD] = [
        {"keys": list(step.keys)}
        | {
            name: value
            for name, value in zip(_FACTS, _facts(step.stored), strict=True)
            if value is not None
        }
        for step in steps
    ]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogateescape"
    )


def steps_of(image: ResolvedImage) -> Mapping[Digest, StoredStep]:
    """By key; nothing for an image that was built without. What is malformed is passed over."""
    layers = dict(zip(image.config.diff_ids, image.manifest.layers, strict=False))
    found: dict[Digest, StoredStep] = {}
    for one in _list(json.loads(image.raw_config).get(FIELD)):
        try:
            facts = cast(Mapping[str, str], one)
            diff_id = _digest(facts.get("diff-id"))
            stored = StoredStep(
                parent=_digest(facts["parent"]) or Digest(""),
                chain=_digest(facts["chain"]) or Digest(""),
                taken=_digest(facts.get("taken")),
                content=parse_digest(facts["content"]),
                diff_id=diff_id,
                layer=layers.get(diff_id) if diff_id else None,
                index=None,
            )
            found.update((parse_digest(str(key)), stored) for key in _list(facts["keys"]))
        except (KeyError, TypeError, AttributeError, BadDigest):
            continue
    return found


class InlineCache:
    """An image to read cached steps from. Its age does not count: it was named. Thread-safe."""

    def __init__(
        self,
        client: Client,
        quick: Client,
        reference: Reference,
        platform: Platform,
        sink: EventSink,
    ) -> None:
        self._quick = quick
        self._reference = reference
        self._platform = platform
        self._sink = sink
        self._entries = EntryCache(RepositoryShelf(client, quick, reference), sink)
        self._guard = threading.Lock()
        self._steps: Mapping[Digest, StoredStep] | None = None

    def get(self, key: Digest) -> CachedStep | None:
        with self._guard:
            if self._steps is None:
                self._steps = self._read()
        stored = self._steps.get(key)
        return None if stored is None else self._entries.step(key, stored)

    def get_index(self, chain: Digest) -> bytes | None:
        """None: an image holds no indexes."""

    def forget(self, layer: Digest) -> None:
        self._entries.forget(layer)

    def _read(self) -> Mapping[Digest, StoredStep]:
        try:
            steps = steps_of(self._quick.resolve(self._reference, self._platform))
        except (ManifestUnknown, RepositoryUnknown):
            self._tell(Level.INFO, "there is no such image yet")
            return {}
        except PybuildError as error:
            self._tell(Level.WARNING, error.message)
            return {}
        if not steps:
            self._tell(Level.INFO, "it was built without --inline-cache")
        return steps

    def _tell(self, level: Level, why: str) -> None:
        told = f"nothing is taken from --cache-from={self._reference}: {why}"
        self._sink(Notice(level, told, code="cache-unusable"))


def _facts(stored: StoredStep) -> tuple[str | None, ...]:
    return stored.parent, stored.chain, stored.taken, stored.content, stored.diff_id


def _digest(text: str | None) -> Digest | None:
    return parse_digest(text) if text else None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
