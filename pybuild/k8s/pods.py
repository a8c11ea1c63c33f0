"""The Pods in manifests, whatever object they are part of, and what containers mean in them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from msgspec import Struct

from pybuild.k8s.document import Document, Node

# Where an object keeps the Pod it makes.
TEMPLATES = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
}
IDLE = ("sleep", "cat", "tail", "idle", "pause")
_BUILDER_PROGRAMS = ("/kaniko/executor", "/kaniko/pybuild", "executor", "pybuild")
_AGENT_IMAGE = re.compile(r"(^|/)(inbound-agent|jnlp-slave|jnlp-agent)([:@-]|$)")


class Container(Struct, frozen=True):
    """A container of a Pod; `initial` ones run before the others."""

    node: Node
    initial: bool

    @property
    def name(self) -> str:
        return self.node["name"].text

    @property
    def image(self) -> str:
        return self.node["image"].text

    @property
    def image_name(self) -> str:
        """Without registry's port, tag and digest."""
        return re.sub(r":[^/]*$", "", self.image.partition("@")[0])

    @property
    def image_tag(self) -> str:
        name = self.image.partition("@")[0]
        return name[len(self.image_name) + 1 :]

    @property
    def words(self) -> tuple[str, ...]:
        """Command and arguments, as far as the manifest says them."""
        return (*self.node["command"].texts, *self.node["args"].texts)

    @property
    def program(self) -> str:
        """The name of what is started, "" where the image decides."""
        command = self.node["command"].texts
        return posixpath.basename(command[0]) if command else ""

    @property
    def is_builder(self) -> bool:
        """An executor of ours or of kaniko's, by its image, its command or its name."""
        image = self.image_name.rpartition("/")[2]
        command = self.node["command"].texts[:1]
        return (
            image == "executor"
            or "kaniko" in self.image_name
            or "pybuild" in self.image_name
            or bool(command and command[0] in _BUILDER_PROGRAMS)
            or self.name == "kaniko"
        )

    @property
    def is_agent(self) -> bool:
        return self.name == "jnlp"

    @property
    def has_agent_image(self) -> bool:
        return bool(_AGENT_IMAGE.search(self.image))

    @property
    def is_rootless_image(self) -> bool:
        return "rootless" in self.image

    @property
    def env(self) -> dict[str, Node]:
        return {item["name"].text: item for item in self.node["env"].items()}

    def mounts(self) -> Iterator[Node]:
        return self.node["volumeMounts"].items()

    def mounted_at(self, path: str) -> Node | None:
        """The mount that is just there."""
        wanted = posixpath.normpath(path)
        for mount in self.mounts():
            if mount["mountPath"].text and posixpath.normpath(mount["mountPath"].text) == wanted:
                return mount
        return None

    def mount_around(self, path: str) -> Node | None:
        """The innermost mount that has the path in it."""
        current = posixpath.normpath(path)
        while current not in ("", "/", "."):
            found = self.mounted_at(current)
            if found is not None:
                return found
            current = posixpath.dirname(current)
        return None


class Pod(Struct, frozen=True):
    """A Pod, or the template of one: `node` has `metadata` and `spec`."""

    node: Node
    kind: str  # of the object that it is part of

    @property
    def spec(self) -> Node:
        return self.node["spec"]

    @property
    def containers(self) -> tuple[Container, ...]:
        initial = (Container(node, True) for node in self.spec["initContainers"].items())
        return (*initial, *(Container(node, False) for node in self.spec["containers"].items()))

    @property
    def volumes(self) -> dict[str, Node]:
        return {volume["name"].text: volume for volume in self.spec["volumes"].items()}

    @property
    def is_agent(self) -> bool:
        """Whether Jenkins starts it: it has the agent's container, or no name of its own, which the
        Kubernetes plugin gives it."""
        metadata = self.node["metadata"]
        nameless = not (metadata["name"] or metadata["generateName"])
        return any(container.is_agent for container in self.containers) or (
            self.kind == "Pod" and nameless
        )

    def user_of(self, container: Container) -> Node:
        own = container.node.at("securityContext", "runAsUser")
        return own if own else self.spec.at("securityContext", "runAsUser")

    def non_root_of(self, container: Container) -> Node:
        own = container.node.at("securityContext", "runAsNonRoot")
        return own if own else self.spec.at("securityContext", "runAsNonRoot")


def pods_of(document: Document) -> Iterator[Pod]:
    """The Pod of an object, or none. Jenkins fills in a template's kind."""
    root = document.root
    kind = root["kind"].text or ("Pod" if root.at("spec", "containers") else "")
    if kind in TEMPLATES:
        yield Pod(root.at(*TEMPLATES[kind]), kind)
