"""A statement of how an image came to be: SLSA provenance v1 in an in-toto statement v1.

It tells what was asked for and what came of it. Values of build arguments are left out, since some
are secrets that should not have been given so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pybuild.events import BuildFinished

_ASKED = ("context", "subPath", "dockerfile", "target", "platform", "reproducible")


def provenance(
    finished: BuildFinished,
    request: Mapping[str, object],
    *,
    revision: str,
    source: str,
    builder_version: str,
    times: tuple[float, float],
) -> dict[str, object]:
    """The statement as JSON values. `times`: start and end in seconds since 1970; `revision` and
    `source` are the commit and the repository of the context, empty if not known."""
    algorithm, _, digest = finished.digest.partition(":")
    names = finished.references or (str(request.get("image") or "image"),)
    asked = {name: request[name] for name in _ASKED if request.get(name) is not None}
    arguments = request.get("buildArgs")
    if isinstance(arguments, dict) and arguments:
        asked["buildArgNames"] = sorted(arguments)
    inputs = []
    if source or revision:
        inputs.append({"uri": source, "digest": {"gitCommit": revision}})
    inputs += [
        {"uri": "base layer", "digest": dict([layer.digest.split(":", 1)])}
        for layer in finished.layers
        if layer.origin == "base"
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {algorithm: digest}} for name in names],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:pybuild:dockerfile:1",
                "externalParameters": asked,
                "resolvedDependencies": inputs,
            },
            "runDetails": {
                "builder": {"id": "urn:pybuild", "version": {"pybuild": builder_version}},
                "metadata": {
                    "invocationId": str(request.get("invocation") or ""),
                    "startedOn": _instant(times[0]),
                    "finishedOn": _instant(times[1]),
                },
            },
        },
    }


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
