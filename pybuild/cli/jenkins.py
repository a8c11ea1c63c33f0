"""`pybuild jenkins`: begins, follows, shows and stops a job's builds; checks a Jenkinsfile."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag, UnexpectedArgument, UnknownCommand
from pybuild.cli.flags.flag import (
    JENKINS_CANCEL,
    JENKINS_CHECK,
    JENKINS_STATUS,
    JENKINS_TRIGGER,
)
from pybuild.cli.parse import Values, parse_flags
from pybuild.cli.session import Stop
from pybuild.report.text import colours_only, duration, harmless

if TYPE_CHECKING:
    from pybuild.jenkins.controller import Controller
    from pybuild.jenkins.job import Build, Job

ACTIONS = ("trigger", "status", "cancel", "check")


def jenkins_command(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status: of `trigger` and `status` that of the build's result, see `job.EXIT`."""
    from pybuild.cli.help import command_help

    if not argv or argv[0] in ("--help", "-h"):
        sys.stdout.write("\n".join(command_help(command) for command in _ACTIONS))
        return 0
    command = f"jenkins {argv[0]}"
    if command not in _ACTIONS:
        hint = f"one of {', '.join(ACTIONS)}"
        raise UnknownCommand(f"pybuild jenkins has no command {argv[0]!r}", hint=hint)
    values = parse_flags(command, argv[1:], environment, positionals=2)
    if values.help:
        sys.stdout.write(command_help(command))
        return 0
    with Stop().on_signals() as stop:
        controller = _controller(values, environment, stop)
        return _ACTIONS[command](values, controller, stop)


def _controller(values: Values, environment: Mapping[str, str], stop: Stop) -> Controller:
    from pybuild.jenkins.controller import Controller
    from pybuild.jenkins.credentials import address

    where = address(
        values.text("url"),
        values.text("user"),
        values.text("token-file"),
        values.text("certificate"),
        environment,
    )
    return Controller(where, _pause(stop), values.seconds("patience"))


def _pause(stop: Stop) -> Callable[[float], bool]:
    """Waits; raises Interrupted when a signal came, whatever was waited for."""

    def pause(seconds: float) -> bool:
        if stop.asked.wait(seconds):
            raise stop.error()
        return False

    return pause


def _job(values: Values, controller: Controller, stop: Stop) -> Job:
    from pybuild.jenkins.job import Job

    if not values.positional:
        raise UnexpectedArgument("no job is named", hint="with its folders: team/shop/main")
    limit = values.seconds("timeout") if "timeout" in values.texts else None
    deadline = None if limit is None else time.monotonic() + limit
    return Job(controller, values.positional[0], _pause(stop), deadline)


def _trigger(values: Values, controller: Controller, stop: Stop) -> int:
    if len(values.positional) > 1:
        raise UnexpectedArgument(
            f"trigger can't use {values.positional[1]!r}", hint="parameters: --param=NAME=VALUE"
        )
    parameters = {name: _parameter(name, text) for name, text in values.pairs("param").items()}
    job = _job(values, controller, stop)
    item = job.trigger(parameters)
    _tell(f"{job.name} is in the queue as item {item}")
    if values.switch("detach"):
        return 0
    number = job.wait_in_queue(item, lambda why: _tell(f"waits: {why}") if why else None)
    _tell(f"{job.name} {number} began: {job.url}{number}/")
    if not values.switch("no-log"):
        shown = sys.stderr if values.switch("json") else sys.stdout
        for line in job.log(number):
            shown.write(colours_only(line) + "\n")
            shown.flush()
    build = job.wait_for_end(number)
    _show(build, job, values)
    return build.exit_status


def _parameter(name: str, text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFlag(f"--param={name}={text}: this file can't be read as text") from error


def _status(values: Values, controller: Controller, stop: Stop) -> int:
    job = _job(values, controller, stop)
    build = job.build(_number(values) or "lastBuild")
    _show(build, job, values)
    if waiting := job.waiting():
        _tell(f"{job.name} has item {waiting[0]} in the queue: {waiting[1]}")
    return build.exit_status


def _cancel(values: Values, controller: Controller, stop: Stop) -> int:
    """The build that is named; without a number the last one, and what waits in the queue."""
    job, number = _job(values, controller, stop), _number(values)
    stopped = False
    if not number and (waiting := job.waiting()):
        job.cancel(waiting[0])
        _tell(f"item {waiting[0]} of {job.name} is out of the queue")
        stopped = True
    build = job.build(number or "lastBuild") if number or not stopped else None
    if build is not None and build.running:
        job.stop(build.number)
        _tell(f"{job.name} {build.number} was asked to stop")
    elif build is not None:
        _tell(f"{job.name} {build.number} had ended already: {build.result}")
    return 0


def _number(values: Values) -> str:
    number = values.positional[1] if len(values.positional) > 1 else ""
    if number and not (number.isascii() and number.isdigit()):
        raise UnexpectedArgument(f"{number!r} is no number of a build")
    return number


def _check(values: Values, controller: Controller, _stop: Stop) -> int:
    """1 if the controller finds anything wrong."""
    from pybuild.jenkins.lint import check

    file = Path(values.positional[0] if values.positional else "Jenkinsfile")
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnexpectedArgument(f"{file} can't be read as a Jenkinsfile") from error
    found = check(controller, text)
    for one in found:
        place = f"{file}:{one.line}:{one.column}" if one.line else str(file)
        sys.stdout.write("\n".join(map(harmless, f"{place}: {one.text}".splitlines())) + "\n")
    if not found:
        _tell(f"{file}: the controller finds nothing wrong")
    return 1 if found else 0


def _show(build: Build, job: Job, values: Values) -> None:
    from pybuild.jenkins.job import describe

    if values.switch("json"):
        sys.stdout.write(json.dumps(describe(build, job.name)) + "\n")
        return
    state = "runs" if build.running else build.result
    _tell(f"{job.name} {build.number}: {state}, {duration(build.seconds)}, {build.url}")


def _tell(text: str) -> None:
    sys.stderr.write(harmless(text) + "\n")
    sys.stderr.flush()


_ACTIONS: Mapping[str, Callable[[Values, Controller, Stop], int]] = {
    JENKINS_TRIGGER: _trigger,
    JENKINS_STATUS: _status,
    JENKINS_CANCEL: _cancel,
    JENKINS_CHECK: _check,
}
