"""The report as files: what it says, that nothing in it runs, that everybody can read it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.events import BuildFinished, LayerSummary, StageFinished, StageStarted, StepStarted
from pybuild.report.html.markup import Markup, join, tag
from pybuild.report.html.page import PAGE, STYLE, render
from pybuild.report.html.palette import Theme
from pybuild.report.html.story import Story
from pybuild.report.html.svg import Width, layers, shares, ticks
from tests.support.stories import GOOD, REFERENCE, STORIES, Timed, told

GOLDEN = Path(__file__).parents[2] / "golden" / "reports"
KEPT = (PAGE, STYLE, "timeline.svg", "timeline-narrow-dark.svg", "layers.svg")
ALLOWED = {"src", "srcset", "href", "class", "id", "alt", "width", "height", "media", "lang",
           "name", "content", "charset", "rel", "type", "role", "scope", "open", "tabindex",
           "datetime", "data-label", "aria-labelledby"}  # fmt: skip


class Reader(HTMLParser):
    """Every element with its attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in ("meta", "link", "img", "br", "source"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(story: Story) -> Reader:
    return Reader(render(story)[PAGE].decode())


@pytest.mark.parametrize("name", STORIES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    files = {file: raw for file, raw in render(STORIES[name]()).items() if file in KEPT}
    folder = GOLDEN / name
    if request.config.getoption("--update-golden"):
        folder.mkdir(parents=True, exist_ok=True)
        for file, raw in files.items():
            (folder / file).write_bytes(raw)
    assert {path.name: path.read_bytes() for path in sorted(folder.iterdir())} == files


@pytest.mark.parametrize("name", STORIES)
def test_the_policy_of_jenkins_allows_all_of_it(name: str) -> None:
    files = render(STORIES[name]())
    reader = Reader(files[PAGE].decode())
    assert reader.open == []
    used = {key for _, attributes in reader.tags for key in attributes}
    assert used <= ALLOWED, used - ALLOWED
    assert not {"script", "style", "iframe", "object", "form", "a", "base"} & {
        element for element, _ in reader.tags
    }
    for _, attributes in reader.tags:
        for key in ("src", "srcset", "href"):
            assert attributes.get(key) is None or attributes[key] in files
    assert b"url(" not in files[STYLE] and b"@import" not in files[STYLE]


@pytest.mark.parametrize("name", STORIES)
def test_every_picture_is_svg_of_attributes_alone(name: str) -> None:
    for file, raw in render(STORIES[name]()).items():
        if file.endswith(".svg"):
            root = ET.fromstring(raw)
            kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert kinds <= {"svg", "rect", "line", "text", "circle"}
            keys = {key for element in root.iter() for key in element.attrib}
            assert not any(key == "style" or key.startswith("on") for key in keys)


def test_what_means_harm_is_text_and_passwords_are_gone() -> None:
    files = render(STORIES["hostile"]())
    for raw in files.values():
        assert b"<script" not in raw and b"hunter2" not in raw and b"\x1b" not in raw
        assert "\u202e".encode() not in raw
        raw.decode()
    assert b"hunter2" not in b"".join(render(STORIES["built"]()).values())  # of the history


def test_it_says_what_happened() -> None:
    text = read(STORIES["built"]()).text
    for words in (
        "Built and pushed", REFERENCE, "132.1 MB", "4 of 7 steps came from the cache",
        "not in the cache", "what it takes from build has changed", "eclipse-temurin:21-jre",
        "sha256:9999", "/app/orders.jar", "43.9 MB", "243 packages on Ubuntu 24.04.1 LTS",
        "Apache-2.0", "FromAsCasing", "Skipped: all that is taken from it is cached",
        "RUN useradd --system app", "2 blobs, 92.3 MB",
    ):  # fmt: skip
        assert words in text, words


def test_a_failure_comes_first_with_its_place_and_what_to_do() -> None:
    text = read(STORIES["failed"]()).text
    assert "Failed" in text and "ended with status 1" in text
    assert "at Dockerfile:9" in text and "10 │ mvn -B -o package" in text
    assert "What to do: the last lines" in text and "error run-failed, exit status 1" in text
    assert "not finished" in text
    assert text.index("What went wrong") < text.index("The image")


def test_without_a_cache_it_says_so_once() -> None:
    story = told([(0.0, StageStarted(0, "a", "scratch")),
                  (0.0, StepStarted(0, 0, "COPY a b", 2, "there is no cache"))], 1.0)  # fmt: skip
    assert "had no cache, so every step ran" in read(story).text


def test_a_stage_that_began_again_is_told_once() -> None:
    again: list[Timed] = [
        (5.0, StageStarted(0, "a", "scratch")),
        (6.0, StageFinished(0, "a", 1.0)),
    ]
    first = (0.0, StepStarted(0, 0, "RUN x", 2, "not in the cache"))
    story = told([(0.0, StageStarted(0, "a", "scratch")), first, *again], 7.0)
    assert [(stage.start, stage.steps) for stage in story.stages] == [(5.0, ())]


@pytest.mark.parametrize("name", STORIES)
def test_screen_readers_find_their_way(name: str) -> None:
    reader = read(STORIES[name]())
    levels = [int(element[1]) for element, _ in reader.tags if re.fullmatch("h[1-6]", element)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    for element, attributes in reader.tags:
        if element == "img":
            assert attributes["alt"]
        if element == "th":
            assert attributes["scope"] in ("row", "col")
    counts = [element for element, _ in reader.tags]
    assert counts.count("table") == counts.count("caption")
    assert ("html", {"lang": "en"}) in reader.tags
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [attributes["aria-labelledby"] for _, attributes in reader.tags
             if "aria-labelledby" in attributes]  # fmt: skip
    assert set(named) <= set(ids)


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", Theme)
def test_contrast(theme: Theme) -> None:
    palette = theme.value
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for text in (palette.text, palette.muted, palette.link, palette.ran, palette.cached,
                 palette.failed):  # fmt: skip
        for ground in (palette.page, palette.card):
            assert contrast(text, ground) >= 4.5, (text, ground)
    for block in (palette.ran, palette.cached, palette.base):
        assert contrast(palette.on_block, block) >= 4.5, block
    for block in (palette.ran, palette.cached, palette.base, palette.moved, palette.failed):
        assert contrast(block, palette.card) >= 3.0


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.integers(100, 1000))
def test_shares_fill_the_bar_in_order(sizes: list[int], total: int) -> None:
    found = shares(sizes, total, 3.0, 2.0)
    assert len(found) == len(sizes)
    assert found[0][0] == 0 and sum(found[-1]) == pytest.approx(total)
    for (start, length), (following, _) in pairwise(found):
        assert length > 0 and following >= start + length - 1e-6
    for one, (_, long) in zip(sizes, found, strict=True):
        for other, (_, short) in zip(sizes, found, strict=True):
            assert one <= other or long >= short - 1e-6


@given(st.floats(0, 10**6), st.integers(2, 8))
def test_ticks_are_few_and_within(seconds: float, most: int) -> None:
    found = ticks(seconds, most)
    assert 1 <= len(found) <= most + 1
    assert found[0][0] == 0 and found[-1][0] <= seconds + 1e-6
    assert [at for at, _ in found] == sorted({at for at, _ in found})


@given(st.text())
def test_any_text_stays_text(text: str) -> None:
    made = tag("p", text, title_=text)
    reader = Reader(made)
    assert [name for name, _ in reader.tags] == ["p"] and reader.open == []
    ET.fromstring(made)


def test_markup_is_not_escaped_again_and_text_is() -> None:
    assert join(["<", tag("b", "&"), Markup("<i></i>")]) == "&lt;<b>&amp;</b><i></i>"


def test_many_layers_fit_one_bar() -> None:
    many = tuple(LayerSummary(f"sha256:{n}", n, "new", "pushed", "RUN x") for n in range(127))
    finished = BuildFinished((), "sha256:00", 1, many, (), 1.0)
    root = ET.fromstring(layers(finished, Width.NARROW, Theme.LIGHT.value))
    right = max(float(r.get("x", 0)) + float(r.get("width", 0)) for r in root if "rx" in r.attrib)
    assert right <= Width.NARROW.total + 0.1


def test_the_same_story_gives_the_same_bytes() -> None:
    assert render(told(GOOD, 25.1)) == render(told(GOOD, 25.1))
