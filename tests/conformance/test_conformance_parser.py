from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pybuild.dockerfile.errors import BadSubstitution, DockerfileError, DockerfileSyntax
from pybuild.dockerfile.heredoc import heredocs_of, parse_heredoc
from pybuild.dockerfile.instructions import Copy, ExecForm, Run, ShellForm
from pybuild.dockerfile.lexer import NotStrings, find_directive, parse_json_array, split_words
from pybuild.dockerfile.parser import Node, ParsedFile, parse, parse_nodes

Case = dict[str, Any]
INDEX = "parser/index.json"
KINDS = ("positive", "negative", "accept", "heredoc", "copy_heredoc", "run_heredoc", "lines")
ESCAPED = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v"}


def text_of(case: Case, folder: Path) -> str:
    return (folder / "parser" / case["dockerfile"]).read_bytes().decode()


def quoted(text: str) -> str:
    """As Go's strconv.Quote."""
    out = ""
    for char in text:
        if char in '\\"':
            out += "\\" + char
        elif char in ESCAPED:
            out += "\\" + ESCAPED[char]
        else:
            out += char if char.isprintable() else f"\\x{ord(char):02x}"
    return f'"{out}"'


def dump_node(node: Node) -> str:
    parts = [node.name]
    if node.flags:
        parts.append("[" + " ".join(map(quoted, node.flags)) + "]")
    parts += [dump_node(node.child)] if node.child else [quoted(arg) for arg in node.args]
    return "(" + " ".join(parts) + ")"


def dump(parsed: ParsedFile) -> str:
    return "\n".join(map(dump_node, parsed.nodes))


def test_every_kind_is_run(folder: Path) -> None:
    import json

    if not (folder / INDEX).is_file():
        pytest.skip(f"no conformance cases in {folder}")
    cases = json.loads((folder / INDEX).read_text("utf-8"))
    assert {case["kind"] for case in cases} <= set(KINDS)


@pytest.mark.conformance(INDEX, *(kind for kind in KINDS if kind != "negative"))
def test_result(case: Case, folder: Path) -> None:
    expected = (folder / "parser" / case["result"]).read_text("utf-8")
    assert dump(parse_nodes(text_of(case, folder))) == expected.strip()


@pytest.mark.conformance(INDEX, "positive", "lines")
def test_lines(case: Case, folder: Path) -> None:
    nodes = parse_nodes(text_of(case, folder)).nodes
    found = [[node.name.upper(), node.source.line, node.source.end_line] for node in nodes]
    assert found == [[name.upper(), *lines] for name, *lines in case["lines"]]


@pytest.mark.conformance(INDEX, "positive")
def test_escape_warnings_and_instructions(case: Case, folder: Path) -> None:
    text = text_of(case, folder)
    parsed = parse_nodes(text)
    assert (parsed.escape, len(parsed.warnings)) == (case["escape"], case["warnings"])
    if "instruction_error" in case:
        with pytest.raises(DockerfileError):
            parse(text)
    else:
        assert parse(text).stages


@pytest.mark.conformance(INDEX, "negative")
def test_refused(case: Case, folder: Path) -> None:
    text = text_of(case, folder)
    if case["phase"] == "parse":
        with pytest.raises(DockerfileError):
            parse_nodes(text)
    else:
        assert parse_nodes(text).nodes
        with pytest.raises(DockerfileError) as caught:
            parse(text)
        assert caught.value.source is not None


@pytest.mark.conformance(INDEX, "accept")
def test_accepted(case: Case, folder: Path) -> None:
    assert parse(text_of(case, folder)).stages[0].instructions


@pytest.mark.conformance(INDEX, "heredoc")
def test_heredocs(case: Case, folder: Path) -> None:
    node = parse_nodes(text_of(case, folder)).nodes[case["node"]]
    found = [
        {
            "name": doc.name,
            "content": doc.content,
            "expand": doc.expand,
            "chomp": doc.chomp,
            "fd": doc.fd,
        }
        for doc in node.heredocs
    ]
    assert found == case["heredocs"]


@pytest.mark.conformance(INDEX, "copy_heredoc")
def test_copied_heredocs(case: Case, folder: Path) -> None:
    copy = parse(text_of(case, folder)).stages[0].instructions[0]
    assert isinstance(copy, Copy)
    found = [{"path": d.name, "data": d.data, "expand": d.expand} for d in copy.heredocs]
    assert (copy.destination, list(copy.sources), found) == (
        case["dest"],
        case["sources"],
        case["contents"],
    )


@pytest.mark.conformance(INDEX, "run_heredoc")
def test_run_heredocs(case: Case, folder: Path) -> None:
    run = parse(text_of(case, folder)).stages[0].instructions[0]
    assert isinstance(run, Run)
    match run.command:
        case ShellForm(text):
            command, shell = [text], True
        case ExecForm(args):
            command, shell = list(args), False
    files = [{"name": d.name, "data": d.content, "chomp": d.chomp} for d in run.heredocs]
    assert (command, shell, files) == (case["command"], case["shell"], case["files"])


@pytest.mark.conformance("parser/tables/directives.json")
def test_directive(case: Case) -> None:
    name = "check" if "check" in case else "syntax"
    found = find_directive(case["input"], name)
    if case[name] is None:
        assert found is None
        return
    assert found is not None
    # The first word of `syntax` is the front end, the rest are its options.
    assert found.value.split()[0] == case[name]
    assert found.value == case.get("cmdline", found.value)
    assert found.line == case.get("line", found.line)


@pytest.mark.conformance("parser/tables/heredoc_tokens.json")
def test_heredoc_token(case: Case) -> None:
    if "line" in case:
        assert [doc.name for doc in heredocs_of(case["line"])] == case["names"]
    elif case["outcome"] == "error":
        with pytest.raises(BadSubstitution):
            parse_heredoc(case["input"])
    else:
        found = parse_heredoc(case["input"])
        assert (found.name if found else None) == case.get("name")


@pytest.mark.conformance("parser/tables/json_arrays.json")
def test_json_array(case: Case) -> None:
    if case["ok"]:
        assert parse_json_array(case["input"]) == tuple(case["expected"])
        return
    with pytest.raises(NotStrings):
        parse_json_array(case["input"])
    with pytest.raises(DockerfileSyntax):
        parse_nodes("CMD " + case["input"])


@pytest.mark.conformance("parser/tables/name_val.json")
def test_pairs(case: Case) -> None:
    node = parse_nodes(f"{case['instruction']} {case['input']}").nodes[0]
    assert node.args == tuple(case["expected"])


@pytest.mark.conformance("parser/tables/words.json")
def test_words(case: Case) -> None:
    assert split_words(case["input"], case.get("escape", "\\")) == tuple(case["expected"])
