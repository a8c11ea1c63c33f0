"""A document about an image beside the image in its repository: an OCI referrer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.manifest import Index, Manifest, make_index
from pybuild.image.media_type import OCI_MANIFEST, Family
from pybuild.output.sbom.document import Format

if TYPE_CHECKING:
    from pybuild.image.reference import Reference
    from pybuild.registry.client import Client

_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"  # image-spec, manifest.md, "empty descriptor"


class Document(Struct, frozen=True):
    form: Format
    raw: bytes


def attach(client: Client, repository: Reference, image: Manifest, document: Document) -> Manifest:
    """Pushes the document with the image as its subject; gives its manifest. Where the registry
    does not list referrers, the tag that stands for the list gets one more entry. Raises
    RegistryError."""
    config = Descriptor(_EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY))
    blob = Descriptor(document.form.media_type, digest_of(document.raw), len(document.raw))
    manifest = _referring(image.descriptor, config, blob, document.form)
    client.push_blob(repository, config, lambda: iter((_EMPTY,)))
    client.push_blob(repository, blob, lambda: iter((document.raw,)))
    client.push_manifest(replace(repository, tag="", digest=manifest.digest), manifest)
    if not client.lists_referrers(repository, image.digest):
        _note(client, repository, image, manifest, document.form)
    return manifest


def _referring(subject: Descriptor, config: Descriptor, blob: Descriptor, form: Format) -> Manifest:
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": form.media_type,
        "config": config.to_json(),
        "layers": [blob.to_json()],
        "subject": subject.to_json(),
    }
    raw = json.dumps(body, indent=2).encode()
    return Manifest(raw, OCI_MANIFEST, config, (blob,), artifact_type=form.media_type)


def _note(
    client: Client, repository: Reference, image: Manifest, manifest: Manifest, form: Format
) -> None:
    """Adds to what is listed already; a document of the same kind takes the older one's place."""
    from pybuild.registry.referrers import fallback_tag

    listed = repository.with_tag(fallback_tag(image.digest))
    found = client.try_manifest(listed)
    entries = found.manifests if isinstance(found, Index) else ()
    own = replace(manifest.descriptor, artifact_type=form.media_type)
    kept = [entry for entry in entries if entry.artifact_type != form.media_type]
    client.push_manifest(listed, make_index([*kept, own], Family.OCI))
