"""When the entries of a repository were last used. A registry does not tell, so each build leaves a
record under a tag of its own: the day on which it last used each entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

from pybuild.cache.entry import EMPTY
from pybuild.image.digest import digest_of
from pybuild.image.manifest import Index, Manifest, make_manifest
from pybuild.image.media_type import Family

USES_TYPE = "application/vnd.pybuild.cache-uses.v1"
PREFIX = "used-"
_FIELD = "org.pybuild.cache.uses"
_REMEMBERED = timedelta(days=90)

Uses = Mapping[str, date]  # by tag


def record_tag(build: str) -> str:
    """Builds of one name share a record."""
    return f"{PREFIX}{digest_of(build.encode()).partition(':')[2][:24]}"


def parse_uses(manifest: Manifest | Index | None) -> Uses:
    """Nothing for what is no record."""
    if not isinstance(manifest, Manifest) or manifest.artifact_type != USES_TYPE:
        return {}
    found = {}
    for word in dict(manifest.annotations).get(_FIELD, "").split():
        tag, _, day = word.partition(":")
        try:
            found[tag] = date.fromisoformat(day)
        except ValueError:
            continue
    return found


def with_uses(known: Uses, tags: Iterable[str], now: datetime) -> Uses:
    """What was used long ago is forgotten."""
    today = now.astimezone(UTC).date()
    young = {tag: day for tag, day in known.items() if today - day <= _REMEMBERED}
    return young | dict.fromkeys(tags, today)


def uses_manifest(uses: Uses) -> Manifest:
    text = " ".join(f"{tag}:{day.isoformat()}" for tag, day in sorted(uses.items()))
    return make_manifest(
        EMPTY, (EMPTY,), Family.OCI, annotations=((_FIELD, text),), artifact_type=USES_TYPE
    )
