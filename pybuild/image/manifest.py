"""Manifests and indexes (OCI image-spec manifest.md, image-index.md; Docker schema 2)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property

from msgspec import Struct

from pybuild.image.descriptor import (
    Annotations,
    BadManifest,
    Descriptor,
    as_annotations,
    as_list,
    as_object,
    as_text,
)
from pybuild.image.digest import Digest, digest_of
from pybuild.image.media_type import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    OCI_INDEX,
    OCI_MANIFEST,
    Family,
    family_of,
    is_index,
    is_manifest,
)

MAX_MANIFEST_SIZE = 4 << 20  # what registries take at most (distribution-spec, "Push")


class Manifest(Struct, frozen=True, dict=True):
    """`raw` is kept as it was read: the digest is over these bytes."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Annotations = ()
    artifact_type: str = ""

    @cached_property
    def digest(self) -> Digest:
        return digest_of(self.raw)

    @property
    def family(self) -> Family:
        return family_of(self.media_type)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))


class Index(Struct, frozen=True, dict=True):
    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Annotations = ()

    @cached_property
    def digest(self) -> Digest:
        return digest_of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))


def parse_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Reads a manifest or an index; `media_type` is what the registry's Content-Type said.

    Raises BadManifest; also for schema 1, and for a body whose mediaType contradicts the header
    (the confusion that CVE-2021-41190 is about).
    """
    try:
        body = as_object(json.loads(raw), "the manifest")
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"the manifest is no JSON: {error}") from error
    kind = _kind(as_text(body.get("mediaType", ""), "mediaType"), media_type, body.keys())
    annotations = as_annotations(body.get("annotations"))
    if is_index(kind):
        entries = as_list(body.get("manifests"), "manifests")
        manifests = tuple(Descriptor.from_json(entry) for entry in entries)
        return Index(raw, kind, manifests, annotations)
    return Manifest(
        raw,
        kind,
        Descriptor.from_json(body.get("config")),
        tuple(Descriptor.from_json(layer) for layer in as_list(body.get("layers"), "layers")),
        annotations,
        as_text(body.get("artifactType", ""), "artifactType"),
    )


def _kind(inside: str, header: str, keys: Iterable[str]) -> str:
    header = header.partition(";")[0].strip()
    if DOCKER_SCHEMA1 in (inside, header) or ("fsLayers" in keys and "layers" not in keys):
        raise BadManifest(
            "the image has a schema 1 manifest, which registries stopped taking years ago",
            hint="pull it with an old tool and push it again",
        )
    known = header if is_index(header) or is_manifest(header) else ""
    if inside and known and inside != known:
        raise BadManifest(f"the manifest says it is {inside}, the registry says {known}")
    kind = inside or known or (OCI_INDEX if "manifests" in keys else OCI_MANIFEST)
    if is_index(kind) == ("layers" in keys) or not (is_index(kind) or is_manifest(kind)):
        raise BadManifest(f"{kind} is no image manifest or index")
    return kind


def make_manifest(
    config: Descriptor,
    layers: Iterable[Descriptor],
    family: Family,
    *,
    annotations: Annotations = (),
    artifact_type: str = "",
) -> Manifest:
    """Writes a manifest; the same values always give the same bytes."""
    layers = tuple(layers)
    media_type = OCI_MANIFEST if family is Family.OCI else DOCKER_MANIFEST
    body: dict[str, object] = {"schemaVersion": 2, "mediaType": media_type}
    if artifact_type:
        body["artifactType"] = artifact_type
    body["config"] = config.to_json()
    body["layers"] = [layer.to_json() for layer in layers]
    if annotations and family is Family.OCI:
        body["annotations"] = dict(annotations)
    raw = json.dumps(body, indent=2, ensure_ascii=False).encode()
    return Manifest(raw, media_type, config, layers, annotations, artifact_type)


def make_index(
    manifests: Iterable[Descriptor], family: Family, *, annotations: Annotations = ()
) -> Index:
    manifests = tuple(manifests)
    media_type = OCI_INDEX if family is Family.OCI else DOCKER_LIST
    body: dict[str, object] = {"schemaVersion": 2, "mediaType": media_type}
    body["manifests"] = [manifest.to_json() for manifest in manifests]
    if annotations and family is Family.OCI:
        body["annotations"] = dict(annotations)
    raw = json.dumps(body, indent=2, ensure_ascii=False).encode()
    return Index(raw, media_type, manifests, annotations)
