"""What a request leaves beside it: `result.json`, made from what happened."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pybuild.cli.request import SBOM_FILES, SCHEMA, Facts, destinations, labels
from pybuild.events import BuildFailed, BuildFinished, ImagePushed

PROVENANCE_FILE = "provenance.json"


def result_of(
    finished: BuildFinished,
    *,
    pushed: bool,
    request: Mapping[str, object] | None = None,
    facts: Facts | None = None,
) -> dict[str, object]:
    """What a pipeline gets back: only text, numbers, booleans, lists and maps, so that it survives
    a restart of the controller. `size` is bytes; `image` and the tags come from the references, of
    a build without a push from those that were named, and only a push gives an `imageRef`;
    `reports` names the files in the request's folder of that name."""
    asked = request or {}
    references = finished.references or tuple(destinations(asked) if asked else ())
    names = [split_tag(reference) for reference in references]
    image = names[0][0] if names else ""
    return {
        "schema": SCHEMA,
        "image": image,
        "digest": finished.digest,
        "imageRef": f"{image}@{finished.digest}" if pushed and image else "",
        "tags": list(dict.fromkeys(tag for name, tag in names if name == image)),
        "destinations": [*references],
        "platform": str(asked.get("platform") or ""),
        "pushed": pushed,
        "size": finished.size,
        "layers": len(finished.layers),
        "cacheHits": sum(stage.steps_cached for stage in finished.stages),
        "cacheMisses": sum(stage.steps_run for stage in finished.stages),
        "durationMs": round(finished.seconds * 1000),
        "labels": labels(asked, facts or Facts()),
        "output": asked.get("output") or {},
        "outputs": list(finished.outputs),
        "reports": _reports(asked),
    }


def _reports(asked: Mapping[str, object]) -> dict[str, str]:
    """By kind, the file in the folder of reports."""
    folder = asked.get("reports")
    if not folder:
        return {}
    found = {}
    wanted = asked.get("sbom")
    if wanted:
        found["sbom"] = SBOM_FILES["spdx" if wanted is True else str(wanted)]
    if asked.get("provenance"):
        found["provenance"] = PROVENANCE_FILE
    if (Path(str(folder)) / "report.html").exists():
        found["report"] = "report.html"
    return found


def pushed_of(pushed: Sequence[ImagePushed], seconds: float) -> dict[str, object]:
    """The result of a push or of an index: one digest under one or more references."""
    names = [split_tag(event.reference) for event in pushed]
    image, digest = (names[0][0], pushed[0].digest) if pushed else ("", "")
    return {
        "schema": SCHEMA,
        "image": image,
        "digest": digest,
        "imageRef": f"{image}@{digest}" if image else "",
        "tags": list(dict.fromkeys(tag for name, tag in names if name == image)),
        "destinations": [event.reference for event in pushed],
        "pushed": bool(pushed),
        "size": pushed[0].size if pushed else 0,
        "durationMs": round(seconds * 1000),
    }


def failure_of(failed: BuildFailed, pushed: Sequence[str] = ()) -> dict[str, object]:
    """The result of a build that failed: `error`, and which destinations have the image though."""
    return {
        "schema": SCHEMA,
        **({"destinations": sorted(pushed)} if pushed else {}),
        "error": {
            "code": failed.code,
            "message": failed.message,
            "hint": failed.hint,
            "file": failed.file,
            "line": failed.line,
            "text": failed.text,
            "exitStatus": failed.exit_status,
        },
    }


def result_path(request: Path) -> Path:
    return request.with_name("result.json")


def write_result(request: Path, result: Mapping[str, object]) -> None:
    """Writes the result beside the request, whole or not at all, for the request's owner: the
    agent, which reads and removes it, often runs under another id than the builder."""
    write_for_owner(request, result_path(request), json.dumps(result, indent=2) + "\n", 0o644)


def write_for_owner(request: Path, target: Path, text: str, mode: int) -> None:
    """A file of the request's owner; never readable for more than `mode` says."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(partial, flags, mode), "w") as opened:
        opened.write(text)
    give_to_owner(request, partial)
    partial.replace(target)


def give_to_owner(request: Path, path: Path) -> None:
    if os.geteuid() == 0:
        owner = request.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def split_tag(reference: str) -> tuple[str, str]:
    """(repository, tag) of a reference as the closing event has it; a port is no tag."""
    name, colon, tag = reference.partition("@")[0].rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference.partition("@")[0], "")
