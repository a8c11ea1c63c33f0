"""What a mount shows: found, digested, written to a folder as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from pybuild.context.directory import DirectoryContext
from pybuild.dockerfile.patterns import Patterns
from pybuild.executor.errors import SourceMissing
from pybuild.executor.mounted import digest_shown, shown_by, write_shown
from pybuild.executor.state import ContextSource
from pybuild.image.digest import Digest, digest_of
from pybuild.layer.errors import ContextChanged
from pybuild.plan.steps import FromContext, PlannedMount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "d/deep").mkdir(parents=True)
    (root / "d/f").write_text("f")
    (root / "d/empty").touch()
    (root / "d/deep/x").write_text("x" * 3_000_000)
    (root / "d/deep/x").chmod(0o4750)
    os.link(root / "d/f", root / "d/same")
    (root / "link").symlink_to("d/deep")
    (root / "gone.log").write_text("log")
    os.mkfifo(root / "d/fifo", 0o640)
    os.chown(root / "d/f", 1000, 1000)
    os.setxattr(root / "d/f", "user.note", b"kept")
    (root / "d").chmod(0o700)
    root.chmod(0o700)
    os.utime(root / "d/f", (5, 5))
    os.utime(root / "d", (7, 7))
    return root


def source(context: Path, *patterns: str) -> ContextSource:
    return ContextSource(DirectoryContext(context, Patterns(patterns) if patterns else None))


def mount(path: str = "") -> PlannedMount:
    return PlannedMount("bind", "/x", FromContext(), path)


def listing(folder: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        name = str(path.relative_to(folder))
        found[name] = (oct(info.st_mode), info.st_uid, info.st_gid)
    return found


def test_it_is_written_as_an_image_would_have_it(context: Path, tmp_path: Path) -> None:
    write_shown(shown_by(mount(), source(context, "**/*.log")), tmp_path / "out")
    assert listing(tmp_path / "out") == {
        ".": ("0o40755", 0, 0),  # the root of a context is nobody's folder
        "d": ("0o40700", 0, 0),
        "d/deep": ("0o40755", 0, 0),
        "d/deep/x": ("0o104750", 0, 0),
        "d/empty": ("0o100644", 0, 0),
        "d/f": ("0o100644", 0, 0),
        "d/fifo": ("0o10640", 0, 0),
        "d/same": ("0o100644", 0, 0),
        "link": ("0o120777", 0, 0),
    }
    out = tmp_path / "out/d"
    assert (out / "deep/x").read_text() == "x" * 3_000_000
    assert (out / "f").samefile(out / "same")
    assert os.getxattr(out / "f", "user.note") == b"kept"
    assert ((out / "f").stat().st_mtime, out.stat().st_mtime) == (5, 7)
    assert (tmp_path / "out/link").readlink() == Path("d/deep")


def test_links_on_the_way_are_followed(context: Path, tmp_path: Path) -> None:
    shown = shown_by(mount("link/x"), source(context))
    assert not shown.is_folder
    write_shown(shown, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "x" * 3_000_000


@pytest.mark.parametrize("path", ["none", "d/f/x", "gone.log", "../context/d"])
def test_what_is_not_there_is_named(context: Path, path: str) -> None:
    with pytest.raises(SourceMissing, match=path):
        shown_by(mount(path), source(context, "*.log"))


def digest(context: Path, path: str = "d") -> Digest:
    seen = source(context)
    return digest_shown(shown_by(mount(path), seen), seen.digests).digest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: (d / "f").write_text("g"), id="content"),
        pytest.param(lambda d: (d / "f").chmod(0o600), id="mode"),
        pytest.param(lambda d: d.chmod(0o755), id="mode of the folder itself"),
        pytest.param(lambda d: (d / "new").touch(), id="new"),
        pytest.param(lambda d: (d / "empty").rename(d / "other"), id="name"),
        pytest.param(lambda d: (d / "fifo").unlink(), id="less"),
        pytest.param(lambda d: os.setxattr(d / "f", "user.note", b"new"), id="attribute"),
    ],
)
def test_a_digest_changes_with(context: Path, change: object) -> None:
    before = digest(context)
    change(context / "d")  # type: ignore[operator]
    assert digest(context) != before


def test_a_digest_stays_with_times_and_what_is_beside(context: Path) -> None:
    before = digest(context)
    os.utime(context / "d/f", (9, 9))
    (context / "gone.log").write_text("other")
    assert digest(context) == before
    (context / "elsewhere").symlink_to("d")
    assert digest(context, "elsewhere") == before


def test_a_file_that_has_changed_since_is_not_shown(context: Path, tmp_path: Path) -> None:
    seen = source(context)
    shown = shown_by(mount("d"), seen)
    known: Mapping[str, Digest] = digest_shown(shown, seen.digests).files
    write_shown(shown, tmp_path / "same", known)
    (context / "d/deep/x").write_text("y" * 3_000_000)
    with pytest.raises(ContextChanged, match="d/deep/x"):
        write_shown(shown, tmp_path / "out", known)
    with pytest.raises(ContextChanged, match="d/deep/x"):
        write_shown(shown, tmp_path / "less", {"d/f": digest_of(b"f")})
