"""A Pod that Jenkins' Kubernetes plugin starts: its agent, and containers that steps enter."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from pybuild.k8s import rules
from pybuild.k8s.builder import OTHER_SHELLS, SHELLS
from pybuild.k8s.document import Node
from pybuild.k8s.pods import Container, Pod
from pybuild.k8s.rules import Finding

IDLE_HINT = "command: [sleep], args: [99d]"
# What a template loses where the plugin merges it into a parent's: its code combines the fields it
# knows, and takes the parent's of all others.
_LOST_OF_POD = (
    "hostUsers", "affinity", "runtimeClassName", "priorityClassName", "enableServiceLinks",
    "automountServiceAccountToken", "topologySpreadConstraints", "hostAliases",
    "terminationGracePeriodSeconds",
)  # fmt: skip
_KEPT_OF_POD_SECURITY = ("runAsUser", "runAsGroup")
_LOST_OF_CONTAINER = (
    "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "terminationMessagePolicy",
    "terminationMessagePath",
)  # fmt: skip
_KEPT_OF_CONTAINER_SECURITY = ("privileged", "runAsUser", "runAsGroup", "capabilities")


def check_agent(pod: Pod) -> Iterator[Finding]:
    """For a Pod that Jenkins starts."""
    for container in pod.containers:
        if container.is_agent:
            yield from _agent(container)
        elif container.has_agent_image:
            yield container.node.finding(
                rules.SECOND_AGENT,
                f"{container.name} runs the agent's image, and Jenkins adds an agent of its own",
                "call it jnlp",
            )
        if not (container.is_agent or container.initial):
            yield from _main_process(container)
            yield from _shell(container)
    yield from _working_directories(pod)
    yield from _lost_on_merge(pod)


def _agent(container: Container) -> Iterator[Finding]:
    if container.initial:
        message = "jnlp is an init container here: nothing else starts before it ends"
        yield container.node.finding(rules.AGENT_COMMAND, message, "move it to containers")
    elif container.program in ("sleep", "cat", "sh", "bash", "tail"):
        yield container.node["command"].finding(
            rules.AGENT_COMMAND,
            f"jnlp runs {container.program}, so no agent connects to Jenkins",
            "leave its command out; the other containers are those that idle",
        )


def _main_process(container: Container) -> Iterator[Finding]:
    """The first process that ends takes the whole agent with it."""
    node, program = container.node, container.program
    has_terminal = node["tty"].value is True or node["stdin"].value is True
    if not program:
        if container.is_builder:
            message = f"{container.name} has no command: its image starts a build, which ends"
            yield node.finding(rules.CONTAINER_ENDS, message, IDLE_HINT)
    elif program == "cat" and not container.node["args"] and not has_terminal:
        message = f"{container.name} runs cat without a terminal, which ends at once"
        yield node["command"].finding(rules.CONTAINER_ENDS, message, f"tty: true, or {IDLE_HINT}")
    elif program == "sleep" and len(container.words) < 2:
        message = f"{container.name} runs sleep without a time, which ends at once"
        yield node["command"].finding(rules.CONTAINER_ENDS, message, "args: [99d]")
    elif program in ("executor", "warmer", "true", "echo"):
        message = f"{container.name} runs {program}, which ends; a step is to call it"
        yield node["command"].finding(rules.CONTAINER_ENDS, message, IDLE_HINT)


def _shell(container: Container) -> Iterator[Finding]:
    """Jenkins' steps enter by `sh`; our images have it in one place, and no other shell."""
    if not container.is_builder:
        return
    image, tag = container.node["image"], container.image_tag
    if container.image and (tag.startswith("slim") or _is_plain_kaniko(container)):
        message = f"{container.image} has no shell, which Jenkins' steps need"
        yield image.finding(rules.NO_SHELL, message, "the tag that has debug in it")
    command = container.node["command"]
    first = next(command.items(), command)
    name = posixpath.basename(first.text)
    if name in OTHER_SHELLS or (name == "sh" and first.text not in SHELLS):
        message = f"the builder's image has no {first.text}"
        yield first.finding(rules.NO_SHELL, message, "/busybox/sh")


def _is_plain_kaniko(container: Container) -> bool:
    """kaniko's own image without its shell."""
    is_kaniko = container.image_name.endswith("kaniko-project/executor")
    return is_kaniko and "debug" not in container.image_tag and "@" not in container.image


def _working_directories(pod: Pod) -> Iterator[Finding]:
    """The plugin mounts the workspace at each container's workingDir; `jnlp`'s counts for those
    that name none."""
    agents = [one for one in pod.containers if one.is_agent]
    agent = agents[0].node["workingDir"].text if agents else ""
    expected = agent or "/home/jenkins/agent"
    for container in pod.containers:
        place = container.node["workingDir"]
        if place.text and place.text != expected and not (container.is_agent or container.initial):
            message = f"{container.name} has the workspace at {place.text}, the agent at {expected}"
            yield place.finding(
                rules.WORKING_DIR_DIFFERS, message, "leave workingDir out, or give all the same"
            )


def _lost_on_merge(pod: Pod) -> Iterator[Finding]:
    spec = pod.spec
    names = [name for name in _LOST_OF_POD if name in spec]
    names += _others(spec["securityContext"], _KEPT_OF_POD_SECURITY)
    for container in pod.containers:
        names += [
            f"{container.name}.{name}" for name in _LOST_OF_CONTAINER if name in container.node
        ]
        security = container.node["securityContext"]
        kept = _KEPT_OF_CONTAINER_SECURITY
        names += [f"{container.name}.{name}" for name in _others(security, kept)]
    if names:
        message = f"as the child of another template, merge() would drop {', '.join(names)}"
        yield spec.finding(rules.LOST_ON_MERGE, message, "use it as the parent, or by itself")


def _others(security: Node, kept: tuple[str, ...]) -> list[str]:
    return [f"securityContext.{name}" for name, _ in security.entries() if name not in kept]
