"""Variable expansion and quote removal, with every form that BuildKit knows.

`$x`, `${x}`, `${x:-w}`, `${x-w}`, `${x:+w}`, `${x+w}`, `${x:?w}`, `${x?w}`, `${x#p}`, `${x##p}`,
`${x%p}`, `${x%%p}`, `${x/p/w}`, `${x//p/w}`. An unset variable is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from pybuild.dockerfile.errors import BadSubstitution
from pybuild.dockerfile.lexer import SPACE

_SPACES = frozenset(SPACE)
_SPECIAL_NAMES = frozenset("@*#?-$!0")
_DEEPEST = 100  # of one `${...}` in another; more is an attack on the stack
_MESSAGES = {False: "is not allowed to be unset", True: "is not allowed to be empty"}


def expand(word: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """`word` with variables replaced, quotes and escapes taken off; raises BadSubstitution."""
    if "$" not in word and "'" not in word and '"' not in word and escape not in word:
        return word
    return _expand(word, env, _Rules(escape), None)


def expand_words(word: str, env: Mapping[str, str], escape: str = "\\") -> tuple[str, ...]:
    """As `expand`, then split at blanks that were not quoted; raises BadSubstitution."""
    words = _Words()
    _expand(word, env, _Rules(escape), words)
    return words.finish()


def expand_heredoc(content: str, env: Mapping[str, str]) -> str:
    """The content of a here-document with variables replaced: quotes are ordinary text.

    A backslash takes the special meaning off the next character and vanishes, as in BuildKit.
    """
    if "$" not in content and "\\" not in content:
        return content
    return _expand(content, env, _Rules(quotes=False), None)


def heredoc_words(line: str) -> tuple[str, ...]:
    """The words of a line as written, `<<` and a word after blanks kept together."""
    words = _Words()
    rules = _Rules(keep_quotes=True, keep_escapes=True, keep_unset=True, join_heredocs=True)
    _expand(line, {}, rules, words)
    return words.finish()


def unquoted_words(text: str) -> tuple[str, ...]:
    """Words without quotes and escapes, variables left as written."""
    words = _Words()
    _expand(text, {}, _Rules(keep_unset=True), words)
    return words.finish()


def quoted_words(text: str) -> tuple[str, ...]:
    """Words without escapes; quotes and variables left as written."""
    words = _Words()
    _expand(text, {}, _Rules(keep_quotes=True, keep_unset=True), words)
    return words.finish()


class _Rules(Struct, frozen=True):
    """What is taken off or replaced, and what stays as written."""

    escape: str = "\\"
    quotes: bool = True  # quotes mean something
    keep_quotes: bool = False
    keep_escapes: bool = False
    keep_unset: bool = False  # a variable without a value stays as written
    join_heredocs: bool = False


class _Words:
    """Collects characters into words; empty words are dropped, also quoted ones."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._word: list[str] = []

    def add(self, text: str) -> None:
        for char in text:
            if char not in _SPACES:
                self._word.append(char)
            elif self._word:
                self._close()

    def add_whole(self, text: str) -> None:
        if text:
            self._word.append(text)

    def _close(self) -> None:
        self._done.append("".join(self._word))
        self._word.clear()

    def finish(self) -> tuple[str, ...]:
        if self._word:
            self._close()
        return tuple(self._done)


def _expand(word: str, env: Mapping[str, str], rules: _Rules, words: _Words | None) -> str:
    try:
        return _Expander(word, env, rules).until("", words)
    except BadSubstitution as error:
        shown = word if len(word) <= 200 else word[:200] + "…"
        raise BadSubstitution(f"{error.message} (in {shown!r})", hint=error.hint) from None


class _Expander:
    def __init__(self, text: str, env: Mapping[str, str], rules: _Rules) -> None:
        self.text = text
        self.env = env
        self.rules = rules
        self.keep_escapes = rules.keep_escapes
        self.position = 0
        self.depth = 0
        special = "$<" + rules.escape + ("'\"" if rules.quotes else "")
        self.plain = re.compile(f"[^{re.escape(special)}/}}]+")

    def peek(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.position : self.position + 1]

    def next(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def until(self, stop: str, words: _Words | None = None) -> str:
        """Expands up to the character `stop` and takes it; "" stands for the end."""
        out: list[str] = []
        while char := self.peek():
            if char == stop:
                self.position += 1
                return "".join(out)
            piece, splits = self.piece(char)
            out.append(piece)
            if words is not None:
                (words.add if splits else words.add_whole)(piece)
        if stop:
            raise BadSubstitution(f"syntax error: missing {stop!r}")
        return "".join(out)

    def piece(self, char: str) -> tuple[str, bool]:
        """The next piece, and whether blanks in it part words."""
        if char == "$":
            return self.dollar(), True
        if char == "'" and self.rules.quotes:
            return self.single_quoted(), False
        if char == '"' and self.rules.quotes:
            return self.double_quoted(), False
        if char == self.rules.escape:
            self.position += 1
            return (char if self.keep_escapes else "") + self.next(), False
        if char == "<" and self.rules.join_heredocs and self.text.startswith("<<", self.position):
            return self.heredoc_start(), False
        match = self.plain.match(self.text, self.position)
        if match is None:
            return self.next(), True
        self.position = match.end()
        return match[0], True

    def heredoc_start(self) -> str:
        start = self.position
        self.position += 2
        if self.peek() == "-":
            self.position += 1
        while self.peek() and self.peek() in _SPACES:
            self.position += 1
        return self.text[start : self.position]

    def single_quoted(self) -> str:
        start = self.position
        end = self.text.find("'", start + 1)
        if end < 0:
            raise BadSubstitution("a single quote is not closed")
        self.position = end + 1
        return self.text[start : end + 1] if self.rules.keep_quotes else self.text[start + 1 : end]

    def double_quoted(self) -> str:
        quote = self.next() if self.rules.keep_quotes else (self.next() and "")
        out = [quote]
        escape = self.rules.escape
        while char := self.peek():
            if char == "$":
                out.append(self.dollar())
                continue
            self.position += 1
            if char == '"':
                out.append(quote)
                return "".join(out)
            if char == escape:
                following = self.peek()
                if following and following in ('"', "$", escape):
                    # Only these can be escaped; any other escape stays as it is.
                    self.position += 1
                    char = (char if self.keep_escapes else "") + following
                elif not following:
                    break
            out.append(char)
        raise BadSubstitution("a double quote is not closed")

    def dollar(self) -> str:
        start = self.position
        self.position += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            if self.rules.keep_unset and name not in self.env:
                return self.text[start : self.position]
            return self.env.get(name, "")
        self.position += 1
        if self.depth == _DEEPEST:
            raise BadSubstitution(f"substitutions are nested more than {_DEEPEST} deep")
        self.depth += 1
        value = self.braced(start)
        self.depth -= 1
        return value

    def braced(self, start: int) -> str:
        """What `${...}` stands for; the position is behind the opening brace."""
        if self.peek() in ("{", "}", ":"):
            raise BadSubstitution("syntax error: bad substitution", hint="write ${NAME}")
        name = self.name()
        form = self.next()
        if form == ":":
            form += self.next()
        value = self.env.get(name)
        if form in ("#", "%"):
            word = self.part("}", keep_escapes=True)
            result = _trim(form, word, value or "")
        elif form == "/":
            result = self.replaced(value or "")
        elif form in _FORMS:
            word = self.part("}", keep_escapes=False)
            kept = self.rules.keep_unset and value is None
            result = "" if kept else _choose(form, name, value, word)
        elif form == "}":
            result = value or ""
        elif form in ("", ":"):
            raise BadSubstitution("syntax error: missing '}'")
        else:
            raise BadSubstitution(
                f"unsupported modifier ({form}) in substitution",
                hint="known are :- - :+ + :? ? # ## % %% / //",
            )
        if self.rules.keep_unset and value is None:
            return self.text[start : self.position]
        return result

    def part(self, stop: str, *, keep_escapes: bool) -> str:
        before, self.keep_escapes = self.keep_escapes, keep_escapes
        text = self.until(stop)
        self.keep_escapes = before
        return text

    def replaced(self, value: str) -> str:
        everywhere = self.peek() == "/"
        if everywhere:
            self.position += 1
        pattern = self.part("/", keep_escapes=True)
        replacement = self.part("}", keep_escapes=True)
        regex = re.compile("".join(_fragments(pattern, "*")), re.DOTALL)
        return regex.sub(lambda _: replacement, value, count=0 if everywhere else 1)

    def name(self) -> str:
        """A variable's name, the digits of a positional parameter, or a special one; else ""."""
        start = self.position
        text = self.text
        first = self.peek()
        if first.isdecimal():
            while self.peek().isdecimal():
                self.position += 1
        elif first and first in _SPECIAL_NAMES:
            self.position += 1
        else:
            while (char := self.peek()) and (char.isalnum() or char == "_"):
                self.position += 1
        return text[start : self.position]


_FORMS = frozenset((":-", "-", ":+", "+", ":?", "?"))


def _choose(form: str, name: str, value: str | None, word: str) -> str:
    """The forms that ask whether the variable is set (with a colon: and not empty)."""
    empty_counts = form.startswith(":")
    missing = value is None or (empty_counts and not value)
    if form.endswith("-"):
        return word if missing else value or ""
    if form.endswith("+"):
        return "" if missing else word
    if missing:
        raise BadSubstitution(
            f"{name}: {word or _MESSAGES[value is not None]}",
            hint=f"give it with --build-arg {name}=…, ARG or ENV",
        )
    return value or ""


def _trim(form: str, pattern: str, value: str) -> str:
    greedy = pattern.startswith(form)
    fragments = _fragments(pattern[1:] if greedy else pattern, "*" if greedy else "*?")
    if form == "#":
        match = re.compile("".join(fragments), re.DOTALL).match(value)
        return value[match.end() :] if match else value
    # A regular expression can't find the shortest match at the end, so both are reversed.
    match = re.compile("".join(reversed(fragments)), re.DOTALL).match(value[::-1])
    return value[: len(value) - match.end()] if match else value


def _fragments(pattern: str, star: str) -> list[str]:
    """A shell pattern of `*`, `?` and escaped characters as pieces of a regular expression."""
    fragments: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            if fragments[-1:] != ["." + star]:  # a run of stars is one, and does not backtrack
                fragments.append("." + star)
        elif char == "?":
            fragments.append(".")
        elif char == "\\":
            following = pattern[position : position + 1]
            if following in ("}", "/") and following:
                continue  # escaped for `${}` only
            if following not in ("*", "?", "\\") or not following:
                raise BadSubstitution(f"invalid escape '\\{following}' in a pattern")
            fragments.append(re.escape(following))
            position += 1
        else:
            fragments.append(re.escape(char))
    return fragments
