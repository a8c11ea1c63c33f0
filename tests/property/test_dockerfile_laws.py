"""What holds for every Dockerfile, word, pattern and reference."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from pybuild.dockerfile.errors import (
    BadPattern,
    BadSubstitution,
    DockerfileError,
    EmptyDockerfile,
)
from pybuild.dockerfile.flags import parse_duration
from pybuild.dockerfile.instructions import Copy, Env, Instruction, Onbuild, Run
from pybuild.dockerfile.lexer import split_flags
from pybuild.dockerfile.parser import parse, parse_nodes, parse_trigger
from pybuild.dockerfile.patterns import Patterns, clean, match, match_double_star
from pybuild.dockerfile.words import expand, expand_heredoc, expand_words
from pybuild.errors import Source
from pybuild.image.digest import digest_of
from pybuild.image.reference import BadReference, Reference, parse_reference

NOWHERE = Source("", 0, 0, "")
KEYWORDS = ["FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "CMD", "SHELL", "ONBUILD"]
KEYWORDS += ["HEALTHCHECK", "USER", "VOLUME"]

# Text made of what the grammar cares about, and of what it should not.
odd = st.text(st.sampled_from(list("aAB=<>-'\"\\`${}[],:#/* \t\r\n\ufeff\u00a0é")), max_size=40)
shell = st.text(st.sampled_from(list("ab_$ {}:-+?#%/*'\"\\1")), max_size=25)
lines = st.one_of(
    st.builds(lambda keyword, rest: f"{keyword} {rest}", st.sampled_from(KEYWORDS), odd),
    st.builds(lambda key, value: f"# {key}={value}", st.sampled_from(["escape", "syntax"]), odd),
    st.sampled_from(["FROM a", "RUN <<E", "E", "\\", "", "# c", "ONBUILD RUN <<E"]),
)
files = st.lists(lines, max_size=12).map("\n".join)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), max_size=20)
env = st.dictionaries(names, values, max_size=3)


@given(text=st.one_of(files, odd, st.text(max_size=60)))
def test_a_text_is_read_or_refused_by_name(text: str) -> None:
    try:
        parse(text)
    except EmptyDockerfile:
        return
    except (DockerfileError, BadSubstitution) as error:
        assert error.source is not None
        assert 1 <= error.source.line <= error.source.end_line


@given(text=files)
def test_places_are_in_order_and_hold_what_was_written(text: str) -> None:
    try:
        nodes = parse_nodes(text).nodes
    except (DockerfileError, BadSubstitution):
        return
    written = text.removeprefix("\ufeff").split("\n")
    end = 0
    for node in nodes:
        assert end < node.source.line <= node.source.end_line <= len(written)
        end = node.source.end_line
        assert node.source.text == "\n".join(written[node.source.line - 1 : end]).rstrip("\r\n")
        # Even a keyword can be continued on the next line.
        assert node.keyword in node.source.text or node.source.line < end


@given(text=files, where=st.integers(0, 12), comment=st.sampled_from(["# c", "", "   ", "\t# d"]))
def test_a_comment_between_instructions_changes_nothing(
    text: str, where: int, comment: str
) -> None:
    try:
        nodes = parse_nodes("FROM a\n" + text).nodes
    except (DockerfileError, BadSubstitution):
        return
    ends = [node.source.end_line for node in nodes]
    written = ("FROM a\n" + text).split("\n")
    at = ends[where % len(ends)]
    # A line that ends in an escape at the end of the file would go on in the comment.
    assume(at < len(written))
    changed = parse_nodes("\n".join([*written[:at], comment, *written[at:]])).nodes
    assert [replace(n, source=NOWHERE, child=None) for n in changed] == [
        replace(n, source=NOWHERE, child=None) for n in nodes
    ]


@given(pairs=st.lists(st.tuples(names, values), min_size=1, max_size=3), env=env)
def test_a_quoted_value_comes_back(pairs: list[tuple[str, str]], env: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        return '"' + re.sub(r'(["\\$])', r"\\\1", value) + '"'

    words = " ".join(f"{name}={quoted(value)}" for name, value in pairs)
    found = parse(f"FROM a\nENV {words}").stages[0].instructions[0]
    assert isinstance(found, Env)
    assert [(name, expand(value, env)) for name, value in found.pairs] == pairs


@given(flags=st.lists(st.tuples(names, values), max_size=3), rest=names)
def test_quoted_flags_come_back(flags: list[tuple[str, str]], rest: str) -> None:
    words = [f"--{name}={value}" for name, value in flags]
    text = " ".join(
        "--'" + re.sub(r"(['\\])", r"\\\1", word.removeprefix("--")) + "'" for word in words
    )
    assert split_flags(f"{text} {rest}") == (tuple(words), rest)


@given(content=st.lists(values.filter(lambda line: line != "E"), max_size=4))
def test_a_heredoc_is_every_byte_up_to_its_end(content: list[str]) -> None:
    body = "".join(line + "\n" for line in content)
    text = f"FROM a\nCOPY <<'E' /b\n{body}E\nRUN <<E\n{body}E\nUSER c"
    copy, run, user = parse(text).stages[0].instructions
    assert isinstance(copy, Copy)
    assert isinstance(run, Run)
    assert (copy.heredocs[0].data, run.script) == (body, body)
    assert user.source.line == 7 + 2 * len(content) - 1


def without_place(instruction: Instruction) -> Instruction:
    return replace(instruction, source=NOWHERE)


@given(line=lines)
def test_a_trigger_means_what_its_onbuild_meant(line: str) -> None:
    try:
        found = parse(f"FROM a\nONBUILD {line}\na\nE").stages[0].instructions
    except (DockerfileError, BadSubstitution):
        return
    onbuild = found[0]
    assert isinstance(onbuild, Onbuild)
    # A trigger is kept without the file's escape, here the default one.
    read = parse_trigger(onbuild.text, onbuild.source)
    assert without_place(read) == without_place(onbuild.instruction)


@given(word=shell, env=env)
def test_a_word_is_expanded_or_refused_by_name(word: str, env: dict[str, str]) -> None:
    try:
        whole = expand(word, env)
    except BadSubstitution:
        return
    parts = expand_words(word, env)
    assert all(parts)
    assert "".join("".join(parts).split()) == "".join(whole.split())


@given(word=st.text(st.sampled_from(list("ab_ -/.,:")), max_size=20), env=env)
def test_a_plain_word_stays(word: str, env: dict[str, str]) -> None:
    assert expand(word, env) == expand_heredoc(word, env) == word
    assert expand_words(word, env) == tuple(word.split())


@given(word=values, env=env)
def test_single_quotes_keep_all(word: str, env: dict[str, str]) -> None:
    assume("'" not in word)
    assert expand(f"'{word}'", env) == word


@given(name=names, value=values, other=names)
def test_forms_for_unset_and_empty(name: str, value: str, other: str) -> None:
    env = {name: value}
    assert expand(f"${{{name}:-{other}}}", env) == (value or other)
    assert expand(f"${{{name}-{other}}}", env) == value
    assert expand(f"${{{name}:+{other}}}", env) == (other if value else "")
    assert expand(f"${{{name}-{other}}}", {}) == other


@given(value=st.text("ab/", max_size=8), pattern=st.text("ab/?*", max_size=4))
def test_trimming_takes_the_shortest_and_the_longest(value: str, pattern: str) -> None:
    assume("/" not in pattern[:1] and not pattern.startswith(("#", "%")))
    expression = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern))
    heads = [i for i in range(len(value) + 1) if expression.fullmatch(value[:i])]
    tails = [i for i in range(len(value) + 1) if expression.fullmatch(value[i:])]
    env = {"X": value}
    assert expand(f"${{X#{pattern}}}", env) == value[min(heads, default=0) :]
    assert expand(f"${{X##{pattern}}}", env) == value[max(heads, default=0) :]
    end = len(value)
    assert expand(f"${{X%{pattern}}}", env) == value[: max(tails, default=end)]
    assert expand(f"${{X%%{pattern}}}", env) == value[: min(tails, default=end)]


parts = st.text(st.sampled_from("ab."), min_size=1, max_size=2).filter(lambda p: p.strip("."))
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
pattern_parts = st.one_of(
    parts, st.sampled_from(["*", "**", "?", "a*", "*b", "[ab]", "**a", "[^b]"])
)
pattern_texts = st.lists(pattern_parts, min_size=1, max_size=3).map("/".join)
ignore_lines = st.lists(
    st.tuples(st.sampled_from(["", "!"]), pattern_texts).map("".join), max_size=5
)


def excluded_slowly(ignored: list[str], path: str) -> bool:
    """The definition: the last line that matches the path or a parent of it decides."""
    pieces = path.split("/")
    chain = ["/".join(pieces[: end + 1]) for end in range(len(pieces))]
    excluded = False
    for line in ignored:
        if any(match_double_star(line.removeprefix("!"), part) for part in chain):
            excluded = not line.startswith("!")
    return excluded


@given(ignored=ignore_lines, tree=st.lists(paths, max_size=6))
def test_the_last_matching_line_decides(ignored: list[str], tree: list[str]) -> None:
    patterns = Patterns(ignored)
    for path in tree:
        assert patterns.excludes(path) == excluded_slowly(ignored, path)


@given(ignored=ignore_lines, directory=paths, below=st.lists(paths, min_size=1, max_size=5))
def test_nothing_below_a_skipped_directory_is_kept(
    ignored: list[str], directory: str, below: list[str]
) -> None:
    patterns = Patterns(ignored)
    if not patterns.may_include_below(directory):
        assert patterns.excludes(directory)
        assert all(patterns.excludes(f"{directory}/{path}") for path in below)


def matches_slowly(pattern: str, path: str) -> bool:
    """`*`, `?` and plain characters, by trying everything."""
    if not pattern:
        return not path
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        ends = path.find("/") if "/" in path else len(path)
        return any(matches_slowly(rest, path[taken:]) for taken in range(ends + 1))
    fits = bool(path) and (path[0] != "/" if head == "?" else path[0] == head)
    return fits and matches_slowly(rest, path[1:])


@given(pattern=st.text("ab/*?", max_size=8), path=st.text("ab/", max_size=8))
def test_match_is_what_it_says(pattern: str, path: str) -> None:
    assert match(pattern, path) == matches_slowly(pattern, path)


@given(pattern=st.text("ab/*?[]^-\\!", max_size=10), path=st.text("ab/-]", max_size=6))
def test_a_pattern_is_read_or_refused_by_name(pattern: str, path: str) -> None:
    try:
        match(pattern, path)
    except BadPattern:
        with pytest.raises(BadPattern):
            match(pattern, "")


@given(path=st.text("a./", max_size=10))
def test_a_clean_path_is_clean(path: str) -> None:
    assert clean(clean(path)) == clean(path)
    assert "//" not in clean(path)


@given(nanoseconds=st.integers(0, 1 << 62))
def test_durations_add_up(nanoseconds: int) -> None:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    minutes, seconds = divmod(seconds, 60)
    assert parse_duration(f"{minutes}m{seconds}s{rest}ns") == nanoseconds
    assert parse_duration(f"{minutes}m{seconds}.{rest:09}s") == nanoseconds


repositories = st.from_regex(
    r"[a-z0-9]{1,9}([._-][a-z0-9]{1,9}){0,2}(/[a-z0-9]{1,9}){0,2}", fullmatch=True
)
registries = st.sampled_from(["docker.io", "r.io", "localhost", "h:5000", "[::1]:80", "UPPER"])
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(registry=registries, repository=repositories, tag=tags, content=st.binary(max_size=3))
def test_a_reference_is_read_as_it_is_written(
    registry: str, repository: str, tag: str, content: bytes
) -> None:
    if registry == "docker.io" and "/" not in repository:
        repository = "library/" + repository
    reference = Reference(registry, repository, tag)
    fixed = reference.with_digest(digest_of(content))
    assert parse_reference(str(reference)) == reference
    assert parse_reference(str(fixed)) == fixed
    # The short form can be read as an own registry only if it looks like one.
    if "." not in fixed.familiar.partition("/")[0]:
        assert parse_reference(fixed.familiar) == fixed


@given(text=st.text(st.sampled_from(list("aA0.:/@-_ []")), max_size=20))
def test_a_reference_is_read_or_refused_by_name(text: str) -> None:
    try:
        found = parse_reference(text)
    except BadReference:
        return
    assert parse_reference(str(found)) == found
