"""What the API server does not take of security settings, and the levels of Pod Security.

The levels are those of the Pod Security Standards: "baseline" forbids what reaches the node,
"restricted" also asks for what makes a process harmless.
"""

from __future__ import annotations

from collections.abc import Iterator

from pybuild.k8s import rules
from pybuild.k8s.document import Node
from pybuild.k8s.pods import Container, Pod
from pybuild.k8s.rules import Finding

LEVELS = ("privileged", "baseline", "restricted")
BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
        "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    }
)  # fmt: skip
HARMLESS_VOLUMES = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
    "projected", "secret",
)  # fmt: skip
_HOST = ("hostNetwork", "hostPID", "hostIPC")
_SECCOMP = ("RuntimeDefault", "Localhost")


def check_security(pod: Pod) -> Iterator[Finding]:
    """What no API server takes together."""
    spec = pod.spec
    if spec["hostUsers"].value is False:
        for name in _HOST:
            if spec[name].value is True:
                message = f"hostUsers: false can't be had with {name}"
                yield spec[name].finding(rules.CONTRADICTION, message, "leave one of them out")
    yield from _profile(spec["securityContext"])
    for container in pod.containers:
        own = container.node["securityContext"]
        yield from _profile(own)
        if own["privileged"].value is True and own["allowPrivilegeEscalation"].value is False:
            message = "privileged can't be had with allowPrivilegeEscalation: false"
            yield own["privileged"].finding(rules.CONTRADICTION, message, "leave privileged out")
        user, non_root = pod.user_of(container), pod.non_root_of(container)
        if non_root.value is True and user.number == 0:
            message = f"runAsNonRoot, but {container.name} has runAsUser: 0"
            yield user.finding(rules.ROOT_REFUSED, message, "another user, or no runAsNonRoot")


def _profile(security: Node) -> Iterator[Finding]:
    for name in ("seccompProfile", "appArmorProfile"):
        profile = security[name]
        local = profile["type"].text == "Localhost"
        if profile and local != bool(profile["localhostProfile"]):
            message = f"{name}: localhostProfile belongs to type Localhost, and to no other"
            yield profile.finding(rules.CONTRADICTION, message)


def check_level(pod: Pod, level: str) -> Iterator[Finding]:
    """What a namespace that enforces the level would refuse."""
    if level in ("baseline", "restricted"):
        yield from _baseline(pod)
    if level == "restricted":
        yield from _restricted(pod)


def _refused(node: Node, message: str, hint: str) -> Finding:
    return node.finding(rules.POD_SECURITY, message, hint)


def _baseline(pod: Pod) -> Iterator[Finding]:
    for name in _HOST:
        if pod.spec[name].value is True:
            yield _refused(pod.spec[name], f"baseline allows no {name}", "leave it out")
    for name, volume in pod.volumes.items():
        if volume["hostPath"]:
            yield _refused(volume, f"baseline allows no hostPath, as {name} is", "emptyDir: {}")
    for security in _contexts(pod):
        yield from _baseline_context(security)
    for container in pod.containers:
        for item in container.node.at("securityContext", "capabilities", "add").items():
            if item.text not in BASELINE_CAPABILITIES:
                yield _refused(item, f"baseline does not allow to add {item.text}", "leave it out")
        for port in container.node["ports"].items():
            if port["hostPort"].number:
                yield _refused(port["hostPort"], "baseline allows no hostPort", "leave it out")


def _contexts(pod: Pod) -> Iterator[Node]:
    yield pod.spec["securityContext"]
    for container in pod.containers:
        yield container.node["securityContext"]


def _baseline_context(security: Node) -> Iterator[Finding]:
    if security["privileged"].value is True:
        yield _refused(security["privileged"], "baseline allows no privileged", "leave it out")
    for name in ("seccompProfile", "appArmorProfile"):
        if security[name]["type"].text == "Unconfined":
            yield _refused(security[name], f"baseline allows no {name} Unconfined", "leave it out")
    if security["procMount"].text not in ("", "Default"):
        yield _refused(security["procMount"], "baseline allows no procMount but Default", "")
    if security["sysctls"].value:
        yield _refused(security["sysctls"], "baseline allows few sysctls only", "leave them out")


def _restricted(pod: Pod) -> Iterator[Finding]:
    for name, volume in pod.volumes.items():
        for kind, node in volume.entries():
            if kind not in ("name", "hostPath", *HARMLESS_VOLUMES):
                hint = f"one of {', '.join(HARMLESS_VOLUMES)}"
                yield _refused(node, f"restricted allows no {kind}, as {name} is", hint)
    for container in pod.containers:
        yield from _restricted_container(pod, container)


def _restricted_container(pod: Pod, container: Container) -> Iterator[Finding]:
    name, own = container.name, container.node["securityContext"]
    if own["allowPrivilegeEscalation"].value is not False:
        wanted = "allowPrivilegeEscalation: false"
        yield _refused(_there(own, container), f"restricted wants {wanted} of {name}", wanted)
    if "ALL" not in own.at("capabilities", "drop").texts:
        wanted = "capabilities: {drop: [ALL]}"
        yield _refused(_there(own, container), f"restricted wants {wanted} of {name}", wanted)
    for item in own.at("capabilities", "add").items():
        if item.text != "NET_BIND_SERVICE" and item.text in BASELINE_CAPABILITIES:
            yield _refused(item, f"restricted does not allow to add {item.text}", "leave it out")
    non_root = pod.non_root_of(container)
    if non_root.value is not True:
        message = f"restricted wants runAsNonRoot: true of {name}"
        yield _refused(_there(non_root, container), message, "runAsNonRoot: true")
    user = pod.user_of(container)
    if user.number == 0:
        yield _refused(user, f"restricted does not allow {name} to be root", "runAsUser: 1000")
    profile = own["seccompProfile"] or pod.spec.at("securityContext", "seccompProfile")
    if profile["type"].text not in _SECCOMP and profile["type"].text != "Unconfined":
        wanted = "seccompProfile: {type: RuntimeDefault}"
        yield _refused(_there(profile, container), f"restricted wants {wanted} of {name}", wanted)


def _there(node: Node, container: Container) -> Node:
    """Itself, or the container where it is not there."""
    return node if node else container.node
