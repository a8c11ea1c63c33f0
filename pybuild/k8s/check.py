"""Manifests checked for what no schema finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pybuild.k8s import rules
from pybuild.k8s.agent import check_agent
from pybuild.k8s.builder import check_builder
from pybuild.k8s.document import Document, read_documents
from pybuild.k8s.pods import Pod, pods_of
from pybuild.k8s.references import (
    Known,
    check_references,
    check_secret,
    check_variables,
    check_volumes,
    known_objects,
)
from pybuild.k8s.rules import Finding
from pybuild.k8s.security import check_level, check_security
from pybuild.k8s.tekton import check_tekton, is_tekton, pods_of_tasks
from pybuild.k8s.values import CLAIM, check_document, check_pod

# Kinds that have no Pod in them, and that a builder's files usually hold.
BESIDE = ("Secret", "ConfigMap", CLAIM, "Namespace", "ServiceAccount", "Role", "RoleBinding",
          "ClusterRole", "ClusterRoleBinding", "RuntimeClass", "NetworkPolicy", "LimitRange",
          "ResourceQuota")  # fmt: skip


def check_files(texts: Mapping[str, str], level: str = "") -> list[Finding]:
    """What is found in files, text by name; objects of one count as known in all others.

    `level` is a level of Pod Security that Pods have to pass, "" for none. Findings come in the
    order of files and lines. Raises YamlMissing.
    """
    findings: list[Finding] = []
    documents: list[Document] = []
    for file, text in texts.items():
        read, problems = read_documents(text, file)
        findings += problems
        documents += read
        if not read and not problems:
            findings.append(Finding(file, 0, rules.NO_POD, "there is no object in it"))
    known = known_objects(documents)
    for document in documents:
        findings += check(document, known, level)
    order = {file: number for number, file in enumerate(texts)}
    return sorted(findings, key=lambda found: (order[found.file], found.line))


def check(document: Document, known: Known, level: str) -> Iterator[Finding]:
    """What is found in one object."""
    yield from check_document(document)
    root = document.root
    kind = root["kind"].text
    pods = tuple(pods_of(document))
    if is_tekton(document):
        yield from check_tekton(document, known)
        pods = tuple(pods_of_tasks(document))
    elif kind == "Secret":
        yield from check_secret(document)
    elif not pods and kind not in BESIDE:
        shown = f"a {kind}" if kind else "an object without a kind"
        yield root.finding(rules.NOT_CHECKED, f"{shown} is not looked into")
    for pod in pods:
        yield from _pod(pod, known, level)


def _pod(pod: Pod, known: Known, level: str) -> Iterator[Finding]:
    yield from check_pod(pod)
    yield from check_volumes(pod)
    yield from check_references(pod, known)
    yield from check_security(pod)
    yield from check_level(pod, level)
    for container in pod.containers:
        yield from check_variables(container)
        if container.is_builder:
            yield from check_builder(pod, container)
    if pod.is_agent:
        yield from check_agent(pod)


def failed(findings: Sequence[Finding]) -> bool:
    """Whether anything of it will not work."""
    return any(found.rule.severity is rules.Severity.ERROR for found in findings)
