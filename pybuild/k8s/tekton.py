"""Tekton's objects checked: fields, variables, and what tasks, runs and Pipelines say of others.

A Pipeline that is an object by itself has to declare whatever its tasks use; inside a run, what the
run gives reaches everything in it (Tekton's documentation, "Propagated Parameters").
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from pybuild.k8s import rules
from pybuild.k8s.document import Document, Node
from pybuild.k8s.pods import Pod
from pybuild.k8s.references import Known, check_references
from pybuild.k8s.rules import Finding
from pybuild.k8s.tekton_schema import (
    API,
    EMBEDDED_TASK,
    IN_V1,
    SPECS,
    WORKSPACE_SOURCES,
    check_shape,
    schema_of,
)
from pybuild.k8s.tekton_tasks import (
    check_declarations,
    check_task,
    check_timeout,
    declared_params,
    names_in,
    task_pod,
    type_of,
)
from pybuild.k8s.tekton_variables import Scope, check_variables_in, variables
from pybuild.k8s.values import check_claim

GROUP = "tekton.dev/"
_FIELDS_OF_A_TASK = ("params", "when", "matrix", "timeout", "displayName", "taskRef", "workspaces")


def is_tekton(document: Document) -> bool:
    """Whether it is an object that is looked into here."""
    root = document.root
    return root["apiVersion"].text.startswith(GROUP) and root["kind"].text in SPECS


def check_tekton(document: Document, known: Known) -> Iterator[Finding]:
    """What is wrong with a Task, Pipeline, TaskRun or PipelineRun, its Pods apart."""
    root = document.root
    version, kind, spec = root["apiVersion"], root["kind"].text, root["spec"]
    current = version.text == API
    for found in check_shape(root, schema_of(kind)):
        if current:
            yield found
        elif found.hint.startswith(IN_V1):  # it works as long as that version is served
            yield replace(found, rule=rules.OLD_VERSION)
        elif not found.message.startswith("apiVersion "):
            yield found
    if not current:
        message = f"{version.text} is on its way out"
        yield version.finding(rules.OLD_VERSION, message, f"apiVersion: {API}")
    match kind:
        case "Task":
            yield from check_task(spec)
        case "Pipeline":
            yield from _pipeline(spec, known, None)
        case "TaskRun":
            yield from _run(spec, known, "task")
        case _:
            yield from _run(spec, known, "pipeline")


def pods_of_tasks(document: Document) -> Iterator[Pod]:
    """The Pod of each Task that stands in an object."""
    spec, kind = document.root["spec"], document.root["kind"].text
    if kind == "Task":
        yield task_pod(spec)
    elif kind == "TaskRun" and spec["taskSpec"]["steps"]:
        yield task_pod(spec["taskSpec"])
    else:
        pipeline = spec["pipelineSpec"] if kind == "PipelineRun" else spec
        for task in _tasks(pipeline):
            if task["taskSpec"]["steps"]:
                yield task_pod(task["taskSpec"])


def _tasks(pipeline: Node) -> tuple[Node, ...]:
    return (*pipeline["tasks"].items(), *pipeline["finally"].items())


# --- what is referred to ----------------------------------------------------------------------


class Interface(Struct, frozen=True):
    """What a Task or Pipeline takes and gives: parameters and workspaces with whether they have to
    be given, and the names of its results."""

    name: str
    params: Mapping[str, bool]
    workspaces: Mapping[str, bool]
    results: tuple[str, ...]


def _interface(name: str, spec: Node) -> Interface:
    params = {p["name"].text: "default" not in p for p in spec["params"].items()}
    spaces = {w["name"].text: w["optional"].value is not True for w in spec["workspaces"].items()}
    return Interface(name, params, spaces, names_in(spec, "results"))


def _referred(user: Node, kind: str, known: Known) -> Iterator[Interface | Finding]:
    """The interface of what `taskRef` or `pipelineRef` names, or of what stands in its place; none
    where it is known to the cluster alone. And what is wrong with the reference."""
    ref, inside = user[f"{kind}Ref"], user[f"{kind}Spec"]
    if bool(ref) == bool(inside):
        which = "both" if ref else "neither"
        yield user.finding(rules.ONE_OF, f"it has {which} {kind}Ref and {kind}Spec", "one of them")
    elif inside:
        yield _interface(f"the {kind}", inside)
    elif ref["name"].text and not ref["resolver"] and ref["kind"].text in ("", kind.capitalize()):
        name, what = ref["name"].text, kind.capitalize()
        document = known.get((what, name))
        if document is None:
            yield ref.finding(rules.NEEDS, f"it needs the {what} {name}")
        else:
            yield _interface(f"the {what} {name}", document.root["spec"])


def _given(user: Node, interface: Interface) -> Iterator[Finding]:
    """Parameters and workspaces that have to be given, and those that are not asked for."""
    matrix = [p["name"].text for p in user.at("matrix", "params").items()]
    for field, asked in (("params", interface.params), ("workspaces", interface.workspaces)):
        what = field.removesuffix("s").replace("param", "parameter")
        given = {item["name"].text: item for item in user[field].items()}
        for name, needed in asked.items():
            if needed and name not in given and name not in matrix:
                hint = f"{field}: [{{name: {name}, …}}]"
                message = f"{interface.name} needs the {what} {name}"
                yield user[field].finding(rules.NOT_GIVEN, message, hint)
        for name, item in given.items():
            if name and name not in asked:
                near = difflib.get_close_matches(name, list(asked), 1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"it has {', '.join(asked) or 'none'}"
                )
                yield item["name"].finding(
                    rules.UNDECLARED, f"{interface.name} has no {what} {name}", hint
                )


# --- runs -------------------------------------------------------------------------------------


def _run(spec: Node, known: Known, kind: str) -> Iterator[Finding]:
    for found in _referred(spec, kind, known):
        if isinstance(found, Finding):
            yield found
        elif spec[f"{kind}Ref"]:
            yield from _given(spec, found)
    around = Scope(
        {item["name"].text: type_of(item["value"]) for item in spec["params"].items()},
        names_in(spec, "workspaces"),
    )
    inside = spec[f"{kind}Spec"]
    if inside and kind == "task":
        yield from check_task(inside, around)
    elif inside:
        yield from _pipeline(inside, known, around)
    yield from _bindings(spec, known)
    yield from check_timeout(spec["timeout"])
    for _, timeout in spec["timeouts"].entries():
        yield from check_timeout(timeout)


def _bindings(spec: Node, known: Known) -> Iterator[Finding]:
    """A volume for each workspace, and the objects that these need."""
    for binding in spec["workspaces"].items():
        sources = [key for key, _ in binding.entries() if key in WORKSPACE_SOURCES]
        if len(sources) != 1:
            text = " and ".join(sources) or "no volume"
            hint = "keep one of them" if sources else f"one of {', '.join(WORKSPACE_SOURCES)}"
            message = f"the workspace {binding['name'].text} has {text}"
            yield binding.finding(rules.ONE_OF, message, hint)
        yield from check_claim(binding.at("volumeClaimTemplate", "spec"))
    document = spec.document
    cut = len(spec.path)
    moved = {("spec", "volumes", *path[cut + 1 :]): line for path, line in document.lines.items()
             if path[: cut + 1] == (*spec.path, "workspaces")}  # fmt: skip
    account = spec["serviceAccountName"] or spec.at("taskRunTemplate", "serviceAccountName")
    value = {"spec": {"volumes": spec["workspaces"].value, "serviceAccountName": account.value}}
    moved["spec", "serviceAccountName"] = account.line
    yield from check_references(Pod(Document(document.file, value, moved).root, "Pod"), known)


# --- Pipelines --------------------------------------------------------------------------------


def _pipeline(spec: Node, known: Known, around: Scope | None) -> Iterator[Finding]:
    """`around`: what the run gives that has it inside."""
    yield from check_declarations(spec)
    params = {**(around.params if around else {}), **declared_params(spec)}
    spaces = (*(around.workspaces if around else ()), *names_in(spec, "workspaces"))
    results: dict[str, tuple[str, ...] | None] = {}
    seen: dict[str, int] = {}
    for task in _tasks(spec):
        name = task["name"]
        if name.text in seen:
            message = f"the task {name.text} stands on line {seen[name.text]} too"
            yield name.finding(rules.DUPLICATE_NAME, message, "give one another name")
        seen.setdefault(name.text, name.line)
        results[name.text] = None
        for found in _referred(task, "pipeline" if "pipelineRef" in task else "task", known):
            if isinstance(found, Interface):
                results[name.text] = found.results
                if task["taskRef"]:
                    yield from _given(task, found)
            else:
                yield found
    main = {item["name"].text: results[item["name"].text] for item in spec["tasks"].items()}
    last = names_in(spec, "finally")
    for task in _tasks(spec):
        scope = Scope(params, spaces, tasks=main)
        yield from _task_of_pipeline(task, scope, propagate=around)
    yield from check_variables_in(
        (item["value"] for item in spec["results"].items()),
        Scope(params, spaces, tasks=results, finally_tasks=last),
    )
    yield from _order(spec, main, last)


def _task_of_pipeline(task: Node, scope: Scope, propagate: Scope | None) -> Iterator[Finding]:
    yield from check_variables_in((task[field] for field in _FIELDS_OF_A_TASK), scope)
    yield from check_timeout(task["timeout"])
    for used in task["workspaces"].items():
        name = used["workspace"] or used["name"]
        if name.text and name.text not in scope.workspaces:
            near = difflib.get_close_matches(name.text, scope.workspaces, 1)
            hint = f"did you mean {near[0]}?" if near else "declare it among the workspaces"
            message = f"the Pipeline has no workspace {name.text}"
            yield name.finding(rules.UNDECLARED, message, hint)
    if task["taskSpec"]["steps"]:
        around = Scope(scope.params, scope.workspaces) if propagate is not None else None
        yield from check_shape(task["taskSpec"], EMBEDDED_TASK, "taskSpec")
        yield from check_task(task["taskSpec"], around)


def _order(
    spec: Node, main: Mapping[str, tuple[str, ...] | None], last: tuple[str, ...]
) -> Iterator[Finding]:
    """runAfter names tasks, and nothing waits for itself."""
    waits: dict[str, set[str]] = {}
    for task in spec["tasks"].items():
        name = task["name"].text
        waits[name] = set()
        for after in task["runAfter"].items():
            waits[name].add(after.text)
            if after.text not in main:
                near = difflib.get_close_matches(after.text, list(main), 1)
                hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(main)}"
                if after.text in last:
                    hint = "what stands in finally runs after all others"
                message = f"runAfter: there is no task {after.text}"
                yield after.finding(rules.NO_SUCH_TASK, message, hint)
        for field in ("params", "when", "matrix"):
            for part in task[field].walk():
                waits[name] |= {v.parts[1] for v in variables(part) if v.head == "tasks"}
    for task in spec["finally"].items():
        if task["runAfter"]:
            message = "a task in finally has no order among the others"
            yield task["runAfter"].finding(rules.CONTRADICTION, message, "leave runAfter out")
    circle = _circle(waits)
    if circle:
        shown = " → ".join((*circle, circle[0]))
        yield spec["tasks"].finding(rules.CIRCLE, f"these wait for one another: {shown}")


def _circle(waits: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Tasks of which each waits for the next, and the last for the first; () if there are none."""
    left = {name: {other for other in others if other in waits} for name, others in waits.items()}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    if not left:
        return ()
    way = [next(iter(left))]
    while (following := min(left[way[-1]] & set(left))) not in way:
        way.append(following)
    return tuple(way[way.index(following) :])
