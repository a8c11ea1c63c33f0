"""What the cluster says of a Pod, in words with the cure. Values in, values out: no cluster here.

The shapes are those of the API (PodStatus, ContainerState, Event of core/v1), the reasons those
that the kubelet, the scheduler and the Job controller write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from pybuild.errors import PybuildError
from pybuild.k8s.errors import (
    BuildFailedInPod,
    ClusterForbidden,
    ContainerRefused,
    DeadlineExceeded,
    ImagePullFailed,
    ObjectRefused,
    OutOfMemory,
    PodEvicted,
    PodLost,
    PodSecurityDenied,
    PodUnschedulable,
    QuotaExceeded,
    VolumeMissing,
)

Object = dict[str, Any]


class Waiting(Struct, frozen=True):
    """Why a Pod has not started yet. `error` is what the build fails with if this lasts longer
    than `patience_seconds`; None where waiting is all there is to do."""

    text: str
    error: PybuildError | None = None
    patience_seconds: float = 0.0


PULL_SECONDS = 45.0  # a registry that stumbles is asked again by the kubelet after 10 and 20
MOUNT_SECONDS = 30.0  # a Secret may be made just after the Job
UNSCHEDULABLE_SECONDS = 300.0  # a node may have to be made first


STARTING = (ImagePullFailed, ContainerRefused, VolumeMissing, PodUnschedulable, QuotaExceeded)
"""What keeps a Pod from starting, and says nothing against another kind of Pod."""


def container_of(pod: Object) -> Object:
    """The status of the builder's container; empty where there is none yet."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    status: Object = statuses[0]
    return status


def has_started(pod: Object) -> bool:
    state = container_of(pod).get("state", {})
    return "running" in state or "terminated" in state


def has_ended(pod: Object) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return ended or "terminated" in container_of(pod).get("state", {})


def was_taken_away(pod: Object) -> bool:
    """Whether the cluster ended the Pod for its own ends; its Job makes another one then."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(
        one.get("type") == "DisruptionTarget" and one.get("status") == "True" for one in conditions
    )


def waiting(pod: Object, events: Iterable[Object]) -> Waiting:
    """Why a Pod that has not started is waiting."""
    state = container_of(pod).get("state", {}).get("waiting", {})
    reason, message = state.get("reason", ""), state.get("message", "")
    image = container_of(pod).get("image") or pod["spec"]["containers"][0].get("image", "")
    if reason in ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"):
        error = ImagePullFailed(
            f"the node can't pull {image}: {_one_line(message) or reason}", hint=_pull_hint(message)
        )
        lasting = PULL_SECONDS if reason in ("ImagePullBackOff", "ErrImagePull") else 0.0
        return Waiting(f"its image {image} can't be pulled ({reason})", error, lasting)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        refused = ContainerRefused(
            f"the node can't start the builder's container: {_one_line(message) or reason}",
            hint="the message names what is missing; for a user other than the image's see "
            "`--rung` (restricted needs the rootless image)",
        )
        return Waiting(f"its container can't be started ({reason})", refused, MOUNT_SECONDS)
    for one in pod.get("status", {}).get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return _unscheduled(one.get("message", ""))
    for event in reversed(list(events)):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            return _unmounted(event.get("message", ""))
    if pod.get("spec", {}).get("nodeName"):
        return Waiting(f"it starts on node {pod['spec']['nodeName']}")
    return Waiting("it waits for a node")


def _unscheduled(message: str) -> Waiting:
    shown = _one_line(message) or "the scheduler finds no node"
    cures = (
        ("Insufficient memory", "ask for less with --memory, or add a larger node"),
        ("Insufficient cpu", "ask for less with --cpu, or wait for other builds to end"),
        ("Insufficient ephemeral-storage", "no node has that much disk free for a Pod"),
        ("node affinity", "has the cluster nodes of that platform? see --platform and "
         "`kubectl get nodes -L kubernetes.io/arch`"),
        ("node selector", "has the cluster nodes of that platform? see --platform"),
        ("taint", "the nodes are kept for other Pods: ask for a toleration or another node pool"),
        ("persistentvolumeclaim", "make the claim first: `pybuild k8s render cache-claim`"),
        ("PersistentVolume", "the claim's volume is bound to other nodes"),
    )  # fmt: skip
    hint = next((cure for text, cure in cures if text in message), "`kubectl get nodes` tells more")
    error = PodUnschedulable(f"no node takes the build's Pod: {shown}", hint=hint)
    return Waiting(f"no node takes it: {shown}", error, UNSCHEDULABLE_SECONDS)


def _unmounted(message: str) -> Waiting:
    shown = _one_line(message)
    found = re.search(r'secret "([^"]+)" not found', message)
    if found:
        hint = f"`pybuild k8s secret {found[1]}` makes it from credentials or a config.json"
    else:
        hint = "make what is missing in the Pod's namespace"
    error = VolumeMissing(f"a volume of the build's Pod is not there: {shown}", hint=hint)
    return Waiting(f"a volume is not there: {shown}", error, MOUNT_SECONDS)


def _pull_hint(message: str) -> str:
    low = message.lower()
    if "unauthorized" in low or "denied" in low or "forbidden" in low:
        return "the node needs credentials for it: --pull-secret names a Secret that has them"
    if "not found" in low or "manifest unknown" in low:
        return "is the name right? --image=REPOSITORY takes the tag that the rung needs"
    if "exec format" in low or "no match for platform" in low:
        return "the image is not made for this node's platform"
    return "can the nodes reach that registry, and is the name right? --image names another"


def ended(pod: Object, job: Object | None = None) -> PybuildError | None:
    """What a build that is over failed with; None where it is well."""
    status = pod.get("status", {})
    state = container_of(pod).get("state", {}).get("terminated") or {}
    code, reason = state.get("exitCode"), state.get("reason", "")
    limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "")
    if status.get("reason") == "Evicted":
        return PodEvicted(
            f"the node took the build's Pod away: {_one_line(status.get('message', ''))}",
            hint=_evicted_hint(status.get("message", "")),
        )
    if reason == "OOMKilled":
        return OutOfMemory(
            f"the build went over its memory limit{f' of {limit}' if limit else ''}",
            hint="the builder itself stays below 150 MB: a RUN needs more; give it with --memory",
        )
    if late := deadline(job) or (
        "DeadlineExceeded" if status.get("reason") == "DeadlineExceeded" else ""
    ):
        return DeadlineExceeded(f"the build took too long ({late})", hint="--deadline=2h")
    if code == 0:
        return None
    if was_taken_away(pod):
        return PodLost(
            f"the cluster took the build's Pod away: {_one_line(status.get('message', ''))}",
            hint="a node was drained or preempted, and no other Pod followed: start it again",
        )
    if code is not None:
        return BuildFailedInPod(
            f"the build ended with status {code}", status=int(code), hint="its log has the reason"
        )
    return PodLost(
        f"the build's Pod ended without a word ({status.get('reason') or 'unknown'})",
        hint="`kubectl describe pod` may know more; start it again",
    )


def _evicted_hint(message: str) -> str:
    if "memory" in message:
        return "the node ran short of memory: ask for more with --memory, so that it is kept free"
    return "it needs about twice the image with its bases: give it more with --storage"


def deadline(job: Object | None) -> str:
    """Why a Job that failed by its deadline did; "" for any other."""
    for one in (job or {}).get("status", {}).get("conditions") or ():
        failed = one.get("type") in ("Failed", "FailureTarget") and one.get("status") == "True"
        if failed and one.get("reason") == "DeadlineExceeded":
            return _one_line(one.get("message", "")) or "DeadlineExceeded"
    return ""


def job_failed(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or ()
    return any(one.get("type") == "Failed" and one.get("status") == "True" for one in conditions)


def not_created(events: Iterable[Object]) -> PybuildError | None:
    """Why a Job's Pod could not be created, as the Job controller tells it in its events."""
    for event in reversed(list(events)):
        if event.get("reason") == "FailedCreate":
            return refusal(event.get("message", ""), 403)
    return None


def refusal(message: str, status: int) -> PybuildError:
    """An object that the API server refused: which rule it broke, and the cure."""
    shown = _one_line(message)
    found = re.search(r'violates PodSecurity "([a-z]+):', message)
    if found:
        rung = "restricted" if found[1] == "restricted" else "default"
        return PodSecurityDenied(
            f"the namespace enforces Pod Security {found[1]!r}: {shown}",
            hint=f"--rung={rung} passes it"
            + (", with the rootless image" if rung == "restricted" else ""),
        )
    if "unable to validate against any security context constraint" in message:
        return PodSecurityDenied(
            f"no security context constraint takes the Pod: {shown}", hint="--rung=openshift"
        )
    if "exceeded quota" in message or "must specify limits" in message or "LimitRange" in message:
        return QuotaExceeded(
            f"the namespace leaves no room: {shown}",
            hint="ask for less with --memory and --cpu, or wait for other builds to end",
        )
    if status in (401, 403):
        hint = (
            "log in to the cluster again"
            if status == 401
            else "docs/kubernetes.md has the Role that `pybuild k8s` needs; "
            "`pybuild k8s render rbac-role` prints it"
        )
        return ClusterForbidden(f"the cluster refused: {shown}", hint=hint)
    return ObjectRefused(
        f"the cluster refused: {shown}", hint="the message names the field; check that value"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]
