"""`pybuild k8s doctor`: which kinds of Pod the cluster takes, and how RUN would be carried out."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from pybuild.cli.k8s import cluster_of, patiently, templates
from pybuild.cli.parse import Values
from pybuild.cli.session import Stop
from pybuild.k8s import explain
from pybuild.k8s.cluster import Cluster
from pybuild.k8s.errors import PodNotStarted, PodSecurityDenied
from pybuild.k8s.follow import container_waits
from pybuild.k8s.jobs import probe_pod
from pybuild.k8s.templates import template_text

PROBED = ("default", "runtime-default", "user-namespace", "restricted")
_START_SECONDS, _PULL_SECONDS, _PAUSE_SECONDS = 180.0, 30.0, 0.5


class Probe(Struct, frozen=True):
    """What a kind of Pod gives. `taken` is the isolation that a build would take, "" for none;
    `why` and `hint` say what is wrong, `found` is what `pybuild doctor` said there."""

    rung: str
    taken: str
    why: str = ""
    hint: str = ""
    found: dict[str, Any] | None = None


def doctor(values: Values, environment: Mapping[str, str]) -> int:
    """Probes one Pod a kind; 0 if a build would work in any of them."""
    named = values.text("rung")
    cluster = cluster_of(values, environment)
    probes = []
    with Stop().on_signals() as stop:
        for rung in (named,) if named else PROBED:
            text = template_text(templates(values), f"kubernetes/{rung}-pod")
            name = f"pybuild-doctor-{rung}-{secrets.token_hex(3)}"
            pod = probe_pod(text, name, values.text("image"), values.text("pull-secret"))
            probes.append(probe(cluster, rung, pod, stop))
    if values.text("log-format") == "json":
        sys.stdout.writelines(json.dumps(_as_json(one)) + "\n" for one in probes)
    else:
        sys.stdout.write(table(probes, cluster.namespace))
    return 0 if any(one.taken for one in probes) else 1


def probe(cluster: Cluster, rung: str, pod: dict[str, Any], stop: Stop) -> Probe:
    """Runs `pybuild doctor` in a Pod. Raises ClusterForbidden, ClusterUnreachable, Interrupted."""
    name = pod["metadata"]["name"]
    try:
        patiently(lambda: cluster.create_pod(pod))
    except PodSecurityDenied as error:
        return Probe(rung, "", error.message, error.hint)
    try:
        ended = _ended(cluster, name, stop)
        lines = patiently(lambda: cluster.log_so_far(name)).splitlines()
    except (*explain.STARTING, PodNotStarted) as error:
        return Probe(rung, "", error.message, error.hint)
    finally:
        patiently(lambda: cluster.delete_pod(name))
    for line in reversed(lines):
        if line.startswith("{"):
            found = json.loads(line)
            first = str(found.get("taken", ""))
            return Probe(rung, first, "" if first else "no RUN can be carried out there", "", found)
    failure = explain.ended(ended)
    why = failure.message if failure else "the Pod said nothing"
    shown = f"{why}: {' '.join(lines[-3:])}"[:400]
    return Probe(rung, "", shown, failure.hint if failure else "")


def _ended(cluster: Cluster, name: str, stop: Stop) -> dict[str, Any]:
    """The Pod, once it is over. Raises what keeps it from starting."""
    begun = time.monotonic()
    while True:
        if stop.asked.is_set():
            raise stop.error()
        pod = patiently(lambda: cluster.pod(name))
        if explain.has_ended(pod):
            return pod
        waited = time.monotonic() - begun
        if not explain.has_started(pod):
            events = () if container_waits(pod) else patiently(lambda: cluster.events(name))
            waiting = explain.waiting(pod, events)
            if waiting.error and waited > min(waiting.patience_seconds, _PULL_SECONDS):
                raise waiting.error
        if waited > _START_SECONDS:
            raise PodNotStarted(f"the Pod {name} did not end in {waited:.0f} s")
        time.sleep(_PAUSE_SECONDS)


def table(probes: list[Probe], namespace: str) -> str:
    """One block a kind of Pod, and which to take."""
    from pybuild.report.text import harmless

    best = next((one for one in probes if one.taken), None)
    lines = [f"namespace {namespace}", ""]
    for one in probes:
        mark = f"works, RUN by {one.taken}" if one.taken else "no"
        lines.append(f"{one.rung:<16} {mark}{'  <- --rung=' + one.rung if one is best else ''}")
        lines += [f"{'':<16} {text}" for text in (one.why, _hint(one)) if text]
        for each in (one.found or {}).get("isolations", ()):
            works = "works" if each.get("works") else "no"
            lines.append(f"{'':<16} {each.get('name', '?'):<10} {works}: {each.get('reason', '')}")
    if best is None:
        lines += ["", "No kind of Pod that was tried can build here."]
    return "\n".join(harmless(line) for line in lines) + "\n"


def _hint(one: Probe) -> str:
    return f"hint: {one.hint}" if one.hint and not one.taken else ""


def _as_json(one: Probe) -> dict[str, Any]:
    return {"rung": one.rung, "works": bool(one.taken), "isolation": one.taken, "why": one.why,
            "hint": one.hint, "found": one.found}  # fmt: skip
