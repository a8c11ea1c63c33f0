"""What an ordinary user's RUN left behind, and what it complained of, as text and bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybuild.isolation.errors import TopNameMissing
from pybuild.isolation.ground import Ground, find_tops, ground_of
from pybuild.isolation.moving import Kept
from pybuild.isolation.rootless import NEEDLE, _Tail, holds_root_path
from pybuild.isolation.run_environment import with_settings
from pybuild.isolation.unowned import Unowned
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.tops import Tops


@pytest.mark.parametrize(
    ("output", "name"),
    [
        pytest.param("mkdir: cannot create directory ‘/app2’: Permission denied", "app2", id="GNU"),
        pytest.param("mkdir: cannot create directory '/x': Permission denied", "x", id="ASCII"),
        pytest.param("/bin/sh: can't create /x.txt: Permission denied", "x.txt", id="ash"),
        pytest.param("/bin/sh: 1: cannot create /x: Permission denied", "x", id="dash"),
        pytest.param("bash: line 1: /x: Permission denied", "x", id="bash"),
        pytest.param("rm: cannot remove '/home/': Permission denied", "home", id="slash"),
        pytest.param("touch: /with a space: Permission denied", "with a space", id="space"),
        pytest.param("ln: /x: File exists", "x", id="exists"),
        pytest.param("PermissionError: [Errno 13] Permission denied: '/x'", "x", id="Python"),
        pytest.param("cp: cannot create '/x/y': Permission denied", "", id="deeper"),
        pytest.param("cat: /etc/shadow: Permission denied", "", id="not at the top"),
        pytest.param("make: *** [all] Error 2", "", id="something else"),
    ],
)
def test_the_name_in_the_root_that_a_program_complains_of(output: str, name: str) -> None:
    tail = _Tail(lambda _stream, _data: None)
    tail(1, b"/usr is fine\n")
    for start in range(0, len(output.encode()), 7):
        tail(2, output.encode()[start : start + 7])
    assert tail.denied_name() == name


@pytest.mark.parametrize("place", [0, 5, 1 << 20, (1 << 20) - 3, (2 << 20) - 6])
def test_a_path_is_found_wherever_it_lies(tmp_path: Path, place: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(place) + NEEDLE + b"bin/x")
    assert holds_root_path(str(file))
    file.write_bytes(bytes(place) + NEEDLE[:-1] + b"x" + bytes(9))
    assert not holds_root_path(str(file))


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        pytest.param({}, {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory"}, id="new"),
        pytest.param(
            {"GIT_CONFIG_COUNT": "2"},
            {"GIT_CONFIG_COUNT": "3", "GIT_CONFIG_KEY_2": "safe.directory"},
            id="more",
        ),
        pytest.param({"GIT_CONFIG_COUNT": "x"}, {"GIT_CONFIG_COUNT": "x"}, id="broken"),
    ],
)
def test_settings_come_after_those_that_are_there(
    tmp_path: Path, env: dict[str, str], wanted: dict[str, str]
) -> None:
    assert wanted.items() <= dict(with_settings(tuple(env.items()), tmp_path)).items()


def test_apt_reads_the_images_own_settings_too(tmp_path: Path) -> None:
    env = dict(with_settings((("APT_CONFIG", "/etc/a.conf"),), tmp_path))
    lines = Path(env["APT_CONFIG"]).read_text().splitlines()
    assert lines == ['#include "/etc/a.conf";', 'APT::Sandbox::User "root";']


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for name in (".root", "etc", "usr/bin", "closed"):
        (made / name).mkdir(parents=True)
    (made / "bin").symlink_to(".root/bin")
    (made / "other").symlink_to("etc")
    (made / "etc/own").write_text("own")
    return made


def test_the_names_of_a_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    refused = {str(root), f"{root}/closed"}
    monkeypatch.setattr(
        os, "access", lambda path, how: str(path) not in refused and access(path, how)
    )
    assert find_tops(str(root)) == Tops(frozenset({"etc", "usr"}), frozenset({"bin"}))
    assert ground_of(str(root)) == Ground(str(root), (".root", "etc", "usr"))
    (root / ".root").rmdir()
    assert ground_of(str(root)) == Ground(str(root), ())


def test_what_is_on_the_ground_is_exchanged_and_the_folders_stay(
    root: Path, tmp_path: Path
) -> None:
    ground = Ground(str(root), (".root", "etc", "usr"))
    inode = (root / "etc").stat().st_ino
    aside = tmp_path / "aside"
    aside.mkdir()
    (root / "usr/kept").write_text("")
    ground.move_out(str(aside), Kept([f"{root}/usr/kept"]))
    assert sorted(path.name for path in (root / "etc").iterdir()) == []
    assert (aside / "etc/own").read_text() == "own"
    assert [path.name for path in (root / "usr").iterdir()] == ["kept"]
    (root / "etc/images").write_text("")
    ground.empty({f"{root}/usr/kept"}.__contains__)
    ground.move_in(str(aside))
    assert [path.name for path in (root / "etc").iterdir()] == ["own"]
    assert (root / "etc").stat().st_ino == inode
    assert (root / "usr/bin").is_dir()
    assert list(aside.iterdir()) == []


def test_a_link_of_the_image_is_never_replaced_by_a_folder_of_the_container(root: Path) -> None:
    """Programs found a folder where the image has a link, and wrote into it."""
    tops = Tops(frozenset({"etc", "usr"}), frozenset({"bin"}))
    surface = Unowned(root, tops, lambda path: not tops.has(path))
    status = (root / "etc").lstat()
    old = Entry("etc", Kind.SYMLINK, link="usr/etc")
    with pytest.raises(TopNameMissing, match="/etc"):
        surface.entry("etc", status, old, same=True)


def test_links_to_places_of_the_container_are_told_as_the_images(root: Path) -> None:
    tops = Tops(frozenset({"etc", "usr"}), frozenset({"bin"}))
    surface = Unowned(root, tops, lambda path: not tops.has(path))
    (root / "usr/link").symlink_to("/.root/bin/sh")
    entry = surface.entry("usr/link", (root / "usr/link").lstat(), None, same=False)
    assert entry.link == "/bin/sh"
    assert [name for name, _ in surface.listing("")] == ["etc", "usr"]
    (root / ".root/bin").mkdir()
    assert [name for name, _ in surface.listing("")] == ["bin", "etc", "usr"]
