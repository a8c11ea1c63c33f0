"""What one part of a manifest says of another: mounts of volumes, volumes of objects, variables."""

from __future__ import annotations

import base64
import binascii
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from pybuild.k8s import rules
from pybuild.k8s.document import Document, Node
from pybuild.k8s.pods import Container, Pod
from pybuild.k8s.rules import Finding

WORKSPACE_VOLUME = "workspace-volume"  # Jenkins' plugin makes it, and mounts it in every container
DOCKER_CONFIG_TYPE = "kubernetes.io/dockerconfigjson"
DOCKER_CONFIG_KEY = ".dockerconfigjson"
_VARIABLE = re.compile(r"(\$\$)|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def check_volumes(pod: Pod) -> Iterator[Finding]:
    """Each mount has its volume, each volume a source and somebody who mounts it."""
    known = set(pod.volumes) | ({WORKSPACE_VOLUME} if pod.is_agent else set())
    used = set()
    for container in pod.containers:
        used |= {mount["name"].text for mount in container.mounts()}
        used |= {device["name"].text for device in container.node["volumeDevices"].items()}
        for mount in container.mounts():
            name = mount["name"]
            if name.text and name.text not in known:
                shown = ", ".join(sorted(known)) or "none"
                message = f"{container.name} mounts {name.text}, which is no volume of the Pod"
                yield name.finding(rules.NO_SUCH_VOLUME, message, f"volumes: {shown}")
        yield from _mount_paths(container)
    for volume_name, volume in pod.volumes.items():
        sources = [key for key, _ in volume.entries() if key != "name"]
        if len(sources) != 1:
            text = " and ".join(sources) or "no source"
            hint = "emptyDir: {}, or another one" if not sources else "keep one of them"
            yield volume.finding(rules.ONE_OF, f"the volume {volume_name} has {text}", hint)
        if volume_name not in used:
            yield volume.finding(rules.UNUSED_VOLUME, f"no container mounts {volume_name}")
        for items in _items_of(volume):
            for item in items:
                yield from _item_path(item["path"])


def _mount_paths(container: Container) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for mount in container.mounts():
        path = mount["mountPath"]
        if path.text and (not path.text.startswith("/") or ":" in path.text):
            message = f"nothing can be mounted at {path.text!r}"
            yield path.finding(rules.BAD_PATH, message, "an absolute path without a colon")
        clean = posixpath.normpath(path.text) if path.text else ""
        if clean in seen:
            message = f"{container.name} has something at {clean} already, on line {seen[clean]}"
            yield path.finding(rules.DUPLICATE_MOUNT, message, "one mount a path")
        elif clean:
            seen[clean] = path.line
        if "subPath" in mount and "subPathExpr" in mount:
            yield mount.finding(rules.ONE_OF, "a mount has both subPath and subPathExpr")
        yield from _item_path(mount["subPath"])


def _item_path(path: Node) -> Iterator[Finding]:
    if path.text.startswith("/") or ".." in path.text.split("/"):
        message = f"{path.text!r} leaves its volume"
        yield path.finding(rules.BAD_PATH, message, "a relative path without `..`")


def _items_of(volume: Node) -> Iterator[list[Node]]:
    yield list(volume.at("secret", "items").items())
    yield list(volume.at("configMap", "items").items())
    for source in volume.at("projected", "sources").items():
        yield list(source.at("secret", "items").items())
        yield list(source.at("configMap", "items").items())


def check_variables(container: Container) -> Iterator[Finding]:
    """`$(NAME)` is replaced only where the container has that variable, and stays as it is else;
    in a variable's value only those before it count."""
    if container.node["envFrom"]:
        return
    earlier: set[str] = set()
    for name, variable in container.env.items():
        yield from _undefined(variable["value"], earlier)
        earlier.add(name)
    for part in ("command", "args"):
        for word in container.node[part].items():
            yield from _undefined(word, earlier)


def _undefined(node: Node, known: set[str]) -> Iterator[Finding]:
    for match in _VARIABLE.finditer(node.text):
        if match[2] and match[2] not in known and not _is_shell(node):
            message = f"$({match[2]}) is no variable of the container, and stays as it is"
            yield node.finding(
                rules.UNDEFINED_VARIABLE, message, "name it in env, or write $$( for a literal $("
            )


def _is_shell(node: Node) -> bool:
    """A script of several words has `$(command)` of its own."""
    return " " in node.text or "\n" in node.text


Reference = tuple[Node, str, str, tuple[str, ...], bool]
"""Where, kind, name, keys that are needed, and whether it may be missing."""


def references(pod: Pod) -> Iterator[Reference]:
    """The objects that a Pod needs."""
    for volume in pod.spec["volumes"].items():
        yield from _of_volume(volume)
        for source in volume.at("projected", "sources").items():
            for kind, field in (("Secret", "secret"), ("ConfigMap", "configMap")):
                if source[field]:
                    yield _reference(source[field], kind, source[field]["name"].text)
    for container in pod.containers:
        yield from _of_environment(container)
    for item in pod.spec["imagePullSecrets"].items():
        yield item, "Secret", item["name"].text, (DOCKER_CONFIG_KEY,), False
    account, runtime = pod.spec["serviceAccountName"], pod.spec["runtimeClassName"]
    priority = pod.spec["priorityClassName"]
    for node, kind in ((account, "ServiceAccount"), (runtime, "RuntimeClass"),
                       (priority, "PriorityClass")):  # fmt: skip
        if node.text:
            yield node, kind, node.text, (), False


def _of_volume(volume: Node) -> Iterator[Reference]:
    if volume["secret"]:
        yield _reference(volume["secret"], "Secret", volume.at("secret", "secretName").text)
    if volume["configMap"]:
        yield _reference(volume["configMap"], "ConfigMap", volume.at("configMap", "name").text)
    claim = volume.at("persistentVolumeClaim", "claimName")
    if claim.text:
        yield claim, "PersistentVolumeClaim", claim.text, (), False


def _reference(source: Node, kind: str, name: str) -> Reference:
    keys = tuple(item["key"].text for item in source["items"].items())
    return source, kind, name, keys, source["optional"].value is True


def _of_environment(container: Container) -> Iterator[Reference]:
    for variable in container.node["env"].items():
        for kind, field in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
            source = variable.at("valueFrom", field)
            if source:
                optional = source["optional"].value is True
                yield source, kind, source["name"].text, (source["key"].text,), optional
    for item in container.node["envFrom"].items():
        for kind, field in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
            if item[field]:
                yield item[field], kind, item[field]["name"].text, (), False


Known = Mapping[tuple[str, str], Document]
"""Objects of the files that are checked, by kind and name."""


def known_objects(documents: Sequence[Document]) -> Known:
    found = {}
    for document in documents:
        root = document.root
        found[root["kind"].text, root.at("metadata", "name").text] = document
    return found


def check_references(pod: Pod, known: Known) -> Iterator[Finding]:
    """What the cluster has to have; where the files have it, whether it has the keys."""
    told = set()
    for node, kind, name, keys, optional in references(pod):
        document = known.get((kind, name))
        if document is not None:
            has = keys_of(document)
            for key in keys:
                if kind in ("Secret", "ConfigMap") and key not in has:
                    message = f"the {kind} {name} has no key {key}"
                    hint = f"it has {', '.join(sorted(has)) or 'none'}"
                    yield node.finding(rules.NO_SUCH_KEY, message, hint)
        elif name and (kind, name, keys) not in told:
            told.add((kind, name, keys))
            which = f" with {', '.join(keys)}" if keys else ""
            may = ", if it is there" if optional else ""
            yield node.finding(rules.NEEDS, f"it needs the {kind} {name}{which}{may}")


def keys_of(document: Document) -> set[str]:
    """The keys of a Secret or ConfigMap."""
    fields = ("data", "stringData", "binaryData")
    return {key for field in fields for key, _ in document.root[field].entries()}


def check_secret(document: Document) -> Iterator[Finding]:
    """What the API server or the kubelet refuses of a Secret, and what the builder can't read."""
    root = document.root
    for key, value in root["data"].entries():
        if _decoded(value.text) is None or not value.text:
            message = f"data.{key} is not base64"
            yield value.finding(rules.BAD_SECRET, message, "plain text belongs in stringData")
    if root["type"].text != DOCKER_CONFIG_TYPE:
        return
    node = root["stringData"][DOCKER_CONFIG_KEY]
    text = node.text
    if not node:
        node = root["data"][DOCKER_CONFIG_KEY]
        text = (_decoded(node.text) or b"").decode("utf-8", "replace")
    if not node:
        message = f"a Secret of type {DOCKER_CONFIG_TYPE} needs the key {DOCKER_CONFIG_KEY}"
        yield root["type"].finding(rules.BAD_SECRET, message)
    elif not _has_auths(text):
        message = f"{DOCKER_CONFIG_KEY} is no JSON object with `auths`"
        yield node.finding(rules.BAD_SECRET, message, '{"auths": {"registry.example.com": …}}')


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _has_auths(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("auths"), dict)
