"""The files that a build leaves beside its push, as the flags name them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag
from pybuild.cli.parse import Values

if TYPE_CHECKING:
    from pybuild.executor.request import BuildRequest, Services
    from pybuild.image.image import Image
    from pybuild.image.reference import Reference
    from pybuild.output.files import Outputs, Url
    from pybuild.output.sbom.attach import Document
    from pybuild.output.sbom.collect import Found, ImageFiles
    from pybuild.output.sbom.write import SbomRequest

DIGEST_FILES = ("digest-file", "image-name-with-digest-file", "image-name-tag-with-digest-file",
                "image-url-file")  # fmt: skip
OUTPUT_FLAGS = ("tar-path", "oci-layout-path", "report", *DIGEST_FILES)
_FOLDERS = ("oci-layout-path", "report")
_NAMELESS = "unset-repo/unset-image-name"  # what kaniko writes into an archive without a name


def outputs(
    values: Values, destinations: Sequence[Reference], environment: Mapping[str, str]
) -> Outputs:
    """What is to be written; finds before the build what could not be written after it.

    Raises BadFlag for a plain http:// address, OutputFailed for what can't be written.
    """
    from pybuild.image.reference import parse_reference
    from pybuild.output.files import OutputFailed, Outputs

    def path(name: str) -> Path | None:
        return Path(values.text(name)) if values.text(name) else None

    archive = path("tar-path")
    if archive is not None and not archive.absolute().parent.is_dir():
        raise OutputFailed(
            f"--tar-path={archive}: there is no folder {archive.absolute().parent}",
            hint="make it first",
        )
    for name in OUTPUT_FLAGS:
        if (file := path(name)) is not None and _address(values, name) is None:
            _check_place(f"--{name}", file.absolute())
    images = environment.get("BUILDER_OUTPUT", "")
    if images:
        _check_place("BUILDER_OUTPUT", Path(images).absolute() / "images")
    digest, named, tagged, url = (digest_target(values, name) for name in DIGEST_FILES)
    return Outputs(
        archive,
        path("oci-layout-path"),
        digest,
        named,
        tagged,
        url,
        Path(images) / "images" if images else None,
        tuple(destinations) or (parse_reference(_NAMELESS),),
        tuple(destinations),
    )


def digest_target(values: Values, name: str) -> Path | Url | None:
    """Where a digest goes. Raises BadFlag for a plain http:// address."""
    text = values.text(name)
    return _address(values, name) or (Path(text) if text else None)


def _address(values: Values, name: str) -> Url | None:
    from pybuild.output.files import Url

    text = values.text(name)
    if text.startswith("http://"):
        raise BadFlag(
            f"--{name} sends nothing over plain HTTP", hint="an https:// address, or a file"
        )
    return Url(text) if text.startswith("https://") else None


def _check_place(flag: str, path: Path) -> None:
    """Finds what stands in the way of a file or folder before hours of work are done."""
    from pybuild.output.files import OutputFailed

    problem = ""
    if flag.removeprefix("--") in _FOLDERS:
        if path.exists() and not path.is_dir():
            problem = "is no folder"
    elif path.is_dir():
        problem = "is a folder, not a file"
    above = path
    while not above.exists():
        above = above.parent
    if above != path and not above.is_dir():
        problem = f"can't be made: {above} is no folder"
    if not problem and not os.access(above, os.W_OK):
        problem = f"can't be written by this user ({above})"
    if problem:
        raise OutputFailed(f"{flag}={path}: this {problem}", hint="name another place")


class Sboms:
    """The documents that a build was asked for: written before the push, attached after it."""

    def __init__(
        self, request: SbomRequest | None, build: BuildRequest, services: Services
    ) -> None:
        self._request = request
        self._build = build
        self._services = services
        self._documents: tuple[Document, ...] = ()
        self.found: Found | None = None  # what the image holds, once `write` has read it

    def write(self, image: Image, read: Callable[[], ImageFiles]) -> tuple[str, ...]:
        """The paths that were written."""
        if self._request is None:
            return ()
        from pybuild import __version__
        from pybuild.output.sbom.collect import collect
        from pybuild.output.sbom.write import make_documents

        names = [reference.name for reference in self._build.destinations]
        name = names[0] if names else _NAMELESS
        tool = f"pybuild-{__version__}"
        self.found = collect(read())
        self._documents = make_documents(
            self._request, image, self.found, name, tool, self._services.sink
        )
        return tuple(str(path) for _, path in self._request.files)

    def attach(self, image: Image) -> None:
        if self._request is None or not self._request.attached:
            return
        from pybuild.output.sbom.write import attach_documents

        attach_documents(
            self._request,
            self._documents,
            self._services.client,
            self._build.destinations,
            image,
            self._services.sink,
        )
