"""YAML text to values that know their lines.

`Node` is a place in a document: asked for what is not there, or is of another shape, it answers
with an empty one, so that checks need no care for malformed manifests, which the schema finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.errors import HostUnsupported
from pybuild.k8s import rules
from pybuild.k8s.rules import Finding, Rule

if TYPE_CHECKING:
    import yaml

Path = tuple[str | int, ...]
MOST_NODES = 100_000


class YamlMissing(HostUnsupported):
    """Reading YAML needs PyYAML, which is not installed."""

    code = "yaml-missing"
    advice = "pip install 'pybuild[yaml]'; the builder's own image leaves it out"


class Document(Struct, frozen=True):
    """One object of a file, with the line of everything in it."""

    file: str
    value: object
    lines: dict[Path, int]

    @property
    def root(self) -> Node:
        return Node(self, (), self.value)


class Node(Struct, frozen=True):
    """A place in a document, there or not."""

    document: Document
    path: Path
    value: object

    def __getitem__(self, key: str) -> Node:
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Node(self.document, (*self.path, key), value)

    def at(self, *keys: str) -> Node:
        node = self
        for key in keys:
            node = node[key]
        return node

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __bool__(self) -> bool:
        """Whether it is there: null is not, false and empty are."""
        return self.value is not None

    def entries(self) -> Iterator[tuple[str, Node]]:
        """The keys of a mapping, as text, and what they name."""
        if isinstance(self.value, dict):
            for key, value in self.value.items():
                yield str(key), Node(self.document, (*self.path, key), value)

    def items(self) -> Iterator[Node]:
        """The items of a list."""
        if isinstance(self.value, list):
            for number, value in enumerate(self.value):
                yield Node(self.document, (*self.path, number), value)

    def walk(self) -> Iterator[Node]:
        """The node and all below it."""
        yield self
        for _, child in self.entries():
            yield from child.walk()
        for item in self.items():
            yield from item.walk()

    @property
    def text(self) -> str:
        """A text's own, "" of anything else."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(item.text for item in self.items())

    @property
    def number(self) -> int | None:
        """None for what is no whole number; booleans are none."""
        whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        return self.value if whole and isinstance(self.value, int) else None

    @property
    def line(self) -> int:
        """Its own, or that of the nearest part around it that is there."""
        path = self.path
        while path and path not in self.document.lines:
            path = path[:-1]
        return self.document.lines.get(path, 0)

    def finding(self, rule: Rule, message: str, hint: str = "") -> Finding:
        return Finding(self.document.file, self.line, rule, message, hint)


def read_documents(text: str, file: str) -> tuple[list[Document], list[Finding]]:
    """The objects of a file, those in a List each by itself; and what is wrong with the YAML, after
    which the rest of the file is not read. Raises YamlMissing."""
    try:
        import yaml
    except ImportError as error:
        raise YamlMissing("there is no PyYAML to read manifests with") from error
    documents: list[Document] = []
    findings: list[Finding] = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            reader = _Lines(file)
            reader.read(node, ())  # before: constructing puts what is merged among a mapping's own
            findings += reader.findings
            value = loader.construct_document(node)
            if value is not None:
                documents += _flat(Document(file, value, reader.lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        findings.append(Finding(file, line, rules.YAML_SYNTAX, _words(error)))
    except (yaml.YAMLError, _TooLarge, ValueError, RecursionError) as error:
        findings.append(
            Finding(file, 0, rules.YAML_SYNTAX, str(error) or "it is nested too deeply")
        )
    return documents, findings


def _words(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.problem, error.context) if part]
    return ", ".join(str(part) for part in parts)


class _TooLarge(Exception):
    """Aliases of aliases, or a file that is no manifest."""


class _Lines:
    """The line of each part, and keys that stand twice. What an alias names is read at each place
    that has it."""

    def __init__(self, file: str) -> None:
        self.lines: dict[Path, int] = {}
        self.findings: list[Finding] = []
        self._file = file

    def read(self, node: yaml.Node, path: Path, line: int = 0) -> None:
        import yaml

        if len(self.lines) >= MOST_NODES:
            raise _TooLarge(f"it has more than {MOST_NODES} values")
        self.lines[path] = line or node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self.read(item, (*path, number))
        elif isinstance(node, yaml.MappingNode):
            self._read_mapping(node.value, path)

    def _read_mapping(self, pairs: Sequence[tuple[yaml.Node, yaml.Node]], path: Path) -> None:
        seen: dict[str, int] = {}
        for key, value in pairs:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                message = f"{name!r} stands on line {seen[name]} too"
                found = Finding(
                    self._file, line, rules.DUPLICATE_KEY, message, "the last one counts: keep one"
                )
                self.findings.append(found)
            seen[name] = line
            self.read(value, (*path, name), line)


def _flat(document: Document) -> Iterator[Document]:
    root = document.root
    if root["kind"].text != "List":
        yield document
        return
    for item in root["items"].items():
        cut = len(item.path)
        lines = {
            path[cut:]: line for path, line in document.lines.items() if path[:cut] == item.path
        }
        yield Document(document.file, item.value, lines)
