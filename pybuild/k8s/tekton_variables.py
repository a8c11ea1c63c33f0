"""Tekton's `$(params.IMAGE)` and their like: what they name, and whether that is declared.

From Tekton's documentation of variable substitution in v1. What is no variable of Tekton's, a
shell's `$(date)` or Kubernetes' `$(NAME)`, is left alone, unless it is nearly one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from pybuild.k8s import rules
from pybuild.k8s.document import Node
from pybuild.k8s.rules import Finding

HEADS = ("params", "workspaces", "results", "tasks", "steps", "step", "context", "credentials",
         "finally")  # fmt: skip
OF_WORKSPACE = ("path", "bound", "claim", "volume")
IN_TASKS = (
    "taskRun.name", "taskRun.namespace", "taskRun.uid", "task.name", "task.retry-count",
)  # fmt: skip
IN_PIPELINES = (
    "pipelineRun.name", "pipelineRun.namespace", "pipelineRun.uid", "pipeline.name",
    "pipelineTask.retries",
)  # fmt: skip
OF_TASK = ("results", "status", "reason", "outputs", "matrix")
_VARIABLE = re.compile(r"\$\(([A-Za-z][^()$\s]*)\)")
_PART = re.compile(r"""\.?([A-Za-z0-9_-]+)|\[(?:"([^"\]]*)"|'([^'\]]*)'|(\*|\d+))\]""")


class Scope(Struct, frozen=True):
    """What is declared around a text. `params` have their type, `tasks` the names of their results,
    None where these are not known. With `propagated`, what a run declares counts too, and is not
    in view."""

    params: Mapping[str, str] = {}
    workspaces: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    tasks: Mapping[str, tuple[str, ...] | None] | None = None
    finally_tasks: tuple[str, ...] = ()
    propagated: bool = False

    @property
    def in_pipeline(self) -> bool:
        return self.tasks is not None


class Variable(Struct, frozen=True):
    """One use: its parts (`params`, `IMAGE`), and `*` or a number in brackets at its end."""

    node: Node
    text: str
    parts: tuple[str, ...]
    index: str = ""

    @property
    def head(self) -> str:
        return self.parts[0]

    @property
    def alone(self) -> bool:
        """Whether the text has nothing else in it."""
        return self.node.text.strip() == self.text


def variables(node: Node) -> Iterator[Variable]:
    """Those in a text that are, or nearly are, Tekton's."""
    for match in _VARIABLE.finditer(node.text):
        parts, index, end = [], "", 0
        for part in _PART.finditer(match[1]):
            if part.start() != end:
                break
            end = part.end()
            if part[4] is not None:
                index = part[4]
            else:
                parts.append(next(text for text in part.groups()[:3] if text is not None))
        if parts and parts[0] == "inputs":  # of v1alpha1; still replaced
            del parts[0]
        if end == len(match[1]) and len(parts) > 1:
            yield Variable(node, match[0], tuple(parts), index)


def check_variables_in(nodes: Iterable[Node], scope: Scope) -> Iterator[Finding]:
    """What of the texts in and below some nodes is not declared, or is used in the wrong place."""
    for node in nodes:
        for part in node.walk():
            for variable in variables(part) if part.text else ():
                yield from _check(variable, scope)


def _check(variable: Variable, scope: Scope) -> Iterator[Finding]:
    parts = variable.parts
    match variable.head:
        case "params":
            yield from _param(variable, scope)
        case "workspaces":
            yield from _declared(variable, "workspace", scope.workspaces, scope)
            known = ("bound",) if scope.in_pipeline else OF_WORKSPACE
            if parts[2:] not in {(name,) for name in known}:
                yield _undeclared(variable, f"a workspace has {', '.join(known)} here")
        case "results" if not scope.in_pipeline:
            yield from _declared(variable, "result", scope.results, scope)
            if parts[2:] != ("path",):
                yield _undeclared(variable, f"$(results.{parts[1]}.path) is what there is")
        case "tasks" | "finally" if scope.in_pipeline:
            yield from _task(variable, scope)
        case "context":
            known = (*IN_PIPELINES, *(() if scope.in_pipeline else IN_TASKS))
            if ".".join(parts[1:]) not in known:
                yield _undeclared(variable, _near(".".join(parts[1:]), known))
        case "credentials" if not scope.in_pipeline:
            if parts[1:] != ("path",):
                yield _undeclared(variable, "$(credentials.path) is what there is")
        case "steps" if not scope.in_pipeline:
            if parts[1].removeprefix("step-") not in scope.steps:
                yield _undeclared(variable, _near(parts[1], scope.steps))
        case "step" if not scope.in_pipeline:
            pass  # a step's own result, which a StepAction may declare
        case head if head in HEADS:
            where = "a Pipeline" if scope.in_pipeline else "a Task"
            yield _undeclared(variable, f"{where} has no $({head}.…)")
        case head:
            near = difflib.get_close_matches(head, HEADS, 1, 0.75)
            if near:
                yield _undeclared(variable, f"did you mean $({near[0]}.…)?")


def _param(variable: Variable, scope: Scope) -> Iterator[Finding]:
    name, node = variable.parts[1], variable.node
    kind = scope.params.get(name)
    if kind is None:
        joined = ".".join(variable.parts[1:])
        if joined in scope.params:
            yield _undeclared(variable, f'a name with dots is written $(params["{joined}"])')
        else:
            yield from _declared(variable, "parameter", tuple(scope.params), scope)
        return
    last = node.path[-1] if node.path else ""
    if last == "script":
        yield node.finding(
            rules.SCRIPT_INJECTION,
            f"{variable.text} becomes text of the script, and whatever is in it is run",
            "give it as a variable: env: [{name: …, value: " + variable.text + "}]",
        )
    of_param = last in ("value", "values") and "env" not in node.path
    whole = variable.alone and (isinstance(last, int) or of_param)
    if kind == "string" and (variable.index or len(variable.parts) > 2):
        yield node.finding(
            rules.WRONG_TYPE,
            f"{variable.text}: the parameter {name} is a text",
            f"$(params.{name}), or type: array where it is declared",
        )
    elif kind == "array" and not (whole or variable.index.isdigit()):
        yield node.finding(
            rules.ARRAY_IN_TEXT,
            f"{variable.text} is an array, and can only be a list item by itself",
            f'args: ["$(params.{name}[*])"]',
        )
    elif kind == "object" and len(variable.parts) < 3 and not whole:
        yield _undeclared(variable, f"$(params.{name}.KEY) is one of its texts")


def _task(variable: Variable, scope: Scope) -> Iterator[Finding]:
    """`$(tasks.build.results.IMAGE_DIGEST)` and what else is known of a task."""
    parts, tasks = variable.parts, scope.tasks or {}
    names = scope.finally_tasks if variable.head == "finally" else tuple(tasks)
    if parts[1:] == ("status",):
        return
    if parts[1] not in names:
        hint = _near(parts[1], names)
        message = f"{variable.text}: there is no task {parts[1]}"
        yield variable.node.finding(rules.NO_SUCH_TASK, message, hint)
    elif len(parts) < 3 or parts[2] not in OF_TASK:
        yield _undeclared(variable, f"a task has {', '.join(OF_TASK)}")
    elif parts[2] == "results":
        results = tasks.get(parts[1])
        if len(parts) < 4:
            yield _undeclared(variable, f"$(tasks.{parts[1]}.results.NAME)")
        elif results is not None and parts[3] not in results:
            yield _undeclared(variable, _near(parts[3], results) or f"{parts[1]} has no results")


def _declared(
    variable: Variable, what: str, names: Sequence[str], scope: Scope
) -> Iterator[Finding]:
    if variable.parts[1] not in names and not (scope.propagated and what != "result"):
        hint = _near(variable.parts[1], names) or f"declare the {what}"
        yield _undeclared(variable, hint)


def _undeclared(variable: Variable, hint: str) -> Finding:
    return variable.node.finding(rules.UNDECLARED, f"{variable.text} is not declared", hint)


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return (
        f"did you mean {near[0]}?" if near else ", ".join(names) and f"there is {', '.join(names)}"
    )
