"""What a container's root was like before an image took its place.

It is written down before anything is moved. A move of many files can be cut off at any point, and
then folders stand half made on either side; with the record whatever process comes next makes
everything as it was: attributes and times of folders, names that were one file, mounts whose
parents a RUN renamed, and the nodes of /dev.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from pybuild.isolation.capabilities import as_allowed
from pybuild.isolation.ground import Ground
from pybuild.isolation.moving import Kept, portable_names, set_owner
from pybuild.isolation.removal import mounts_by_id, remove_tree

DEVICES = "/dev"


class Folder(Struct, frozen=True, array_like=True):
    path: bytes
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...] = ()


class Node(Struct, frozen=True, array_like=True):
    """Something in /dev; `link` is a symbolic link's target."""

    path: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    link: bytes = b""


class RootRecord(Struct, frozen=True):
    """`folders` have parents first; `links` are the names of each file that has several; `mounts`
    are by the id of proc(5), /proc/PID/mountinfo. `kept` paths stay where they are, and are never
    deleted by who puts back either. `session` is that of the processes that start RUNs."""

    folders: tuple[Folder, ...]
    links: tuple[tuple[bytes, ...], ...]
    nodes: tuple[Node, ...]
    mounts: dict[int, bytes]
    devices: Folder  # /dev itself
    kept: tuple[bytes, ...]
    session: int = 0

    def kept_paths(self) -> Iterator[str]:
        return map(os.fsdecode, self.kept)


def take_record(ground: Ground, kept: Kept, session: int = 0) -> RootRecord:
    """Of what is on the ground, which is named as in `kept`."""
    folders: list[Folder] = []
    names: dict[tuple[int, int], list[bytes]] = {}
    pending = [path for path, _ in ground.places() if path not in kept.paths]
    while pending:
        path = pending.pop()
        folders.append(folder_at(path))
        for name in os.listdir(path):
            here = f"{path.rstrip('/')}/{name}"
            if here in kept.paths:
                continue
            found = os.lstat(here)
            if stat.S_ISDIR(found.st_mode):
                pending.append(here)
            elif found.st_nlink > 1:
                names.setdefault((found.st_dev, found.st_ino), []).append(os.fsencode(here))
    links = tuple(tuple(sorted(group)) for group in names.values() if len(group) > 1)
    mounts = {number: os.fsencode(path) for number, path in mounts_by_id().items()}
    kept_paths = tuple(os.fsencode(path) for path in sorted(kept.paths))
    return RootRecord(
        tuple(folders), links, device_nodes(), mounts, folder_at(DEVICES), kept_paths, session
    )


def folder_at(path: str) -> Folder:
    found = os.lstat(path)
    xattrs = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False)) for name in portable_names(path)
    )
    return Folder(
        os.fsencode(path),
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_atime_ns,
        found.st_mtime_ns,
        xattrs,
    )


def write_record(record: RootRecord, path: Path) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(msgspec.msgpack.encode(record))
    draft.rename(path)


def read_record(path: Path) -> RootRecord | None:
    """None where there is none, or one that a RUN has spoilt."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=RootRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def displaced_mounts(record: RootRecord) -> list[tuple[str, str]]:
    """A RUN can't move a mount, but can rename a folder on the way to it: gives what it renamed,
    as (name now, name before)."""
    found = []
    for number, path in mounts_by_id().items():
        wanted = os.fsdecode(record.mounts.get(number, b""))
        if wanted and wanted != path:
            found.append(_without_common_end(path, wanted))
    return list(dict.fromkeys(pair for pair in found if all(pair)))


def put_mounts_back(record: RootRecord) -> None:
    """To be called while there is nothing in the root but folders that lead to mounts."""
    for now, before in displaced_mounts(record):
        os.makedirs(os.path.dirname(before), exist_ok=True)
        os.rename(now, before)


def _without_common_end(one: str, other: str) -> tuple[str, str]:
    ones, others = one.split("/"), other.split("/")
    while ones and others and ones[-1] == others[-1]:
        ones.pop()
        others.pop()
    return "/".join(ones), "/".join(others)


def restore_folders(folders: Iterable[Folder]) -> None:
    """With the files in place: folders that are missing are made, and all get their attributes."""
    known = list(folders)
    for folder in known:
        if not os.path.lexists(folder.path):
            os.mkdir(folder.path, 0o700)
    for folder in reversed(known):
        path = os.fsdecode(folder.path)
        with as_allowed():
            _restore_mode(path, folder)
        if (now := portable_names(path)) or folder.xattrs:
            for name in set(now) - {name for name, _ in folder.xattrs}:
                os.removexattr(path, name)
            for name, value in folder.xattrs:
                os.setxattr(path, name, value)
        with as_allowed():
            os.utime(path, ns=(folder.atime_ns, folder.mtime_ns))


def _restore_mode(path: str, folder: Folder) -> None:
    found = os.lstat(path)
    if (found.st_uid, found.st_gid) != (folder.uid, folder.gid):
        set_owner(path, folder.uid, folder.gid)
        found = os.lstat(path)
    if stat.S_IMODE(found.st_mode) != folder.mode:
        os.chmod(path, folder.mode)


def restore_links(links: Iterable[tuple[bytes, ...]]) -> None:
    """Overlay takes a file with several names apart when one of them is renamed, and a move that
    was cut off has told nobody which belonged together."""
    for first, *others in links:
        for other in others:
            if not os.path.lexists(first):
                os.link(other, first, follow_symlinks=False)
            elif not os.path.lexists(other):
                os.link(first, other, follow_symlinks=False)
            elif os.lstat(first).st_ino != os.lstat(other).st_ino:
                os.unlink(other)
                os.link(first, other, follow_symlinks=False)


# --- /dev ---------------------------------------------------------------------------------------


def device_nodes() -> tuple[Node, ...]:
    """What is in the container's /dev, without what is mounted there."""
    return tuple(_nodes(DEVICES, frozenset(mounts_by_id().values())))


def _nodes(directory: str, mounts: frozenset[str]) -> Iterator[Node]:
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        if path in mounts:
            continue
        found = os.lstat(path)
        link = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
        yield Node(
            os.fsencode(path),
            found.st_mode,
            found.st_uid,
            found.st_gid,
            found.st_rdev,
            os.fsencode(link),
        )
        if stat.S_ISDIR(found.st_mode):
            yield from _nodes(path, mounts)


def restore_devices(record: RootRecord) -> list[str]:
    """/dev as it was. Gives the paths that could not be made again: device nodes want CAP_MKNOD,
    and what a file held is not known."""
    now = device_nodes()
    failed = _restore_nodes(record.nodes, now) if now != record.nodes else []
    if folder_at(DEVICES) != record.devices:
        restore_folders([record.devices])
    return failed


def _restore_nodes(nodes: tuple[Node, ...], now: tuple[Node, ...]) -> list[str]:
    wanted = {node.path: node for node in nodes}
    there = {node.path: node for node in now}
    for path, node in there.items():
        known = wanted.get(path)
        same = known is not None and _kind(known) == _kind(node)
        if not same and os.path.lexists(path):  # else its folder is gone already
            remove_tree(Path(os.fsdecode(path)))
            continue
    failed = []
    for path, node in wanted.items():
        try:
            if not os.path.lexists(path):
                _make_node(node)
            _dress_node(node)
        except PermissionError:
            failed.append(os.fsdecode(path))
    return failed


def _kind(node: Node) -> tuple[int, int, bytes]:
    return stat.S_IFMT(node.mode), node.rdev, node.link


def _make_node(node: Node) -> None:
    if stat.S_ISLNK(node.mode):
        os.symlink(node.link, node.path)
    elif stat.S_ISDIR(node.mode):
        os.mkdir(node.path)
    elif stat.S_ISREG(node.mode):
        raise PermissionError("what it held is lost")
    else:
        os.mknod(node.path, node.mode, node.rdev)


def _dress_node(node: Node) -> None:
    found = os.lstat(node.path)
    if (found.st_uid, found.st_gid) != (node.uid, node.gid):
        os.chown(node.path, node.uid, node.gid, follow_symlinks=False)
    if not stat.S_ISLNK(node.mode) and stat.S_IMODE(found.st_mode) != stat.S_IMODE(node.mode):
        os.chmod(node.path, stat.S_IMODE(node.mode))
