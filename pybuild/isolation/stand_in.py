"""RUN mounts where nothing can be mounted: something of the same name stands in for each.

A private source is moved to its target; another directory is moved there and back again if both are
in one mount, else a link leads to it, as to any file. A tmpfs is an empty directory, a secret
a file. What the image has there is moved aside for the time, and afterwards everything is as it
was, times of directories included. Differences from a real mount: neither `readonly` nor the size
of a tmpfs is enforced, a tmpfs and a secret lie on the disk, and a link shows itself as one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pybuild.isolation.command import RunMount
from pybuild.isolation.errors import RunFlagUnsupported
from pybuild.isolation.moving import Kept, Links, move, set_owner
from pybuild.isolation.removal import (
    empty_directory,
    is_real_directory,
    mount_points,
    remove_tree,
    times_kept,
)


@contextmanager
def stand_ins(
    mounts: Sequence[RunMount], aside: Path, kept: Kept, fixed: Collection[str] = ()
) -> Iterator[None]:
    """`aside` is an existing directory on the filesystem of `/`, which all may pass through; the
    caller removes it. Of the directories `fixed` only the content can be replaced. Raises
    RunFlagUnsupported for a target that can't be."""
    with ExitStack() as undo:
        by_depth = sorted(mounts, key=lambda mount: mount.target.strip("/").count("/"))
        for number, mount in enumerate(by_depth):
            _place(mount, aside / str(number), kept, fixed, undo)
        yield


def _place(
    mount: RunMount, aside: Path, kept: Kept, fixed: Collection[str], undo: ExitStack
) -> None:
    target = os.path.realpath(mount.target)
    parent = os.path.dirname(target)
    inside = target.strip("/")
    # here-documents with a program of their own are files below /dev, which may have new names
    covered = kept.covers(inside) and not target.startswith("/dev/")
    if not inside or target in kept.ancestors or covered:
        raise RunFlagUnsupported(
            f"RUN --mount with target={mount.target} can't be carried out in place: the "
            "container needs what is there",
            hint="choose another target, or an isolation that can mount",
        )
    if target in fixed:
        _fill(mount, target, str(aside), undo)
        return
    make_folders_for_now(parent, undo)
    mode = 0o1777
    if os.path.lexists(target):
        mode = stat.S_IMODE(os.lstat(target).st_mode)
        _quietly(parent, lambda: move(target, str(aside), {}))
        undo.callback(_quietly, parent, lambda: move(str(aside), target, {}))
    undo.callback(_quietly, parent, lambda: remove_tree(Path(target)))
    if _can_be_lent(mount, parent):
        undo.callback(_give_back, mount, target)
    _quietly(parent, lambda: _stand(mount, target, aside, mode))


def _fill(mount: RunMount, target: str, aside: str, undo: ExitStack) -> None:
    """What is in the target gives way to what is in the source, and the other way round."""
    os.mkdir(aside)
    _quietly(target, lambda: _move_all(target, aside))
    undo.callback(_quietly, target, lambda: _move_all(aside, target))
    if mount.source is None:
        undo.callback(_quietly, target, lambda: _remove_all(target))
        return
    source = str(mount.source)
    undo.callback(_move_all, target, source)
    _quietly(target, lambda: _move_all(source, target))


def _remove_all(directory: str) -> None:
    empty_directory(directory, lambda _: False)


def _move_all(source: str, target: str) -> None:
    links: Links = {}
    for name in sorted(os.listdir(source)):
        move(f"{source}/{name}", f"{target}/{name}", links)


def _stand(mount: RunMount, target: str, aside: Path, mode: int) -> None:
    match mount.kind:
        case "tmpfs":
            os.mkdir(target)
            set_owner(target, mount.uid, mount.gid)
            os.chmod(target, mode if mount.mode is None else mount.mode)
        case "secret":
            assert mount.data is not None
            fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(fd, "wb") as file:
                file.write(mount.data.value)
            set_owner(target, mount.uid, mount.gid)
            os.chmod(target, 0o400 if mount.mode is None else mount.mode)
        case "bind" | "file":
            assert mount.source is not None
            if mount.kind == "bind" and not mount.source.exists():
                raise RunFlagUnsupported(
                    f"RUN --mount with target={mount.target} can't be carried out in place: what "
                    "it shows stands at another target of this RUN already",
                    hint="use one target, or an isolation that can mount",
                )
            parent = os.path.dirname(target)
            if mount.private and os.statvfs(parent).f_flag & os.ST_NOEXEC:  # as /dev is
                move(str(mount.source), f"{aside}-shown", {})
                os.symlink(f"{aside}-shown", target)
            elif mount.private or _can_be_lent(mount, parent):
                move(str(mount.source), target, {})
            else:
                os.symlink(mount.source, target)
        case _:
            raise AssertionError(mount)


def _can_be_lent(mount: RunMount, parent: str) -> bool:
    """Whether the source can be renamed to the target, and back afterwards."""
    if mount.kind != "bind" or mount.private or mount.source is None:
        return False
    points = mount_points()
    return mount.source.exists() and _mount_of(str(mount.source), points) == _mount_of(
        parent, points
    )


def _mount_of(path: str, points: frozenset[str]) -> str:
    """Where what holds `path` is mounted: rename(2) does not lead from one mount to another, not
    even of the same filesystem."""
    here = os.path.realpath(path)
    while here not in points and here != "/":
        here = os.path.dirname(here)
    return here


def _give_back(mount: RunMount, target: str) -> None:
    assert mount.source is not None
    if mount.source.exists():
        return  # it was never taken
    if is_real_directory(target):
        _quietly(os.path.dirname(target), lambda: move(target, str(mount.source), {}))
    # else the RUN removed it: whoever needs the source makes it anew


def make_folders_for_now(path: str, undo: ExitStack) -> None:
    """Makes what is missing of a folder; it is removed again unless something was put in it."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_folders_for_now(above, undo)
    _quietly(above, lambda: os.mkdir(path, 0o755))
    undo.callback(_quietly, above, lambda: _remove_if_empty(path))


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        return  # the RUN put something of its own there


def _quietly(directory: str, action: Callable[[], None]) -> None:
    if is_real_directory(directory):  # else the RUN removed it, with what stood in it
        with times_kept(directory):
            action()
