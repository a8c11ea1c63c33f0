"""A build as a Job, an index as a Job, a probe as a Pod: templates made into what is created."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from pybuild.k8s.templates import Values, load, render

LABEL = "app.kubernetes.io/name"
APP = "pybuild"
SELECTOR = f"{LABEL}={APP}"
CONTAINER = "kaniko"
DESTINATION_NOTE, PLATFORM_NOTE = "pybuild/destination", "pybuild/platform"
STREAMED = "tar://stdin"
RUNGS = (
    "default", "runtime-default", "user-namespace", "restricted", "openshift", "gvisor", "kata",
    "cache-pvc",
)  # fmt: skip

Object = dict[str, Any]


class Build(Struct, frozen=True):
    """One image on one platform. `platform` is an architecture, or "" for any node;
    `deadline_seconds` 0 leaves the template's. `tolerations` and the like come with the template;
    `mounted` are Secrets that are mounted at /kaniko/secrets/NAME."""

    name: str
    values: Values
    platform: str = ""
    deadline_seconds: int = 0
    service_account: str = ""
    pull_secret: str = ""
    mounted: tuple[str, ...] = ()

    @property
    def streamed(self) -> bool:
        return self.values.context == STREAMED


def build_job(text: str, build: Build) -> Object:
    """The Job of a build, from the text of a Job's template."""
    values, tag_suffix = build.values, ""
    if build.platform:
        values = replace(values, flags=(f"--custom-platform=linux/{build.platform}", *values.flags))
        tag_suffix = "" if build.platform == "amd64" else f"-{build.platform}"
    job = load(render(text, values))
    metadata = job["metadata"]
    metadata.pop("generateName", None)
    metadata["name"] = build.name
    metadata["annotations"] = {DESTINATION_NOTE: ", ".join(values.destinations)}
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    if build.platform:
        metadata["annotations"][PLATFORM_NOTE] = f"linux/{build.platform}"
        _place(pod, build.platform)
        if not _has_tag(values.image):
            container["image"] += tag_suffix
    if build.streamed:
        container |= {"stdin": True, "stdinOnce": True}
    if build.deadline_seconds:
        job["spec"]["activeDeadlineSeconds"] = build.deadline_seconds
    if build.service_account:
        pod |= {"serviceAccountName": build.service_account, "automountServiceAccountToken": True}
    if build.pull_secret:
        pod["imagePullSecrets"] = [{"name": build.pull_secret}]
    for number, secret in enumerate(build.mounted):
        pod["volumes"].append({"name": f"secret-{number}", "secret": {"secretName": secret}})
        place = f"/kaniko/secrets/{secret}"
        container["volumeMounts"].append(
            {"name": f"secret-{number}", "mountPath": place, "readOnly": True}
        )
    return job


def index_job(text: str, build: Build, sources: tuple[str, ...], flags: tuple[str, ...]) -> Object:
    """A Job that names `sources` together, with the credentials that pushed them."""
    job = build_job(text, build)
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["/kaniko/pybuild"]
    container["args"] = [
        "manifest", "create", "--digest-file=/dev/termination-log",
        *(f"--tag={one}" for one in build.values.destinations), *flags, *sources,
    ]  # fmt: skip
    return job


def probe_pod(text: str, name: str, image: str, pull_secret: str = "") -> Object:
    """A Pod that tells how RUN could be carried out in it; it needs no Secret and no claim."""
    pod = load(render(text, Values(image=image)))
    pod["metadata"].pop("generateName", None)
    pod["metadata"]["name"] = name
    pod["metadata"]["labels"] = {LABEL: f"{APP}-doctor"}
    spec = pod["spec"]
    spec["activeDeadlineSeconds"] = 300
    container = spec["containers"][0]
    container |= {"command": ["/kaniko/pybuild"], "args": ["doctor", "--log-format=json"]}
    container["env"] = [one for one in container["env"] if "value" in one]
    kept = {one["name"] for one in spec["volumes"] if "emptyDir" in one}
    spec["volumes"] = [one for one in spec["volumes"] if one["name"] in kept]
    container["volumeMounts"] = [one for one in container["volumeMounts"] if one["name"] in kept]
    container["resources"] = {"requests": {"cpu": "100m", "memory": "128Mi"},
                              "limits": {"memory": "512Mi"}}  # fmt: skip
    if pull_secret:
        spec["imagePullSecrets"] = [{"name": pull_secret}]
    return pod


def _place(pod: Object, architecture: str) -> None:
    """Onto nodes of this architecture; some clouds keep those free of Pods that don't ask."""
    selector = {"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture}
    pod["nodeSelector"] = pod.get("nodeSelector", {}) | selector
    toleration = {"key": "kubernetes.io/arch", "operator": "Equal", "value": architecture,
                  "effect": "NoSchedule"}  # fmt: skip
    if toleration not in pod.setdefault("tolerations", []):
        pod["tolerations"].append(toleration)


def _has_tag(image: str) -> bool:
    return "@" in image or ":" in image.rpartition("/")[2]


def short_name(reference: str) -> str:
    """A part of an object's name from the last part of a repository."""
    last = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40].strip("-") or "image"
