"""The oracle's own reading and comparing: it has to see every kind of difference."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from tests.support.oracle.case import Case, Difference
from tests.support.oracle.flatten import BrokenImage, FlatImage, Node, Tree, apply_layer
from tests.support.oracle.record import Record, differences, make_record, unexplained

FILE = Node("file", 0o644, 0, 0, 7, size=2, content="x\n")
FOLDER = Node("directory", 0o755, 0, 0, 7)


def layer(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    """A tar of (name, tar type, fields)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, fields in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            for key, value in fields.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(b"x\n") if member.size else None)
    return data.getvalue()


def lower() -> Tree:
    tree: Tree = {}
    apply_layer(
        tree,
        layer(
            ("d", tarfile.DIRTYPE, {}),
            ("d/a", tarfile.REGTYPE, {"size": 2}),
            ("d/sub", tarfile.DIRTYPE, {}),
            ("d/sub/b", tarfile.REGTYPE, {"size": 2}),
            ("d/hard", tarfile.LNKTYPE, {"linkname": "d/a"}),
        ),
    )
    return tree


@pytest.mark.parametrize(
    ("members", "left"),
    [
        pytest.param([("d/.wh.a", tarfile.REGTYPE, {})], "d d/hard d/sub d/sub/b", id="file"),
        pytest.param([("d/.wh.sub", tarfile.REGTYPE, {})], "d d/a d/hard", id="folder"),
        pytest.param(
            [("d/new", tarfile.REGTYPE, {}), ("d/.wh..wh..opq", tarfile.REGTYPE, {})],
            "d d/new",
            id="opaque-after-the-new-file",
        ),
        pytest.param([("d", tarfile.REGTYPE, {})], "d", id="file-over-folder"),
        pytest.param(
            [("d/.wh.a", tarfile.REGTYPE, {}), ("d/a", tarfile.DIRTYPE, {})],
            "d d/a d/hard d/sub d/sub/b",
            id="whiteout-and-folder-of-one-name",
        ),
    ],
)
def test_layers_are_merged(members: list[tuple[str, bytes, dict[str, object]]], left: str) -> None:
    tree = lower()
    apply_layer(tree, layer(*members))
    assert sorted(tree) == left.split()


def test_hard_links_share_a_node_until_one_is_replaced() -> None:
    tree = lower()
    assert tree["d/a"] is tree["d/hard"]
    apply_layer(tree, layer(("d/a", tarfile.REGTYPE, {"size": 2})))
    assert tree["d/a"] is not tree["d/hard"]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([("../out", tarfile.REGTYPE, {})], id="dots"),
        pytest.param([("/absolute", tarfile.REGTYPE, {})], id="absolute"),
        pytest.param([("d/a/x", tarfile.REGTYPE, {})], id="below-a-file"),
        pytest.param([("x", tarfile.LNKTYPE, {"linkname": "nowhere"})], id="link-to-nothing"),
        pytest.param([("x", tarfile.REGTYPE, {}), ("x", tarfile.REGTYPE, {})], id="twice"),
    ],
)
def test_a_malformed_layer_is_refused(members: list[tuple[str, bytes, dict[str, object]]]) -> None:
    with pytest.raises(BrokenImage):
        apply_layer(lower(), layer(*members))


def record(tree: Tree, config: dict[str, object] | None = None) -> Record:
    base = {"base": FILE, "gone": FILE}
    image = FlatImage(tree, {"os": "linux", "config": config or {}}, "", 1)
    return make_record(image, base, {}, ["timed"])


# g is a file of its own, the others are names of one
GOOD: Tree = {"base": FILE, "f": FILE, "timed": FILE, "g": dataclasses.replace(FILE)}
CHANGES = {
    "type": FOLDER,
    "mode": dataclasses.replace(FILE, mode=0o600),
    "owner": dataclasses.replace(FILE, gid=1),
    "content": dataclasses.replace(FILE, content="y\n"),
    "size": dataclasses.replace(FILE, size=3),
    "link": dataclasses.replace(FILE, type="symlink", link="elsewhere"),
    "device": dataclasses.replace(FILE, device="1:3"),
    "xattrs": dataclasses.replace(FILE, xattrs=(("user.a", "00"),)),
    "hard link": FILE,
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_every_difference_of_a_file_is_seen(changed: Node) -> None:
    assert "g" in differences(record(GOOD), record({**GOOD, "g": changed}))


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        pytest.param({**GOOD, "more": FILE}, "more", id="added"),
        pytest.param({name: GOOD[name] for name in ("base", "timed", "g")}, "f", id="missing"),
        pytest.param({**GOOD, "gone": FILE}, "gone", id="not-removed"),
        pytest.param({name: GOOD[name] for name in ("f", "timed", "g")}, "base", id="removed"),
        pytest.param({**GOOD, "timed": dataclasses.replace(FILE, mtime=8)}, "timed", id="time"),
    ],
)
def test_every_difference_of_a_tree_is_seen(tree: Tree, key: str) -> None:
    assert key in differences(record(GOOD), record(tree))


def test_times_count_only_where_they_are_asked_for() -> None:
    shared = dataclasses.replace(FILE, mtime=8)
    expected = {"f": shared, "g": shared, "base": FILE}
    later = dataclasses.replace(FILE, mtime=9)
    assert not differences(record(expected), record({"f": later, "g": later, "base": FILE}))


def test_config_is_compared_and_empty_is_absent() -> None:
    assert not differences(record(GOOD, {"Cmd": None}), record(GOOD, {"Volumes": {}}))
    assert list(differences(record(GOOD), record(GOOD, {"User": "app"}))) == ["config.User"]
    assert list(differences(record(GOOD), record(GOOD, {"New": 1}))) == ["config.unknown fields"]


@pytest.mark.parametrize(
    ("known", "problems"),
    [
        pytest.param(Difference("g", "why"), 0, id="named"),
        pytest.param(Difference("g", "why", field="mode"), 0, id="named-by-its-field"),
        pytest.param(Difference("g", "why", field="owner"), 2, id="another-field"),
        pytest.param(Difference("g", "why", where="takeover"), 1, id="elsewhere"),
        pytest.param(Difference("h", "why"), 2, id="another-path-and-so-stale"),
    ],
)
def test_differences_have_to_be_named(known: Difference, problems: int) -> None:
    case = Case("case", Path("case"), differences=(known,))
    actual = {**GOOD, "g": dataclasses.replace(FILE, mode=0o600)}
    assert len(unexplained(case, record(GOOD), record(actual), "namespace")) == problems
