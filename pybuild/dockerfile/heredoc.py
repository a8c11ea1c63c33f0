"""Here-documents: finding them on an instruction's line, and their content."""

from __future__ import annotations

import re

from msgspec import Struct

from pybuild.dockerfile.errors import BadSubstitution
from pybuild.dockerfile.words import heredoc_words, quoted_words, unquoted_words

_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


class Heredoc(Struct, frozen=True):
    """One here-document. `content` is as written; `data` is what it stands for.

    expand: variables in the content are replaced (its name was not quoted).
    chomp: written `<<-`, leading tabs do not count.
    fd: the file descriptor before `<<`, 0 if none.
    """

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: int

    @property
    def data(self) -> str:
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content


def parse_heredoc(word: str) -> Heredoc | None:
    """The here-document that a word like `<<-"EOF"` starts, None if it starts none.

    Raises BadSubstitution for open quotes.
    """
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
        return None
    names = unquoted_words(match[3])
    if len(names) != 1:
        return None
    as_written = quoted_words(match[3])
    expand = _quotes(names[0]) == _quotes("".join(as_written))
    return Heredoc(names[0], "", expand, match[2] == "-", int(match[1] or "0"))


def heredocs_of(line: str) -> tuple[Heredoc, ...]:
    """The here-documents that start on a line, without their content; raises BadSubstitution."""
    try:
        words = heredoc_words(line)
    except BadSubstitution:
        return ()  # a line of shell that only the shell can read holds none
    found = (parse_heredoc(word) for word in words if "<<" in word)
    return tuple(heredoc for heredoc in found if heredoc is not None)


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
