"""Files that a build leaves for its user."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.errors import InputError

if TYPE_CHECKING:
    from pybuild.executor.request import BuildResult
    from pybuild.image.image import Image
    from pybuild.image.reference import Reference


class OutputFailed(InputError):
    """A file that the build should leave can't be written."""

    code = "output-failed"


class Url(Struct, frozen=True):
    """An https:// address that takes a text by HTTP PUT."""

    text: str

    def __str__(self) -> str:
        """Without what may be secret in it: user, password and query."""
        from urllib.parse import urlsplit

        parts = urlsplit(self.text)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        return f"Url({self})"


class Outputs(Struct, frozen=True):
    """Where to write what; None: not asked for. `tags` name the image inside an archive,
    `destinations` are what the name files tell, pushed or not; `url_file` has the first of them
    without a newline, since Tekton takes a result as it stands. `images_file` gets a JSON object
    for each destination, a line each: what Google's builders read from $BUILDER_OUTPUT."""

    archive: Path | None = None
    layout: Path | None = None
    digest_file: Path | Url | None = None
    name_with_digest_file: Path | Url | None = None
    name_tag_with_digest_file: Path | Url | None = None
    url_file: Path | Url | None = None
    images_file: Path | None = None
    tags: tuple[Reference, ...] = ()
    destinations: tuple[Reference, ...] = ()

    def write_image(self, image: Image) -> tuple[str, ...]:
        """Archive and layout, before anything is tagged. Gives the paths that were written."""
        self._try_digest_files()
        written = []
        if self.archive is not None:
            from pybuild.store.archive import write_archive

            write_archive(image, self.tags, self.archive)
            written.append(str(self.archive))
        if self.layout is not None:
            from shutil import rmtree

            from pybuild.store.layout import Layout

            layout, names = Layout(self.layout), [tag.tag for tag in self.tags] or ["latest"]
            was_there = self.layout.exists()
            try:
                for name in dict.fromkeys(names):
                    layout.add(image, name)
            except BaseException:
                if not was_there:
                    rmtree(self.layout, ignore_errors=True)
                raise
            written.append(str(self.layout))
        return tuple(written)

    def _try_digest_files(self) -> None:
        """What can't be written after the push is better known before it."""
        from tempfile import TemporaryFile

        from pybuild.store.errors import writing
        from pybuild.store.owner import make_folders

        for path in (
            self.digest_file,
            self.name_with_digest_file,
            self.name_tag_with_digest_file,
            self.url_file,
            self.images_file,
        ):
            if isinstance(path, Path) and not _stays(path):
                with writing(path):
                    make_folders(path.parent)
                    with TemporaryFile(dir=path.parent) as file:
                        file.write(b"." * 256)

    def write_digests(self, result: BuildResult) -> None:
        """The digest files, after the push: whoever finds one finds the image."""
        digest = result.image.manifest.digest
        write_digest_file(self.digest_file, str(digest))
        names = _lines([f"{ref.name}@{digest}" for ref in self.destinations])
        write_digest_file(self.name_with_digest_file, names)
        tagged = _lines([f"{ref.name}:{ref.tag}@{digest}" for ref in self.destinations])
        write_digest_file(self.name_tag_with_digest_file, tagged)
        first = [f"{ref.name}:{ref.tag}" for ref in self.destinations[:1]]
        write_digest_file(self.url_file, "".join(first))
        images = [
            json.dumps({"name": f"{ref.name}:{ref.tag}", "digest": str(digest)})
            for ref in self.destinations
        ]
        write_digest_file(self.images_file, _lines(images))


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def write_whole(path: Path, raw: bytes) -> None:
    """Makes missing folders on the way; replaces the file as a whole, where its folder lets it: a
    file that is mounted by itself, as a Pod's /dev/termination-log is, is written in place. Raises
    OutputNotWritable, OSError for a full disk."""
    from pybuild.store.blobs import beside
    from pybuild.store.errors import writing

    with writing(path):
        if _stays(path):
            path.write_bytes(raw)
            return
        try:
            with beside(path) as (_, file):
                file.write(raw)
        except OSError as error:
            if error.errno != errno.EBUSY:  # rename(2): it is a mount point
                raise
            path.write_bytes(raw)


def _stays(path: Path) -> bool:
    """Whether it can only be written as it stands: /dev/stdout, a pipe, or a file in a folder that
    this user can make nothing in."""
    if path.is_file():
        return os.access(path, os.W_OK) and not os.access(path.parent, os.W_OK)
    return path.exists()


def write_digest_file(path: Path | Url | None, text: str) -> None:
    """To a file as `write_whole`, to an address by PUT. Raises OutputFailed for the latter."""
    if isinstance(path, Url):
        _put(path, text)
    elif path is not None:
        write_whole(path, text.encode())


_PUT_SECONDS = 30


def _put(url: Url, text: str) -> None:
    import os

    import requests

    from pybuild.registry.https import https_session

    try:
        with https_session(os.environ) as session:
            reply = session.put(
                url.text,
                data=text.encode(),
                headers={"Content-Type": "text/plain"},
                timeout=_PUT_SECONDS,
            )
    except requests.RequestException as error:
        raise OutputFailed(
            f"the digest could not be sent to {url}: {type(error).__name__}",
            hint="the image is pushed; is the address right, and its certificate trusted?",
        ) from error
    if not reply.ok:
        raise OutputFailed(
            f"the digest could not be sent to {url}: it answered {reply.status_code}",
            hint="the image is pushed; does the address take a PUT?",
        )
