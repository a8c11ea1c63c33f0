"""Archives made with the standard library, and directories as values, for tests of layers."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pybuild.layer.apply import UnpackStyle, unpack_layer
from pybuild.rootfs.index import LayerIndex, Tree

TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "link": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}

Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str,
    kind: str = "file",
    data: bytes = b"",
    *,
    link: str = "",
    mode: int | None = None,
    uid: int = 0,
    gid: int = 0,
    mtime: float = 1_000_000,
    device: tuple[int, int] = (0, 0),
    pax: Mapping[str, str] | None = None,
) -> Member:
    info = tarfile.TarInfo(name)
    info.type = TYPES[kind]
    info.size = len(data)
    info.linkname = link
    info.mode = (0o755 if kind == "dir" else 0o644) if mode is None else mode
    info.uid, info.gid, info.mtime = uid, gid, mtime
    info.devmajor, info.devminor = device
    info.pax_headers = dict(pax or {})
    return info, data


def archive(*members: Member, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """The names and numbers as they are given, however hostile."""
    out = io.BytesIO()
    for info, data in members:
        out.write(info.tobuf(tar_format, "utf-8", "surrogateescape"))
        out.write(data + bytes(-len(data) % 512))
    return out.getvalue() + bytes(1024)


def in_pieces(data: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def unpack(
    data: bytes | Iterable[bytes],
    directory: Path,
    below: Tree | None = None,
    *,
    style: UnpackStyle = UnpackStyle.IN_PLACE,
    lower: Path | None = None,
) -> LayerIndex:
    directory.mkdir(parents=True, exist_ok=True)
    return unpack_layer(
        in_pieces(data) if isinstance(data, bytes) else data,
        directory,
        below or Tree(),
        style=style,
        lower_path=lambda path: lower / path if lower else None,
    )


Node = tuple[object, ...]


def scan(directory: Path) -> dict[str, Node]:
    """Every path with all that a layer keeps of it; directories without their times."""
    found: dict[str, Node] = {}
    first: dict[int, str] = {}
    for place in sorted(directory.rglob("*"), key=lambda p: os.fsencode(p)):
        path = str(place.relative_to(directory))
        status = place.lstat()
        mode = status.st_mode
        what: object = None
        if stat.S_ISLNK(mode):
            what = os.readlink(place)  # noqa: PTH115 (a Path would tidy the text)
        elif stat.S_ISREG(mode):
            what = (place.read_bytes(), first.setdefault(status.st_ino, path))
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            what = status.st_rdev
        seconds = 0 if stat.S_ISDIR(mode) else int(status.st_mtime)
        found[path] = (stat.filemode(mode), status.st_uid, status.st_gid, seconds, what)
    return found
