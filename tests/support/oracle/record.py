"""What an image holds beyond its base, in a form that two builders can be compared in."""

from __future__ import annotations

import fnmatch
import json
import platform
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.support.oracle.case import Case
from tests.support.oracle.flatten import FlatImage, Node, Tree

Record = dict[str, Any]
CONFIG_FIELDS = (
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def make_record(
    image: FlatImage, base: Tree, known: Mapping[str, Tree], times: Iterable[str] = ()
) -> Record:
    """The config, and the tree as difference to the base's tree: what changed and what is gone.

    A file whose bytes come from one of the `known` images is recorded by its name there, since
    another version of a package must not make a record wrong.
    """
    names = _names_of_contents(known)
    ours, theirs = _described(image.tree, names), _described(base, names)
    changed = {path: about for path, about in ours.items() if theirs.get(path) != about}
    for path in ours:
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in times):
            changed[path] = {**ours[path], "time": image.tree[path].mtime}
    gone = {path for path in theirs if path not in ours}
    removed = sorted(path for path in gone if posixpath.dirname(path) not in gone)
    return {
        "config": _config(image.config),
        "tree": dict(sorted(changed.items())),
        "removed": removed,
    }


def _names_of_contents(known: Mapping[str, Tree]) -> dict[str, str]:
    names: dict[str, str] = {}
    for image, tree in known.items():
        for path, node in sorted(tree.items()):
            if node.content.startswith("sha256:"):
                names.setdefault(node.content, f"that of {image}:{path}")
    return names


def _described(tree: Tree, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    first: dict[int, str] = {}
    described = {}
    for path in sorted(tree):
        node = tree[path]
        name = first.setdefault(id(node), path)
        about = _about(node)
        if node.content in names:
            del about["size"]
            about["content"] = names[node.content]
        described[path] = about if name == path else {**about, "same as": name}
    return described


def _about(node: Node) -> dict[str, Any]:
    about: dict[str, Any] = {"type": node.type, "owner": f"{node.uid}:{node.gid}"}
    if node.type == "symlink":
        return {**about, "link": node.link}
    about["mode"] = f"{node.mode:04o}"
    if node.type == "file":
        about |= {"size": node.size, "content": node.content}
    if node.device:
        about["device"] = node.device
    if node.xattrs:
        about["xattrs"] = dict(node.xattrs)
    return about


def _config(config: Mapping[str, Any]) -> Record:
    """Absent, null and empty are one in this format, except where empty means "reset"."""
    inner = config.get("config") or {}
    kept = {
        name: inner[name] for name in CONFIG_FIELDS if inner.get(name) not in (None, "", [], {})
    }
    unknown = sorted(set(inner) - set(CONFIG_FIELDS) - _NEVER_COMPARED)
    if unknown:
        kept["unknown fields"] = unknown
    for name in ("os", "architecture", "variant", "author"):
        if config.get(name):
            kept[name] = config[name]
    if kept.get("architecture") == _MACHINES.get(platform.machine()):
        kept["architecture"] = "this machine's"
    return dict(sorted(kept.items()))


_NEVER_COMPARED = {
    # Docker's schema 1 fields, which builders still write empty or not at all
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "OpenStdin",
    "StdinOnce",
    "Tty",
}


class Mismatch(NamedTuple):
    """One path or config field that differs: which of its fields, and a line that says how."""

    fields: tuple[str, ...]
    text: str


def differences(expected: Record, actual: Record) -> dict[str, Mismatch]:
    """What differs, by path or "config.Name"; empty where the records are the same."""
    found: dict[str, Mismatch] = {}
    for name in sorted({*expected["config"], *actual["config"]}):
        wanted, got = expected["config"].get(name), actual["config"].get(name)
        if wanted != got:
            text = f"expected {_short(wanted)}, got {_short(got)}"
            found[f"config.{name}"] = Mismatch((), text)
    for path in sorted({*expected["tree"], *actual["tree"]}):
        wanted, got = expected["tree"].get(path), actual["tree"].get(path)
        if wanted != got:
            found[path] = _explain(wanted, got)
    for path in sorted({*expected["removed"]} ^ {*actual["removed"]}):
        text = "not removed" if path in expected["removed"] else "removed"
        found.setdefault(path, Mismatch((), text))
    return found


def _explain(wanted: Mapping[str, Any] | None, got: Mapping[str, Any] | None) -> Mismatch:
    if wanted is None or got is None:
        state = "as in the base, or absent"
        text = f"expected {_short(wanted or state)}, got {_short(got or state)}"
        return Mismatch((), text)
    fields = [name for name in sorted({*wanted, *got}) if wanted.get(name) != got.get(name)]
    lines = [
        f"{one}: expected {_short(wanted.get(one))}, got {_short(got.get(one))}" for one in fields
    ]
    return Mismatch(tuple(fields), "; ".join(lines))


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return text if len(text) <= 200 else f"{text[:197]}..."


def unexplained(case: Case, expected: Record, actual: Record, where: str) -> list[str]:
    """Differences that the case does not name, and names that no longer differ; empty is good."""
    found = differences(expected, actual)
    problems = [
        f"{key}: {mismatch.text}"
        for key, mismatch in found.items()
        if not any(known.covers(key, mismatch.fields, where) for known in case.differences)
    ]
    stale = [
        f"case.toml names a difference in {known.path!r}, but there is none: {known.reason}"
        for known in case.differences
        if known.where in (where, "both")
        and not any(known.covers(key, mismatch.fields, where) for key, mismatch in found.items())
    ]
    return problems + stale


def read_record(case: Case) -> Record:
    record: Record = json.loads(case.expected_file.read_text())
    return record


def write_record(case: Case, record: Record) -> bool:
    """Writes expected.json; returns whether it is another one than before."""
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
    if case.expected_file.exists() and case.expected_file.read_text() == text:
        return False
    case.expected_file.write_text(text)
    return True
