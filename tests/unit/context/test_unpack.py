"""Archives as contexts: what they may hold, and what does not get out of their folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.context.errors import NoArchive, StdinEmpty
from pybuild.context.open import ContextOptions, open_context
from pybuild.context.unpack import Source, archive_or_dockerfile, stdin_chunks, unpack
from pybuild.errors import HostileContent, Interrupted
from pybuild.events import Event, Notice
from tests.support.archives import COMPRESSIONS, entry, tar_of

LINK, HARD, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def unpacked(data: bytes, folder: Path, events: list[Event] | None = None) -> Path:
    folder.mkdir()
    sink = (lambda _: None) if events is None else events.append
    unpack(Source("the archive", pieces(data), lambda: None), folder, sink)
    return folder


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_all_compressions_in_pieces(tmp_path: Path, compression: str) -> None:
    data = COMPRESSIONS[compression](tar_of({"a": "1", "d/b": "2"}))
    root = unpacked(data, tmp_path / "root")
    assert (root / "a").read_text() == "1" and (root / "d/b").read_text() == "2"


def test_owners_are_of_no_account_and_modes_are(tmp_path: Path) -> None:
    modes = [entry("r", mode=0o444), entry("none", mode=0), entry("set", mode=0o4755),
             entry("d", tarfile.DIRTYPE, mode=0o555), entry("d/f", mode=0o400)]  # fmt: skip
    root = unpacked(tar_of({"a": "1"}, modes), tmp_path / "root")
    assert (root / "a").stat().st_uid == os.geteuid()
    found = {made.name: stat.S_IMODE((root / made.name).stat().st_mode) for made in modes}
    if os.geteuid() == 0:
        assert found == {"r": 0o444, "none": 0, "set": 0o4755, "d": 0o555, "d/f": 0o400}
    else:
        assert found["r"] == 0o444 and found["d/f"] == 0o400


HOSTILE = {
    "parent": [entry("../out")],
    "parent inside": [entry("a/../../out")],
    "hard link out": [entry("in", HARD, link="../out")],
    "hard link to nothing": [entry("in", HARD, link="none")],
    "through a file": [entry("f"), entry("f/x")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(HostileContent) as caught:
        unpacked(tar_of({"f": "x"} if name == "through a file" else {}, HOSTILE[name]),
                 tmp_path / "root")  # fmt: skip
    assert caught.value.message.startswith("the archive: ")
    assert (tmp_path / "out").read_text() == "mine"


KEPT_INSIDE = {
    "absolute name": ([entry("/etc/x")], "etc/x"),
    "absolute link": ([entry("l", LINK, link="/tmp"), entry("l/x")], "tmp/x"),
    "link up": ([entry("d", tarfile.DIRTYPE), entry("d/l", LINK, link="../../.."),
                 entry("d/l/x")], "x"),
    "links through links": ([entry("a", LINK, link="b/c"), entry("b", LINK, link="/"),
                             entry("a/x")], "c/x"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT_INSIDE)
def test_kept_inside(tmp_path: Path, name: str) -> None:
    entries, where = KEPT_INSIDE[name]
    before = sorted(Path("/tmp").glob("x"))
    root = unpacked(tar_of({}, entries), tmp_path / "root")
    assert (root / where).is_file() and sorted(Path("/tmp").glob("x")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_the_last_of_a_name_counts(tmp_path: Path) -> None:
    """Also where it takes the place of a link that leads out."""
    out = io.BytesIO()
    (tmp_path / "out").write_text("mine")
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(entry("f", LINK, link=str(tmp_path / "out")))
        last = entry("f", size=4)
        archive.addfile(last, io.BytesIO(b"last"))
    root = unpacked(out.getvalue(), tmp_path / "root")
    assert (root / "f").read_text() == "last" and (tmp_path / "out").read_text() == "mine"


def test_devices(tmp_path: Path) -> None:
    """Made by who may, else left out and named."""
    device = entry("null", DEVICE)
    device.devmajor, device.devminor = 1, 3
    events: list[Event] = []
    root = unpacked(tar_of({"a": "1"}, [device]), tmp_path / "root", events)
    names = [event for event in events if isinstance(event, Notice)]
    if (root / "null").exists():
        assert (root / "null").is_char_device() and not names
    else:
        assert "null" in names[0].message


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"<html>" * 200, COMPRESSIONS["gzip"](b"text" * 500), COMPRESSIONS["zstd"](b"")],
    ids=["nothing", "short", "page", "compressed text", "compressed nothing"],
)
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NoArchive) as caught:
        unpacked(data, tmp_path / "root")
    assert caught.value.message.startswith("the archive ")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_was_cut_off(tmp_path: Path, compression: str) -> None:
    data = COMPRESSIONS[compression](tar_of({"a": os.urandom(5000), "b": os.urandom(5000)}))
    with pytest.raises(HostileContent):
        unpacked(data[: len(data) // 2], tmp_path / "root")


def test_an_empty_archive_is_an_empty_context(tmp_path: Path) -> None:
    assert list(unpacked(bytes(10240), tmp_path / "root").iterdir()) == []


STARTS = {
    "Dockerfile": b"FROM scratch\n",
    "long Dockerfile": "# é\nFROM scratch\n".encode() * 100,
    "nothing": b"",
    **{name: compress(tar_of({"a": "1"})) for name, compress in COMPRESSIONS.items()},
}


@pytest.mark.parametrize("name", STARTS)
def test_a_dockerfile_is_told_from_an_archive(tmp_path: Path, name: str) -> None:
    data, is_dockerfile = STARTS[name], "Dockerfile" in name
    source = Source("standard input", pieces(data, 511), lambda: None)
    found = archive_or_dockerfile(source, tmp_path)
    if is_dockerfile:
        assert found is None and (tmp_path / "Dockerfile").read_bytes() == data
    else:
        assert found is not None and b"".join(found.chunks) == data


def test_standard_input_that_is_given_up() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(Interrupted):
            list(stdin_chunks(read, lambda: True))
    finally:
        os.close(read)
        os.close(write)


def test_standard_input_that_is_closed() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(StdinEmpty):
        list(stdin_chunks(read, lambda: False))


def test_a_context_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "c.tar").write_bytes(tar_of({"a": "1"}, [entry("../out")]))
    options = ContextOptions(tmp_path / "work")
    with (
        pytest.raises(HostileContent) as caught,
        open_context(f"tar://{tmp_path}/c.tar", options, lambda _: None),
    ):
        pass
    assert "c.tar" in caught.value.message and list((tmp_path / "work").iterdir()) == []
