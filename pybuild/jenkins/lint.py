"""A Jenkinsfile, checked by the controller: the linter of Pipeline: Declarative."""

from __future__ import annotations

import re

from msgspec import Struct

from pybuild.jenkins.controller import Controller
from pybuild.jenkins.errors import ControllerError, JobUnknown

_PATH = "pipeline-model-converter/validate"
_FINE = "successfully validated"
_FOUND = re.compile(
    r"^WorkflowScript: \d+: (?P<text>.*?)\s*@ line (?P<line>\d+), column (?P<at>\d+)\."
)


class Finding(Struct, frozen=True):
    """`line` and `column` count from 1; 0 where the linter names none."""

    line: int
    column: int
    text: str


def check(controller: Controller, jenkinsfile: str) -> tuple[Finding, ...]:
    """What the controller finds wrong. Raises ControllerError where it has no linter."""
    try:
        reply = controller.post(controller.root + _PATH, {"jenkinsfile": jenkinsfile})
    except JobUnknown as error:
        raise ControllerError(
            "the controller has no linter", hint="it comes with the plugin Pipeline: Declarative"
        ) from error
    return findings(reply.text)


def findings(answer: str) -> tuple[Finding, ...]:
    """The errors in the linter's text; a text that names none and is not fine is one by itself."""
    if _FINE in answer:
        return ()
    found = [
        Finding(int(one["line"]), int(one["at"]), one["text"])
        for line in answer.splitlines()
        if (one := _FOUND.match(line.strip()))
    ]
    text = answer.strip().removeprefix("Errors encountered validating Jenkinsfile:").strip()
    return tuple(found) or (Finding(0, 0, text or "the linter said nothing"),)
