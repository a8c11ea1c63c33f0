"""Reads Debian packages with the standard library alone: what assembles an image has no dpkg."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

_MAGIC = b"!<arch>\n"


def data_of(package: Path) -> tarfile.TarFile:
    """The files of a .deb, deb(5): an ar archive whose last member is data.tar and a suffix.

    Raises ValueError for something else."""
    with package.open("rb") as archive:
        if archive.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{package.name} is no Debian package")
        while header := archive.read(60):
            name, size = header[:16].decode().rstrip(" /"), int(header[48:58])
            content = archive.read(size + size % 2)[:size]
            if name.startswith("data.tar"):
                return tarfile.open(fileobj=io.BytesIO(content))
    raise ValueError(f"{package.name} holds no data.tar")


def version_of(package: Path) -> tuple[str, str]:
    """Name and version by the file's name, as apt writes it: a colon is %3a."""
    name, version, _ = package.name.split("_")
    return name, version.replace("%3a", ":")
