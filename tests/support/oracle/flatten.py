"""An image of a registry as one tree of files, read with Python's own tarfile.

Nothing of pybuild is used here, since this is the side that pybuild is measured against. Reading an
image checks it too: digests, diff IDs, the order of entries, and the history's count of layers.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.oracle.registry import get

TEXT_LIMIT = 160
XATTR = "SCHILY.xattr."


class BrokenImage(Exception):
    """The image breaks a rule of the image specification; the message says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """What one inode holds. Names that are hard links of each other share one Node object."""

    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    content: str = ""
    link: str = ""
    device: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()


Tree = dict[str, Node]


@dataclass(frozen=True, slots=True)
class FlatImage:
    """The merged tree of all layers, and the config as the registry has it."""

    tree: Tree
    config: dict[str, Any]
    media_type: str
    layers: int


class Flattener:
    """Reads images of one registry; lowest layers are kept, since cases share their bases."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._kept: dict[str, Tree] = {}

    def flatten(self, repository: str, tag: str) -> FlatImage:
        """Raises BrokenImage, or FileNotFoundError where there is no such image."""
        raw = get(self._host, f"/v2/{repository}/manifests/{tag}")
        manifest = json.loads(raw)
        if "manifests" in manifest:
            raise BrokenImage("an index where one image was expected")
        config = json.loads(self._blob(repository, manifest["config"]))
        diff_ids = config.get("rootfs", {}).get("diff_ids") or []
        layers = manifest["layers"] or []  # BuildKit writes null for an image without any
        if len(diff_ids) != len(layers):
            raise BrokenImage(f"{len(layers)} layers, but {len(diff_ids)} diff IDs")
        _check_history(config, len(diff_ids))
        tree: Tree = {}
        for position, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
            if position == 0 and diff_id in self._kept:
                tree = dict(self._kept[diff_id])
                continue
            apply_layer(tree, self._layer(repository, layer, diff_id))
            if position == 0:
                self._kept[diff_id] = dict(tree)
        return FlatImage(tree, config, manifest.get("mediaType", ""), len(diff_ids))

    def _blob(self, repository: str, descriptor: dict[str, Any]) -> bytes:
        data = get(self._host, f"/v2/{repository}/blobs/{descriptor['digest']}")
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor["digest"]:
            raise BrokenImage(f"{descriptor['digest']} has other bytes")
        if len(data) != descriptor["size"]:
            raise BrokenImage(f"{descriptor['digest']} is {len(data)} bytes, not as described")
        return data

    def _layer(self, repository: str, descriptor: dict[str, Any], diff_id: str) -> bytes:
        data = _inflate(self._blob(repository, descriptor), descriptor["mediaType"])
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != diff_id:
            raise BrokenImage(f"layer {descriptor['digest']} does not match its diff ID {diff_id}")
        return data


def _inflate(data: bytes, media_type: str) -> bytes:
    if media_type.endswith(("gzip",)):
        return gzip.decompress(data)
    if media_type.endswith("zstd"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    if media_type.endswith("tar"):
        return data
    raise BrokenImage(f"a layer of media type {media_type}")


def _check_history(config: dict[str, Any], layers: int) -> None:
    history = config.get("history") or []
    filled = sum(not entry.get("empty_layer") for entry in history)
    if history and filled != layers:
        raise BrokenImage(f"history tells of {filled} layers, there are {layers}")


def apply_layer(tree: Tree, data: bytes) -> None:
    """Puts one layer on top of `tree`, with whiteouts; raises BrokenImage on a malformed layer."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = [(_clean(member.name), member) for member in tar]
        for name, _ in members:
            _remove_hidden(tree, name)
        seen: set[str] = set()
        for name, member in members:
            if posixpath.basename(name).startswith(".wh."):
                continue
            if name in seen and not member.isdir():
                raise BrokenImage(f"{name!r} is twice in one layer")
            seen.add(name)
            _check_parent(tree, name)
            node = _node_of(tar, member, tree)
            if name in tree and node.type != "directory":
                _remove(tree, name)
            elif name in tree and tree[name].type != "directory":
                del tree[name]
            tree[name] = node


def _clean(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise BrokenImage(f"a layer's entry is named {name!r}")
    clean = posixpath.normpath(name)
    return "" if clean == "." else clean


def _remove_hidden(tree: Tree, name: str) -> None:
    directory, base = posixpath.split(name)
    if base == ".wh..wh..opq":
        for below in [path for path in tree if _is_below(path, directory)]:
            del tree[below]
    elif base.startswith(".wh."):
        _remove(tree, posixpath.join(directory, base[4:]))


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/") if directory else path != ""


def _remove(tree: Tree, name: str) -> None:
    node = tree.pop(name, None)
    if node is not None and node.type == "directory":
        for below in [path for path in tree if _is_below(path, name)]:
            del tree[below]


def _check_parent(tree: Tree, name: str) -> None:
    parent = posixpath.dirname(name)
    while parent:
        node = tree.get(parent)
        if node is None:
            tree[parent] = Node("directory", 0o755, 0, 0, 0)
        elif node.type != "directory":
            raise BrokenImage(f"{name!r} lies below {parent!r}, which is a {node.type}")
        parent = posixpath.dirname(parent)


def _node_of(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree) -> Node:
    if member.islnk():
        target = tree.get(_clean(member.linkname))
        if target is None or target.type == "directory":
            raise BrokenImage(f"{member.name!r} is a hard link to {member.linkname!r}: not there")
        return target
    about: dict[str, Any] = {
        "mode": member.mode & 0o7777,
        "uid": member.uid,
        "gid": member.gid,
        "mtime": int(member.mtime // 1),
        "xattrs": _xattrs(member),
    }
    if member.isdir():
        return Node("directory", **about)
    if member.issym():
        return Node("symlink", **{**about, "mode": 0o777}, link=member.linkname)
    if member.isfifo():
        return Node("fifo", **about)
    if member.isblk() or member.ischr():
        kind = "block" if member.isblk() else "character"
        return Node(kind, **about, device=f"{member.devmajor}:{member.devminor}")
    if not member.isreg():
        raise BrokenImage(f"{member.name!r} is of type {member.type!r}")
    source = tar.extractfile(member)
    data = source.read() if source else b""
    return Node("file", **about, size=len(data), content=_content(data))


def _content(data: bytes) -> str:
    """Short text as it is, so that records can be read; else the digest."""
    if len(data) <= TEXT_LIMIT:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _xattrs(member: tarfile.TarInfo) -> tuple[tuple[str, str], ...]:
    found: Iterator[tuple[str, str]] = (
        (key[len(XATTR) :], value.encode("utf-8", "surrogateescape").hex())
        for key, value in member.pax_headers.items()
        if key.startswith(XATTR)
    )
    return tuple(sorted(found))
