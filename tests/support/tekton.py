"""TaskRuns and PipelineRuns carried out: what Tekton's controller and entrypoint would do.

A Task becomes a Pod (`task_pod`): variables put in, arrays spread, scripts as files, workspaces as
volumes; tests/support/pods.py makes podman's commands of it, run one step after the other. Results
are read as bytes from where the steps wrote them. What a manifest says and this does not know, or
what it names and does not declare, is an error, so that no line goes untested in silence. Facts are
from Tekton's documentation of v1: variables, workspaces, authentication, results.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import pods
from tests.support.pods import Cluster, Ended, Fields, Image

Values = Mapping[str, str | list[str]]
MOST_RESULT_BYTES = 4096  # of all results together: they travel as the container's message
OWN = {name: f"/tekton/{name}" for name in ("results", "home", "creds", "scripts")}
_VARIABLE = re.compile(r"\$\(([A-Za-z0-9_.\-\[\]*]+)\)")
_NAMESPACES = ("params", "workspaces", "results", "tasks", "context", "credentials", "finally")


class Undeclared(Exception):
    """A variable that nothing declares, or something that a run does not give."""


@dataclass(frozen=True)
class Runner:
    """What runs need: manifests by kind and name, images, Secrets and claims; `credentials` is the
    config.json that Tekton makes of the secrets of a service account."""

    objects: Mapping[tuple[str, str], Mapping[str, Any]]
    images: Mapping[str, Image]
    cluster: Cluster
    podman: Sequence[str]
    folder: Path
    credentials: bytes = b""
    timeout_seconds: float = 240


@dataclass(frozen=True)
class Done:
    """How a Task or Pipeline ended. `steps` are those that were started, in their order."""

    steps: list[Ended]
    results: dict[str, bytes]
    pods: list[dict[str, Any]] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return all(step.status == 0 for step in self.steps)

    @property
    def log(self) -> str:
        return "".join(f"== {step.name}\n{step.out}{step.err}" for step in self.steps)


# --- variables --------------------------------------------------------------------------------


def substitute(value: Any, known: Values) -> Any:
    """Every variable of a value replaced, once. Raises Undeclared for one of Tekton's own kinds
    that is not known; others, a shell's for instance, stay."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _text(match, known), value)
    if isinstance(value, list):
        return [part for item in value for part in _spread(item, known)]
    if isinstance(value, dict):
        return {key: substitute(part, known) for key, part in value.items()}
    return value


def _text(match: re.Match[str], known: Values) -> str:
    name = match[1]
    if name.split(".")[0] not in _NAMESPACES:
        return match[0]
    found = known.get(name)
    if not isinstance(found, str):
        raise Undeclared(match[0])
    return found


def _spread(item: Any, known: Values) -> list[Any]:
    """An item that is an array's variable and nothing else becomes the array's items."""
    match = _VARIABLE.fullmatch(item) if isinstance(item, str) else None
    found = known.get(match[1].removesuffix("[*]")) if match else None
    return found if isinstance(found, list) else [substitute(item, known)]


def _params(declared: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> Values:
    values = {one["name"]: one["value"] for one in given}
    found: dict[str, str | list[str]] = {}
    for one in declared:
        fields = Fields(one, f"params.{one['name']}")
        name, kind = fields.take("name"), fields.take("type", "string")
        default = one.get("default")
        fields.ignore("description", "default")
        fields.done()
        value = values.pop(name, default)
        if value is None:
            raise Undeclared(f"no value for the parameter {name}")
        if isinstance(value, list) != (kind == "array"):
            raise Undeclared(f"the parameter {name} is of another type")
        found[f"params.{name}"] = value
    if values:
        raise Undeclared(f"no such parameter: {', '.join(values)}")
    return found


# --- a Task -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pod:
    """The Pod of a Task: its manifest, scripts by file name, and the names of its results."""

    manifest: dict[str, Any]
    scripts: dict[str, str]
    results: tuple[str, ...]


def task_pod(
    task: Mapping[str, Any],
    params: Sequence[Mapping[str, Any]],
    bindings: Sequence[Mapping[str, Any]],
    template: Mapping[str, Any],
) -> Pod:
    """The Pod that Tekton makes of a Task: a container a step, in the order of the steps."""
    spec = Fields(task["spec"], f"Task {task['metadata']['name']}")
    spec.ignore("description", "displayName")
    known = dict(_params(spec.take("params", []), params))
    known["credentials.path"] = OWN["creds"]
    results = tuple(one["name"] for one in spec.take("results", []))
    known |= {f"results.{name}.path": f"{OWN['results']}/{name}" for name in results}
    volumes, mounts = _workspaces(spec.take("workspaces", []), bindings, known)
    volumes += substitute(spec.take("volumes", []), known)
    volumes += [{"name": f"tekton-{name}", "emptyDir": {}} for name in OWN]
    mounts += [{"name": f"tekton-{name}", "mountPath": path} for name, path in OWN.items()]
    scripts: dict[str, str] = {}
    containers = [
        _step(Fields(substitute(step, known), f"{spec.path}.steps[{n}]"), n, mounts, scripts)
        for n, step in enumerate(spec.take("steps"))
    ]
    spec.done()
    pod = {"restartPolicy": "Never", "containers": containers, "volumes": volumes, **template}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "task"}, "spec": pod}
    return Pod(manifest, scripts, results)


def _workspaces(
    declared: Sequence[Mapping[str, Any]],
    bindings: Sequence[Mapping[str, Any]],
    known: dict[str, str | list[str]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and mounts; what variables tell of workspaces is added to `known`."""
    bound = {one["name"]: one for one in bindings}
    volumes, mounts = [], []
    for one in declared:
        fields = Fields(one, f"workspaces.{one['name']}")
        name = fields.take("name")
        path = fields.take("mountPath", f"/workspace/{name}")
        optional, read_only = fields.take("optional", False), fields.take("readOnly", False)
        fields.ignore("description")
        fields.done()
        binding = bound.pop(name, None)
        if binding is None and not optional:
            raise Undeclared(f"no workspace {name}")
        known[f"workspaces.{name}.bound"] = "false" if binding is None else "true"
        known[f"workspaces.{name}.path"] = "" if binding is None else path
        if binding is not None:
            source = {key: value for key, value in binding.items() if key != "name"}
            volumes.append({"name": f"ws-{name}", **source})
            mounts.append({"name": f"ws-{name}", "mountPath": path, "readOnly": read_only})
    if bound:
        raise Undeclared(f"no such workspace: {', '.join(bound)}")
    return volumes, mounts


def _step(
    fields: Fields, number: int, mounts: list[dict[str, Any]], scripts: dict[str, str]
) -> dict[str, Any]:
    """A step as a container. A script becomes a file, which is executed by its first line."""
    container: dict[str, Any] = {"name": f"step-{fields.take('name', f'unnamed-{number}')}"}
    for name in ("image", "command", "args", "workingDir", "env", "securityContext"):
        value = fields.take(name)
        if value is not None:
            container[name] = value
    container["resources"] = fields.take("computeResources", {})
    container["volumeMounts"] = fields.take("volumeMounts", []) + mounts
    script = fields.take("script")
    if script is not None:
        scripts[f"script-{number}"] = script if script.startswith("#!") else f"#!/bin/sh\n{script}"
        container["command"] = [f"{OWN['scripts']}/script-{number}"]
    fields.done()
    return container


def run_task(
    runner: Runner,
    name: str,
    params: Sequence[Mapping[str, Any]],
    bindings: Sequence[Mapping[str, Any]],
    template: Mapping[str, Any] | None = None,
) -> Done:
    """The steps of a Task, one after the other; after one that fails no other is started."""
    pod = task_pod(runner.objects["Task", name], params, bindings, template or {})
    with pods.pod_folder(runner.folder) as folder:
        steps = pods.translate(pod.manifest, folder, runner.images, runner.cluster)
        for file, script in pod.scripts.items():
            place = folder / "volume-tekton-scripts" / file
            place.write_text(script)
            place.chmod(0o755)
        _give_credentials(folder, pod, runner.credentials)
        ended = []
        for step in steps:
            done = subprocess.run(
                step.command(runner.podman), capture_output=True, text=True, check=False,
                timeout=runner.timeout_seconds, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            ended.append(Ended(step.name, done.returncode, done.stdout, done.stderr, ""))
            if done.returncode != 0:
                break
        results = dict(_results(folder / "volume-tekton-results", pod.results))
    return Done(ended, results, [pod.manifest])


def _give_credentials(folder: Path, pod: Pod, config: bytes) -> None:
    """As the entrypoint does before a step: in /tekton/creds, and in $HOME where that is
    /tekton/home, as it was for all before Tekton 0.24. Readable for the step's user alone."""
    user = pod.manifest["spec"]["containers"][0].get("securityContext", {}).get("runAsUser", 0)
    for name in ("creds", "home"):
        if config:
            place = folder / f"volume-tekton-{name}" / ".docker"
            place.mkdir(mode=0o700)
            file = place / "config.json"
            file.write_bytes(config)
            file.chmod(0o600)
            os.chown(file, user, -1)
            os.chown(place, user, -1)


def _results(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    total = 0
    for name in names:
        if (folder / name).is_file():
            raw = (folder / name).read_bytes()
            total += len(raw)
            yield name, raw
    assert total <= MOST_RESULT_BYTES


# --- runs -------------------------------------------------------------------------------------


def run(runner: Runner, manifest: Mapping[str, Any]) -> Done:
    """A TaskRun or PipelineRun, to its end."""
    top = Fields(manifest, manifest["kind"])
    kind = top.only("kind", "TaskRun", "PipelineRun")
    top.only("apiVersion", "tekton.dev/v1")
    metadata = top.mapping("metadata")
    assert metadata.take("generateName") or metadata.take("name")
    spec = top.mapping("spec")
    top.done()
    params, bindings = spec.take("params", []), spec.take("workspaces", [])
    spec.ignore("timeout", "timeouts")  # how long, not what
    if kind == "TaskRun":
        name = spec.mapping("taskRef").take("name")
        template = spec.take("podTemplate", {})
        spec.done()
        return run_task(runner, name, params, bindings, template)
    name = spec.mapping("pipelineRef").take("name")
    runs = spec.mapping("taskRunTemplate")
    spec.done()
    template = runs.take("podTemplate", {})
    runs.done()
    return _run_pipeline(runner, name, params, [_claimed(one) for one in bindings], template)


def _claimed(binding: Mapping[str, Any]) -> dict[str, Any]:
    """A claim made for one run has the workspace's name here."""
    if "volumeClaimTemplate" not in binding:
        return dict(binding)
    return {"name": binding["name"], "persistentVolumeClaim": {"claimName": binding["name"]}}


def _run_pipeline(
    runner: Runner,
    name: str,
    params: Sequence[Mapping[str, Any]],
    bindings: Sequence[Mapping[str, Any]],
    template: Mapping[str, Any],
) -> Done:
    spec = Fields(runner.objects["Pipeline", name]["spec"], f"Pipeline {name}")
    spec.ignore("description")
    known = dict(_params(spec.take("params", []), params))
    bound = {one["name"]: one for one in bindings}
    declared = {one["name"]: one for one in spec.take("workspaces", [])}
    if missing := {n for n, one in declared.items() if not one.get("optional")} - set(bound):
        raise Undeclared(f"no workspace {', '.join(missing)}")
    if extra := set(bound) - set(declared):
        raise Undeclared(f"no such workspace: {', '.join(extra)}")
    steps: list[Ended] = []
    made: list[dict[str, Any]] = []
    for task in _in_order(spec.take("tasks")):
        fields = Fields(task, f"{spec.path}.{task['name']}")
        own, after = fields.take("name"), fields.take("runAfter", [])
        assert after is not None
        fields.ignore("retries", "timeout")
        used = [(one["name"], one.get("workspace", one["name"]))
                for one in fields.take("workspaces", [])]  # fmt: skip
        if unknown := {there for _, there in used} - set(declared):
            raise Undeclared(f"no workspace {', '.join(unknown)}")
        given = [{**bound[there], "name": here} for here, there in used if there in bound]
        values = substitute(fields.take("params", []), known)
        done = run_task(runner, fields.mapping("taskRef").take("name"), values, given, template)
        fields.done()
        steps += done.steps
        made += done.pods
        if not done.succeeded:
            return Done(steps, {}, made)
        for result, raw in done.results.items():
            known[f"tasks.{own}.results.{result}"] = raw.decode()
    results = {one["name"]: substitute(one["value"], known).encode()
               for one in spec.take("results", [])}  # fmt: skip
    spec.done()
    return Done(steps, results, made)


def _in_order(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each after those that it names by runAfter or whose results it takes."""
    left = {task["name"]: task for task in tasks}
    while left:
        for name, task in left.items():
            results = re.findall(r"\$\(tasks\.([a-z0-9-]+)\.", str(task.get("params", "")))
            if not {*task.get("runAfter", []), *results} & set(left):
                yield left.pop(name)
                break
        else:
            raise Undeclared(f"a circle of {', '.join(left)}")
