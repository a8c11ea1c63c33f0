"""What the listener decides without a process that waits; real processes are in
tests/integration/test_faked.py."""

from __future__ import annotations

import errno
import os
import platform
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.isolation import faked_xattrs, stat_layout, tracee
from pybuild.isolation.filter import MACHINES, asked
from pybuild.isolation.identity import initial
from pybuild.isolation.listener import Identities
from pybuild.isolation.owners import Owners, RecordTuple
from pybuild.isolation.ownership import Faked, Record
from pybuild.isolation.process import Request
from pybuild.isolation.tracee import KEPT, Failed, Kernel, Notification, signed
from pybuild.rootfs.ids import Ids

NO_LISTENER = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # only files are looked at
needs_known_machine = pytest.mark.skipif(
    platform.machine() not in MACHINES, reason="no filter for this processor"
)


@pytest.mark.parametrize(
    ("path", "follow", "expected"),
    [
        (b"/proc/self/exe", True, b"/proc/7/exe"),
        (b"/proc/thread-self/fd/3", False, b"/proc/7/fd/3"),
        (b"/proc/self", True, b"/proc/7"),
        (b"/proc/self", False, b"/proc/self"),
        (b"/proc/selfish/x", True, b"/proc/selfish/x"),
        (b"/dev/fd/3", False, b"/proc/7/fd/3"),
        (b"/dev/stdout", True, b"/proc/7/fd/1"),
        (b"/dev/stdout", False, b"/dev/stdout"),
        (b"/dev/null", True, b"/dev/null"),
        (b"/etc/passwd", True, b"/etc/passwd"),
    ],
)
def test_names_that_mean_whoever_looks(path: bytes, follow: bool, expected: bytes) -> None:
    assert tracee._seen_by(path, 7, follow=follow) == expected


@given(st.integers(0, (1 << 64) - 1))
def test_an_int_argument_is_its_low_word(word: int) -> None:
    assert struct.pack("=i", signed(word)) == struct.pack("=Q", word)[:4]


@pytest.mark.parametrize(
    ("width", "word", "expected"),
    [
        (0, 0xFFFFFFFFFFFFFFFF, KEPT),
        (0, 0xFFFFFFFF, KEPT),
        (0, 0x1_0000_0005, 5),
        (0, 0xFFFF, 0xFFFF),
        (16, 0xFFFF, KEPT),
        (16, 0x1FFFE, 0xFFFE),
    ],
)
def test_ids_by_the_width_of_the_call(width: int, word: int, expected: int) -> None:
    assert Notification(0, 0, 0, (word,) * 6, width).id_at(1) == expected


FILE_STATUS = {
    "x86_64": struct.pack(
        "=QQQIIIIQqqq6Q24x", 5, 1 << 33, 3, 0o100644, 70001, 44, 0, 0x501, 99, 4096, 8, *range(6)
    ),
    "aarch64": struct.pack(
        "=QQIIIIQQqiiq6Q8x", 5, 1 << 33, 0o100644, 3, 70001, 44, 0x501, 0, 99, 4096, 0, 8, *range(6)
    ),
}


@pytest.mark.parametrize(
    ("machine", "abi", "size", "offsets"),
    [
        # asm/stat.h of the two: mode, nlink, uid, gid, rdev, size, blocks, mtime, ino
        ("x86_64", stat_layout.I386, 96, (16, 20, 24, 28, 32, 44, 56, 72, 88)),
        ("aarch64", stat_layout.ARM, 104, (16, 20, 24, 28, 32, 48, 64, 80, 96)),
    ],
)
def test_stat64(machine: str, abi: int, size: int, offsets: tuple[int, ...]) -> None:
    found = stat_layout.as_stat64(machine, abi, FILE_STATUS[machine])
    assert len(found) == size
    forms = ("=I", "=I", "=I", "=I", "=Q", "=q", "=Q", "=I", "=Q")
    values = [
        struct.unpack_from(form, found, at)[0] for form, at in zip(forms, offsets, strict=True)
    ]
    assert values == [0o100644, 3, 70001, 44, 0x501, 99, 8, 2, 1 << 33]


@pytest.mark.parametrize("machine", FILE_STATUS)
def test_the_oldest_form_has_no_room_for_large_numbers(machine: str) -> None:
    with pytest.raises(Failed) as problem:
        stat_layout.as_stat32(machine, FILE_STATUS[machine])
    assert problem.value.number == errno.EOVERFLOW
    small = bytearray(FILE_STATUS[machine])
    struct.pack_into("=Q", small, 8, 77)
    found = stat_layout.as_stat32(machine, bytes(small))
    assert len(found) == 64
    assert struct.unpack_from("=IHHHH", found, 4) == (77, 0o100644, 3, 65534, 44)


VERSION_2 = bytes.fromhex("0100000200200000000000000000000000000000")
VERSION_3 = bytes.fromhex("010000030020000000000000000000000000000000000000")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(VERSION_2, VERSION_2), (VERSION_3, VERSION_2), (bytes.fromhex("00000001") + bytes(16), None)],
)
def test_capabilities_are_of_version_2(value: bytes, expected: bytes | None) -> None:
    if expected is not None:
        assert faked_xattrs._version_2(value, len(value)) == expected
        return
    with pytest.raises(Failed):
        faked_xattrs._version_2(value, len(value))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(NO_LISTENER)


def record_of(path: Path, *, birth: int | None = None, **fields: int) -> RecordTuple:
    info = path.lstat()
    data = Kernel(NO_LISTENER).statx(os.fsencode(path), 0, 0x800)
    seconds, nanoseconds = struct.unpack_from("=qI", data, 80)
    born = seconds * 1_000_000_000 + nanoseconds if birth is None else birth
    values = {"uid": -1, "gid": -1, "rdev": 0, "kind": 0} | fields
    owner = (values["uid"], values["gid"])
    return (info.st_dev, info.st_ino, born, *owner, b"", values["rdev"], values["kind"], -1)


@needs_known_machine
def test_what_is_recorded_is_shown(kernel: Kernel, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()
    other.touch()
    owners = Owners(kernel, [record_of(one, uid=7)], [])
    found = owners.find(os.fsencode(one), 0)
    assert (found.uid, found.gid) == (7, 0)
    assert owners.find(os.fsencode(other), 0).uid == 0
    assert owners.records() == [record_of(one, uid=7)]


@needs_known_machine
def test_a_record_of_a_file_that_was_born_at_another_time_is_forgotten(
    kernel: Kernel, tmp_path: Path
) -> None:
    path = tmp_path / "one"
    path.touch()
    owners = Owners(kernel, [record_of(path, birth=1, uid=7)], [])
    assert owners.find(os.fsencode(path), 0).uid == 0
    assert owners.records() == []


@needs_known_machine
def test_a_filesystem_without_times_of_birth_is_believed(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.touch()
    owners = Owners(kernel, [record_of(path, birth=0, uid=7)], [])
    assert owners.find(os.fsencode(path), 0).uid == 7


@needs_known_machine
def test_a_directory_is_shown_as_missing_until_something_is_in_it(
    kernel: Kernel, tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path / "srv")
    os.mkdir(path)  # noqa: PTH102
    owners = Owners(kernel, [], [path])
    with pytest.raises(Failed):
        owners.find(path, 0)
    (tmp_path / "srv/x").touch()
    assert owners.find(path, 0).uid == 0
    assert not owners.appear(path)


def test_refusals_are_told_once_and_not_without_end(kernel: Kernel) -> None:
    owners = Owners(kernel, [], [])
    for number in range(50):
        owners.refuse(b"chroot /%d" % number)
        owners.refuse(b"chroot /0")
    assert len(owners.refused()) == 20
    assert owners.refused()[0] == b"chroot /0"


def test_an_identity_goes_with_its_process() -> None:
    first, other = initial(0, 0, ()), initial(33, 44, (5,))
    identities = Identities(first)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    try:
        identities.change(pid, first)
        assert identities.of(pid) == first
        identities.change(pid, other)
        assert identities.of(pid) == other
    finally:
        os.write(write, b"x")
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


@needs_known_machine
def test_every_call_that_is_asked_about_has_an_answer() -> None:
    """But for those that the filter answers itself, and prctl-like ones by their arguments."""
    from pybuild.isolation.filter import ASK, cases
    from pybuild.isolation.listener import Listener, _pass

    for machine in MACHINES:
        listener = Listener(NO_LISTENER, asked(machine), initial(0, 0, ()), [], [])
        for calls in asked(machine).values():
            for name in calls.values():
                if any(case.action == ASK for case in cases(name)):
                    assert listener._handler(name)[0] is not _pass, name


@needs_known_machine
def test_a_request_says_what_is_faked() -> None:
    faked = Faked(Ids(1, 2, (3,), "/"), (Record(1, 2, 3, uid=4),), ("/srv",))
    request = Request(("x",), (), "/", 0, 0, None, 0, (), faked=faked)
    assert b"/srv" in request.packed()
    assert len(request.packed()) > len(Request(("x",), (), "/", 0, 0, None, 0, ()).packed()) + 2000
