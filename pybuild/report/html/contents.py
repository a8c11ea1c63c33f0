"""The sections about what is in the image: layers, base images, software."""

from __future__ import annotations

from collections.abc import Mapping

from pybuild.events import LayerContent, LayerSummary, SoftwareSummary
from pybuild.report.html.markup import Markup, join, tag
from pybuild.report.html.parts import counted, figure, section, table
from pybuild.report.html.story import Story
from pybuild.report.text import bytes_text, layers_text


def layers_section(story: Story, drawn: Mapping[str, Markup]) -> Markup:
    finished = story.finished
    if finished is None or not finished.layers:
        return Markup()
    contents = {one.digest: one for one in story.image.layers} if story.image else {}
    alt = f"One bar for {bytes_text(finished.size)}, {layers_text(finished)}."
    caption = tag("figcaption", f"{bytes_text(finished.size)} as stored; {layers_text(finished)}.")
    parts: list[str] = [figure("layers", alt, caption, drawn)]
    for number, layer in enumerate(finished.layers, 1):
        parts.append(_layer(number, layer, contents.get(layer.digest)))
    return section("layers", "Layers, and what fills them", *parts)


_PUSHED = {"pushed": "pushed", "mounted": "mounted", "exists": "was there already"}


def _layer(number: int, layer: LayerSummary, content: LayerContent | None) -> Markup:
    name = _created_by(layer.created_by) or ("layer of the base" if layer.origin == "base" else "")
    head = tag(
        "summary",
        f"{number}. ",
        tag("span", bytes_text(layer.size), class_="size"),
        " ",
        tag("span", layer.origin, class_=f"chip {_ORIGINS.get(layer.origin, 'ran')}"),
        " ",
        tag("code", name),
    )
    how = _PUSHED.get(layer.outcome, "")
    parts: list[str] = [tag("p", tag("code", layer.digest), f", {how}" if how else "")]
    if content is None or not content.known:
        parts.append(tag("p", "Its files were not read in this build.", class_="note"))
        return tag("details", head, *parts)
    files = f"{bytes_text(content.size)} in {counted(content.files, 'file')}"
    gone = f"; {counted(content.removed, 'path')} removed" if content.removed else ""
    if not content.biggest:
        parts.append(tag("p", f"{files}{gone}."))
        return tag("details", head, *parts)
    rows = [
        (tag("code", one.path), bytes_text(one.size), _percent(one.size, content.size))
        for one in content.biggest
    ]
    columns = [("Folder or file", "what"), ("Size", "number"), ("Share", "number")]
    parts.append(table(f"What fills layer {number}: {files}{gone}", columns, rows))
    opened = "" if layer.origin != "base" and number > 1 else None
    return tag("details", head, *parts, open=opened)


_ORIGINS = {"base": "base", "cached": "cached", "new": "ran"}


def _created_by(text: str) -> str:
    """Without the values of build arguments that a history's line may begin with."""
    if text.startswith("|") and "/bin/sh -c " in text:
        return "RUN " + text.split("/bin/sh -c ", 1)[1]
    return text if len(text) <= 200 else f"{text[:199]}…"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def bases_section(story: Story) -> Markup:
    if story.bases is None:
        return Markup()
    if not story.bases.bases:
        return section("bases", "Base images", tag("p", "None: the image starts from scratch."))
    rows = []
    for base in story.bases.bases:
        name = [tag("code", base.name), tag("code", base.digest, class_="where")]
        if base.source and base.source not in base.name:
            name.append(tag("span", f"from {base.source}", class_="where"))
        size = f"{bytes_text(base.size)} in {counted(base.layers, 'layer')}"
        rows.append((join(name), base.platform, size))
    columns = [("Image", "what"), ("Platform", None), ("Size", "number")]
    made = table("Images that stages start from or take files of", columns, rows)
    return section("bases", "Base images", made)


def software_section(story: Story) -> Markup:
    if story.image is None:
        return Markup()
    found = story.image.software
    if found is None:
        text = "Not counted in this build: --sbom=spdx or --sbom=cyclonedx lists the packages."
        return section("software", "Software", tag("p", text, class_="note"))
    return section("software", "Software", *_packages(found))


def _packages(found: SoftwareSummary) -> list[str]:
    on = f" on {found.distribution}" if found.distribution else ""
    parts: list[str] = [tag("p", f"{counted(found.packages, 'package')}{on}.")]
    if found.kinds:
        rows = [(_KINDS.get(kind, kind), str(count)) for kind, count in found.kinds]
        columns = [("Kind", "what"), ("Packages", "number")]
        parts.append(table("Packages by kind", columns, rows))
    if found.licenses:
        rows = [(name, str(count)) for name, count in found.licenses]
        caption = "The licenses that most packages have"
        parts.append(table(caption, [("License", "what"), ("Packages", "number")], rows))
    notes = []
    if found.unlicensed:
        notes.append(f"{counted(found.unlicensed, 'package')} without a license in the metadata")
    if found.unread:
        notes.append(f"{counted(found.unread, 'file')} that could not be read")
    if notes:
        parts.append(tag("p", f"Besides: {'; '.join(notes)}.", class_="note"))
    return parts


_KINDS = {
    "deb": "Debian",
    "apk": "Alpine",
    "rpm": "RPM",
    "pypi": "Python",
    "npm": "Node.js",
    "maven": "Java",
    "golang": "Go",
}
