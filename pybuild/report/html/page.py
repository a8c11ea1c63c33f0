"""The page, section by section. Pure: the same story always gives the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pybuild.events import NO_CACHE, BuildFailed
from pybuild.report.html.contents import bases_section, layers_section, software_section
from pybuild.report.html.markup import Markup, join, tag
from pybuild.report.html.parts import counted, facts_list, figure, section, table
from pybuild.report.html.story import CACHED, RAN, UNFINISHED, StageTold, StepTold, Story
from pybuild.report.html.style import stylesheet
from pybuild.report.html.svg import icon, pictures
from pybuild.report.text import bytes_text, duration, stage_title

PAGE, STYLE, ICON = "report.html", "style.css", "icon.svg"
_TEXT_LINES = 40  # of an instruction


def render(story: Story) -> dict[str, bytes]:
    """All files of the report by name, to lie in one folder; the page itself comes last."""
    drawn = pictures(story)
    files = {name: drawing.encode() for name, drawing in drawn.items()}
    files[ICON] = icon(good=story.failed is None).encode()
    return {**files, STYLE: stylesheet().encode(), PAGE: page(story, drawn).encode()}


def page(story: Story, drawn: Mapping[str, Markup]) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{_verdict(story)}: {_title(story)}"),
        tag("link", rel="stylesheet", href=STYLE),
        tag("link", rel="icon", href=ICON, type="image/svg+xml"),
    )
    sections = [
        _head(story),
        _error(story.failed),
        _tiles(story),
        _image(story),
        _time(story, drawn),
        _steps(story),
        layers_section(story, drawn),
        bases_section(story),
        software_section(story),
        _traffic(story),
        _warnings(story),
    ]
    main = tag("main", join([section for section in sections if section], "\n"))
    html = tag("html", head, tag("body", main, _foot(story)), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def _verdict(story: Story) -> str:
    if story.failed is not None:
        return "Stopped" if story.failed.code == "interrupted" else "Failed"
    return "Built and pushed" if story.pushed else "Built"


def _title(story: Story) -> str:
    """What the image is called, or would have been; else what was built."""
    return story.title or (story.plan.dockerfile if story.plan else "image build")


def _head(story: Story) -> Markup:
    bad = story.failed is not None
    began = story.began.replace("T", " ").removesuffix("Z") + " UTC"
    lead = [tag("time", began, datetime=story.began), f", {duration(story.seconds)}"]
    return tag(
        "header",
        tag("p", _verdict(story), class_=f"status {'bad' if bad else 'good'}"),
        tag("h1", _title(story)),
        tag("p", *lead, class_="lead"),
    )


def _error(failed: BuildFailed | None) -> Markup:
    if failed is None:
        return Markup()
    parts = [tag("p", failed.message, class_="message")]
    if failed.file:
        place = f"{failed.file}:{failed.line}" if failed.line else failed.file
        parts.append(tag("p", "at ", tag("code", place)))
        if failed.text:
            lines = failed.text.splitlines()[:_TEXT_LINES]
            width = len(str(failed.line + len(lines)))
            text = "\n".join(f"{n:>{width}} │ {line}" for n, line in enumerate(lines, failed.line))
            parts.append(tag("pre", tag("code", text), tabindex="0"))
    if failed.hint:
        parts.append(tag("p", tag("strong", "What to do: "), failed.hint))
    end = (
        f"error {failed.code}, exit status {failed.exit_status}; what commands wrote is in the log"
    )
    parts.append(tag("p", end, class_="note"))
    return section("error", "What went wrong", *parts, class_="error")


def _tiles(story: Story) -> Markup:
    steps = [step for step in story.steps if step.outcome != UNFINISHED]
    cached = sum(step.outcome == CACHED for step in steps)
    skipped = sum(stage.skipped for stage in story.stages)
    tiles = [("Time", duration(story.seconds), "")]
    if story.finished is not None:
        count = len(story.finished.layers)
        layers = f"{count} layer{'' if count == 1 else 's'}, as stored"
        tiles.append(("Size", bytes_text(story.finished.size), layers))
    if steps:
        note = f"{counted(skipped, 'stage')} skipped" if skipped else "steps"
        tiles.append(("From the cache", f"{cached} of {len(steps)}", note))
    if story.plan is not None:
        tiles.append(("Isolation", story.plan.isolation, ""))
    if story.warnings:
        tiles.append(("Warnings", str(len(story.warnings)), ""))
    made = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else Markup()))
        for name, value, note in tiles
    ]
    return tag("dl", *made, class_="tiles")


def _image(story: Story) -> Markup:
    facts: list[tuple[str, str]] = []
    if story.finished is not None:
        pushed = [tag("code", name) for name in story.finished.references]
        facts.append(("Pushed to", join(pushed, Markup("<br>")) if pushed else "nowhere"))
        facts.append(("Digest", tag("code", story.finished.digest)))
    elif story.pushed:
        names = [tag("code", event.reference) for event in story.pushed]
        facts.append(("Pushed, though the build failed", join(names, Markup("<br>"))))
    if story.bases is not None:
        facts.append(("Platform", story.bases.platform))
    if story.plan is not None:
        facts.append(("Dockerfile", tag("code", story.plan.dockerfile)))
        facts.append(("Context", tag("code", story.plan.context)))
        why = f": {story.plan.reason}" if story.plan.reason else ""
        facts.append(("Isolation", story.plan.isolation + why))
    if story.finished is not None and story.finished.outputs:
        names = [tag("code", path) for path in story.finished.outputs]
        facts.append(("Files written", join(names, Markup("<br>"))))
    return section("image", "The image", facts_list(facts)) if facts else Markup()


def _time(story: Story, drawn: Mapping[str, Markup]) -> Markup:
    if "timeline.svg" not in drawn:
        return Markup()
    ran = [stage for stage in story.stages if not stage.skipped]
    spans = [
        f"{stage_title(stage.name)} from {duration(stage.start)} for {duration(stage.seconds)}"
        for stage in ran
    ]
    alt = f"Timeline of {duration(story.seconds)}: {'; '.join(spans)}."
    keys = [("ran", "step that ran"), ("cached", "from the cache")]
    if any(step.outcome == UNFINISHED for step in story.steps):
        keys.append(("failed", "not finished"))
    if story.transfers:
        keys.append(("moved", "network"))
    legend = [join([tag("span", class_=f"key key-{key}"), word]) for key, word in keys]
    caption = tag("figcaption", join(legend, " \u2002 "))
    return section("time", "What ran, and when", figure("timeline", alt, caption, drawn))


def _steps(story: Story) -> Markup:
    if not story.stages:
        return Markup()
    parts: list[str] = [tag("p", _cache_words(story))]
    for stage in story.stages:
        parts.append(tag("h3", _stage_heading(stage)))
        if stage.skipped:
            parts.append(tag("p", "Skipped: all that is taken from it is cached.", class_="note"))
        elif stage.steps:
            parts.append(_stage_table(stage))
        else:
            text = "No step of this stage changes files."
            parts.append(tag("p", text, class_="note"))
    return section("steps", "Steps and cache", *parts)


def _cache_words(story: Story) -> str:
    steps = [step for step in story.steps if step.outcome != UNFINISHED]
    missed = [step for step in story.steps if step.outcome != CACHED]
    if not story.steps:
        return "Nothing had to run."
    if missed and all(step.reason == NO_CACHE for step in missed):
        return "The build had no cache, so every step ran; --cache keeps layers for the next one."
    hits = len(steps) - sum(step.outcome != CACHED for step in steps)
    text = f"{hits} of {counted(len(steps), 'step')} came from the cache."
    if missed:
        reasons = Counter(step.reason for step in missed if step.reason)
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        text += f" Why the others ran: {why}." if why else ""
    return text


def _stage_heading(stage: StageTold) -> str:
    base = f" from {stage.base}" if stage.base else ""
    time = f", {duration(stage.seconds)}" if not stage.skipped else ""
    title = stage_title(stage.name)
    return f"{title if title != stage.name else f'Stage {title}'}{base}{time}"


def _stage_table(stage: StageTold) -> Markup:
    rows = []
    for step in stage.steps:
        text = "\n".join(step.text.splitlines()[:_TEXT_LINES])
        line = tag("span", f"line {step.line}", class_="where") if step.line else Markup()
        rows.append(
            (
                join([tag("code", text), line]),
                _outcome(step),
                duration(step.seconds) if step.outcome != CACHED else "",
                bytes_text(step.size) if step.size else "",
            )
        )
    columns = [("Step", "what"), ("Cache", None), ("Time", "number"), ("Layer", "number")]
    caption = f"Steps of stage {stage_title(stage.name)} that change files"
    return table(caption, columns, rows)


_CHIPS = {RAN: "ran", CACHED: "cached", UNFINISHED: "failed"}


def _outcome(step: StepTold) -> Markup:
    chip = tag("span", step.outcome, class_=f"chip {_CHIPS[step.outcome]}")
    return join([chip, tag("span", step.reason, class_="where") if step.reason else Markup()])


_TRAFFIC = {
    "pull": "Pulled from registries",
    "cache-read": "Read from the cache",
    "context": "Fetched as context",
    "download": "Downloaded by ADD",
    "push": "Pushed",
    "cache-write": "Written to the cache",
}


def _traffic(story: Story) -> Markup:
    rows = []
    for kind, words in _TRAFFIC.items():
        ones = [one for one in story.transfers if one.kind == kind]
        if not ones:
            continue
        moved = sum(one.size for one in ones if one.outcome == "done")
        spared = [one for one in ones if one.outcome in ("mounted", "exists")]
        kept = f"{counted(len(spared), 'blob')}, {bytes_text(sum(s.size for s in spared))}"
        count = str(sum(one.outcome == "done" for one in ones))
        rows.append((words, count, bytes_text(moved), kept if spared else ""))
    if not rows:
        return Markup()
    columns = [("What", "what"), ("Blobs", "number"), ("Moved", "number"), ("Spared", "number")]
    caption = "What went over the network; spared is what was there already or could be mounted"
    return section("network", "Network", table(caption, columns, rows))


def _warnings(story: Story) -> Markup:
    if not story.warnings:
        return Markup()
    lines = [
        tag("li", one.message, *((" ", tag("code", one.code)) if one.code else ()))
        for one in story.warnings
    ]
    return section("warnings", "Warnings", tag("ul", *lines))


def _foot(story: Story) -> Markup:
    return tag("footer", tag("p", f"Made by {story.tool}. Sizes count in 1000; times are UTC."))
