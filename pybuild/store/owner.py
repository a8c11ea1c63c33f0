"""Whose the files are that root writes for somebody else.

A workspace is its user's: what a builder that runs as root leaves there, that user has to be able
to move and to delete, as Jenkins does when it cleans up."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def give_to_owner_of(folder: Path, path: Path) -> None:
    """Gives `path` to whoever owns `folder`, where this process is root and that one is not. A
    volume that knows no owners keeps it."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        with suppress(OSError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def make_folders(path: Path) -> None:
    """Makes what is missing on the way, each for the owner of the folder above. Raises OSError."""
    if path.is_dir():
        return
    make_folders(path.parent)
    path.mkdir(exist_ok=True)
    give_to_owner_of(path.parent, path)
