"""Descriptors (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from msgspec import Struct

from pybuild.errors import ContentMismatch
from pybuild.image.digest import Digest, parse_digest
from pybuild.image.platform import Platform

Json = Mapping[str, object]
Annotations = tuple[tuple[str, str], ...]


class BadManifest(ContentMismatch):
    """A manifest, index or config is not what the specification says it has to be."""

    code = "bad-manifest"


class Descriptor(Struct, frozen=True):
    """Names a blob: `size` in bytes, `digest` of the bytes as stored."""

    media_type: str
    digest: Digest
    size: int
    annotations: Annotations = ()
    platform: Platform | None = None
    artifact_type: str = ""  # of what an index entry names

    def to_json(self) -> dict[str, object]:
        result: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.artifact_type:
            result["artifactType"] = self.artifact_type
        if self.annotations:
            result["annotations"] = dict(self.annotations)
        if self.platform:
            platform = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.os_version:
                platform["os.version"] = self.platform.os_version
            if self.platform.variant:
                platform["variant"] = self.platform.variant
            result["platform"] = platform
        return result

    @staticmethod
    def from_json(value: object) -> Descriptor:
        """Raises BadManifest when a field is missing or of the wrong type."""
        json = as_object(value, "a descriptor")
        size = json.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadManifest("a descriptor has no size")
        return Descriptor(
            as_text(json.get("mediaType", ""), "mediaType"),
            parse_digest(as_text(json.get("digest"), "digest")),
            size,
            as_annotations(json.get("annotations")),
            _platform(json.get("platform")),
            as_text(json.get("artifactType", ""), "artifactType"),
        )


def _platform(value: object) -> Platform | None:
    if value is None:
        return None
    json = as_object(value, "a platform")
    return Platform(
        as_text(json.get("os", ""), "os"),
        as_text(json.get("architecture", ""), "architecture"),
        as_text(json.get("variant", ""), "variant"),
        as_text(json.get("os.version", ""), "os.version"),
    )


def as_object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise BadManifest(f"{what} is no JSON object")
    return cast(Json, value)


def as_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadManifest(f"{what} is missing or no text")
    return value


def as_list(value: object, what: str) -> list[object]:
    """An absent list and null are empty, as Go writes them."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadManifest(f"{what} is no list")
    return value


def as_annotations(value: object) -> Annotations:
    if value is None:
        return ()
    pairs = as_object(value, "annotations").items()
    return tuple(sorted((key, as_text(text, key)) for key, text in pairs))
