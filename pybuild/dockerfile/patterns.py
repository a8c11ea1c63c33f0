"""Wildcard patterns: Go's filepath.Match for COPY and ADD, and .dockerignore with `**` and `!`.

In a .dockerignore the last pattern that matches a path or one of its parents decides. `Patterns`
keeps that decision for each directory, so that a file costs only what its own name asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from pybuild.dockerfile.errors import BadPattern
from pybuild.dockerfile.lexer import SPACE

_WILD = frozenset("*?[\\")
_SPANNING = frozenset("/[\\")
_NONE = -1


def parse_ignore_file(text: str) -> tuple[str, ...]:
    """The patterns of a .dockerignore, cleaned: comments and blank lines are left out."""
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        pattern = line.strip(SPACE)
        if line.startswith("#") or not pattern:
            continue
        inverted = pattern.startswith("!")
        pattern = pattern[1:].strip(SPACE) if inverted else pattern
        if pattern:
            pattern = clean(pattern)
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        patterns.append("!" + pattern if inverted else pattern)
    return tuple(patterns)


def clean(path: str) -> str:
    """The shortest equal path, as Go's filepath.Clean: no `.`, no `//`, `..` taken back."""
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".." or not rooted:
            parts.append(part)
    return ("/" if rooted else "") + "/".join(parts) or "."


def has_wildcards(pattern: str) -> bool:
    """Whether a COPY source is a pattern at all (a path is then taken as it is)."""
    return not _WILD.isdisjoint(pattern)


def match(pattern: str, path: str) -> bool:
    """Go's filepath.Match: `*` and `?` stay inside one part. Raises BadPattern."""
    return glob_regex(pattern).match(path) is not None


def match_double_star(pattern: str, path: str) -> bool:
    """As one line of a .dockerignore, without its parents' part: `**` spans parts."""
    return _compile(clean(pattern)).matches(path)


def glob_regex(pattern: str) -> re.Pattern[str]:
    """`match` as an expression for many paths (use its `match`). Raises BadPattern."""
    return re.compile("".join(_glob_fragments(pattern)) + r"\Z", re.DOTALL)


class Patterns:
    """The lines of a .dockerignore, or of --exclude. Raises BadPattern.

    Paths are relative to the context, without leading slash.
    """

    __slots__ = (
        "_by_name",
        "_by_path",
        "_directories",
        "_exceptions",
        "_on_names",
        "_on_paths",
        "kept",
    )

    def __init__(self, lines: Iterable[str]) -> None:
        compiled: list[_Pattern] = []
        for line in lines:
            text = line.strip(SPACE)
            if text:
                compiled.append(_parse_line(text))
        self.kept = tuple(compiled)
        self._exceptions = tuple(pattern.exception for pattern in compiled)
        # Highest index first: the last match wins, so the search can stop at the first hit.
        self._by_path: dict[str, int] = {}
        self._by_name: dict[str, int] = {}
        on_names: list[_Numbered] = []
        on_paths: list[_Numbered] = []
        for index, pattern in enumerate(compiled):
            if pattern.name is not None:
                if has_wildcards(pattern.name):
                    on_names.append((index, glob_regex(pattern.name)))
                else:
                    self._by_name[pattern.name] = index
            elif has_wildcards(pattern.text):
                on_paths.append((index, pattern.regex))
            else:
                self._by_path[pattern.text] = index
        self._on_names = _Expressions.of(on_names)
        self._on_paths = _Expressions.of(on_paths)
        self._directories: dict[str, int] = {"": _NONE}

    def __bool__(self) -> bool:
        return bool(self.kept)

    @property
    def has_exceptions(self) -> bool:
        return any(self._exceptions)

    def excludes(self, path: str) -> bool:
        """Whether the path itself is left out; a pattern that matches a parent counts."""
        if not self.kept:
            return False
        parent, _, name = path.rpartition("/")
        index = self._own(path, name, self._deciding(parent))
        return index != _NONE and not self._exceptions[index]

    def may_include_below(self, directory: str) -> bool:
        """False if a walk may skip everything below `directory`."""
        index = self._deciding(directory)
        if index == _NONE or self._exceptions[index]:
            return True
        # Only an exception after the line that excludes the directory can bring something back.
        later = self.kept[index + 1 :]
        parts = directory.split("/")
        return any(line.exception and line.may_match_below(parts) for line in later)

    def _deciding(self, directory: str) -> int:
        """The last line that matches the directory or a parent of it, _NONE if none does."""
        # Upwards in a loop: a hostile context nests deeper than the stack.
        pending: list[str] = []
        while (known := self._directories.get(directory)) is None:
            pending.append(directory)
            directory = directory.rpartition("/")[0]
        best = known
        for path in reversed(pending):
            best = self._own(path, path.rpartition("/")[2], best)
            self._directories[path] = best
        return best

    def _own(self, path: str, name: str, best: int) -> int:
        index = self._by_path.get(path, _NONE)
        if index > best:
            best = index
        index = self._by_name.get(name, _NONE)
        if index > best:
            best = index
        if self._on_names is not None and self._on_names.any.match(name):
            best = self._on_names.last(name, best)
        if self._on_paths is not None and self._on_paths.any.match(path):
            best = self._on_paths.last(path, best)
        return best


_Numbered = tuple[int, re.Pattern[str]]


class _Expressions(Struct, frozen=True):
    """Numbered expressions; `any` says at once that none matches, which most files are."""

    any: re.Pattern[str]
    descending: tuple[_Numbered, ...]

    @classmethod
    def of(cls, numbered: list[_Numbered]) -> _Expressions | None:
        if not numbered:
            return None
        joined = "|".join(f"(?:{regex.pattern})" for _, regex in numbered)
        return cls(re.compile(joined, re.DOTALL), tuple(reversed(numbered)))

    def last(self, text: str, best: int) -> int:
        """The highest number above `best` that matches, else `best`."""
        for index, regex in self.descending:
            if index <= best:
                break
            if regex.match(text):
                return index
        return best


class _Pattern(Struct, frozen=True):
    """One cleaned line; `name` is what `**/name` asks of the last part alone, else None."""

    text: str
    exception: bool
    regex: re.Pattern[str]
    name: str | None

    def matches(self, path: str) -> bool:
        return self.regex.match(path) is not None

    def may_match_below(self, parts: list[str]) -> bool:
        """Whether some path below the directory can match; True where that is not sure."""
        own = self.text.split("/")
        for position, part in enumerate(own):
            # A class may match a slash, and then parts no longer stand side by side.
            if "**" in part or "[" in part or "\\" in part:
                return True
            if position == len(parts):
                return True
            if not match(part, parts[position]):
                return False
        return False  # matches the directory or a parent of it, if anything


def _parse_line(text: str) -> _Pattern:
    exception = text.startswith("!")
    if text == "!":
        raise BadPattern('illegal exclusion pattern: "!"', hint="name what to keep after the !")
    # Cleaned with its "!" on, as Docker does.
    return _compile(clean(text)[1:] if exception else clean(text), exception=exception)


def _compile(pattern: str, *, exception: bool = False) -> _Pattern:
    fragments = _double_star_fragments(pattern)
    regex = re.compile("".join(fragments) + r"\Z", re.DOTALL)
    rest = pattern[3:]
    # A class may match a slash, and an escape may hide one.
    is_name = pattern.startswith("**/") and rest and _SPANNING.isdisjoint(rest) and "**" not in rest
    return _Pattern(pattern, exception, regex, rest if is_name else None)


# A pattern's tokens are these two, or an expression for one character.
_STAR, _ANY = "*", "?"
_INSIDE = "[^/]"


def _glob_fragments(pattern: str) -> list[str]:
    """The pattern for filepath.Match; a run of stars is one, so that it does not backtrack."""
    fragments: list[str] = []
    for token in _tokens(pattern):
        if token != _STAR:
            fragments.append(_INSIDE if token == _ANY else token)
        elif fragments[-1:] != [_INSIDE + "*"]:
            fragments.append(_INSIDE + "*")
    return fragments


def _double_star_fragments(pattern: str) -> list[str]:
    """As Docker's matcher reads it: `**` takes the slash behind it along."""
    tokens = _tokens(pattern)
    rest = pattern[2:]
    if pattern.startswith("**") and rest and rest[0] != "/" and not has_wildcards(rest):
        return [".*", *tokens[2:]]  # `**file` is any path that ends so
    fragments: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token != _STAR:
            fragments.append(_INSIDE if token == _ANY else token)
        elif tokens[position : position + 1] != [_STAR]:
            fragments.append(_INSIDE + "*")
        else:
            position += 1
            if tokens[position : position + 1] == ["/"]:
                position += 1
            fragments.append("(?:.*/)?" if position < len(tokens) else ".*")
    return fragments


def _tokens(pattern: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char in (_STAR, _ANY):
            tokens.append(char)
        elif char == "[":
            token, position = _class(pattern, position)
            tokens.append(token)
        elif char != "\\":
            tokens.append(re.escape(char))
        elif position < len(pattern):
            # re.escape makes `\*` of a star, which is no _STAR.
            tokens.append(re.escape(pattern[position]))
            position += 1
        else:
            raise _bad(pattern)
    return tokens


def _class(pattern: str, position: int) -> tuple[str, int]:
    """`[a-z]` or `[^a-z]` from behind the bracket; it may match a slash, as in Go."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    empty = True
    while empty or not pattern.startswith("]", position):
        empty = False
        low, position = _class_char(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _class_char(pattern, position + 1)
        if low <= high:  # a reversed range is allowed and holds nothing
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    if not ranges:
        return ("." if negated else "(?!)"), position + 1
    return f"[{'^' if negated else ''}{''.join(ranges)}]", position + 1


def _class_char(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if char == "\\":
        position += 1
        char = pattern[position : position + 1]
    elif char in ("-", "]"):
        raise _bad(pattern)
    # The class has to be closed, so something must follow.
    if not char or position + 1 == len(pattern):
        raise _bad(pattern)
    return char, position + 1


def _bad(pattern: str) -> BadPattern:
    return BadPattern(
        f"the pattern {pattern!r} is malformed",
        hint="close each [, name a character in it, and escape -, ] and \\ in it",
    )
