"""Physical lines to logical ones, parser directives, flags, words and JSON arrays.

The rules are those of BuildKit's Dockerfile front end: what counts is how it reads a file, also
where its reference is silent (blank lines inside a continued instruction, an escaped escape).
"""

from __future__ import annotations

import re

from msgspec import Struct

from pybuild.dockerfile.errors import DockerfileSyntax

# What Go's unicode.IsSpace takes for space; str.isspace would add the separators U+001C to U+001F.
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_SPACES = frozenset(SPACE)
_BLANK = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
DIRECTIVES = ("syntax", "escape", "check")
DEFAULT_ESCAPE = "\\"


class Directive(Struct, frozen=True):
    """`# name=value` at the top of a file; the name in lower case."""

    name: str
    value: str
    line: int


class LogicalLine(Struct, frozen=True):
    """An instruction's line with its continuations joined; lines count from 1."""

    text: str
    first: int
    last: int
    has_empty_continuation: bool


class LineReader:
    """Reads a Dockerfile once, from top to bottom."""

    def __init__(self, text: str) -> None:
        lines = text.removeprefix("\ufeff").split("\n")
        # Only "\n" ends a line; here-documents keep every byte, also a "\r" before it.
        self._lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        self._next = 0
        self._directives_done = False
        self.escape = DEFAULT_ESCAPE
        self.directives: dict[str, str] = {}

    @property
    def line(self) -> int:
        """The number of the line read last."""
        return self._next

    def raw_line(self) -> str | None:
        """The next physical line with its line end, None at the end of the file."""
        if self._next == len(self._lines):
            return None
        self._next += 1
        return self._lines[self._next - 1]

    def text_between(self, first: int, last: int) -> str:
        """Physical lines as written, without the last line end."""
        return "".join(self._lines[first - 1 : last]).rstrip("\r\n")

    def logical_line(self) -> LogicalLine | None:
        """The next line with an instruction, None at the end; raises DockerfileSyntax."""
        while (raw := self.raw_line()) is not None:
            text = raw.rstrip("\r\n").lstrip(SPACE)
            self._take_directive(text)
            if text and not text.startswith("#"):
                first = self._next
                text, has_empty = self._join(text)
                if text.strip(SPACE):
                    return LogicalLine(text, first, self._next, has_empty)
        return None

    def _join(self, text: str) -> tuple[str, bool]:
        """Adds the continuation lines; leading space of each is part of the instruction."""
        pieces: list[str] = []
        has_empty = False
        text, continued = self._without_continuation(text)
        pieces.append(text)
        while continued and (raw := self.raw_line()) is not None:
            line = raw.rstrip("\r\n")
            stripped = line.lstrip(SPACE)
            if stripped.startswith("#"):
                continue
            if not stripped:
                has_empty = True
                continue
            line, continued = self._without_continuation(line)
            pieces.append(line)
        return "".join(pieces), has_empty

    def _without_continuation(self, line: str) -> tuple[str, bool]:
        end = line.rstrip(" \t")
        # An escape that is itself escaped continues nothing.
        if end.endswith(self.escape) and not end[:-1].endswith(self.escape):
            return end[:-1], True
        return line, False

    def _take_directive(self, text: str) -> None:
        if self._directives_done:
            return
        match = _DIRECTIVE.match(text, 1) if text.startswith("#") else None
        name = match[1].lower() if match else ""
        if match is None or name not in DIRECTIVES:
            self._directives_done = True
            return
        if name in self.directives:
            raise DockerfileSyntax(f"the directive {name!r} is given twice")
        self.directives[name] = match[2]
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise DockerfileSyntax(
                    f"the escape character {match[2]!r} is not supported",
                    hint="write `# escape=\\` or ``# escape=` ``",
                )
            self.escape = match[2]


def find_directive(text: str, name: str) -> Directive | None:
    """What a file asks of whoever reads it (`syntax`, `check`), in any of the accepted forms.

    Looks at `#` comments (after a `#!` line, if there is one), then at `//` comments, then takes
    the whole file for a JSON object. None if the file does not say.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    skipped = 1 if lines[0].startswith("#!") else 0
    for marker in ("#", "//"):
        for number, line in enumerate(lines[skipped:], skipped + 1):
            stripped = line.strip(SPACE)
            match = _DIRECTIVE.match(stripped, len(marker)) if stripped.startswith(marker) else None
            if match is None:
                break
            if match[1].lower() == name:
                return Directive(name, match[2], number)
    return _json_directive(text, name)


def _json_directive(text: str, name: str) -> Directive | None:
    import json

    if not text.lstrip(SPACE).startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    value = found.get(name) if isinstance(found, dict) else None
    return Directive(name, value, 1) if isinstance(value, str) and value else None


def split_blanks(text: str) -> tuple[str, ...]:
    """Words between blanks, quotes meaning nothing."""
    return tuple(word for word in _BLANK.split(text) if word)


def split_first(text: str) -> tuple[str, str]:
    """The first word, and the rest without blanks around it."""
    words = _BLANK.split(text.strip(SPACE), maxsplit=1)
    return words[0], words[1].strip(SPACE) if len(words) == 2 else ""


def split_flags(text: str) -> tuple[tuple[str, ...], str]:
    """Leading `--flag` words with quotes and escapes taken off, and what follows them.

    A lone `--` ends the flags. The escape here is always a backslash, whatever the directive says.
    """
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position] in _SPACES:
            position += 1
        if not text.startswith("--", position):
            return tuple(flags), text[position:]
        word, position = _flag_word(text, position)
        if word == "--":
            return tuple(flags), text[position:].strip(SPACE)
        flags.append(word)


def _flag_word(text: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    quote = ""
    while position < len(text):
        char = text[position]
        position += 1
        if not quote and char in _SPACES:
            break
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == "\\":
            out.append(text[position : position + 1])
            position += 1
        else:
            out.append(char)
    return "".join(out), position


def split_words(text: str, escape: str) -> tuple[str, ...]:
    """Words between blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if not quote and char in _SPACES:
            if word:
                words.append("".join(word))
                word.clear()
            continue
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        # In single quotes an escape is an ordinary character.
        if char == escape and quote != "'":
            if position == len(text):
                break  # an escape at the very end is dropped
            char += text[position]
            position += 1
        word.append(char)
    if word:
        words.append("".join(word))
    return tuple(words)


class NotStrings(Exception):
    """A JSON array holds something else than strings."""


def parse_json_array(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array at the start of `text`, None if it does not start with one.

    As in BuildKit, what follows the array is ignored. Raises NotStrings.
    """
    text = text.lstrip(SPACE)
    if not text.startswith("["):
        return None
    import json

    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN and Infinity are no JSON

    try:
        found, _ = json.JSONDecoder(parse_constant=refuse).raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in found):
        raise NotStrings
    if "\\u" in text:  # an unpaired surrogate escape stands for no character
        found = [re.sub("[\ud800-\udfff]", "\ufffd", item) for item in found]
    return tuple(found)
