"""Change sets to blobs."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pybuild.image.digest import digest_of
from pybuild.layer.apply import read_layer
from pybuild.layer.changes import Change
from pybuild.layer.compress import Compression, CompressionOptions
from pybuild.layer.errors import ContextChanged, FileChanged, ReservedName
from pybuild.layer.pack import PackedLayer, PackOptions, pack_layer
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree

PLAIN = PackOptions(CompressionOptions(Compression.NONE))
BIG = bytes(range(256)) * 4096  # 1 MiB


def changes_of(directory: Path) -> list[Change]:
    (directory / "small").write_bytes(b"small")
    (directory / "big").write_bytes(BIG)
    xattrs = (("user.a", b"1"),)
    return [
        Change(Entry("big", Kind.FILE, 0o600, 1, 2, len(BIG), 5 * 10**9), str(directory / "big")),
        Change(Entry("d", Kind.DIRECTORY, 0o700, mtime_ns=1_999_999_999, opaque=True)),
        Change(Entry("d/.hidden", Kind.FILE, 0o644)),
        Change(Entry("d/bytes", Kind.FILE, 0o644, size=3), b"abc"),
        Change(Entry("d/gone", Kind.WHITEOUT)),
        Change(Entry("d/hard", Kind.HARDLINK, link="big", size=99, xattrs=xattrs)),
        Change(Entry("d/soft", Kind.SYMLINK, 0o644, link="../big")),
        Change(
            Entry("etc/passwd", Kind.FILE, 0o644, size=5, xattrs=xattrs), str(directory / "small")
        ),
    ]


def pack(directory: Path, changes: list[Change], options: PackOptions = PLAIN) -> PackedLayer:
    return pack_layer(changes, directory / "blob", options)


@pytest.mark.parametrize("compression", list(Compression))
def test_a_layer_and_what_is_said_of_it(tmp_path: Path, compression: Compression) -> None:
    from pybuild.layer.compress import decompress

    options = PackOptions(CompressionOptions(compression))
    layer = pack(tmp_path, changes_of(tmp_path), options)
    blob = layer.path.read_bytes()
    assert (layer.descriptor.digest, layer.descriptor.size) == (digest_of(blob), len(blob))
    tar = b"".join(decompress([blob]))
    assert (layer.diff_id, layer.size_uncompressed) == (digest_of(tar), len(tar))
    assert layer.index == read_layer([tar], Tree())
    assert layer.index.kept == {"etc/passwd": b"small"}
    assert not layer.empty
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        assert [(m.name, m.type) for m in read] == [
            ("big", tarfile.REGTYPE),
            ("d", tarfile.DIRTYPE),
            ("d/.wh..wh..opq", tarfile.REGTYPE),
            ("d/.hidden", tarfile.REGTYPE),
            ("d/bytes", tarfile.REGTYPE),
            ("d/.wh.gone", tarfile.REGTYPE),
            ("d/hard", tarfile.LNKTYPE),
            ("d/soft", tarfile.SYMTYPE),
            ("etc/passwd", tarfile.REGTYPE),
        ]
        assert read.getmember("d").mtime == 1
        content = read.extractfile("big")
        assert content is not None
        assert content.read() == BIG


def test_nothing_makes_an_empty_layer(tmp_path: Path) -> None:
    layer = pack(tmp_path, [])
    assert (layer.empty, layer.path.read_bytes(), len(layer.index)) == (True, bytes(1024), 0)


def test_the_root_has_no_entry_unless_it_hides_what_is_below(tmp_path: Path) -> None:
    assert pack(tmp_path, [Change(Entry("", Kind.DIRECTORY))]).empty
    layer = pack(tmp_path, [Change(Entry("", Kind.DIRECTORY, opaque=True))])
    with tarfile.open(layer.path) as read:
        assert read.getnames() == [".wh..wh..opq"]
    assert layer.index == read_layer([layer.path.read_bytes()], Tree())


def test_times_are_clamped(tmp_path: Path) -> None:
    options = PackOptions(CompressionOptions(Compression.NONE), clamp_seconds=1)
    layer = pack(tmp_path, changes_of(tmp_path), options)
    assert {e.mtime_ns for e in layer.index.entries()} == {0, 10**9}
    assert layer.index == read_layer([layer.path.read_bytes()], Tree())


def test_content_leaves_times_out_and_nothing_else(tmp_path: Path) -> None:
    def content(entry: Entry, data: bytes = b"x") -> str:
        return pack(tmp_path, [Change(entry, data)]).content

    plain = Entry("f", Kind.FILE, 0o644, size=1)
    fields: dict[str, object] = {"path": "g", "mode": 0o600, "uid": 1, "gid": 1}
    fields |= {"xattrs": (("user.a", b"1"),)}
    from msgspec.structs import replace

    assert content(plain) == content(replace(plain, mtime_ns=10**12))
    others = {content(replace(plain, **{name: value})) for name, value in fields.items()}  # type: ignore[arg-type]
    others.add(content(plain, b"y"))
    assert len(others) == len(fields) + 1
    assert content(plain) not in others


def test_times_that_the_build_did_not_give_count_where_asked(tmp_path: Path) -> None:
    def content(seconds: int, clamp: int | None = None) -> str:
        change = Change(Entry("a", Kind.FILE, size=1, mtime_ns=seconds * 10**9), b"x")
        options = PackOptions(own_seconds=range(100, 200), clamp_seconds=clamp)
        return pack(tmp_path, [change], options).content

    assert content(100) == content(199)
    assert len({content(99), content(100), content(200), content(98)}) == 4
    assert content(99, clamp=50) == content(98, clamp=50), "what the layer says, not the file"


def test_changed_context_files_are_named(tmp_path: Path) -> None:
    changes = changes_of(tmp_path)
    good = {"big": digest_of(BIG), "etc/passwd": digest_of(b"small")}
    pack(tmp_path, changes, PackOptions(expected=good))
    for path in good:
        with pytest.raises(ContextChanged, match=path):
            pack(tmp_path, changes, PackOptions(expected=good | {path: digest_of(b"other")}))
        assert not (tmp_path / "blob").exists()


@pytest.mark.parametrize("name", ["small", "big"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"!"), "grew"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "shrank"),
        (lambda path: path.unlink(), "vanished"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "became a link"),
    ],
    ids=["grew", "shrank", "vanished", "link"],
)
def test_a_file_that_changes_meanwhile_is_named(tmp_path, name, change, message) -> None:  # type: ignore[no-untyped-def]
    changes = changes_of(tmp_path)
    change(tmp_path / name)
    with pytest.raises(FileChanged, match=message):
        pack(tmp_path, changes)
    assert not (tmp_path / "blob").exists()


@pytest.mark.parametrize("path", [".wh.x", "a/.wh.x", "a/.wh..wh..opq", ".wh.d/x"])
def test_names_that_mean_removals_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ReservedName):
        pack(tmp_path, [Change(Entry(path, Kind.FILE))])


def test_the_same_changes_give_the_same_bytes(tmp_path: Path) -> None:
    changes = changes_of(tmp_path)
    for reproducible in (False, True):
        for compression in Compression:
            options = PackOptions(CompressionOptions(compression, reproducible=reproducible))
            assert (
                pack(tmp_path, changes, options).descriptor
                == pack(tmp_path, changes, options).descriptor
            )


def test_gzip_is_read_by_gzip(tmp_path: Path) -> None:
    layer = pack(tmp_path, changes_of(tmp_path), PackOptions())
    assert digest_of(gzip.decompress(layer.path.read_bytes())) == layer.diff_id
