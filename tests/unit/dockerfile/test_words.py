from __future__ import annotations

import pytest

from pybuild.dockerfile.errors import BadSubstitution
from pybuild.dockerfile.words import expand, expand_heredoc, expand_words

ENV = {"A": "x", "E": "", "P": "/usr/local/bin", "S": "one two", "D": "a.b.c"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("$A-$B-${A}", "x--x", id="variables"),
        pytest.param("'$A'", "$A", id="single quotes"),
        pytest.param('"$A \\"\\$A"', 'x "$A', id="double quotes"),
        pytest.param("\\$A", "$A", id="escaped"),
        pytest.param("${B:-z}${E:-z}${E-z}", "zz", id="default"),
        pytest.param("${A:+y}${E:+y}${E+y}", "yy", id="alternative"),
        pytest.param("${B:-'a b'}", "a b", id="quotes in a default"),
        pytest.param("${P#*/}|${P##*/}", "usr/local/bin|bin", id="prefix"),
        pytest.param("${P%/*}|${P%%/*}|${D%%.*}", "/usr/local||a", id="suffix"),
        pytest.param("${D%.?}|${D#?}", "a.b|.b.c", id="one character"),
        pytest.param("${D/./-}|${D//./-}|${D//[/-}", "a-b.c|a-b-c|a.b.c", id="replace"),
        pytest.param("${D//./$A}", "axbxc", id="replace by a variable"),
        pytest.param("${D//b/\\\\1}", "a.\\\\1.c", id="a replacement is no expression"),
        pytest.param("${P/\\//_}", "_usr/local/bin", id="an escaped slash"),
        pytest.param("a$", "a$", id="dollar at the end"),
        pytest.param("a\\", "a", id="escape at the end"),
    ],
)
def test_expand(word: str, expected: str) -> None:
    assert expand(word, ENV) == expected


def test_another_escape() -> None:
    assert expand("C:\\x`$A", ENV, "`") == "C:\\x$A"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("$S b", ("one", "two", "b"), id="a variable is split"),
        pytest.param('"$S" b', ("one two", "b"), id="a quoted one is not"),
        pytest.param("a\\ b", ("a b",), id="an escaped blank"),
        pytest.param("'' $E a", ("a",), id="nothing is no word"),
    ],
)
def test_expand_words(word: str, expected: tuple[str, ...]) -> None:
    assert expand_words(word, ENV) == expected


def test_a_heredoc_keeps_its_quotes() -> None:
    assert expand_heredoc("\"$A\" '$A' \\$A\n", ENV) == "\"x\" 'x' $A\n"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        pytest.param("${B:?say $A}", "B: say x", id="own words"),
        pytest.param("${B?}", "not allowed to be unset", id="unset"),
        pytest.param("${E:?}", "not allowed to be empty", id="empty"),
        pytest.param("${A", "missing '}'", id="open brace"),
        pytest.param("${A:-${B}", "missing '}'", id="open outer brace"),
        pytest.param("${A/x}", "missing '/'", id="no replacement"),
        pytest.param("${A^^}", "unsupported modifier (^)", id="modifier"),
        pytest.param("${A#\\a}", "invalid escape", id="escape in a pattern"),
        pytest.param("'a", "single quote", id="single quote"),
        pytest.param('"a', "double quote", id="double quote"),
        pytest.param("${A:-" * 5000, "nested", id="depth"),
    ],
)
def test_bad_substitution(word: str, message: str) -> None:
    with pytest.raises(BadSubstitution) as caught:
        expand(word, ENV)
    assert message in caught.value.message
    assert len(caught.value.message) < 400
