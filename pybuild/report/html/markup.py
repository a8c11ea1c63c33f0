"""HTML and SVG from values: what is not markup already is escaped, so nothing can be forgotten."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from pybuild.errors import without_passwords
from pybuild.report.text import harmless

# What XML has no way to hold (XML 1.0, 2.2), and what turns the direction of the text after it.
_UNSHOWN = re.compile("[\ufffe\uffff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Markup(str):
    """A piece of HTML or SVG."""

    __slots__ = ()


def shown(text: str) -> str:
    """A user's text without control characters, turned directions, and passwords of addresses."""
    lines = (harmless(line) for line in without_passwords(text).splitlines())
    return _UNSHOWN.sub("\ufffd", "\n".join(lines))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element; `class_` is `class`, `data_label` is `data-label`, None leaves one out."""
    return element(
        name,
        {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()},
        *children,
    )


def element(name: str, attributes: Mapping[str, str | float | None], *children: str) -> Markup:
    """As `tag`, for attributes that are no Python names."""
    said = "".join(
        f' {key}="{escape(shown(_text(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{join(children)}</{name}>")


def join(parts: Sequence[str], between: str = "") -> Markup:
    return Markup(between.join(_escaped(part) for part in parts))


_EMPTY = frozenset({"meta", "link", "img", "br", "source"})


def _escaped(part: str) -> str:
    return str(part) if isinstance(part, Markup) else escape(shown(part))


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
