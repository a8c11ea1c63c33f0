"""The pictures of the report, each drawn four times: for wide and narrow screens, light and dark.
Colours stand in attributes, since neither a style in an SVG nor a script may run where Jenkins
serves it. What a picture shows stands in a table of the page too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from msgspec import Struct

from pybuild.events import BuildFinished, LayerSummary
from pybuild.report.html.markup import Markup, element, join, tag
from pybuild.report.html.palette import Palette, Theme
from pybuild.report.html.story import CACHED, UNFINISHED, StageTold, Story
from pybuild.report.text import bytes_text, duration, stage_title

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
_LETTER = 7.4  # the width of an average letter at 13 pixels, with some room


class Width(Enum):
    """In CSS pixels; `lane` is where bars begin: narrow pictures have their names above them."""

    WIDE = (900, 150)
    NARROW = (340, 0)

    @property
    def total(self) -> int:
        return self.value[0]

    @property
    def lane(self) -> int:
        return self.value[1]


class Block(Struct, frozen=True):
    """A piece of a lane, from `start` to `end` in seconds."""

    start: float
    end: float
    colour: str


class Lane(Struct, frozen=True):
    name: str
    note: str
    blocks: tuple[Block, ...]


def pictures(story: Story) -> dict[str, Markup]:
    """By file name. `timeline.svg` is the wide light one; `-narrow` and `-dark` name others."""
    made: dict[str, Markup] = {}
    for width in Width:
        for theme in Theme:
            narrow = "-narrow" if width is Width.NARROW else ""
            dark = "-dark" if theme is Theme.DARK else ""
            if lanes := lanes_of(story, theme.value):
                made[f"timeline{narrow}{dark}.svg"] = timeline(
                    lanes, story.seconds, width, theme.value
                )
            if story.finished is not None and story.finished.layers:
                made[f"layers{narrow}{dark}.svg"] = layers(story.finished, width, theme.value)
    return made


def lanes_of(story: Story, colours: Palette) -> tuple[Lane, ...]:
    """One for each stage that ran, then one for what was moved over the network."""
    lanes = [_stage_lane(stage, colours) for stage in story.stages if not stage.skipped]
    for name, kinds in _TRAFFIC.items():
        moved = [one for one in story.transfers if one.kind in kinds and one.outcome == "done"]
        blocks = tuple(Block(one.start, one.start + one.seconds, colours.moved) for one in moved)
        if blocks:
            size = sum(one.size for one in moved)
            lanes.append(Lane(name, bytes_text(size), blocks))
    return tuple(lanes)


_TRAFFIC = {
    "download": ("pull", "cache-read", "context", "download"),
    "upload": ("push", "cache-write"),
}


def _stage_lane(stage: StageTold, colours: Palette) -> Lane:
    kinds = {CACHED: colours.cached, UNFINISHED: colours.failed}
    blocks = [Block(stage.start, stage.start + stage.seconds, colours.line)]
    blocks += [
        Block(step.start, step.start + step.seconds, kinds.get(step.outcome, colours.ran))
        for step in stage.steps
    ]
    return Lane(stage_title(stage.name), duration(stage.seconds), tuple(blocks))


def timeline(lanes: Sequence[Lane], seconds: float, width: Width, colours: Palette) -> Markup:
    """Lanes over one axis of time."""
    narrow = width is Width.NARROW
    pitch, top = (44, 6) if narrow else (34, 10)
    left, right = width.lane, width.total - (2 if narrow else 74)
    height = top + pitch * len(lanes) + 26
    marks = ticks(seconds, 3 if narrow else 6)
    whole = max(seconds, 0.001)

    def x(at: float) -> float:
        return left + (right - left) * min(max(at / whole, 0), 1)

    parts: list[str] = []
    for at, label in marks:
        parts.append(_line(x(at), top, x(at), height - 22, colours.line))
        anchor = "start" if x(at) < left + 12 else "end" if x(at) > right - 24 else "middle"
        parts.append(_words(label, x(at), height - 7, colours.muted, size=12, anchor=anchor))
    for number, lane in enumerate(lanes):
        y = top + pitch * number
        room = (right - left - 70 if narrow else left - 16) / _LETTER
        name, note = _cut(lane.name, int(room)), lane.note
        if narrow:
            parts.append(_words(name, 0, y + 13, colours.text))
            parts.append(_words(note, width.total, y + 13, colours.muted, anchor="end"))
            y += 18
        else:
            parts.append(_words(name, left - 12, y + 19, colours.text, anchor="end"))
            parts.append(_words(note, width.total, y + 19, colours.muted, anchor="end"))
            y += 5
        for block in lane.blocks:
            length = max(x(block.end) - x(block.start), 2.5)
            start = min(x(block.start), right - length)
            parts.append(_box(start, y, length, 20, block.colour, round_=3))
    return _drawing(width.total, height, parts)


def layers(finished: BuildFinished, width: Width, colours: Palette) -> Markup:
    """The image as one bar: each layer as long as its share of the stored bytes."""
    sizes = [layer.size for layer in finished.layers]
    names = {"base": colours.base, "cached": colours.cached}
    spans = shares(sizes, width.total, 3.0, 2.0)
    parts: list[str] = []
    for layer, (start, length) in zip(finished.layers, spans, strict=True):
        parts.append(_box(start, 0, length, 40, names.get(layer.origin, colours.ran), round_=3))
        label = bytes_text(layer.size)
        if length > _LETTER * (len(label) + 2):
            middle = start + length / 2
            parts.append(_words(label, middle, 25, colours.on_block, anchor="middle"))
    at = 0.0
    for origin, label in _legend(finished.layers):
        parts.append(_box(at, 54, 12, 12, names.get(origin, colours.ran), round_=2))
        parts.append(_words(label, at + 18, 65, colours.text))
        at += 18 + _LETTER * len(label) + 18
        if width is Width.NARROW and at > 250:
            break
    return _drawing(width.total, 72, parts)


_ORIGINS = {"base": "base", "cached": "cached", "new": "new"}


def _legend(all_: Sequence[LayerSummary]) -> Iterator[tuple[str, str]]:
    for origin, word in _ORIGINS.items():
        size = sum(layer.size for layer in all_ if layer.origin == origin)
        if any(layer.origin == origin for layer in all_):
            yield origin, f"{word} {bytes_text(size)}"


def shares(
    sizes: Sequence[int], total: float, least: float, gap: float
) -> list[tuple[float, float]]:
    """(start, length) of pieces that fill `total` in proportion, none shorter than `least` and
    `gap` between them; where there are too many for that, all equally long."""
    room = total - gap * max(len(sizes) - 1, 0)
    if room < least * len(sizes):
        gap, room = 0.0, total
        lengths = [total / len(sizes)] * len(sizes)
    else:
        spare, whole = room - least * len(sizes), sum(sizes)
        lengths = [least + spare * (size / whole if whole else 1 / len(sizes)) for size in sizes]
    starts, at = [], 0.0
    for length in lengths:
        starts.append(at)
        at += length + gap
    return list(zip(starts, lengths, strict=True))


def ticks(seconds: float, most: int) -> list[tuple[float, str]]:
    """Round times from 0 on, at most `most` steps of them."""
    for step in _STEPS:
        if seconds / step <= most:
            break
    else:
        step = 3600.0 * (int(seconds / most / 3600) + 1)
    count = int(seconds / step + 1e-9)
    return [(step * number, _tick(step * number)) for number in range(count + 1)]


_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)


def _tick(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _drawing(width: float, height: float, parts: list[str]) -> Markup:
    names: dict[str, str | float | None] = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {width} {height}",
        "width": width,
        "height": height,
        "font-family": _FONT,
    }
    return Markup(element("svg", names, join(parts, "\n")) + "\n")


def _box(x: float, y: float, width: float, height: float, colour: str, *, round_: float) -> Markup:
    return tag("rect", x=x, y=y, width=width, height=height, rx=round_, fill=colour)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour)


def _words(
    text: str, x: float, y: float, colour: str, *, size: float = 13, anchor: str = "start"
) -> Markup:
    return tag("text", text, x=x, y=y, fill=colour, font_size=size, text_anchor=anchor)


def picture_size(drawing: Markup) -> tuple[int, int]:
    """Width and height, for the page to keep the room while it loads."""
    words = drawing.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split(" ")
    width, height = (round(float(word)) for word in words)
    return width, height


def icon(*, good: bool) -> Markup:
    """What a browser shows beside the title; without one it would ask for /favicon.ico."""
    colours = Theme.LIGHT.value
    dot = tag("circle", cx=8, cy=8, r=6, fill=colours.cached if good else colours.failed)
    return _drawing(16, 16, [dot])
