from __future__ import annotations

import pytest

from pybuild.dockerfile.errors import BadPattern
from pybuild.dockerfile.patterns import (
    Patterns,
    clean,
    has_wildcards,
    match,
    match_double_star,
    parse_ignore_file,
)


@pytest.mark.parametrize(
    ("lines", "path", "excluded"),
    [
        pytest.param(["a"], "a/b/c", True, id="a parent counts"),
        pytest.param(["a"], "ab", False, id="whole parts"),
        pytest.param(["a", "!a/b"], "a/b/c", False, id="a parent is back"),
        pytest.param(["!a/b", "a"], "a/b", True, id="the last one decides"),
        pytest.param(["a", "!a/b", "a/b/c"], "a/b/c", True, id="out again"),
        pytest.param(["**/t"], "t", True, id="at the top"),
        pytest.param(["**/t*.c"], "x/y/test.c", True, id="below"),
        pytest.param(["**/t*.c"], "x/test.c/y", True, id="a parent by name"),
        pytest.param(["**/*.c", "!**/keep.*"], "x/keep.c", False, id="names against names"),
        pytest.param(["**/keep.*", "!keep.c", "**/*.c"], "keep.c", True, id="names after paths"),
        pytest.param(["**t"], "x/yt", True, id="any end"),
        pytest.param(["a/**/b"], "a/b", True, id="none between"),
        pytest.param(["a/**/b"], "a/x/y/b", True, id="some between"),
        pytest.param(["a/**/b"], "a/xb", False, id="whole parts after any"),
        pytest.param(["a/**"], "a", False, id="below only"),
        pytest.param([" a/./b/ "], "a/b", True, id="cleaned"),
        pytest.param(["[a-c]?"], "b1", True, id="class"),
        pytest.param(["a.c"], "abc", False, id="a dot is a dot"),
        pytest.param(["x+$"], "x+$", True, id="no expression"),
        pytest.param(["*", "!.*"], ".git/x", False, id="hidden"),
        pytest.param([], "a", False, id="none"),
        pytest.param(["**"], "a\nb/c", True, id="a line end in a name"),
        pytest.param(["a*"], "ab\udcff", True, id="bytes that are no text"),
    ],
)
def test_excludes(lines: list[str], path: str, excluded: bool) -> None:
    assert Patterns(lines).excludes(path) is excluded


@pytest.mark.parametrize(
    ("lines", "directory", "below"),
    [
        pytest.param(["a"], "b", True, id="not excluded"),
        pytest.param(["a"], "a", False, id="excluded"),
        pytest.param(["a"], "a/b", False, id="by its parent"),
        pytest.param(["a", "!a/b/c"], "a", True, id="something is back"),
        pytest.param(["a", "!a/b/c"], "a/b", True, id="on the way"),
        pytest.param(["a", "!a/b/c"], "a/x", False, id="beside the way"),
        pytest.param(["a", "!*/b"], "a", True, id="by a wildcard"),
        pytest.param(["a", "!**/b"], "a/x/y", True, id="anywhere"),
        pytest.param(["!a/b", "a"], "a", False, id="too early"),
        pytest.param(["*", "!a"], "a", True, id="back itself"),
        pytest.param(["*", "!a"], "b", False, id="another is back"),
        pytest.param(["a", "![^x]b"], "a", True, id="a class may match a slash"),
        pytest.param(["**"], "", True, id="the top is walked"),
    ],
)
def test_may_include_below(lines: list[str], directory: str, below: bool) -> None:
    assert Patterns(lines).may_include_below(directory) is below


def test_a_deep_directory_is_no_stack_overflow() -> None:
    assert not Patterns(["x"]).excludes("a/" * 2_000 + "b")


def test_ignore_file() -> None:
    text = "\ufeff# c\n  # no comment\n\n/a/\n! /b/../c \n!\n/\n.\r\n"
    assert parse_ignore_file(text) == ("# no comment", "a", "!c", "!", "/", ".")


def test_an_exception_of_nothing() -> None:
    with pytest.raises(BadPattern):
        Patterns(["!"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "."), ("/", "/"), ("a//b/./c/", "a/b/c"), ("../a/../b", "../b"), ("/../a", "/a")],
)
def test_clean(path: str, expected: str) -> None:
    assert clean(path) == expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.txt", "a.txt", True),
        ("*.txt", "d/a.txt", False),
        ("**", "a/b", False),
        ("d/*/?", "d/x/y", True),
        ("[c-a]", "b", False),
        ("[^c-a]", "b", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("[\\]]", "]", True),
        ("[!a]", "!", True),
    ],
)
def test_match(pattern: str, path: str, expected: bool) -> None:
    assert match(pattern, path) is expected


@pytest.mark.parametrize("pattern", ["[", "a[", "[]", "[^]", "[a", "[a-", "[a-]", "[-a]", "a\\"])
def test_malformed(pattern: str) -> None:
    with pytest.raises(BadPattern):
        match(pattern, "a")


def test_a_double_star_alone() -> None:
    assert match_double_star("**/*.txt", "a/b/c.txt")
    assert not match_double_star("a", "a/b")


def test_wildcards_are_seen() -> None:
    assert [has_wildcards(text) for text in ("a", "a*", "a?", "[a]", "a\\*")] == [
        False,
        *[True] * 4,
    ]
