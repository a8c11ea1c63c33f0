"""`--report`: the page that a build leaves, and what it is told beyond the events of every build.

Imported only where a page is wanted, and then before the build begins: all that it needs is loaded
with it, since nothing may be imported after a RUN in place.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild import __version__
from pybuild.errors import PybuildError
from pybuild.events import (
    BasesFound,
    BaseSummary,
    BuildFailed,
    BuildFinished,
    Event,
    EventSink,
    ImageDescribed,
    LayerContent,
    Level,
    Notice,
    SoftwareSummary,
)
from pybuild.output.contents import content_of
from pybuild.output.files import write_whole
from pybuild.report.html.page import PAGE, render
from pybuild.report.html.story import Gatherer

if TYPE_CHECKING:
    from pybuild.executor.prepare import Prepared
    from pybuild.executor.state import StageSource
    from pybuild.output.sbom.collect import Found

_LICENSES = 8


def page_path(folder: str) -> str:
    """The page as the user would name it, for the list of files that a build wrote."""
    return str(Path(folder) / PAGE)


def with_page(sink: EventSink, folder: Path, title: str) -> EventSink:
    """A sink that writes the page too, when the event comes that ends the build. `title` is what
    the image is called, "" where it has no name."""
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    gatherer = Gatherer(title, began, f"pybuild {__version__}", time.monotonic)
    place = folder.absolute()

    def write() -> None:
        for name, raw in render(gatherer.story()).items():
            write_whole(place / name, raw)

    return _page_sink(sink, gatherer, write)


def _page_sink(sink: EventSink, gatherer: Gatherer, write: Callable[[], None]) -> EventSink:
    def told(event: Event, /) -> None:
        gatherer.take(event)
        if isinstance(event, BuildFinished | BuildFailed):
            try:
                write()
            except (PybuildError, OSError) as error:
                # The image is what counts: it is pushed by now, or has a failure of its own.
                what = f"the report can't be written: {error}"
                sink(Notice(Level.WARNING, what, code="report-unwritten"))
        sink(event)

    return told


def bases_found(prepared: Prepared) -> BasesFound:
    """The images that the stages of a plan start from or take files of."""
    found = []
    for wanted, image in prepared.images.items():
        manifest = image.manifest
        size = manifest.config.size + sum(layer.size for layer in manifest.layers)
        platform = str(image.config.platform)
        digest, source = str(manifest.digest), image.source.name
        count = len(manifest.layers)
        found.append(BaseSummary(wanted.name, digest, source, platform, size, count))
    return BasesFound(str(prepared.plan.platform), tuple(found))


def image_described(source: StageSource, found: Found | None) -> ImageDescribed:
    """What fills the layers, of those that were read anyway, and which software was found."""
    layers = tuple(
        LayerContent(str(digest), False) if index is None else content_of(digest, index.entries())
        for digest, index in source.known_layers()
    )
    return ImageDescribed(layers, None if found is None else software_of(found))


def software_of(found: Found) -> SoftwareSummary:
    kinds = Counter(package.kind for package in found.packages)
    licenses = Counter(text for package in found.packages for text in set(package.licenses))
    system = found.distribution
    return SoftwareSummary(
        system.name or f"{system.id} {system.version}".strip(),
        len(found.packages),
        tuple(kinds.most_common()),
        tuple(sorted(licenses.items(), key=lambda pair: (-pair[1], pair[0]))[:_LICENSES]),
        sum(not package.licenses for package in found.packages),
        len(found.unread),
    )
