"""ADD of a local archive: tar as it is, or in gzip, bzip2, xz or zstd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.layer.apply import UnpackStyle, unpack_layer
from pybuild.layer.compress import decompress
from pybuild.layer.errors import BadArchive
from pybuild.rootfs.index import LayerIndex, Tree

if TYPE_CHECKING:
    from pybuild.executor.workspace import Workspace

_CHUNK = 1 << 18
_BLOCK = 512
_BITE = 64  # little enough that a wrong sum at the end does not hide how an archive begins


def unpack_archive(file: Path, workspace: Workspace) -> tuple[Path, LayerIndex] | None:
    """Unpacks into a new folder; None where the file is no archive, as Docker tells them apart:
    by what is in it, not by its name. Raises BadArchive for one that is broken further on."""
    if not _is_tar(file):
        return None
    folder = workspace.new_spool()
    index = unpack_layer(
        _plain(file, _CHUNK),
        folder,
        Tree(()),
        style=UnpackStyle.UNOWNED,
        lower_path=lambda _: None,
    )
    return folder, index


def _is_tar(file: Path) -> bool:
    """True if what comes out begins with a tar header that adds up (or with two empty blocks)."""
    start = b""
    try:
        for chunk in _plain(file, _BITE):
            start += chunk
            if len(start) >= _BLOCK:
                break
    except BadArchive:
        return False
    return len(start) >= _BLOCK and _checks(start[:_BLOCK])


def _checks(header: bytes) -> bool:
    """POSIX pax(1), "ustar Interchange Format": the sum of all bytes, its own field as blanks."""
    if not any(header):
        return True
    try:
        stored = int(header[148:156].split(b"\0")[0].strip() or b"-1", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 8 * 0x20 + sum(header[156:])


def _plain(file: Path, piece: int) -> Iterator[bytes]:
    with file.open("rb") as raw:
        yield from decompress(iter(lambda: raw.read(piece), b""))
