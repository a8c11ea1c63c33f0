"""`pybuild request FILE`: a JSON request carried out, with what came of it beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.cli import request_facts as facts_module
from pybuild.cli.flags.flag import BUILD, MANIFEST, PLAN, PUSH
from pybuild.cli.parse import Values, parse_flags
from pybuild.cli.request import (
    SCHEMA,
    Facts,
    destinations,
    read_request,
    request_command,
    request_to_flags,
    sources,
)
from pybuild.cli.request_result import (
    PROVENANCE_FILE,
    failure_of,
    give_to_owner,
    pushed_of,
    result_of,
    write_for_owner,
    write_result,
)
from pybuild.cli.request_values import BadRequest
from pybuild.errors import PybuildError
from pybuild.events import BuildFailed, BuildFinished, Event, EventSink, ImagePushed

if TYPE_CHECKING:
    from pybuild.cli.session import Stop

_COMMANDS = {"build": BUILD, "plan": PLAN, "push": PUSH, "manifest": MANIFEST}


class Asked(Struct, frozen=True):
    """A request that has been read, with all that its command needs."""

    file: Path
    request: Mapping[str, object]
    command: str
    facts: Facts
    values: Values
    environment: Mapping[str, str]


def carry_out_request(file: str, environment: Mapping[str, str]) -> int:
    """The exit status; result.json says what came of it, also on failure."""
    from pybuild.cli.build import reporting
    from pybuild.cli.session import failed_event, reported

    path = Path(file)
    request = read_request(path)
    try:
        command = request_command(request)
        if command == "login":
            return _login(path, request, environment)
        asked = _asked(path, request, command, environment)
    except PybuildError as error:
        write_result(path, failure_of(failed_event(error)))
        raise
    quiet = "warn" if command == "plan" and "verbosity" not in asked.values.given else ""
    with reporting(asked.values, asked.environment, verbosity=quiet) as (sink, stop):
        kept = _Kept(asked)

        def told(event: Event, /) -> None:
            sink(event)
            kept(event)

        return reported(told, stop, lambda: kept.end(_carry_out(asked, told, stop)))


def _asked(
    path: Path, request: Mapping[str, object], command: str, environment: Mapping[str, str]
) -> Asked:
    request_to_flags(request)  # what is wrong by itself is told before git is asked
    facts = facts_module.facts_of(request, Path.cwd(), environment)
    request = facts_module.resolved(request, environment)
    words = sources(request)
    flags = [*request_to_flags(request, facts), *words]
    _make_reports(path, request)
    values = parse_flags(_COMMANDS[command], flags, environment, positionals=len(words))
    wanted = facts_module.request_environment(request, facts, environment)
    return Asked(path, request, command, facts, values, wanted)


def _make_reports(path: Path, request: Mapping[str, object]) -> None:
    """The folder of reports, for the request's owner."""
    folder = request.get("reports")
    if folder:
        missing = [one for one in (Path(str(folder)), *Path(str(folder)).parents)
                   if not one.exists()]  # fmt: skip
        for one in reversed(missing):
            try:
                one.mkdir()
            except OSError as error:
                raise BadRequest(f"`reports`: {one} can't be made: {error.strerror}") from error
            give_to_owner(path, one)


def _carry_out(asked: Asked, sink: EventSink, stop: Stop) -> int:
    if asked.command == "push":
        from pybuild.cli.push import push_image

        expected = str(asked.request.get("digest") or "")
        return push_image(asked.values, asked.environment, sink, stop, expected=expected)
    if asked.command == "manifest":
        from pybuild.cli.manifest import create

        return create(asked.values, asked.environment, sink, stop)
    from pybuild.cli.build import Job, Lookup, build_job, plan_job

    named = "dockerfile" in asked.values.given
    lookup = Lookup.WORKING_FOLDER_FIRST if named else Lookup.CONTEXT_ONLY
    job = Job(asked.values, asked.values.text("context"), lookup, asked.environment)
    return (build_job if asked.command == "build" else plan_job)(job, sink, stop)


class _Kept:
    """Writes the result when the event comes that ends the work."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._pushed: list[ImagePushed] = []
        self._started = time.time()
        self._write_provenance = _provenance_writer(asked)

    def __call__(self, event: Event) -> None:
        asked = self._asked
        if isinstance(event, ImagePushed):
            self._pushed.append(event)
        elif isinstance(event, BuildFinished):
            self._write_provenance(event, self._started)
            pushed = not asked.values.switch("no-push")
            self._hand_over()
            write_result(
                asked.file,
                result_of(event, pushed=pushed, request=asked.request, facts=asked.facts),
            )
        elif isinstance(event, BuildFailed):
            self._hand_over()
            write_result(asked.file, failure_of(event, [one.reference for one in self._pushed]))

    def end(self, status: int) -> int:
        """For the commands that close with no event of their own."""
        if self._asked.command == "plan":
            write_result(self._asked.file, {"schema": SCHEMA})
        elif self._asked.command != "build":
            seconds = time.time() - self._started
            order = {name: place for place, name in enumerate(destinations(self._asked.request))}
            told = sorted(self._pushed, key=lambda one: order.get(one.reference, len(order)))
            write_result(self._asked.file, pushed_of(told, seconds))
        return status

    def _hand_over(self) -> None:
        """What lies in the folder of reports belongs to the agent's user, who archives it."""
        folder = self._asked.request.get("reports")
        if folder:
            for path in (Path(str(folder)), *Path(str(folder)).rglob("*")):
                give_to_owner(self._asked.file, path)
        output = self._asked.request.get("output")
        place = Path(str(output["path"])) if isinstance(output, dict) else None
        if place is not None and place.exists():
            for path in (place, *place.rglob("*")):
                give_to_owner(self._asked.file, path)


def _provenance_writer(asked: Asked) -> Callable[[BuildFinished, float], None]:
    """Its modules are read now: after a RUN in place nothing may be imported."""
    folder = asked.request.get("reports")
    if asked.command != "build" or not (asked.request.get("provenance") and folder):
        return lambda _event, _started: None
    from pybuild import __version__
    from pybuild.output.provenance import provenance

    def write(event: BuildFinished, started: float) -> None:
        statement = provenance(
            event,
            asked.request,
            revision=asked.facts.revision,
            source=asked.facts.source,
            builder_version=__version__,
            times=(started, time.time()),
        )
        text = json.dumps(statement, indent=2) + "\n"
        write_for_owner(asked.file, Path(str(folder)) / PROVENANCE_FILE, text, 0o644)

    return write


def _login(path: Path, request: Mapping[str, object], environment: Mapping[str, str]) -> int:
    """Writes config.json into the folder named, for its owner alone; the container's own
    configuration lies below it, so that bases can still be pulled."""
    request_to_flags(request)
    folder = Path(str(request.get("configFolder") or ""))
    if not folder.is_absolute():
        raise BadRequest("`configFolder` is missing: the folder for config.json")
    base = facts_module.mounted_config(environment)
    config = facts_module.docker_config(request, environment, base)
    if not config:
        raise BadRequest("there are no credentials: give `registries` or `dockerConfig`")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_to_owner(path, folder)
    text = json.dumps(config, indent="\t") + "\n"
    write_for_owner(path, folder / "config.json", text, 0o600)
    write_result(path, {"schema": SCHEMA})
    return 0
