"""Tekton's Tasks: what is declared, what steps use of it, and the Pod that becomes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pybuild.k8s import rules
from pybuild.k8s.document import Document, Node, Path
from pybuild.k8s.pods import Pod
from pybuild.k8s.rules import Finding
from pybuild.k8s.tekton_variables import Scope, check_variables_in, variables

OWN_FOLDER = "/tekton/"
OWN_HOME = "/tekton/home"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_TIMEOUT = re.compile(r"0|([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+")
_TYPES: dict[str, type] = {"string": str, "array": list, "object": dict}
_STAND_IN = "value"


def declared_params(spec: Node) -> dict[str, str]:
    """The type of each parameter: what it says, else that of its default."""
    return {
        item["name"].text: item["type"].text or type_of(item["default"])
        for item in spec["params"].items()
    }


def type_of(value: Node) -> str:
    """A parameter's type, by what it is given."""
    if isinstance(value.value, list):
        return "array"
    return "object" if isinstance(value.value, dict) else "string"


def names_in(spec: Node, field: str) -> tuple[str, ...]:
    return tuple(item["name"].text for item in spec[field].items())


def check_task(spec: Node, around: Scope | None = None) -> Iterator[Finding]:
    """For the spec of a Task. `around` is what a run that has it inside declares for it."""
    own = Scope(
        declared_params(spec), names_in(spec, "workspaces"), names_in(spec, "results"),
        names_in(spec, "steps"),
    )  # fmt: skip
    if around is not None:
        own = Scope(
            {**around.params, **own.params}, (*around.workspaces, *own.workspaces), own.results,
            own.steps, propagated=around.propagated,
        )  # fmt: skip
    yield from check_declarations(spec)
    yield from _unique(spec["results"], "result", _NAME)
    parts = ("steps", "stepTemplate", "sidecars", "volumes", "workspaces")
    yield from check_variables_in((spec[part] for part in parts), own)
    for step in spec["steps"].items():
        yield from _step(step, spec)


def check_declarations(spec: Node) -> Iterator[Finding]:
    """Parameters and workspaces, of a Task or a Pipeline."""
    yield from _unique(spec["params"], "parameter", _NAME)
    yield from _unique(spec["workspaces"], "workspace", None)
    for item in spec["params"].items():
        kind, default = item["type"].text, item["default"]
        other = kind in _TYPES and not isinstance(default.value, _TYPES[kind])
        if other and isinstance(default.value, str | list | dict):
            message = f"the default of {item['name'].text} is no {kind}"
            yield default.finding(rules.WRONG_TYPE, message)


def _unique(nodes: Node, what: str, allowed: re.Pattern[str] | None) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for item in nodes.items():
        name = item["name"]
        if not name.text:
            continue
        if name.text in seen:
            message = f"the {what} {name.text} stands on line {seen[name.text]} too"
            yield name.finding(rules.DUPLICATE_NAME, message, "give one another name")
        seen.setdefault(name.text, name.line)
        if allowed is not None and not allowed.fullmatch(name.text):
            yield name.finding(rules.BAD_NAME, f"{name.text!r} can't be the name of a {what}")


def _step(step: Node, spec: Node) -> Iterator[Finding]:
    name = step["name"].text or "a step"
    if step["script"] and step["command"]:
        yield step["command"].finding(
            rules.ONE_OF, f"{name} has both script and command", "keep one; args go with both"
        )
    image = step["image"] or spec.at("stepTemplate", "image")
    if bool(image) == bool(step["ref"]):
        both = "both image and ref" if image else "neither image nor ref"
        yield step.finding(rules.ONE_OF, f"{name} has {both}", "keep one" if image else "image: …")
    yield from check_timeout(step["timeout"])
    for mount in step["volumeMounts"].items():
        path = mount["mountPath"].text
        if path.startswith(OWN_FOLDER) and not path.startswith(OWN_HOME):
            message = f"{path} is Tekton's own"
            yield mount["mountPath"].finding(rules.BAD_PATH, message, "another folder")


def check_timeout(node: Node) -> Iterator[Finding]:
    if node.text and not variables_of(node) and not _TIMEOUT.fullmatch(node.text):
        yield node.finding(rules.BAD_VALUE, f"{node.text!r} is no time", "1h30m0s, 90s, or 0")


def variables_of(node: Node) -> bool:
    return any(True for _ in variables(node))


# --- the Pod ----------------------------------------------------------------------------------


# What a step has in common with a container.
_CONTAINER = ("name", "image", "command", "args", "workingDir", "env", "envFrom",
              "computeResources", "volumeMounts", "imagePullPolicy", "securityContext")  # fmt: skip
_NAMED_BY = {"env": "name", "volumeMounts": "mountPath"}  # lists that add to the template's


def task_pod(spec: Node) -> Pod:
    """The Pod of a Task, as far as it is known before a run: variables have their default or a
    stand-in, workspaces are empty volumes. Lines are those of the Task."""
    maker = _PodMaker(spec)
    maker.place(("metadata", "name"), "task", spec)
    maker.place(("spec", "restartPolicy"), "Never", spec)
    for number, step in enumerate(spec["steps"].items()):
        maker.container(("spec", "containers", number), step)
    number = 0
    for number, volume in enumerate(spec["volumes"].items(), 1):
        maker.copy(("spec", "volumes", number - 1), volume)
    for index, workspace in enumerate(spec["workspaces"].items(), number):
        maker.place(("spec", "volumes", index, "name"), _volume_of(workspace), workspace)
        maker.place(("spec", "volumes", index, "emptyDir"), {}, workspace)
    return maker.pod()


def _volume_of(workspace: Node) -> str:
    return f"ws-{workspace['name'].text}"


class _PodMaker:
    """A document put together from parts of another, each value with its line."""

    def __init__(self, spec: Node) -> None:
        self._spec = spec
        self._defaults = {
            item["name"].text: item["default"].text
            for item in spec["params"].items()
            if item["default"].text
        }
        self._paths = {
            item["name"].text: item["mountPath"].text or f"/workspace/{item['name'].text}"
            for item in spec["workspaces"].items()
        }
        self._value: dict[str, object] = {}
        self._lines: dict[Path, int] = {}

    def pod(self) -> Pod:
        document = Document(self._spec.document.file, self._value, self._lines)
        return Pod(document.root, "Pod")

    def container(self, base: Path, step: Node) -> None:
        """A step, with what the template of steps adds, and the mounts of workspaces."""
        template = self._spec["stepTemplate"]
        self.place(base, {}, step)
        for key in _CONTAINER:
            target = (*base, "resources" if key == "computeResources" else key)
            part = step[key] or template[key]
            by = _NAMED_BY.get(key)
            if by is not None:
                own = {item[by].text for item in step[key].items()}
                inherited = [item for item in template[key].items() if item[by].text not in own]
                for number, item in enumerate((*inherited, *step[key].items())):
                    self.copy((*target, number), item)
            elif part and not (key == "image" and self._unknown(part)):
                self.copy(target, part)
        mounts = len(list(template["volumeMounts"].items())) + len(
            list(step["volumeMounts"].items())
        )
        for number, workspace in enumerate(self._spec["workspaces"].items(), mounts):
            path = (*base, "volumeMounts", number)
            self.place((*path, "name"), _volume_of(workspace), workspace)
            self.place((*path, "mountPath"), self._paths[workspace["name"].text], workspace)

    def _unknown(self, image: Node) -> bool:
        """An image that a run has to name."""
        used = (variable.parts for variable in variables(image))
        return any(parts[0] != "params" or parts[1] not in self._defaults for parts in used)

    def _filled(self, node: Node) -> str:
        text = node.text
        for variable in variables(node):
            text = text.replace(variable.text, self._text_of(variable.parts))
        return text

    def _text_of(self, parts: tuple[str, ...]) -> str:
        match parts:
            case ("params", name):
                return self._defaults.get(name, _STAND_IN)
            case ("workspaces", name, "path"):
                return self._paths.get(name, _STAND_IN)
            case ("results", name, "path"):
                return f"/tekton/results/{name}"
            case ("credentials", "path"):
                return "/tekton/creds"
            case _:
                return _STAND_IN

    def copy(self, base: Path, node: Node) -> None:
        for leaf in _leaves(node):
            value = self._filled(leaf) if leaf.text else leaf.value
            self.place((*base, *leaf.path[len(node.path) :]), value, leaf)
        self._lines[base] = node.line

    def place(self, path: Path, value: object, node: Node) -> None:
        """A value at its place; mappings and lists on the way are made. List items come in their
        order."""
        at: object = self._value
        for depth, key in enumerate(path):
            following = path[depth + 1] if depth + 1 < len(path) else None
            made = value if following is None else [] if isinstance(following, int) else {}
            if isinstance(at, list) and isinstance(key, int):
                if key >= len(at):
                    at.append(made)
                at = at[-1]
            elif isinstance(at, dict):
                at = at.setdefault(key, made)
            self._lines.setdefault(path[: depth + 1], node.line)


def _leaves(node: Node) -> Iterator[Node]:
    """What has nothing below it: scalars, and empty mappings and lists."""
    below = [part for _, part in node.entries()] or list(node.items())
    if not below:
        yield node
    for part in below:
        yield from _leaves(part)
