"""Pieces that sections of the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pybuild.report.html.markup import Markup, tag
from pybuild.report.html.svg import picture_size

_NARROW = "(max-width: 40rem)"
_DARK = "(prefers-color-scheme: dark)"


def section(name: str, title: str, *parts: str, class_: str | None = None) -> Markup:
    heading = tag("h2", title, id=name)
    return tag("section", heading, *parts, aria_labelledby=name, class_=class_)


def facts_list(facts: Iterable[tuple[str, str]]) -> Markup:
    return tag(
        "dl",
        *(part for name, value in facts for part in (tag("dt", name), tag("dd", value))),
        class_="facts",
    )


def figure(name: str, alt: str, caption: Markup, drawn: Mapping[str, Markup]) -> Markup:
    """A picture for every width and theme; what none of the sources fits gets the wide light."""
    sources = [
        (f"{name}-narrow-dark.svg", f"{_NARROW} and {_DARK}"),
        (f"{name}-narrow.svg", _NARROW),
        (f"{name}-dark.svg", _DARK),
    ]
    found = []
    for file, media in sources:
        width, height = picture_size(drawn[file])
        found.append(tag("source", media=media, srcset=file, width=width, height=height))
    width, height = picture_size(drawn[f"{name}.svg"])
    image = tag("img", src=f"{name}.svg", alt=alt, width=width, height=height)
    return tag("figure", tag("picture", *found, image), caption)


def table(
    caption: str, columns: Sequence[tuple[str, str | None]], rows: Sequence[Sequence[str]]
) -> Markup:
    """A table that turns into cards on a phone; the roles keep it one for screen readers there.
    `columns` are heads with a class of their cells; each row's first cell is its head."""
    heads = [tag("th", name, scope="col", class_=css, role="columnheader") for name, css in columns]
    made = []
    for row in rows:
        cells = [tag("th", row[0], scope="row", class_=columns[0][1], role="rowheader")]
        cells += [
            tag("td", cell, class_=css, data_label=name, role="cell")
            for cell, (name, css) in zip(row[1:], columns[1:], strict=True)
        ]
        made.append(tag("tr", *cells, role="row"))
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", *made, role="rowgroup"),
        class_="cards",
        role="table",
    )


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
