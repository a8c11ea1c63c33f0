"""A job's builds: begun, found in the queue, followed to their end, stopped."""

from __future__ import annotations

import codecs
import difflib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from pybuild.jenkins.controller import Controller
from pybuild.jenkins.errors import (
    BadParameter,
    ControllerError,
    JobUnknown,
    NotBuildable,
    QueueItemGone,
    WaitedTooLong,
)

EXIT = {"SUCCESS": 0, "FAILURE": 1, "UNSTABLE": 2, "ABORTED": 3, "NOT_BUILT": 4}
_FIRST_POLL, _LONGEST_POLL = 0.25, 2.0  # seconds between two questions; news begin anew
_BUILD = "number,url,building,result,timestamp,duration,queueId,description"
_LATEST = 20  # builds that are looked through for one that left the queue


class Build(Struct, frozen=True):
    """`result` is a key of EXIT, "" while it runs; times are in seconds, `began` since 1970."""

    number: int
    url: str
    running: bool
    result: str
    began: float
    seconds: float
    description: str = ""

    @property
    def exit_status(self) -> int:
        """0 while it runs; an unknown result counts as a failure."""
        return 0 if self.running else EXIT.get(self.result, 1)


class Job:
    """One job of a controller; `pause` as the controller's, `deadline` in `time.monotonic`."""

    def __init__(
        self,
        controller: Controller,
        name: str,
        pause: Callable[[float], bool],
        deadline: float | None = None,
    ) -> None:
        self.name = name
        self._controller = controller
        self._pause = pause
        self._deadline = deadline
        self._poll = _FIRST_POLL
        self.url = controller.job_url(name)

    def trigger(self, parameters: Mapping[str, str]) -> int:
        """Begins a build; the number of its queue item. Raises NotBuildable, BadParameter, and as
        the controller does."""
        known = self._parameters()
        for name in parameters:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
                )
                raise BadParameter(f"{self.name} has no parameter {name}", hint=hint)
        # A job with parameters takes the other address even where none is given.
        action = "buildWithParameters" if known else "build"
        reply = self._controller.post(f"{self.url}{action}", parameters)
        place = urlsplit(reply.headers.get("Location", "")).path.rstrip("/")
        if not place.rpartition("/")[2].isdecimal():
            raise ControllerError(
                f"{self.name} was asked to build, and no queue item came back",
                hint="does the address redirect, from http to https for instance?",
            )
        return int(place.rpartition("/")[2])

    def _parameters(self) -> list[str]:
        tree = "buildable,jobs[name],property[parameterDefinitions[name]]"
        found = self._controller.read_json(self.url, tree)
        if "jobs" in found:
            names = ", ".join(f"{self.name}/{job['name']}" for job in found["jobs"][:5])
            raise NotBuildable(f"{self.name} is a folder", hint=f"it has {names or 'no job'}")
        if found.get("buildable") is False:
            raise NotBuildable(f"{self.name} is disabled", hint="enable it in Jenkins")
        return [
            definition["name"]
            for part in found.get("property", [])
            for definition in part.get("parameterDefinitions") or []
        ]

    def wait_in_queue(self, item: int, told: Callable[[str], None]) -> int:
        """The number of the build that a queue item became; `told` gets each new reason for
        waiting. Raises QueueItemGone, WaitedTooLong."""
        said = ""
        while True:
            url = f"{self._controller.root}queue/item/{item}/"
            try:
                found = self._controller.read_json(url, "cancelled,why,executable[number]")
            except JobUnknown:  # five minutes after it left the queue, or lost with a restart
                return self._begun_from(item)
            if found.get("executable"):
                return int(found["executable"]["number"])
            if found.get("cancelled"):
                raise QueueItemGone(f"the build of {self.name} was cancelled while it waited")
            why = found.get("why") or ""
            if why != said:
                told(why)
                said = why
            self._wait()

    def _begun_from(self, item: int) -> int:
        tree = f"builds[number,queueId]{{0,{_LATEST}}}"
        for build in self._controller.read_json(self.url, tree).get("builds", []):
            if build.get("queueId") == item:
                return int(build["number"])
        raise QueueItemGone(
            f"the queue item {item} of {self.name} is gone, and no build came of it"
        )

    def log(self, number: int) -> Iterator[str]:
        """The lines of a build's log as they come, without line ends, until the build ends.
        Goes on where it was after the controller restarted. Raises WaitedTooLong."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        url, start, rest = f"{self.url}{number}/logText/progressiveText", 0, ""
        while True:
            reply = self._controller.read(url, start=start)
            size = int(reply.headers.get("X-Text-Size", start))
            more = reply.headers.get("X-More-Data", "").lower() == "true"
            if size >= start:
                rest += decoder.decode(reply.content)
                *lines, rest = rest.split("\n")
                yield from (line.removesuffix("\r") for line in lines)
            if size != start:
                self._poll = _FIRST_POLL
            start = size
            if not more:
                break
            self._wait()
        if rest := rest + decoder.decode(b"", final=True):
            yield rest

    def wait_for_end(self, number: int) -> Build:
        """The build once it has a result: a log may end a moment earlier. Raises WaitedTooLong."""
        while (build := self.build(str(number))).running:
            self._wait()
        return build

    def build(self, which: str = "lastBuild") -> Build:
        """A build by its number, or by a word such as lastBuild. Raises JobUnknown."""
        found = self._controller.read_json(f"{self.url}{which}/", _BUILD)
        running = bool(found.get("building")) or not found.get("result")
        began = found.get("timestamp", 0) / 1000
        seconds = time.time() - began if running else found.get("duration", 0) / 1000
        result = "" if running else str(found["result"])
        about = found.get("description") or ""
        return Build(found["number"], found["url"], running, result, began, seconds, about)

    def waiting(self) -> tuple[int, str] | None:
        """The job's item in the queue and why it waits; None where there is none."""
        found = self._controller.read_json(self.url, "queueItem[id,why]").get("queueItem")
        return (int(found["id"]), str(found.get("why") or "")) if found else None

    def stop(self, number: int) -> None:
        """Aborts a running build."""
        self._controller.post(f"{self.url}{number}/stop", {})

    def cancel(self, item: int) -> None:
        """Takes an item out of the queue. Jenkins answers 404 for one that it has just removed."""
        try:
            self._controller.post(f"{self._controller.root}queue/cancelItem", {"id": str(item)})
        except JobUnknown:
            return

    def _wait(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise WaitedTooLong(
                f"{self.name} did not end in the time that was given", hint="--timeout gives more"
            )
        seconds, self._poll = self._poll, min(self._poll * 1.5, _LONGEST_POLL)
        if self._pause(seconds):
            raise WaitedTooLong(f"{self.name} is no longer followed; it goes on")


def describe(build: Build, name: str) -> dict[str, Any]:
    """A build as a JSON object."""
    return {
        "job": name,
        "number": build.number,
        "url": build.url,
        "running": build.running,
        "result": build.result,
        "began": build.began,
        "seconds": round(build.seconds, 1),
        "description": build.description,
    }
