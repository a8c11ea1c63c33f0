"""From a finished image to the documents that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.events import EventSink, Level, Notice
from pybuild.output.sbom.attach import Document, attach
from pybuild.output.sbom.document import Format, Subject, render

if TYPE_CHECKING:
    from pybuild.image.image import Image
    from pybuild.image.reference import Reference
    from pybuild.output.sbom.collect import Found
    from pybuild.registry.client import Client

_SHOWN = 3  # of the files that could not be read


class SbomRequest(Struct, frozen=True):
    """Which documents are written where, and which go beside the image."""

    files: tuple[tuple[Format, Path], ...] = ()
    attached: tuple[Format, ...] = ()

    @property
    def forms(self) -> tuple[Format, ...]:
        return tuple(dict.fromkeys([*(form for form, _ in self.files), *self.attached]))


def make_documents(
    request: SbomRequest, image: Image, found: Found, name: str, tool: str, sink: EventSink
) -> tuple[Document, ...]:
    """All documents of what was found, of which those that go to files are written. `name` is the
    image's, without tag. Raises OutputNotWritable."""
    from pybuild.output.files import write_whole

    subject = Subject(name, image.manifest.digest, image.config.created, tool)
    documents = tuple(Document(form, render(found, subject, form)) for form in request.forms)
    raws = {document.form: document.raw for document in documents}
    for form, path in request.files:
        write_whole(path, raws[form])
    if found.unread:
        shown = ", ".join(f"{path} ({why})" for path, why in found.unread[:_SHOWN])
        more = len(found.unread) - _SHOWN
        text = f"the SBOM lacks what these files tell: {shown}"
        sink(Notice(Level.WARNING, text + (f" and {more} more" if more > 0 else ""), "sbom-unread"))
    return documents


def attach_documents(
    request: SbomRequest,
    documents: Sequence[Document],
    client: Client,
    destinations: Sequence[Reference],
    image: Image,
    sink: EventSink,
) -> None:
    """Once a repository, after the push of the image. Raises RegistryError."""
    repositories = {destination.name: destination for destination in destinations}
    for repository in repositories.values():
        for document in documents:
            if document.form in request.attached:
                manifest = attach(client, repository, image.manifest, document)
                text = f"attached {document.form.file_name} as {repository.name}@{manifest.digest}"
                sink(Notice(Level.INFO, text))
