"""Media types of manifests, configs and layers (OCI image-spec media-types.md; Docker schema 2)."""

from __future__ import annotations

from enum import Enum
from typing import Literal

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
ACCEPTED = (*MANIFESTS, *INDEXES)

_COMPRESSION: dict[str, Literal["gzip", "zstd", "none"]] = {
    OCI_LAYER: "none",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    OCI_FOREIGN: "none",
    OCI_FOREIGN + "+gzip": "gzip",
    OCI_FOREIGN + "+zstd": "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN_GZIP: "gzip",
}


class Family(Enum):
    """The two families that manifests, configs and layers of one image come from."""

    OCI = "oci"
    DOCKER = "docker"


def is_index(media_type: str) -> bool:
    return media_type in INDEXES


def is_manifest(media_type: str) -> bool:
    return media_type in MANIFESTS


def family_of(media_type: str) -> Family:
    return Family.OCI if media_type.startswith("application/vnd.oci.") else Family.DOCKER


def compression_of(media_type: str) -> Literal["gzip", "zstd", "none"] | None:
    """None for a media type that is no filesystem layer."""
    return _COMPRESSION.get(media_type)


def is_foreign(media_type: str) -> bool:
    """Layers that registries do not hold and that are never uploaded."""
    return media_type.startswith(OCI_FOREIGN) or media_type == DOCKER_FOREIGN_GZIP


def in_family(media_type: str, family: Family) -> str:
    """The same layer's media type in an image of this family; foreign layers stay what they are."""
    compression = compression_of(media_type)
    if compression is None or is_foreign(media_type):
        return media_type
    return layer_media_type(family, compression)


def layer_media_type(family: Family, compression: Literal["gzip", "zstd", "none"]) -> str:
    if family is Family.OCI:
        return {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}[compression]
    return {"gzip": DOCKER_LAYER_GZIP, "zstd": DOCKER_LAYER_ZSTD, "none": DOCKER_LAYER}[compression]
