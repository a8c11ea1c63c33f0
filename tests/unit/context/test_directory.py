"""A folder as build context: what is seen, what is left out, and that nothing leaves the root."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.context.directory import DirectoryContext, file_digest
from pybuild.context.errors import ContextMissing, ContextUnreadable
from pybuild.dockerfile.patterns import Patterns
from pybuild.image.digest import digest_of
from pybuild.rootfs.entry import Kind
from pybuild.rootfs.errors import SymlinkLoop


def make(root: Path, *paths: str) -> Path:
    """Makes files (`a/b`), folders (`a/`) and links (`a -> b`) below root."""
    for text in paths:
        name, arrow, target = text.partition(" -> ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            path.symlink_to(target)
        elif name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(name)
    return root


def paths_of(context: DirectoryContext, start: str = "") -> list[str]:
    return [entry.path for entry in context.walk(start) if entry.path]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        pytest.param([], ["a", "a/x.txt", "a/y.md", "b", "b/c", "b/c/z.txt", "top"], id="none"),
        pytest.param(["a"], ["b", "b/c", "b/c/z.txt", "top"], id="folder"),
        pytest.param(["**/*.txt"], ["a", "a/y.md", "b", "b/c", "top"], id="files"),
        pytest.param(["*", "!b/c/z.txt"], ["b", "b/c", "b/c/z.txt"], id="re-included"),
        pytest.param(["*", "!**/*.md"], ["a", "a/y.md"], id="a folder without hits stays out"),
        pytest.param(["*", "!a/nothing"], [], id="re-included file is missing"),
        pytest.param(["b", "!b/c"], ["a", "a/x.txt", "a/y.md", "b", "b/c", "b/c/z.txt", "top"],
                     id="re-included folder"),
    ],
)  # fmt: skip
def test_what_the_ignore_file_leaves(
    tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    make(tmp_path, "a/x.txt", "a/y.md", "b/c/z.txt", "top")
    context = DirectoryContext(tmp_path, Patterns(patterns))
    assert paths_of(context) == expected
    for path in ("a", "a/x.txt", "a/y.md", "b", "b/c", "b/c/z.txt", "top"):
        assert (context.lookup(path) is not None) == (path in expected), path


def test_an_entry_has_what_the_file_has_but_its_owner(tmp_path: Path) -> None:
    file = make(tmp_path, "f") / "f"
    file.chmod(0o4751)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    os.chown(file, 1234, 4321)
    file.chmod(0o4751)
    os.setxattr(file, "user.z", b"1")
    os.setxattr(file, "user.a", b"\0\xff")
    entry = DirectoryContext(tmp_path).lookup("f")
    assert entry is not None
    assert (entry.kind, entry.mode, entry.uid, entry.gid) == (Kind.FILE, 0o4751, 0, 0)
    assert (entry.size, entry.mtime_ns) == (1, 1_234_567_890_123_456_789)
    assert entry.xattrs == (("user.a", b"\0\xff"), ("user.z", b"1"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set these attributes")
def test_private_attributes_are_left_out_and_capabilities_kept(tmp_path: Path) -> None:
    file = make(tmp_path, "f") / "f"
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(file, "security.capability", capability)
    os.setxattr(file, "trusted.overlay.opaque", b"y")
    os.setxattr(file, "user.overlay.opaque", b"y")
    entry = DirectoryContext(tmp_path).lookup("f")
    assert entry is not None
    assert [name for name, _ in entry.xattrs] == ["security.capability"]


def test_kinds(tmp_path: Path) -> None:
    make(tmp_path, "dir/", "link -> nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        context = DirectoryContext(tmp_path)
        found = {entry.path: entry.kind for entry in context.children("")}
        assert context.lookup("socket") is None
    assert found == {"dir": Kind.DIRECTORY, "link": Kind.SYMLINK, "fifo": Kind.FIFO}
    link = context.lookup("link")
    assert link is not None and link.link == "nowhere"


@pytest.mark.parametrize(
    "path",
    ["../secret", "in/../../secret", "out/secret", "abs/secret", "/etc/passwd", "a\0b", ".", "in/"],
)
def test_lookup_never_goes_through_links_or_up(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("x")
    root = make(tmp_path / "root", "in/f", "out -> ..", f"abs -> {tmp_path}")
    context = DirectoryContext(root)
    assert context.lookup(path) is None


@pytest.mark.parametrize("folder", ["..", "out", "abs", "in/..", "in/../.."])
def test_no_folder_outside_is_listed(tmp_path: Path, folder: str) -> None:
    (tmp_path / "secret").write_text("x")
    context = DirectoryContext(make(tmp_path / "root", "in/f", "out -> ..", f"abs -> {tmp_path}"))
    assert list(context.children(folder)) == []


def test_children_of_a_link_to_a_folder_are_nothing(tmp_path: Path) -> None:
    context = DirectoryContext(make(tmp_path, "d/f", "l -> d"))
    assert [entry.path for entry in context.children("l")] == []
    assert paths_of(context) == ["d", "d/f", "l"]


@pytest.mark.parametrize(
    ("path", "follow_last", "expected"),
    [
        pytest.param("d/f", True, "d/f", id="plain"),
        pytest.param("l/f", True, "d/f", id="link in the middle"),
        pytest.param("l", False, "l", id="last one not followed"),
        pytest.param("l", True, "d", id="last one followed"),
        pytest.param("abs", True, "d/f", id="absolute: from the root"),
        pytest.param("up", True, "etc/passwd", id="dots stop at the root"),
        pytest.param("l/none/more", True, "d/none/more", id="missing tail"),
        pytest.param("../../d//./f", True, "d/f", id="normalised"),
        pytest.param("hidden-link/f", True, "hidden-link/f", id="an ignored link is not there"),
    ],
)
def test_resolve(tmp_path: Path, path: str, follow_last: bool, expected: str) -> None:
    make(tmp_path, "d/f", "l -> d", "abs -> /l/f", "up -> ../../../etc/passwd", "hidden-link -> d")
    context = DirectoryContext(tmp_path, Patterns(["hidden-link"]))
    assert context.resolve(path, follow_last=follow_last) == expected


def test_a_loop_is_named(tmp_path: Path) -> None:
    context = DirectoryContext(make(tmp_path, "a -> b", "b -> a"))
    with pytest.raises(SymlinkLoop):
        context.resolve("a/x", follow_last=True)


@given(
    links=st.dictionaries(
        st.sampled_from("abc"),
        st.lists(st.sampled_from(["a", "b", "c", "..", "/", "."]), min_size=1, max_size=4),
        max_size=3,
    ),
    path=st.lists(st.sampled_from(["a", "b", "c", ".."]), min_size=1, max_size=5),
)
def test_whatever_links_say_the_root_is_not_left(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, list[str]], path: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for name, target in links.items():
        (root / name).symlink_to("/".join(target))
    context = DirectoryContext(root)
    try:
        resolved = context.resolve("/".join(path), follow_last=True)
    except SymlinkLoop:
        return
    assert ".." not in resolved.split("/")
    assert not resolved.startswith("/")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_text("x")
    assert paths_of(DirectoryContext(tmp_path)) == ["\udcff"]


def test_nothing_is_walked_before_it_is_asked_for(tmp_path: Path) -> None:
    context = DirectoryContext(make(tmp_path, "a/f"), Patterns(["*.md"]))
    (tmp_path / "a" / "later").write_text("x")
    assert paths_of(context) == ["a", "a/f", "a/later"]


def test_digest_and_read(tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "f").write_bytes(data)
    context = DirectoryContext(tmp_path)
    assert file_digest(context.content("f")) == digest_of(data)
    assert context.read("f") == data


def test_a_link_in_the_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    root = make(tmp_path / "root", "f -> ../secret")
    with pytest.raises(ContextUnreadable):
        file_digest(root / "f")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_the_root_has_to_be_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ContextMissing):
        DirectoryContext(tmp_path / name)
