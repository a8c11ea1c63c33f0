"""The first reading of a Dockerfile: which instructions there are, with their flags and words.

Nothing is judged here that the grammar does not force; `parser` makes typed instructions of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from pybuild.dockerfile.errors import (
    BadHeredoc,
    BadSubstitution,
    DockerfileError,
    DockerfileSyntax,
    EmptyDockerfile,
)
from pybuild.dockerfile.heredoc import Heredoc, heredocs_of
from pybuild.dockerfile.lexer import (
    SPACE,
    LineReader,
    LogicalLine,
    NotStrings,
    parse_json_array,
    split_blanks,
    split_first,
    split_flags,
    split_words,
)
from pybuild.errors import Source


class Lint(Struct, frozen=True):
    """Something that works and should not stand there; `rule` is a stable name."""

    rule: str
    message: str
    source: Source


class Node(Struct, frozen=True):
    """One instruction: its name in lower case, flags as written (`--from=x`), and words.

    ENV and LABEL have three words a pair: name, value, and "=" or "" for the form without it.
    HEALTHCHECK has its type first. ONBUILD has no words but a `child`. `line` is the logical line.
    """

    name: str
    keyword: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    json: bool
    heredocs: tuple[Heredoc, ...]
    child: Node | None
    line: str
    source: Source


class ParsedFile(Struct, frozen=True):
    """All nodes, in order; `warnings` are about the grammar only."""

    nodes: tuple[Node, ...]
    directives: Mapping[str, str]
    escape: str
    warnings: tuple[Lint, ...]


class _Words(Struct, frozen=True):
    """What an instruction's rest reads as."""

    args: tuple[str, ...]
    json: bool = False


def parse_nodes(text: str, file: str = "Dockerfile") -> ParsedFile:
    """Reads the whole text; raises a DockerfileError with its place (EmptyDockerfile without)."""
    reader = LineReader(text)
    nodes: list[Node] = []
    warnings: list[Lint] = []
    while (line := _logical_line(reader, file)) is not None:
        place = _place(reader, file, line.first)
        try:
            node = _node(line.text, reader.escape, place)
            node = replace(node, heredocs=_read_heredocs(node, reader))
        except (DockerfileError, BadSubstitution) as error:
            raise error.at(_place(reader, file, line.first)) from None
        place = _place(reader, file, line.first)
        nodes.append(replace(node, source=place))
        if line.has_empty_continuation:
            message = "an empty line inside a continued instruction"
            warnings.append(Lint("no-empty-continuation", message, place))
    if not nodes:
        raise EmptyDockerfile(
            f"{file}: file with no instructions", hint="a Dockerfile starts with FROM"
        )
    return ParsedFile(tuple(nodes), dict(reader.directives), reader.escape, tuple(warnings))


def _logical_line(reader: LineReader, file: str) -> LogicalLine | None:
    try:
        return reader.logical_line()
    except DockerfileSyntax as error:
        raise error.at(_place(reader, file, reader.line)) from None


def _place(reader: LineReader, file: str, first: int) -> Source:
    return Source(file, first, reader.line, reader.text_between(first, reader.line))


def _node(line: str, escape: str, source: Source, *, is_child: bool = False) -> Node:
    keyword, rest = split_first(line)
    name = keyword.lower()
    flags, rest = split_flags(rest)
    rest = rest.strip(SPACE)
    # Only the outermost ONBUILD has a child: a chain is refused later, however long it is.
    child = None
    if name == "onbuild" and rest and not is_child:
        child = _node(rest, escape, source, is_child=True)
    read = _READERS.get(name)
    words = read(rest, escape) if read else _Words(())
    return Node(name, keyword, flags, words.args, words.json, (), child, line, source)


def _read_heredocs(node: Node, reader: LineReader) -> tuple[Heredoc, ...]:
    holder = node.child if node.child is not None else node
    if holder.name not in ("run", "copy", "add") or holder.json or "<<" not in node.line:
        return ()
    return tuple(_read_heredoc(heredoc, reader) for heredoc in heredocs_of(node.line))


def _read_heredoc(heredoc: Heredoc, reader: LineReader) -> Heredoc:
    content: list[str] = []
    while (raw := reader.raw_line()) is not None:
        end = raw.rstrip("\r\n")
        if (end.lstrip("\t") if heredoc.chomp else end) == heredoc.name:
            return replace(heredoc, content="".join(content))
        content.append(raw)
    raise BadHeredoc(
        f"the here-document <<{heredoc.name} is not ended",
        hint=f"put {heredoc.name} alone on a line below it",
    )


def _one_word(rest: str, _escape: str) -> _Words:
    return _Words((rest,) if rest else ())


def _blank_words(rest: str, _escape: str) -> _Words:
    return _Words(split_blanks(rest))


def _quoted_words(rest: str, escape: str) -> _Words:
    return _Words(split_words(rest, escape))


def _json(rest: str) -> tuple[str, ...] | None:
    try:
        return parse_json_array(rest)
    except NotStrings:
        raise DockerfileSyntax(
            "a JSON array may hold only strings here", hint='quote each part: ["a", "b"]'
        ) from None


def _json_or_text(rest: str, escape: str) -> _Words:
    array = _json(rest)
    return _one_word(rest, escape) if array is None else _Words(array, json=True)


def _json_or_words(rest: str, escape: str) -> _Words:
    array = _json(rest)
    return _blank_words(rest, escape) if array is None else _Words(array, json=True)


def _health(rest: str, escape: str) -> _Words:
    kind, command = split_first(rest) if rest else ("", "")
    words = _json_or_text(command, escape)
    return _Words(((kind, *words.args) if kind else ()), words.json)


def _pairs_of(instruction: str) -> Callable[[str, str], _Words]:
    def pairs(rest: str, escape: str) -> _Words:
        words = split_words(rest, escape)
        if not words:
            return _Words(())
        if "=" not in words[0]:
            name, value = split_first(rest)
            if not value:
                raise DockerfileSyntax(
                    f"{instruction} must have two arguments",
                    hint=f"write {instruction} {name}=value",
                )
            return _Words((name, value, ""))
        args: list[str] = []
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise DockerfileSyntax(
                    f"can't find = in {word!r}, it must be of the form name=value",
                    hint="quote a value that holds blanks",
                )
            args += (name, value, "=")
        return _Words(tuple(args))

    return pairs


_READERS: Mapping[str, Callable[[str, str], _Words]] = {
    "add": _json_or_words,
    "arg": _quoted_words,
    "cmd": _json_or_text,
    "copy": _json_or_words,
    "entrypoint": _json_or_text,
    "env": _pairs_of("ENV"),
    "expose": _blank_words,
    "from": _blank_words,
    "healthcheck": _health,
    "label": _pairs_of("LABEL"),
    "maintainer": _one_word,
    "run": _json_or_text,
    "shell": _json_or_text,
    "stopsignal": _one_word,
    "user": _one_word,
    "volume": _json_or_words,
    "workdir": _one_word,
}
