"""--ignore-path: which paths, and what is left of a layer."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from pybuild.executor.ignored import IgnoredPaths, stripped
from pybuild.executor.stack import Indexes, LayerOrigin, Stack, StackLayer
from pybuild.executor.workspace import Workspace
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.layer import EMPTY_CHAIN, Layer, chain_id
from pybuild.image.media_type import OCI_LAYER
from pybuild.layer.pack import PackOptions
from tests.support.layers import Member, archive, member


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/a", "a", True),
        ("/a", "a/b/c", True),
        ("a/", "a/b", True),
        ("/a", "ab", False),
        ("/a/b", "a", False),
        ("/a/*/c", "a/b/c/d", True),
        ("/a/*", "a/b/c", True),
        ("/a/*", "a", False),
        ("/*.tmp", "x.tmp", True),
        ("/*.tmp", "a/x.tmp", False),
        ("/a?", "ab", True),
        ("/[ab]x", "bx", True),
        ("/", "a", False),
        ("", "a", False),
        ("/.", "a", False),
    ],
)
def test_covers(pattern: str, path: str, expected: bool) -> None:
    assert IgnoredPaths([pattern]).covers(path) is expected
    assert bool(IgnoredPaths([pattern])) is bool(pattern.strip("/."))


def stack_of(*tars: bytes) -> Stack:
    """The first is of the base."""
    layers: list[StackLayer] = []
    chain = EMPTY_CHAIN
    for tar in tars:
        digest = digest_of(tar)
        chain = chain_id(chain, digest)
        layer = Layer(Descriptor(OCI_LAYER, digest, len(tar)), digest, lambda tar=tar: iter((tar,)))  # type: ignore[misc]
        origin = LayerOrigin.NEW if layers else LayerOrigin.BASE
        layers.append(StackLayer(layer, chain, origin, "", lambda: None))
    return tuple(layers)


def left(tmp_path: Path, *tars: bytes, ignore: str) -> list[dict[str, str] | None]:
    """What each layer above the base holds afterwards: name → type and content."""
    stack = stack_of(*tars)
    workspace = Workspace.create(tmp_path)
    tree = Indexes(None).tree(stack)
    found = stripped(stack, tree, IgnoredPaths([ignore]), workspace, PackOptions())
    shown: list[dict[str, str] | None] = []
    for layer in stack[1:]:
        made = found[layer.chain]
        shown.append(None if made is None else contents(b"".join(made.open_tar())))
    workspace.remove()
    return shown


def contents(tar: bytes) -> dict[str, str]:
    found = {}
    with tarfile.open(fileobj=BytesIO(tar)) as opened:
        for entry in opened:
            file = opened.extractfile(entry) if entry.isreg() else None
            text = file.read().decode() if file else entry.linkname
            found[entry.name] = f"{entry.type.decode()} {text}".strip()
    return found


def folder(name: str) -> Member:
    return member(name, "dir")


def test_only_what_is_ignored_is_left_out(tmp_path: Path) -> None:
    base = archive(folder("etc"), member("etc/base", data=b"base"))
    first = archive(
        folder("etc"), member("etc/x", data=b"x"), folder("tmp"), member("tmp/y", data=b"y")
    )
    second = archive(folder("etc"), member("etc/.wh.base"))
    (one, two) = left(tmp_path, base, first, second, ignore="/tmp/*")
    assert one == {"etc": "5", "etc/x": "0 x", "tmp": "5"}
    assert two == {"etc": "5", "etc/.wh.base": "0"}


def test_folders_that_only_led_there_go_too(tmp_path: Path) -> None:
    base = archive(folder("etc"), member("etc/base", data=b"base"))
    layer = archive(folder("etc"), member("etc/x", data=b"x"))
    assert left(tmp_path, base, layer, ignore="/etc/x") == [None]
    assert left(tmp_path, base, archive(member("etc/.wh.base")), ignore="/etc") == [None]


def test_another_name_of_an_ignored_file_becomes_the_file(tmp_path: Path) -> None:
    base = archive(folder("etc"))
    links = [member(name, "link", link="cache/a") for name in ("b", "c", "cache/d")]
    layer = archive(folder("cache"), member("cache/a", data=b"data"), *links)
    assert left(tmp_path, base, layer, ignore="/cache") == [{"b": "0 data", "c": "1 b"}]
    assert left(tmp_path, base, layer, ignore="/b") == [
        {"cache": "5", "cache/a": "0 data", "c": "1 cache/a", "cache/d": "1 cache/a"}
    ]
