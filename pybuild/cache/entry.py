"""A cache entry as a manifest: what the step made is in the annotations, its layer and index are
the manifest's layers. One GET of the manifest tells everything; no blob is needed to decide."""

from __future__ import annotations

from datetime import UTC, datetime

from pybuild.errors import ContentMismatch
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import BadDigest, Digest, digest_of, parse_digest
from pybuild.image.manifest import Index, Manifest, make_manifest
from pybuild.image.media_type import Family, compression_of
from pybuild.plan.fit import StoredStep

ARTIFACT_TYPE = "application/vnd.pybuild.cache.v1"
INDEX_TYPE = "application/vnd.pybuild.layer-index.v1"
EMPTY_JSON = b"{}"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", digest_of(EMPTY_JSON), len(EMPTY_JSON))
_PREFIX = "org.pybuild.cache."


class BrokenEntry(ContentMismatch):
    """A cache entry is not what this program writes; it counts as missing."""

    code = "cache-entry-broken"


def to_manifest(stored: StoredStep) -> Manifest:
    facts = {
        "parent": stored.parent,
        "chain": stored.chain,
        "taken": stored.taken or "",
        "content": stored.content,
        "diff-id": stored.diff_id or "",
        "created": stored.created,
    }
    annotations = tuple(sorted((_PREFIX + name, str(value)) for name, value in facts.items()))
    blobs = tuple(blob for blob in (stored.layer, stored.index) if blob) or (EMPTY,)
    return make_manifest(
        EMPTY, blobs, Family.OCI, annotations=annotations, artifact_type=ARTIFACT_TYPE
    )


def from_manifest(manifest: Manifest | Index) -> StoredStep:
    """Raises BrokenEntry for anything that `to_manifest` did not make."""
    if isinstance(manifest, Index) or manifest.artifact_type != ARTIFACT_TYPE:
        raise BrokenEntry("a cache entry is an image of another kind")
    facts = {name.removeprefix(_PREFIX): value for name, value in manifest.annotations}
    layers = [blob for blob in manifest.layers if compression_of(blob.media_type)]
    indexes = [blob for blob in manifest.layers if blob.media_type == INDEX_TYPE]
    try:
        stored = StoredStep(
            parent=_digest(facts["parent"]) or Digest(""),
            chain=_digest(facts["chain"]) or Digest(""),
            taken=_digest(facts["taken"]),
            content=parse_digest(facts["content"]),
            diff_id=_digest(facts["diff-id"]),
            layer=layers[0] if layers else None,
            index=indexes[0] if indexes else None,
            created=facts["created"],
        )
    except KeyError as missing:
        raise BrokenEntry(f"a cache entry does not say its {missing.args[0]}") from None
    except BadDigest as bad:
        raise BrokenEntry(f"a cache entry is damaged: {bad.message}") from None
    if (stored.layer is None) != (stored.diff_id is None):
        raise BrokenEntry("a cache entry has a layer without diff ID, or the other way round")
    return stored


def index_manifest(index: Descriptor, created: str) -> Manifest:
    """The entry that holds nothing but the index of a layer."""
    annotations = ((f"{_PREFIX}created", created),)
    return make_manifest(
        EMPTY, (index,), Family.OCI, annotations=annotations, artifact_type=ARTIFACT_TYPE
    )


def created_of(manifest: Manifest) -> datetime | None:
    """When an entry was made, if it says."""
    try:
        made = datetime.fromisoformat(dict(manifest.annotations).get(f"{_PREFIX}created", ""))
    except ValueError:
        return None
    return made if made.tzinfo else made.replace(tzinfo=UTC)


def _digest(text: str) -> Digest | None:
    return parse_digest(text) if text else None
