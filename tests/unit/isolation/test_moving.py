"""Files out of the way and back: exact, and nothing that has to stay is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.isolation import moving
from pybuild.isolation.command import RunMount, Secret
from pybuild.isolation.errors import RunFlagUnsupported
from pybuild.isolation.moving import Kept, move_in, move_out
from pybuild.isolation.removal import empty_directory, remove_stub, remove_tree
from pybuild.isolation.stand_in import stand_ins


def listing(directory: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = str(path.readlink()) if path.is_symlink() else ""
        links = 0 if path.is_dir() else info.st_nlink
        found[str(path.relative_to(directory))] = (
            *(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, links, content, link),
        )
    return found


def grow(root: Path) -> None:
    """A bit of everything."""
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/b/file").write_text("one")
    os.link(root / "a/b/file", root / "a/b/c/other-name")
    os.link(root / "a/b/file", root / "third-name")
    (root / "a/link").symlink_to("/nowhere")
    (root / "keep/deep/down").mkdir(parents=True)
    (root / "keep/deep/down/stays").write_text("stays")
    (root / "keep/goes").write_text("goes")
    os.mkfifo(root / "fifo", 0o640)
    (root / "a/b").chmod(0o2711)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(number, 1_000_000_007 * (number + 1)), follow_symlinks=False)
    os.utime(root, ns=(1, 1_234_567_890))


@pytest.fixture(params=["rename", "copy"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Overlay refuses to rename a lower directory, another filesystem any file."""
    if request.param == "copy":

        def refuse(_source: str, _target: str) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(moving.os, "rename", refuse)
    return str(request.param)


def test_there_and_back_is_exact(tmp_path: Path, how: str) -> None:
    root, aside = tmp_path / "root", tmp_path / "aside"
    root.mkdir()
    aside.mkdir()
    grow(root)
    before = listing(root)
    kept = Kept([str(root / "keep/deep/down")])
    move_out(str(root), str(aside), kept)
    assert sorted(path.name for path in root.rglob("*")) == ["deep", "down", "keep", "stays"]
    (root / "keep/deep").chmod(0o700)
    (root / "image").write_text("left by an image")
    empty_directory(str(root), kept.paths.__contains__)
    move_in(str(aside), str(root))
    assert listing(root) == before
    assert list(aside.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("etc/hosts", True),
        ("etc", False),
        ("etc/hosts.d", False),
        ("proc", True),
        ("proc/1/environ", True),
        ("process", False),
        ("", False),
    ],
)
def test_covers(path: str, covered: bool) -> None:
    kept = Kept(["/proc", "/etc/hosts", "/"])
    assert kept.covers(path) is covered
    assert kept.ancestors == {"/etc"}


NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@settings(max_examples=60, deadline=None)
@given(files=st.sets(PATHS, max_size=8), stays=st.sets(PATHS, max_size=3))
def test_whatever_stays_the_rest_comes_back(
    tmp_path_factory: pytest.TempPathFactory, files: set[str], stays: set[str]
) -> None:
    base = tmp_path_factory.mktemp("law")
    root, aside = base / "root", base / "aside"
    aside.mkdir()
    root.mkdir()
    for number, name in enumerate(sorted(files)):
        path = root / name
        if not any(part.is_file() for part in [path, *path.parents]) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(number))
    before = listing(root)
    kept = Kept(str(root / name) for name in stays if (root / name).exists())
    left = {path for path in root.rglob("*") if kept.covers(str(path).lstrip("/"))}
    move_out(str(root), str(aside), kept)
    still = set(root.rglob("*"))
    assert left <= still
    assert all(str(path) in kept.ancestors for path in still - left)
    move_in(str(aside), str(root))
    assert listing(root) == before


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside/file").exists()


@pytest.mark.parametrize("kind", ["directory", "file"])
@pytest.mark.parametrize("state", ["empty", "used", "gone", "behind a link"])
def test_a_stub_goes_only_while_it_is_empty_and_in_its_place(
    tmp_path: Path, kind: str, state: str
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    place = outside if state == "behind a link" else root / "d"
    stub = place / "stub"
    if state != "gone":
        stub.mkdir() if kind == "directory" else stub.write_text("")
    if state == "used":
        (stub / "f").write_text("f") if kind == "directory" else stub.write_text("f")
    if state == "behind a link":
        (root / "d").rmdir()
        (root / "d").symlink_to(outside)
    os.utime(place, ns=(5, 7))
    remove_stub(root, "d/stub")
    assert stub.exists() is (state in ("used", "behind a link"))
    assert place.stat().st_mtime_ns == 7


def test_stand_ins_leave_no_trace(tmp_path: Path) -> None:
    root, aside, source = tmp_path / "root", tmp_path / "aside", tmp_path / "source"
    private = tmp_path / "private"
    for directory in (root, aside, source, private):
        directory.mkdir()
    grow(root)
    (source / "file").write_text("from outside")
    (tmp_path / "single").write_text("a file")
    before = listing(root)
    mounts = (
        RunMount("bind", f"{root}/a/b", source),
        RunMount("bind", f"{root}/a/b/inner", private, private=True),
        RunMount("file", f"{root}/new/way/file", tmp_path / "single"),
        RunMount("tmpfs", f"{root}/third-name", uid=3, gid=4, mode=0o711),
        RunMount("tmpfs", f"{root}/keep/deep"),
        RunMount("secret", f"{root}/run/s", uid=5, gid=6, data=Secret(b"hidden")),
    )
    with stand_ins(mounts, aside, Kept(["/proc"])):
        assert (root / "a/b/file").read_text() == "from outside"
        assert (root / "new/way/file").read_text() == "a file"
        assert not (root / "a/b").is_symlink() and not (root / "a/b/inner").is_symlink()
        assert (root / "keep/deep").stat().st_mode & 0o7777 == 0o755
        secret = (root / "run/s").stat()
        assert (secret.st_mode & 0o7777, secret.st_uid, secret.st_gid) == (0o400, 5, 6)
        assert (root / "run/s").read_bytes() == b"hidden"
        (root / "third-name/x").write_text("gone afterwards")
        (root / "a/b/made").write_text("stays in the source")
    assert listing(root) == before
    assert sorted(path.name for path in source.iterdir()) == ["file", "made"]
    assert list(aside.iterdir()) == []
    assert not private.exists()


def test_a_directory_that_the_run_removes_is_not_put_back(tmp_path: Path) -> None:
    """What a cache holds is gone then, as it would be with a mount."""
    root, aside, source = tmp_path / "root", tmp_path / "aside", tmp_path / "source"
    for directory in (root, aside, source):
        directory.mkdir()
    with stand_ins((RunMount("bind", f"{root}/c", source),), aside, Kept(["/proc"])):
        shutil.rmtree(root / "c")
    assert list(root.iterdir()) == []
    assert not source.exists()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a second filesystem")
def test_a_directory_of_another_mount_is_linked(tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere,
        stand_ins((RunMount("bind", f"{tmp_path}/c", Path(elsewhere)),), aside, Kept(["/proc"])),
    ):
        assert (tmp_path / "c").readlink() == Path(elsewhere)
        assert Path(elsewhere).is_dir()
    assert list(tmp_path.iterdir()) == [aside]


def test_one_directory_has_one_target(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "aside").mkdir()
    mounts = tuple(RunMount("bind", f"{tmp_path}/{name}", tmp_path / "source") for name in "ab")
    with pytest.raises(RunFlagUnsupported), stand_ins(mounts, tmp_path / "aside", Kept(["/proc"])):
        pass
    assert (tmp_path / "source").is_dir()


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/x", "/etc", "/etc/hosts"])
def test_what_the_container_needs_has_no_stand_in(tmp_path: Path, target: str) -> None:
    kept = Kept(["/proc", "/etc/hosts"])
    with (
        pytest.raises(RunFlagUnsupported),
        stand_ins((RunMount("bind", target, tmp_path),), tmp_path, kept),
    ):
        pass
