"""What a repository holds, and removing from it (distribution-spec, "Listing Tags" and "Deleting
Manifests"). Mirrors are not asked: this is about one very repository."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from msgspec.structs import replace

from pybuild.errors import RegistryError
from pybuild.image.reference import Reference
from pybuild.registry.challenge import Scope
from pybuild.registry.errors import DeleteRefused, RequestRefused
from pybuild.registry.options import Purpose
from pybuild.registry.retry import Transient
from pybuild.registry.session import Refused, Session, make_call

_PAGE_SIZE = 1000  # more than most registries give at once; they say then where to go on
_PAGE_LIMIT = 16 << 20


def tags(session: Session, ref: Reference) -> Iterator[str]:
    """All tags of the repository; none where there is no such repository. Raises RegistryError."""
    query: str = f"n={_PAGE_SIZE}"
    seen: set[str] = set()
    while query and query not in seen:
        seen.add(query)
        call = make_call(
            "GET",
            f"tags/list?{query}",
            ref=ref,
            doing=f"list the tags of {ref.name}",
            purpose=Purpose.PUSH,
            expect=frozenset({200, 404}),
            push=False,
        )
        reply, raw = session.fetch(call, _PAGE_LIMIT)
        if reply.status == 404:
            return
        yield from _names(raw, ref)
        query = _next_query(reply.header("link"))


def delete_manifest(session: Session, ref: Reference) -> bool:
    """Removes the manifest that the reference's digest names, with all its tags; its blobs go when
    the registry collects what nobody needs. Tells whether it was there.

    Raises DeleteRefused where the registry deletes nothing, or not for us; RegistryError.
    """
    assert ref.digest is not None, "a registry deletes by digest"
    call = make_call(
        "DELETE",
        f"manifests/{ref.digest}",
        ref=ref,
        doing=f"delete {ref.digest} from {ref.name}",
        purpose=Purpose.PUSH,
        push=True,
    )
    scopes = (Scope(ref.repository, push=True, delete=True),)
    call = replace(call, scopes=scopes, expect=frozenset({200, 202, 204, 404}))
    budget = session.budget()
    while True:
        try:
            reply = session.attempt(call)
            reply.close()
            return reply.status != 404
        except Refused as refused:
            problem = refused.problem
            if isinstance(problem, RegistryError):
                raise _refusal(refused, problem) from None
            budget.spend(problem)
        except Transient as failure:
            budget.spend(failure)


def _refusal(refused: Refused, problem: RegistryError) -> RegistryError:
    """405 is what distribution says where deleting is off, 403 and 401 that we may not."""
    status = refused.answer.status
    if status in (400, 405, 501) or "UNSUPPORTED" in refused.answer.codes:
        return DeleteRefused(
            problem.message,
            hint="switch deleting on (distribution: REGISTRY_STORAGE_DELETE_ENABLED=true), or give "
            "the repository a retention rule where the registry has such rules",
        )
    if status in (401, 403):
        hint = f"these credentials need the right to delete from it; {problem.hint}"
        return DeleteRefused(problem.message, hint=hint)
    return problem


def _names(raw: bytes, ref: Reference) -> Iterator[str]:
    try:
        names = json.loads(raw).get("tags") or ()
        yield from (name for name in names if isinstance(name, str))
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestRefused(f"the list of tags of {ref.name} is none: {error}") from error


def _next_query(link: str) -> str:
    """Of a Link header (RFC 8288) with rel="next"; its address may be relative."""
    found = re.search(r'<([^>]*)>\s*;[^,]*rel="?next"?', link)
    return urlsplit(found[1]).query if found else ""
