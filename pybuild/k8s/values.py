"""Values that a schema calls strings, and Kubernetes reads: quantities, words of a list, names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from pybuild.k8s import rules
from pybuild.k8s.document import Document, Node
from pybuild.k8s.pods import TEMPLATES, Container, Pod
from pybuild.k8s.rules import Finding
from pybuild.k8s.words import CAPABILITIES, MEDIUM, RESTARTS, WORDS

# resource.Quantity of the API: a decimal number with a binary, a decimal or an exponent's suffix.
_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]+|)"
)
_BINARY = {
    name: 2 ** (10 * power) for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)
}
_DECIMAL = dict(zip(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"),
                    (Decimal(10) ** power for power in range(-9, 19, 3)), strict=True))  # fmt: skip
QUANTITY_HINT = "a number with a unit: 500m of CPU, 512Mi or 2Gi of memory"
RESOURCES = ("cpu", "memory", "ephemeral-storage", "storage")
CLAIM = "PersistentVolumeClaim"
_HUGE_PAGES = "hugepages-"
_MIB = 2**20
_MANY_CPUS = 256

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# A reference as registries take it: path in lower case, tag and digest.
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[\w][\w.-]{0,127})?"
    r"(@[a-z0-9]+:[0-9a-f]{32,})?"
)


def quantity(value: object) -> Decimal | None:
    """What a quantity is worth; None for what is none. A number stands for itself."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        return None
    number, suffix = Decimal(match[1]), match[2]
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return number.scaleb(int(suffix[1:])) if abs(int(suffix[1:])) < 100 else None
    return number * _BINARY[suffix] if suffix in _BINARY else number * _DECIMAL[suffix]


def check_document(document: Document) -> Iterator[Finding]:
    """What holds for an object of any kind."""
    root = document.root
    kind = root["kind"].text
    yield from _metadata(root["metadata"])
    if kind in TEMPLATES or kind == CLAIM:
        for node in root.walk():
            yield from _word(node)
    if kind == CLAIM:
        yield from check_claim(root["spec"])


def check_pod(pod: Pod) -> Iterator[Finding]:
    """What holds for every Pod."""
    if pod.node.path:
        yield from _metadata(pod.node["metadata"])
    yield from _restart_policy(pod)
    yield from _names((item.node["name"] for item in pod.containers), "container")
    yield from _names((item["name"] for item in pod.spec["volumes"].items()), "volume")
    for container in pod.containers:
        yield from _container(container)
    for volume in pod.spec["volumes"].items():
        medium = volume.at("emptyDir", "medium")
        if medium.text and not medium.text.startswith(MEDIUM[2]) and medium.text not in MEDIUM:
            yield _no_such_word(medium, MEDIUM[1:])
        yield from _bad_quantity(volume.at("emptyDir", "sizeLimit"))
        yield from check_claim(volume.at("ephemeral", "volumeClaimTemplate", "spec"))


def _word(node: Node) -> Iterator[Finding]:
    value = node.value
    if not isinstance(value, str | bool) or not node.path:
        return
    names = tuple(part for part in node.path if isinstance(part, str))
    for length in (3, 2, 1):
        words = WORDS.get(names[-length:])
        if words is not None:
            if value not in words:
                yield _no_such_word(node, words)
            return


def _no_such_word(node: Node, words: Sequence[str]) -> Finding:
    shown = [word for word in words if word]
    name = next(part for part in reversed(node.path) if isinstance(part, str))
    lower = {word.lower(): word for word in shown}
    near = difflib.get_close_matches(str(node.value).lower(), list(lower), 1)
    hint = f"did you mean {lower[near[0]]}?" if near else f"one of {', '.join(shown)}"
    return node.finding(rules.BAD_VALUE, f"{name} can't be {node.value!r}", hint)


def _restart_policy(pod: Pod) -> Iterator[Finding]:
    policy = pod.spec["restartPolicy"]
    allowed = RESTARTS.get(pod.kind, ("Always",))
    if pod.kind != "PodTemplate" and allowed and (policy.text or "Always") not in allowed:
        words = " or ".join(allowed)
        yield policy.finding(
            rules.BAD_VALUE,
            f"the Pod of a {pod.kind} can't have restartPolicy {policy.text or 'Always'}"
            f"{'' if policy else ', which is the default'}",
            f"restartPolicy: {words}",
        )


def _metadata(metadata: Node) -> Iterator[Finding]:
    name, prefix = metadata["name"], metadata["generateName"]
    if name.text and not (_SUBDOMAIN.fullmatch(name.text) and len(name.text) <= 253):
        yield _bad_name(name)
    if prefix.text and not _SUBDOMAIN.fullmatch(f"{prefix.text}x"):
        yield _bad_name(prefix)
    for key, value in metadata["labels"].entries():
        if not _LABEL_VALUE.fullmatch(value.text):
            message = f"the label {key} can't be {value.text!r}"
            hint = "at most 63 of letters, digits, '-', '_' and '.', none of these at an end"
            yield value.finding(rules.BAD_NAME, message, hint)
        if not _LABEL_VALUE.fullmatch(key.rpartition("/")[2]) or key.endswith("/"):
            yield value.finding(rules.BAD_NAME, f"{key!r} can't be the name of a label")


def _bad_name(node: Node) -> Finding:
    message = f"{node.text!r} can't be a name"
    return node.finding(rules.BAD_NAME, message, "lower case letters, digits and '-', at most 63")


def _names(names: Iterator[Node], what: str) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for name in names:
        if not name.text:
            continue
        if not _LABEL.fullmatch(name.text):
            yield _bad_name(name)
        if name.text in seen:
            message = f"the {what} {name.text} stands on line {seen[name.text]} too"
            yield name.finding(rules.DUPLICATE_NAME, message, "give one another name")
        seen.setdefault(name.text, name.line)


def _container(container: Container) -> Iterator[Finding]:
    node = container.node
    if container.image and not _IMAGE.fullmatch(container.image):
        yield node["image"].finding(
            rules.BAD_IMAGE,
            f"{container.image!r} is no image reference",
            "host/path:tag, the path in lower case",
        )
    seen: dict[str, int] = {}
    for variable in node["env"].items():
        name = variable["name"].text
        if name in seen:
            message = f"the variable {name} stands on line {seen[name]} too"
            yield variable.finding(rules.DUPLICATE_NAME, message, "the last one counts: keep one")
        seen.setdefault(name, variable.line)
        if "value" in variable and "valueFrom" in variable:
            yield variable.finding(rules.ONE_OF, f"{name} has both value and valueFrom", "keep one")
    yield from _capabilities(node.at("securityContext", "capabilities"))
    yield from _resources(node["resources"])


def _capabilities(capabilities: Node) -> Iterator[Finding]:
    for item in (*capabilities["add"].items(), *capabilities["drop"].items()):
        name = item.text
        if name in CAPABILITIES or not name:
            continue
        bare = name.upper().removeprefix("CAP_")
        near = difflib.get_close_matches(bare, CAPABILITIES, 1)
        hint = f"did you mean {near[0]}?" if near else "the names of capabilities(7), without CAP_"
        yield item.finding(rules.BAD_VALUE, f"there is no capability {name}", hint)


def _resources(resources: Node) -> Iterator[Finding]:
    for kind in ("requests", "limits"):
        for name, node in resources[kind].entries():
            if name not in RESOURCES and "/" not in name and not name.startswith(_HUGE_PAGES):
                near = difflib.get_close_matches(name, RESOURCES, 1, 0.3)
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(RESOURCES)}"
                yield node.finding(rules.UNKNOWN_RESOURCE, f"there is no resource {name}", hint)
            found = list(_bad_quantity(node))
            yield from found or _odd_quantity(name, node)
    for name, node in resources["requests"].entries():
        limit = resources["limits"][name]
        asked, most = quantity(node.value), quantity(limit.value)
        if asked is not None and most is not None and asked > most:
            message = f"{name}: {node.value} is requested, and {limit.value} is the limit"
            yield node.finding(
                rules.REQUEST_OVER_LIMIT, message, "raise the limit, or ask for less"
            )


def _bad_quantity(node: Node) -> Iterator[Finding]:
    value = quantity(node.value)
    if node and value is None:
        yield node.finding(rules.BAD_QUANTITY, f"{node.value!r} is no quantity", QUANTITY_HINT)
    elif value is not None and value < 0:
        yield node.finding(rules.BAD_QUANTITY, f"{node.value} is negative", QUANTITY_HINT)


def _odd_quantity(name: str, node: Node) -> Iterator[Finding]:
    value = quantity(node.value)
    if value is None:
        return
    if name != "cpu" and 0 < value < _MIB and "/" not in name and not name.startswith(_HUGE_PAGES):
        message = f"{name}: {node.value} is {value:f} bytes"
        yield node.finding(rules.ODD_QUANTITY, message, "Mi and Gi are the units, with a capital")
    if name == "cpu" and value > _MANY_CPUS:
        message = f"cpu: {node.value} is {value:f} cores"
        thousandths = f"{node.value}m is thousandths of a core"
        hint = (
            thousandths if str(node.value).isdigit() else "cores have no unit: 2, or 500m for half"
        )
        yield node.finding(rules.ODD_QUANTITY, message, hint)


def check_claim(spec: Node) -> Iterator[Finding]:
    """What a claim's spec asks for."""
    for kind in ("requests", "limits"):
        for name, node in spec.at("resources", kind).entries():
            found = list(_bad_quantity(node))
            yield from found or _odd_quantity(name, node)
