"""Our tar against the standard library's, both ways, and what is no tar."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.layer.errors import BadArchive
from pybuild.layer.tar import TarReader, end_of_archive, header_of, padding_of
from pybuild.rootfs.entry import Entry, Kind
from tests.support.layers import archive, in_pieces, member

TEXT = st.text(st.characters(min_codepoint=1, codec="utf-8", exclude_characters="/"), min_size=1)
NAMES = st.lists(TEXT.filter(lambda t: t not in (".", "..")), min_size=1, max_size=40).map("/".join)
NUMBERS = st.sampled_from([0, 1, 1000, 0o7777777, 0o10000000, 2**32 - 2])
TIMES = st.sampled_from([-5, 0, 1_700_000_000, 0o77777777777 // 8, 2**33 - 1])
TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.HARDLINK: tarfile.LNKTYPE,
    Kind.CHAR: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(sorted(TYPES)))
    device = kind in (Kind.CHAR, Kind.BLOCK)
    return Entry(
        draw(NAMES),
        kind,
        0o777 if kind == Kind.SYMLINK else draw(st.integers(0, 0o7777)),
        draw(NUMBERS),
        draw(NUMBERS),
        draw(st.integers(0, 2000)) if kind == Kind.FILE else 0,
        draw(TIMES) * 10**9,
        draw(NAMES) if kind in (Kind.SYMLINK, Kind.HARDLINK) else "",
        draw(st.integers(0, 4095)) if device else 0,
        draw(st.integers(0, 2**20 - 1)) if device else 0,
        () if kind == Kind.HARDLINK else draw(st.sampled_from([(), (("user.k", b"v"),)])),
    )


@settings(max_examples=120, deadline=None)
@given(entries())
def test_what_we_write_the_standard_library_reads(entry: Entry) -> None:
    data = header_of(entry) + bytes(entry.size) + padding_of(entry.size) + end_of_archive()
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        (info,) = tar.getmembers()
    assert info.name == entry.path
    assert info.type == TYPES[entry.kind]
    assert (info.mode, info.uid, info.gid) == (entry.mode, entry.uid, entry.gid)
    assert (info.size, int(info.mtime)) == (entry.size, entry.mtime_ns // 10**9)
    assert (info.linkname, info.devmajor, info.devminor) == (entry.link, entry.major, entry.minor)
    assert (info.uname, info.gname) == ("", "")
    assert info.pax_headers.get("SCHILY.xattr.user.k") == ("v" if entry.xattrs else None)


@settings(max_examples=120, deadline=None)
@given(
    entries(),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([1, 511, 700, 1 << 20]),
)
def test_what_the_standard_library_writes_we_read(entry: Entry, tar_format: int, cut: int) -> None:
    info = tarfile.TarInfo(entry.path)
    info.type, info.mode, info.uid, info.gid = TYPES[entry.kind], entry.mode, entry.uid, entry.gid
    info.size, info.mtime, info.linkname = entry.size, entry.mtime_ns // 10**9, entry.link
    info.devmajor, info.devminor = entry.major, entry.minor
    data = info.tobuf(tar_format, "utf-8") + b"x" * entry.size + bytes(-entry.size % 512)
    reader = TarReader(in_pieces(data + bytes(1024), cut))
    found = reader.next()
    assert found is not None
    assert found.name.decode().rstrip("/") == entry.path
    assert (found.kind, found.mode) == (entry.kind, entry.mode)
    assert (found.uid, found.gid, found.size) == (entry.uid, entry.gid, entry.size)
    assert (found.mtime_ns, found.link.decode()) == (entry.mtime_ns, entry.link)
    assert (found.major, found.minor) == (entry.major, entry.minor)
    if entry.kind == Kind.FILE:
        assert data[found.offset : found.offset + entry.size] == b"x" * entry.size
    assert b"".join(reader.content()) == b"x" * entry.size
    assert reader.next() is None


def test_a_ustar_prefix_belongs_to_the_name() -> None:
    name = "d" * 90 + "/" + "e" * 60
    data = archive(member(name), tar_format=tarfile.USTAR_FORMAT)
    found = TarReader([data]).next()
    assert found is not None
    assert found.name.decode() == name


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 157, 254, 255, 256, 257, 300])
def test_names_at_the_limits_of_ustar(length: int) -> None:
    for name in ("n" * length, "d" * (length // 2) + "/" + "n" * (length - length // 2 - 1)):
        for kind in (Kind.FILE, Kind.DIRECTORY):
            data = header_of(Entry(name, kind)) + end_of_archive()
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                assert tar.getnames() == [name]
            found = TarReader([data]).next()
            assert found is not None
            assert found.name.decode().rstrip("/") == name


def test_a_small_file_costs_one_header() -> None:
    assert len(header_of(Entry("a/b", Kind.FILE, mtime_ns=1_700_000_000_123_456_789))) == 512


def _raw(**fields: bytes) -> bytes:
    """A header with these bytes at these fields and a right checksum."""
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "mtime": 136, "type": 156}
    block = bytearray(member("x")[0].tobuf(tarfile.USTAR_FORMAT))
    for field, data in fields.items():
        block[places[field] : places[field] + len(data)] = data
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _pax(data: bytes) -> bytes:
    head = _raw(type=b"x", size=b"%011o\0" % len(data))
    return head + data + bytes(-len(data) % 512)


END = bytes(1024)
WHOLE = archive(member("f", data=b"x" * 700))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\x01" * 512, "no tar header", id="garbage"),
        pytest.param(WHOLE[:300], "cut off", id="cut-in-a-header"),
        pytest.param(WHOLE[:1000], "cut off", id="cut-in-a-file"),
        pytest.param(WHOLE[:1212], "cut off", id="cut-in-padding"),
        pytest.param(_raw(size=b"-0000000001\0") + END, "size", id="negative-octal"),
        pytest.param(_raw(size=b"\xff" * 12) + END, "negative size", id="negative-base-256"),
        pytest.param(_raw(size=b"\x80" + b"\x7f" * 11) + END, "out of range", id="absurd-size"),
        pytest.param(_raw(size=b"0000000x000\0") + END, "no number", id="letters-in-a-size"),
        pytest.param(_raw(size=b"0_1\0") + END, "no number", id="underscore"),
        pytest.param(_raw(uid=b"\x80\0\0\xff\xff\xff\xff\xff") + END, "range", id="uid--1"),
        pytest.param(_raw(type=b"S") + END, "sparse", id="gnu-sparse"),
        pytest.param(_pax(b"22 GNU.sparse.major=1\n") + _raw() + END, "sparse", id="pax-sparse"),
        pytest.param(_raw(type=b"V") + END, "unknown type", id="volume-label"),
        pytest.param(_raw(type=b"x", size=b"00100000000\0") + END, "header of", id="huge-pax"),
        pytest.param(
            _raw(type=b"L", size=b"\x80\0\0\0\0\0\x7f\0\0\0\0\0"), "header of", id="huge-l"
        ),
        pytest.param(_pax(b"12 path=a\0b\n") + _raw() + END, "NUL", id="nul-in-a-name"),
        pytest.param(_pax(b"99 path=a\n") + _raw() + END, "damaged", id="pax-length-too-long"),
        pytest.param(_pax(b"3 path=a\n") + _raw() + END, "damaged", id="pax-length-too-short"),
        pytest.param(_pax(b"0 path=a\n") + _raw() + END, "damaged", id="pax-length-zero"),
        pytest.param(_pax(b"10 patha1\n") + _raw() + END, "damaged", id="pax-without-value"),
        pytest.param(_pax(b"12 mtime=1x\n") + _raw() + END, "mtime", id="pax-time"),
        pytest.param(_pax(b"11 size=-5\n") + _raw() + END, "size", id="pax-negative-size"),
        pytest.param(_pax(b"10 path=a\n") + END, "extended header", id="pax-at-the-end"),
        pytest.param(_pax(b"10 path=a\n") * 40, "in a row", id="pax-without-end"),
        pytest.param(bytes(512) + _raw() + END, "block of zeros", id="zeros-between"),
    ],
)
def test_what_is_no_tar_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadArchive, match=message):
        for _ in TarReader(in_pieces(data, 100)):
            pass


@pytest.mark.parametrize("mtime", [b"\x80" + b"\x7f" * 11, b"\xff" * 4 + bytes(8)])
def test_a_time_that_no_filesystem_keeps_is_the_epoch(mtime: bytes) -> None:
    found = TarReader([_raw(mtime=mtime) + END]).next()
    assert found is not None
    assert found.mtime_ns == 0


def test_all_of_the_stream_is_read() -> None:
    """Whoever verifies its digest sees the end."""
    pieces = in_pieces(WHOLE + bytes(100_000), 1000)
    assert [m.name for m in TarReader(pieces)] == [b"f"]
    assert next(pieces, None) is None


def test_a_large_file_takes_no_memory() -> None:
    size = 1 << 30
    head = _raw(size=b"%011o\0" % size)
    zeros = bytes(1 << 20)

    def chunks():  # type: ignore[no-untyped-def]
        yield head
        for _ in range(size // len(zeros)):
            yield zeros
        yield END

    tracemalloc.start()
    assert len(list(TarReader(chunks()))) == 1
    assert tracemalloc.get_traced_memory()[1] < 3 << 20
    tracemalloc.stop()
