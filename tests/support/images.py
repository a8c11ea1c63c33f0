"""Images put into a FakeRegistry: good ones, and ones that lie about what they hold."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.bases import BASES, ensure_bases
from tests.support.fake_registry import FakeRegistry

OCI = "application/vnd.oci.image."
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def add_base(registry: FakeRegistry, name: str) -> None:
    """One of the base images, as base/NAME:TAG."""
    layout = ensure_bases((name,))[name]
    blobs = layout / "blobs/sha256"

    def read(descriptor: Mapping[str, Any]) -> bytes:
        return (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()

    found = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    manifest = json.loads(read(found))
    for descriptor in (manifest["config"], *manifest["layers"]):
        registry.add_blob(f"base/{name}", read(descriptor))
    tag = BASES[name].tag
    registry.add_manifest(f"base/{name}", tag, read(found), found["mediaType"])


def add_image(
    registry: FakeRegistry,
    repository: str,
    layers: Sequence[bytes],
    *,
    tag: str = "1",
    diff_ids: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> str:
    """An image of these layers (tars; gzip is added), the rest as it should be unless given.
    Returns its reference."""
    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    ids = list(diff_ids or [digest_of(layer) for layer in layers])
    return _add(registry, repository, packed, ids, tag=tag, config=config, manifest=manifest)


def add_packed_image(registry: FakeRegistry, repository: str, layer: bytes) -> str:
    """An image of one layer that is a gzip stream already, however much it unpacks to."""
    hasher, unpacker = hashlib.sha256(), zlib.decompressobj(31)
    while layer_part := unpacker.decompress(unpacker.unconsumed_tail or layer, 1 << 20):
        hasher.update(layer_part)
    return _add(registry, repository, [layer], [f"sha256:{hasher.hexdigest()}"], tag="1")


def _add(
    registry: FakeRegistry,
    repository: str,
    packed: Sequence[bytes],
    diff_ids: Sequence[str],
    *,
    tag: str,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> str:
    body: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        **(config or {}),
    }
    raw_config = json.dumps(body).encode()
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}manifest.v1+json",
        "config": _blob(registry, repository, f"{OCI}config.v1+json", raw_config),
        "layers": [_blob(registry, repository, f"{OCI}layer.v1.tar+gzip", data) for data in packed],
        **(manifest or {}),
    }
    raw = json.dumps(document).encode()
    registry.add_manifest(repository, tag, raw, document.get("mediaType", ""))
    return f"{registry.host}/{repository}:{tag}"


def _blob(
    registry: FakeRegistry, repository: str, media_type: str, data: bytes
) -> dict[str, object]:
    digest = registry.add_blob(repository, data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}
