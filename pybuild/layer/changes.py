"""What goes into a layer."""

from __future__ import annotations

from msgspec import Struct

from pybuild.rootfs.entry import Entry


class Change(Struct, frozen=True):
    """One entry of a layer and where its bytes are: the absolute path of a file on disk, or the
    bytes themselves; None for all but a regular file that is not empty. A removal is an entry of
    kind WHITEOUT; a directory that replaces another has `opaque` set."""

    entry: Entry
    content: str | bytes | None = None
