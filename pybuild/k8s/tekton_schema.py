"""The fields of Tekton's v1 objects, and what is of another shape.

Written by hand from the field lists in Tekton's documentation of v1 (Pipelines 1.0 and newer).
Parts that are Kubernetes' own (volumes, security contexts) are named down to what builders set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from pybuild.k8s import rules
from pybuild.k8s.document import Node
from pybuild.k8s.rules import Finding

API = "tekton.dev/v1"
IN_V1 = "in v1 it is "


class Text(Struct, frozen=True):
    """A text, of these words if there are any. A number or boolean is none, as in the API."""

    words: tuple[str, ...] = ()


class Kind(Struct, frozen=True):
    """A value of these types, under a name that people know."""

    name: str
    types: tuple[type, ...]


class List(Struct, frozen=True):
    item: Any  # a Shape
    least: int = 0


class Map(Struct, frozen=True):
    """Any keys, values of one shape."""

    value: Any  # a Shape


class Object(Struct, frozen=True):
    """These keys and no others; `old` tells what became of keys of earlier versions."""

    fields: Mapping[str, Any]  # of Shapes
    needed: tuple[str, ...] = ()
    old: Mapping[str, str] = {}


Shape = Text | Kind | List | Map | Object

TEXT = Text()
NUMBER = Kind("a whole number", (int,))
SWITCH = Kind("true or false", (bool,))
QUANTITY = Kind("a quantity", (str, int, float))
TEXTS = List(TEXT)
ANY = Kind("anything", (object,))
PARAM_VALUE = Kind("a text, a list or a mapping", (str, list, dict))
ANY_MAP = Map(ANY)
RESOURCES = Object({"requests": Map(QUANTITY), "limits": Map(QUANTITY), "claims": List(ANY_MAP)})
KEY = Object({"name": TEXT, "key": TEXT, "optional": SWITCH}, ("key",))
ENV = Object(
    {
        "name": TEXT,
        "value": TEXT,
        "valueFrom": Object(
            {"secretKeyRef": KEY, "configMapKeyRef": KEY, "fieldRef": ANY_MAP,
             "resourceFieldRef": ANY_MAP}
        ),
    },
    ("name",),
)  # fmt: skip
SOURCE = Object({"name": TEXT, "optional": SWITCH})
ENV_FROM = Object({"prefix": TEXT, "configMapRef": SOURCE, "secretRef": SOURCE})
MOUNT = Object(
    {"name": TEXT, "mountPath": TEXT, "subPath": TEXT, "subPathExpr": TEXT, "readOnly": SWITCH,
     "mountPropagation": TEXT, "recursiveReadOnly": TEXT},
    ("name", "mountPath"),
)  # fmt: skip
PROFILE = Object(
    {"type": Text(("RuntimeDefault", "Unconfined", "Localhost")), "localhostProfile": TEXT},
    ("type",),
)
_SECURITY = {
    "runAsUser": NUMBER, "runAsGroup": NUMBER, "runAsNonRoot": SWITCH, "seccompProfile": PROFILE,
    "appArmorProfile": PROFILE, "seLinuxOptions": Map(TEXT), "windowsOptions": ANY_MAP,
}  # fmt: skip
SECURITY = Object(
    {**_SECURITY, "privileged": SWITCH, "allowPrivilegeEscalation": SWITCH,
     "readOnlyRootFilesystem": SWITCH, "procMount": TEXT,
     "capabilities": Object({"add": TEXTS, "drop": TEXTS})}
)  # fmt: skip
POD_SECURITY = Object(
    {**_SECURITY, "fsGroup": NUMBER, "fsGroupChangePolicy": TEXT, "sysctls": List(ANY_MAP),
     "supplementalGroups": List(NUMBER), "supplementalGroupsPolicy": TEXT}
)  # fmt: skip
_ITEMS = List(Object({"key": TEXT, "path": TEXT, "mode": NUMBER}, ("key", "path")))
SECRET = Object({"secretName": TEXT, "items": _ITEMS, "defaultMode": NUMBER, "optional": SWITCH})
CONFIG_MAP = Object({"name": TEXT, "items": _ITEMS, "defaultMode": NUMBER, "optional": SWITCH})
PROJECTED = Object({"sources": List(ANY_MAP), "defaultMode": NUMBER}, ("sources",))
CLAIM = Object({"claimName": TEXT, "readOnly": SWITCH}, ("claimName",))
EMPTY = Object({"medium": TEXT, "sizeLimit": QUANTITY})
_SOURCES = {
    "emptyDir": EMPTY, "secret": SECRET, "configMap": CONFIG_MAP, "projected": PROJECTED,
    "persistentVolumeClaim": CLAIM, "csi": ANY_MAP,
}  # fmt: skip
VOLUME = Object(
    {"name": TEXT, **_SOURCES, "ephemeral": ANY_MAP, "hostPath": ANY_MAP, "nfs": ANY_MAP,
     "downwardAPI": ANY_MAP, "image": ANY_MAP},
    ("name",),
)  # fmt: skip
WORKSPACE_SOURCES = (*_SOURCES, "volumeClaimTemplate")
BINDING = Object(
    {"name": TEXT, "subPath": TEXT, **_SOURCES, "volumeClaimTemplate": ANY_MAP}, ("name",)
)
POD_TEMPLATE = Object(
    {"nodeSelector": Map(TEXT), "tolerations": List(ANY_MAP), "affinity": ANY_MAP,
     "securityContext": POD_SECURITY, "volumes": List(VOLUME), "runtimeClassName": TEXT,
     "automountServiceAccountToken": SWITCH, "dnsPolicy": TEXT, "dnsConfig": ANY_MAP,
     "enableServiceLinks": SWITCH, "priorityClassName": TEXT, "schedulerName": TEXT,
     "imagePullSecrets": List(Object({"name": TEXT}, ("name",))), "hostAliases": List(ANY_MAP),
     "hostNetwork": SWITCH, "hostUsers": SWITCH, "topologySpreadConstraints": List(ANY_MAP),
     "env": List(ENV)}
)  # fmt: skip

PARAM = Object({"name": TEXT, "value": PARAM_VALUE}, ("name", "value"))
DECLARED_PARAM = Object(
    {"name": TEXT, "description": TEXT, "type": Text(("string", "array", "object")),
     "default": PARAM_VALUE, "properties": ANY_MAP, "enum": TEXTS},
    ("name",),
)  # fmt: skip
TASK_WORKSPACE = Object(
    {"name": TEXT, "description": TEXT, "mountPath": TEXT, "readOnly": SWITCH, "optional": SWITCH},
    ("name",),
)
TASK_RESULT = Object(
    {"name": TEXT, "description": TEXT, "type": Text(("string", "array", "object")),
     "properties": ANY_MAP, "value": PARAM_VALUE},
    ("name",),
)  # fmt: skip
_REF_FIELDS = {"name": TEXT, "kind": TEXT, "apiVersion": TEXT, "resolver": TEXT,
               "params": List(PARAM)}  # fmt: skip
REF = Object(_REF_FIELDS, (), {"bundle": "resolver: bundles, and params"})
STREAM = Object({"path": TEXT})
_V1BETA1 = {"resources": "computeResources"}
_CONTAINER = {
    "image": TEXT, "command": TEXTS, "args": TEXTS, "workingDir": TEXT, "env": List(ENV),
    "envFrom": List(ENV_FROM), "computeResources": RESOURCES, "volumeMounts": List(MOUNT),
    "volumeDevices": List(ANY_MAP), "imagePullPolicy": TEXT, "securityContext": SECURITY,
}  # fmt: skip
_USED_WORKSPACE = Object({"name": TEXT, "mountPath": TEXT}, ("name", "mountPath"))
WHEN = Object(
    {"input": TEXT, "operator": Text(("in", "notin")), "values": PARAM_VALUE, "cel": TEXT}
)
STEP = Object(
    {"name": TEXT, "displayName": TEXT, **_CONTAINER, "script": TEXT, "timeout": TEXT,
     "onError": Text(("continue", "stopAndFail")), "stdoutConfig": STREAM, "stderrConfig": STREAM,
     "workspaces": List(_USED_WORKSPACE), "ref": REF, "params": List(PARAM),
     "results": List(TASK_RESULT), "when": List(WHEN)},
    (), _V1BETA1,
)  # fmt: skip
SIDECAR = Object(
    {"name": TEXT, **_CONTAINER, "script": TEXT, "ports": List(ANY_MAP), "restartPolicy": TEXT,
     "workspaces": List(_USED_WORKSPACE), "livenessProbe": ANY_MAP, "readinessProbe": ANY_MAP,
     "startupProbe": ANY_MAP, "lifecycle": ANY_MAP, "stdin": SWITCH, "stdinOnce": SWITCH,
     "tty": SWITCH, "terminationMessagePath": TEXT, "terminationMessagePolicy": TEXT},
    ("name", "image"), _V1BETA1,
)  # fmt: skip
TASK_SPEC = Object(
    {"description": TEXT, "displayName": TEXT, "params": List(DECLARED_PARAM),
     "workspaces": List(TASK_WORKSPACE), "results": List(TASK_RESULT),
     "steps": List(STEP, least=1), "stepTemplate": Object(_CONTAINER, (), _V1BETA1),
     "sidecars": List(SIDECAR), "volumes": List(VOLUME)},
    ("steps",),
    {"resources": "params and workspaces", "inputs": "params", "outputs": "results"},
)  # fmt: skip
PIPELINE_TASK = Object(
    {"name": TEXT, "displayName": TEXT, "description": TEXT, "taskRef": REF, "pipelineRef": REF,
     # A custom task's spec is its own; a Task's is looked into where it has steps.
     "taskSpec": ANY_MAP, "pipelineSpec": ANY_MAP, "params": List(PARAM), "runAfter": TEXTS,
     "when": List(WHEN), "retries": NUMBER, "timeout": TEXT, "onError": TEXT,
     "matrix": Object({"params": List(PARAM), "include": List(ANY_MAP)}),
     "workspaces": List(
         Object({"name": TEXT, "workspace": TEXT, "subPath": TEXT}, ("name",))
     )},
    ("name",),
    {"conditions": "when", "resources": "params and workspaces"},
)  # fmt: skip
PIPELINE_SPEC = Object(
    {"description": TEXT, "displayName": TEXT, "params": List(DECLARED_PARAM),
     "workspaces": List(Object({"name": TEXT, "description": TEXT, "optional": SWITCH},
                               ("name",))),
     "results": List(Object({"name": TEXT, "description": TEXT, "value": PARAM_VALUE,
                             "type": Text(("string", "array", "object"))}, ("name", "value"))),
     "tasks": List(PIPELINE_TASK, least=1), "finally": List(PIPELINE_TASK)},
    ("tasks",),
    {"resources": "params and workspaces"},
)  # fmt: skip
STEP_SPECS = List(Object({"name": TEXT, "computeResources": RESOURCES}, ("name",)))
TASK_RUN = Object(
    {"taskRef": REF, "taskSpec": TASK_SPEC, "params": List(PARAM), "workspaces": List(BINDING),
     "serviceAccountName": TEXT, "podTemplate": POD_TEMPLATE, "timeout": TEXT, "retries": NUMBER,
     "computeResources": RESOURCES, "stepSpecs": STEP_SPECS, "sidecarSpecs": STEP_SPECS,
     "status": TEXT, "statusMessage": TEXT, "debug": ANY_MAP, "managedBy": TEXT},
    (), {"resources": "params and workspaces", "stepOverrides": "stepSpecs"},
)  # fmt: skip
_TASK_RUN_TEMPLATE = {"serviceAccountName": TEXT, "podTemplate": POD_TEMPLATE}
PIPELINE_RUN = Object(
    {"pipelineRef": REF, "pipelineSpec": PIPELINE_SPEC, "params": List(PARAM),
     "workspaces": List(BINDING), "taskRunTemplate": Object(_TASK_RUN_TEMPLATE),
     "timeouts": Object({"pipeline": TEXT, "tasks": TEXT, "finally": TEXT}), "status": TEXT,
     "taskRunSpecs": List(
         Object({"pipelineTaskName": TEXT, "serviceAccountName": TEXT, "podTemplate": POD_TEMPLATE,
                 "computeResources": RESOURCES, "stepSpecs": STEP_SPECS, "metadata": ANY_MAP,
                 "sidecarSpecs": STEP_SPECS, "timeout": TEXT}, ("pipelineTaskName",))
     ),
     "managedBy": TEXT},
    (),
    {"serviceAccountName": "taskRunTemplate.serviceAccountName", "timeout": "timeouts.pipeline",
     "podTemplate": "taskRunTemplate.podTemplate", "resources": "params and workspaces"},
)  # fmt: skip
METADATA = Object(
    {"name": TEXT, "generateName": TEXT, "namespace": TEXT, "labels": Map(TEXT),
     "annotations": Map(TEXT), "finalizers": TEXTS}
)  # fmt: skip
# Inside a Pipeline a Task may have labels and annotations for its Pod.
EMBEDDED_TASK = Object(
    {**TASK_SPEC.fields, "metadata": METADATA, "apiVersion": TEXT, "kind": TEXT},
    TASK_SPEC.needed,
    TASK_SPEC.old,
)
SPECS: dict[str, Object] = {
    "Task": TASK_SPEC, "Pipeline": PIPELINE_SPEC, "TaskRun": TASK_RUN, "PipelineRun": PIPELINE_RUN,
}  # fmt: skip


def schema_of(kind: str) -> Object:
    """Of a whole object."""
    fields = {"apiVersion": Text((API,)), "kind": Text((kind,)), "metadata": METADATA,
              "spec": SPECS[kind]}  # fmt: skip
    return Object(fields, ("apiVersion", "kind", "metadata", "spec"))


def check_shape(node: Node, shape: Shape, where: str = "") -> Iterator[Finding]:
    """What of a value is not of its shape. `where` is its path, for messages."""
    match shape:
        case Text(words=words):
            yield from _text(node, words, where)
        case Kind(name=name, types=types):
            number = isinstance(node.value, bool) and bool not in types and object not in types
            if number or not isinstance(node.value, types):
                yield _wrong_type(node, where, name)
        case List(item=item, least=least):
            if not isinstance(node.value, list):
                yield _wrong_type(node, where, "a list")
            elif len(node.value) < least:
                yield node.finding(rules.MISSING_FIELD, f"{where} is empty")
            for number_, part in enumerate(node.items()):
                yield from check_shape(part, item, f"{where}[{number_}]")
        case Map(value=value):
            if not isinstance(node.value, dict):
                yield _wrong_type(node, where, "a mapping")
            for key, part in node.entries():
                yield from check_shape(part, value, _below(where, key))
        case Object():
            yield from _object(node, shape, where)


def _object(node: Node, shape: Object, where: str) -> Iterator[Finding]:
    if not isinstance(node.value, dict):
        yield _wrong_type(node, where, "a mapping")
        return
    for key, part in node.entries():
        if key not in shape.fields:
            yield _unknown(part, key, shape, where)
        elif part:  # null is as good as not there
            yield from check_shape(part, shape.fields[key], _below(where, key))
    for key in shape.needed:
        if not node[key]:
            yield node.finding(rules.MISSING_FIELD, f"{where or 'it'} has no {key}")


def _unknown(node: Node, key: str, shape: Object, where: str) -> Finding:
    message = f"{where or 'it'} has no field {key}"
    if key in shape.old:
        return node.finding(rules.UNKNOWN_FIELD, message, f"{IN_V1}{shape.old[key]}")
    near = difflib.get_close_matches(key, list(shape.fields), 1)
    hint = f"did you mean {near[0]}?" if near else ""
    return node.finding(rules.UNKNOWN_FIELD, message, hint)


def _text(node: Node, words: tuple[str, ...], where: str) -> Iterator[Finding]:
    if not isinstance(node.value, str):
        yield _wrong_type(node, where, "a text")
    elif words and node.value not in words:
        near = difflib.get_close_matches(node.value, words, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(words)}"
        yield node.finding(rules.BAD_VALUE, f"{where} can't be {node.value!r}", hint)


def _wrong_type(node: Node, where: str, wanted: str) -> Finding:
    shown = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false"}
    found = shown.get(type(node.value), "empty" if node.value is None else "a number")
    hint = f'in quotes: "{node.value}"' if wanted == "a text" and found != "empty" else ""
    hint = "" if isinstance(node.value, dict | list) else hint
    return node.finding(rules.WRONG_TYPE, f"{where or 'it'} is {found}, not {wanted}", hint)


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
