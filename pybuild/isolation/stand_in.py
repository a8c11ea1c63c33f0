"""RUN mounts where nothing can be mounted: something of the same name stands in for each.

A bind or file mount is a link to its source, a tmpfs an empty directory. What the image has there
is moved aside for the time, and afterwards everything is as it was, times of directories included.
Differences from a real mount: a link shows itself as one, and `readonly` is not enforced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pybuild.isolation.command import RunMount
from pybuild.isolation.errors import RunFlagUnsupported
from pybuild.isolation.moving import Kept, move, times_kept
from pybuild.isolation.removal import remove_tree


@contextmanager
def stand_ins(mounts: Sequence[RunMount], aside: Path, kept: Kept) -> Iterator[None]:
    """`aside` is an existing directory on the filesystem of `/`. Raises RunFlagUnsupported for a
    target that can't be replaced."""
    with ExitStack() as undo:
        by_depth = sorted(mounts, key=lambda mount: mount.target.strip("/").count("/"))
        for number, mount in enumerate(by_depth):
            _place(mount, aside / str(number), kept, undo)
        yield


def _place(mount: RunMount, aside: Path, kept: Kept, undo: ExitStack) -> None:
    parent = os.path.realpath(os.path.dirname(mount.target.rstrip("/")) or "/")
    target = os.path.join(parent, os.path.basename(mount.target.rstrip("/")))
    inside = target.strip("/")
    # here-documents with a program of their own are files below /dev, which may have new names
    covered = kept.covers(inside) and not target.startswith("/dev/")
    if not inside or target in kept.ancestors or covered:
        raise RunFlagUnsupported(
            f"RUN --mount with target={mount.target} can't be carried out in place: the "
            "container needs what is there",
            hint="choose another target, or an isolation that can mount",
        )
    _make_parents(parent, undo)
    if os.path.lexists(target):
        _quietly(parent, lambda: move(target, str(aside), {}))
        undo.callback(_quietly, parent, lambda: move(str(aside), target, {}))
    _quietly(parent, lambda: _stand(mount, target))
    undo.callback(_quietly, parent, lambda: remove_tree(Path(target)))


def _stand(mount: RunMount, target: str) -> None:
    if mount.kind == "tmpfs":
        os.mkdir(target)
        os.chown(target, mount.uid, mount.gid)
        os.chmod(target, mount.mode)
    else:
        assert mount.source is not None
        os.symlink(mount.source, target)


def _make_parents(path: str, undo: ExitStack) -> None:
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_parents(above, undo)
    _quietly(above, lambda: os.mkdir(path, 0o755))
    undo.callback(_quietly, above, lambda: _remove_if_empty(path))


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        return  # the RUN put something of its own there


def _quietly(directory: str, action: Callable[[], None]) -> None:
    if _is_real_directory(directory):  # else the RUN removed it, with what stood in it
        with times_kept(directory):
            action()


def _is_real_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
