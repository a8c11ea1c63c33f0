"""A build's Job, followed to its end: its Pod's start, its context, its log, how it ended.

Nothing here trusts a connection: a watch that ends goes on from the last version it saw, or lists
anew where the server has forgotten that; a log that breaks goes on after its last line; the end is
what the Pod's status says, never that a stream stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from msgspec import Struct

from pybuild.errors import Interrupted, PybuildError
from pybuild.events import EventSink, Level, Notice
from pybuild.k8s import explain
from pybuild.k8s.cluster import Attached, Broken, Cluster, Gone, unreachable
from pybuild.k8s.errors import (
    BuildFailedInPod,
    BuildUnknown,
    ContextNotSent,
    DeadlineExceeded,
    PodLost,
    PodNotStarted,
)
from pybuild.k8s.jobs import CONTAINER

Object = dict[str, Any]
T = TypeVar("T")
Chunks = Callable[[], Iterable[bytes]]
_MOST_FAILURES = 5  # to read the log of a Pod that has ended


class Patience(Struct, frozen=True):
    """Seconds. `start`: until the Pod runs; `outage`: how long the cluster may not answer;
    `watch`: how long one watch lasts, after which Job and events are looked at; `pause`: between
    two tries, doubled up to `most_pause`. `scale` multiplies the waits of explain.py."""

    start: float = 900.0
    outage: float = 300.0
    watch: int = 5
    pause: float = 0.5
    most_pause: float = 10.0
    scale: float = 1.0


class Outcome(Struct, frozen=True):
    """How a build ended. `digest` is what it pushed, "" where it does not say."""

    job: str
    error: PybuildError | None
    digest: str = ""


class Follower:
    """Follows one Job. `line` takes each line of the log, `sink` what happens beside it."""

    def __init__(
        self,
        cluster: Cluster,
        job: str,
        *,
        line: Callable[[str], None],
        sink: EventSink,
        stopped: threading.Event,
        patience: Patience,
    ) -> None:
        self._cluster = cluster
        self._job = job
        self._line = line
        self._sink = sink
        self._stopped = stopped
        self._patience = patience
        self._fed: set[str] = set()  # Pods that were given the context
        self._attached: Attached | None = None
        self._not_sent: ContextNotSent | None = None

    def follow(self, context: Chunks | None) -> Outcome:
        """To the end. `context` makes the stream for a Pod's standard input, if it takes one.

        Raises the errors of explain.py for a build that never started, ClusterUnreachable,
        Interrupted.
        """
        seen = ""
        while True:
            pod = self._started_pod(seen)
            seen = pod["metadata"]["uid"]
            self._feed(pod, context)
            pod = self._log_to_end(pod)
            if explain.was_taken_away(pod) and self._has_successor():
                self._tell(Level.WARNING, "the cluster took the Pod away; its Job makes another")
                continue
            return self._outcome(pod)

    def feed_only(self, context: Chunks) -> None:
        """Waits for the Pod, and gives it its context: all that a build which is left alone needs
        from here."""
        self._feed(self._started_pod(""), context)
        if self._not_sent is not None:
            raise self._not_sent
        if self._attached is not None:
            self._attached.settle()

    # --- the start ------------------------------------------------------------------------------

    def _started_pod(self, seen: str) -> Object:
        """The Job's Pod, once its container runs or has ended; `seen` is the uid of the one before.

        Raises what keeps it from starting.
        """
        begun = time.monotonic()
        told, since = "", begun
        for pods in self._changes():
            pod = _newest(pods, seen)
            if pod is not None and (explain.has_started(pod) or explain.has_ended(pod)):
                if told:
                    self._tell(Level.INFO, f"Pod {pod['metadata']['name']} runs")
                return pod
            waiting = self._why(pod)
            now = time.monotonic()
            if waiting.text != told:
                level = Level.WARNING if waiting.error else Level.INFO
                self._tell(level, f"Pod of {self._job}: {waiting.text}")
                told, since = waiting.text, now
            lasting = waiting.patience_seconds * self._patience.scale
            if waiting.error is not None and now - since >= lasting:
                raise waiting.error
            if now - begun > self._patience.start:
                if waiting.error is not None:
                    raise waiting.error
                raise PodNotStarted(
                    f"the build's Pod did not start in {now - begun:.0f} s: {told}",
                    hint="--start-timeout=30m waits longer; `kubectl describe pod` may know more",
                )
        raise AssertionError("changes never end")

    def _why(self, pod: Object | None) -> explain.Waiting:
        if pod is not None:
            name = pod["metadata"]["name"]
            waits = container_waits(pod)
            return explain.waiting(pod, () if waits else self._tried(self._cluster.events, name))
        job = self._tried(self._cluster.job, self._job)
        if late := explain.deadline(job):
            raise DeadlineExceeded(f"the build took too long ({late})", hint="--deadline=2h")
        if refused := explain.not_created(self._tried(self._cluster.events, self._job)):
            raise refused
        if explain.job_failed(job):
            raise PodLost(f"the Job {self._job} failed without a Pod", hint="start it again")
        return explain.Waiting("its Job has not made it yet")

    def _changes(self) -> Iterator[list[Object]]:
        """The Job's Pods, now and whenever something may have changed; never ends."""
        selector = f"job-name={self._job}"
        pods: dict[str, Object] = {}
        version = ""
        while True:
            if not version:
                found, version = self._tried(self._cluster.pods, selector)
                pods = {one["metadata"]["uid"]: one for one in found}
                yield list(pods.values())
            try:
                seconds = self._patience.watch
                for kind, pod in self._cluster.watch_pods(selector, version, seconds):
                    version = pod["metadata"].get("resourceVersion", version)
                    if kind == "BOOKMARK":
                        continue
                    pods[pod["metadata"]["uid"]] = pod
                    if kind == "DELETED":
                        del pods[pod["metadata"]["uid"]]
                    yield list(pods.values())
            except Gone:
                version = ""
                continue
            except Broken:
                version = ""  # and the list, which is tried again, tells how long it may take
                self._pause(self._patience.pause)
                continue
            self._check_stop()
            yield list(pods.values())

    # --- the context ----------------------------------------------------------------------------

    def _feed(self, pod: Object, context: Chunks | None) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if context is None or uid in self._fed or explain.has_ended(pod):
            return
        begun = time.monotonic()
        self._fed.add(uid)
        self.close()
        self._attached = attached = self._tried(self._cluster.attach, name, CONTAINER)
        try:
            attached.send(context())
        except ContextNotSent as error:
            # A builder that ends early closes its input: then its own words say why.
            self._not_sent = error
            self._tell(Level.WARNING, error.message)
            return
        took = time.monotonic() - begun
        self._tell(Level.INFO, f"sent {attached.sent / 1e6:.1f} MB of context in {took:.1f} s")

    def close(self) -> None:
        """Ends the connection to the container's input, if there is one."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    # --- the log --------------------------------------------------------------------------------

    def _log_to_end(self, pod: Object) -> Object:
        """Hands out the log's lines, each once, until the container has ended; the Pod then.

        A log that ends tells nothing: it is read again until it was read from after the end.
        """
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        resume = Resume()
        failures, pause = 0, self._patience.pause
        while True:
            over = explain.has_ended(pod)
            if over and (not _keeps_its_log(pod) or failures > _MOST_FAILURES):
                return pod
            try:
                got = self._read_log(name, resume, whole=over)
                if over:
                    return pod
                failures = 0 if got else failures
            except Broken:
                failures, got = failures + 1, False
            current = self._current(uid)
            if current is None:
                return _gone(pod)
            pod = current
            pause = self._patience.pause if got else min(pause * 2, self._patience.most_pause)
            if not explain.has_ended(pod) or failures:
                self._pause(pause)

    def _read_log(self, name: str, resume: Resume, *, whole: bool) -> bool:
        """Whether a new line came. `whole`: the last line counts even if it has no end."""
        got = False
        resume.reopened()
        for text in lines(self._cluster.log(name, CONTAINER), unfinished=whole):
            shown = resume.new(text)
            if shown is not None:
                got = True
                self._line(shown)
            self._check_stop()
        return got

    def _current(self, uid: str) -> Object | None:
        pods, _ = self._tried(self._cluster.pods, f"job-name={self._job}")
        return next((one for one in pods if one["metadata"]["uid"] == uid), None)

    # --- the end --------------------------------------------------------------------------------

    def _has_successor(self) -> bool:
        try:
            job = self._tried(self._cluster.job, self._job)
        except BuildUnknown:
            return False
        return not explain.job_failed(job) and not explain.deadline(job)

    def _outcome(self, pod: Object) -> Outcome:
        try:
            job: Object | None = self._tried(self._cluster.job, self._job)
        except BuildUnknown:
            job = None
        error = explain.ended(pod, job)
        if isinstance(error, BuildFailedInPod) and self._not_sent is not None:
            error = self._not_sent
        state = explain.container_of(pod).get("state", {}).get("terminated") or {}
        message = str(state.get("message", "")).strip()
        digest = message if error is None and message.startswith("sha256:") else ""
        return Outcome(self._job, error, digest)

    # --- what is unreliable ---------------------------------------------------------------------

    def _tried(self, action: Callable[..., T], *arguments: Any) -> T:
        """The result of a call that is repeated while the cluster does not answer.

        Raises ClusterUnreachable, Interrupted.
        """
        begun = time.monotonic()
        pause = self._patience.pause
        while True:
            try:
                return action(*arguments)
            except (Broken, Gone) as error:
                lasted = time.monotonic() - begun
                if lasted > self._patience.outage:
                    raise unreachable(Broken(str(error)), lasted) from error
            self._pause(pause)
            pause = min(pause * 2, self._patience.most_pause)

    def _pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stopped.is_set():
            raise Interrupted(15)

    def _tell(self, level: Level, message: str) -> None:
        if not self._stopped.is_set():
            self._sink(Notice(level, message))


class Resume:
    """Which lines of a log that is read again from its beginning are new: those after the time of
    the last one, and at that very time those that were not among the ones handed out.

    By time and not by number, since the kubelet cuts long logs at their beginning. The times have
    nine digits each (the kubelet's RFC3339NanoFixed), so that text compares as they do.
    """

    def __init__(self) -> None:
        self._last = ""
        self._at_last = 0  # lines that had this time
        self._again = 0  # of them, met since the log was opened
        self._catching_up = False

    def reopened(self) -> None:
        self._catching_up, self._again = bool(self._last), 0

    def new(self, text: str) -> str | None:
        """A line without its time, None if it was handed out before."""
        stamp, _, rest = text.partition(" ")
        if self._catching_up and stamp < self._last:
            return None
        if self._catching_up and stamp == self._last:
            self._again += 1
            if self._again <= self._at_last:
                return None
        if stamp == self._last:
            self._at_last += 1
        elif stamp > self._last:
            self._last, self._at_last, self._catching_up = stamp, 1, False
        return rest


def lines(pieces: Iterable[bytes], *, unfinished: bool) -> Iterator[str]:
    """The lines of a stream. One without its end counts only if `unfinished`: else it may have been
    cut, and is whole when it comes again."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
    if rest and unfinished:
        yield rest.decode(errors="replace")


def container_waits(pod: Object) -> bool:
    """Whether the container's own status says why it waits, so that events are not needed."""
    reason = explain.container_of(pod).get("state", {}).get("waiting", {}).get("reason", "")
    return reason not in ("", "ContainerCreating", "PodInitializing")


def _newest(pods: Iterable[Object], seen: str) -> Object | None:
    others = [one for one in pods if one["metadata"]["uid"] != seen]
    return max(others, key=lambda one: str(one["metadata"].get("creationTimestamp")), default=None)


def _gone(last: Object) -> Object:
    """The Pod as it was last seen, ended: it was deleted while it was followed."""
    if explain.has_ended(last):
        return last
    status = {"phase": "Failed", "reason": "deleted"} | {
        key: value for key, value in last.get("status", {}).items() if key == "conditions"
    }
    return last | {"status": status}


def _keeps_its_log(pod: Object) -> bool:
    """An evicted Pod's log is gone, and one that never started has none."""
    return pod.get("status", {}).get("reason") != "Evicted" and explain.has_started(pod)
