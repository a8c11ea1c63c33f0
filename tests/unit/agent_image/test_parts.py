"""The parts that make the agent image, on inputs of our own."""

from __future__ import annotations

import importlib.util
import io
import lzma
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "agent-image"


def part(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"agent_{name}", FOLDER / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    before = list(sys.path)
    specification.loader.exec_module(module)
    sys.path[:] = before  # the scripts look for each other beside themselves
    return module


debian, relocate, assemble = part("debian"), part("relocate"), part("assemble")


def test_every_path_that_is_overwritten_has_room() -> None:
    for paths in relocate.PATHS.values():
        for old, new in paths.items():
            filled = relocate.of_length(new, len(old))
            assert len(filled) == len(old)
            assert str(Path(filled)) == new and new.startswith("/kaniko/")


def test_a_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(relocate.DoesNotFit, match="longer than 5"):
        relocate.of_length("/kaniko/x", 5)


@pytest.mark.parametrize(
    ("program", "names"),
    [
        pytest.param(b"x\0[\0[[\0ash\0cat\0\0sh\0", ["[", "[[", "ash", "cat"], id="in the middle"),
        pytest.param(b"[\0\0[\0[[\0zcat\0\0", ["[", "[[", "zcat"], id="a lone bracket before"),
    ],
)
def test_applets_are_read_from_the_program(program: bytes, names: list[str]) -> None:
    assert assemble.applets(program) == names


def package(path: Path, members: dict[str, bytes]) -> Path:
    """A .deb with an odd-sized first member, and data.tar.xz."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as files:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            files.addfile(member, io.BytesIO(content))
    archive = b"!<arch>\n"
    for name, content in (
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", lzma.compress(tar.getvalue())),
    ):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    path.write_bytes(archive)
    return path


def test_a_package_is_read(tmp_path: Path) -> None:
    made = package(tmp_path / "git_1%3a2.39-1_amd64.deb", {"./usr/bin/git": b"program"})
    with debian.data_of(made) as files:
        assert files.getnames() == ["./usr/bin/git"]
        assert files.extractfile("./usr/bin/git").read() == b"program"
    assert debian.version_of(made) == ("git", "1:2.39-1")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"!<arch>\n"], ids=["empty", "zip", "ar"])
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a_1_all.deb").write_bytes(content)
    with pytest.raises(ValueError, match=r"a_1_all.deb"):
        debian.data_of(tmp_path / "a_1_all.deb")


def test_a_wheel_brings_modules_and_licences_only(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("a/__init__.py", "a-1.dist-info/RECORD", "a-1.dist-info/licenses/LICENSE",
                     "a-1.dist-info/METADATA", "a-1.data/scripts/a"):  # fmt: skip
            archive.writestr(name, "")
    assemble.unpack_wheel(wheel, tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert found == {"a/__init__.py", "a-1.dist-info"}
    described = {path.name for path in (tmp_path / "out/a-1.dist-info").iterdir()}
    assert described == {"METADATA", "licenses"}
