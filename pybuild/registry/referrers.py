"""What refers to a manifest: documents about an image beside it (distribution-spec 1.1, "Listing
Referrers")."""

from __future__ import annotations

from msgspec.structs import replace

from pybuild.image.digest import Digest
from pybuild.image.manifest import MAX_MANIFEST_SIZE
from pybuild.image.media_type import OCI_INDEX
from pybuild.image.reference import Reference
from pybuild.registry.options import Purpose
from pybuild.registry.session import Session, make_call


def lists_referrers(session: Session, ref: Reference, digest: Digest) -> bool:
    """Whether the registry keeps account itself; where not, a client has to, under a tag."""
    call = make_call(
        "GET",
        f"referrers/{digest}",
        ref=ref,
        doing=f"ask what refers to {ref.name}@{digest}",
        purpose=Purpose.PUSH,
        expect=frozenset({200, 400, 404, 405, 501}),
        push=False,
    )
    call = replace(call, headers={"Accept": OCI_INDEX})
    reply, _ = session.fetch(call, MAX_MANIFEST_SIZE)
    return reply.status == 200 and reply.header("content-type").startswith(OCI_INDEX)


def fallback_tag(digest: Digest) -> str:
    """The tag of the index that clients keep (distribution-spec 1.1, "Referrers Tag Schema")."""
    return f"{digest.algorithm}-{digest.hex}"[:128]
