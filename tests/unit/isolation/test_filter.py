"""The filter, run by a small interpreter of classic BPF for every call that the machine's own
headers (Debian: linux-libc-dev) know, in every way of calling the kernel."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.isolation.filter import (
    ALLOW,
    ASK,
    ENOSYS,
    ERRNO,
    MACHINES,
    X32_BIT,
    Abi,
    Instruction,
    asked,
    packed,
    program,
)

HEADERS = Path("/usr/include")
X86 = HEADERS / "x86_64-linux-gnu/asm"
GENERIC = HEADERS / "asm-generic/unistd.h"
PROGRAMS = {machine: program(machine) for machine in MACHINES}
MACHINE_OF = {abi: machine for machine, abis in MACHINES.items() for abi in abis}
ABSENT, SUCCESS = ERRNO | ENOSYS, ERRNO

# What must never reach the kernel, by what the kernel's headers call it.
ALWAYS_ASKED = re.compile(
    r"""(get|set)(e|re|res|fs)?[ug]id(32)?   # who a process is
      | (get|set)groups(32)?
      | cap(get|set)
      | [lf]?chown(32)? | fchownat           # whose a file is
      | f?chmod | fchmodat2?
      | [lf]?(stat|stat64) | newfstatat | fstatat64 | statx
      | [lf]?(get|set|list|remove)xattr
      | creat | mkdir(at)? | symlink(at)? | mknod(at)? | openat2
      | execve(at)? | chroot""",
    re.VERBOSE,
)
NEVER_THERE = re.compile(r"io_uring_\w+ | old[lf]?stat | \w+xattrat | clone3", re.VERBOSE)
BY_ARGUMENT = {"open", "openat", "prctl", "setrlimit", "prlimit64", "clone", "unshare"}


def defined(path: Path, pattern: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(pattern, path.read_text(), re.M)}


def generic_calls() -> dict[str, int]:
    """Those of a 64-bit machine: aarch64."""
    text = GENERIC.read_text()
    found = defined(GENERIC, r"^#define __NR_(\w+) (\d+)$")
    shared = defined(GENERIC, r"^#define __NR3264_(\w+) (\d+)$")
    names = text[text.index("#define __NR_fcntl __NR3264_fcntl") :].partition("#else")[0]
    for name, target in re.findall(r"^#define __NR_(\w+) __NR3264_(\w+)$", names, re.M):
        if target in shared:
            found[name] = shared[target]
    for no_call in ("syscalls", "arch_specific_syscall"):
        found.pop(no_call, None)
    return found


def header_calls(abi: Abi) -> dict[str, int]:
    if not (X86 / "unistd_64.h").exists() or not GENERIC.exists():
        pytest.skip("needs the kernel's headers (Debian: linux-libc-dev)")
    match abi:
        case Abi.AMD64:
            return defined(X86 / "unistd_64.h", r"^#define __NR_(\w+) (\d+)$")
        case Abi.I386:
            return defined(X86 / "unistd_32.h", r"^#define __NR_(\w+) (\d+)$")
        case _:
            return generic_calls()


def run(instructions: Sequence[Instruction], data: bytes) -> int:
    """What the kernel would do with a struct seccomp_data: bpf(4), the classic machine."""
    accumulator, at = 0, 0
    while True:
        one = instructions[at]
        at += 1
        match one.code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, one.k)
            case 0x54:
                accumulator &= one.k
            case 0x05:
                at += one.k
            case 0x15:
                at += one.jt if accumulator == one.k else one.jf
            case 0x45:
                at += one.jt if accumulator & one.k else one.jf
            case 0x06:
                return one.k
            case _:
                raise AssertionError(f"unknown instruction {one}")


def decide(abi: Abi, number: int, *arguments: int, machine: str = "") -> int:
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, abi.value, 0x7FFF12345678, *words)
    return run(PROGRAMS[machine or MACHINE_OF[abi]], data)


@pytest.mark.parametrize("abi", [Abi.AMD64, Abi.I386, Abi.ARM64], ids=lambda abi: abi.name)
def test_every_call_of_the_headers(abi: Abi) -> None:
    """Nothing that is about identity, owners, capabilities or devices passes; all else does."""
    calls = header_calls(abi)
    assert len(calls) > 280
    wrong = {}
    for name, number in calls.items():
        if name in BY_ARGUMENT:
            continue
        expected = ALLOW
        if ALWAYS_ASKED.fullmatch(name):
            expected = ASK
        elif NEVER_THERE.fullmatch(name):
            expected = ABSENT
        if decide(abi, number, 0xFFFF, 0xFFFF, 0xFFFF) != expected:
            wrong[name] = number
    assert wrong == {}


@pytest.mark.parametrize("abi", [Abi.AMD64, Abi.I386, Abi.ARM64], ids=lambda abi: abi.name)
def test_numbers_that_no_header_knows_pass(abi: Abi) -> None:
    # fchmodat2 and *xattrat: newer than the headers
    known = {*header_calls(abi).values(), 452, 463, 464, 465, 466}
    if abi is Abi.AMD64:
        known |= {520, 545}  # execve and execveat of x32
    for number in range(1024):
        if number not in known:
            assert decide(abi, number) == ALLOW


def test_the_new_calls_for_attributes_do_not_exist() -> None:
    for abi in Abi:
        assert {decide(abi, number) for number in (463, 464, 465, 466)} == {ABSENT}


def test_every_call_of_x32() -> None:
    """As the same call of 64 bits; where x32 has a number of its own, that one counts."""
    if not (X86 / "unistd_x32.h").exists():
        pytest.skip("needs the kernel's headers (Debian: linux-libc-dev)")
    pattern = r"^#define __NR_(\w+) \(__X32_SYSCALL_BIT \+ (\d+)\)$"
    calls = defined(X86 / "unistd_x32.h", pattern)
    amd64 = header_calls(Abi.AMD64)
    assert len(calls) > 280
    for name, number in calls.items():
        arguments = (0xFFFF, 0xFFFF, 0xFFFF)
        got = decide(Abi.AMD64, number | X32_BIT, *arguments)
        assert got == decide(Abi.AMD64, amd64[name], *arguments), name


def test_arm_answers_what_i386_answers() -> None:
    """The two share most numbers; those of newer calls are their own."""
    names = {abi: set(asked("aarch64" if abi is Abi.ARM else "x86_64")[abi.value].values())
             for abi in (Abi.ARM, Abi.I386)}  # fmt: skip
    assert names[Abi.I386] - names[Abi.ARM] == {"oldstat", "oldlstat", "oldfstat"}
    assert names[Abi.ARM] <= names[Abi.I386]
    for number, name in asked("aarch64")[Abi.ARM.value].items():
        if name not in BY_ARGUMENT and not NEVER_THERE.fullmatch(name):
            assert decide(Abi.ARM, number) == ASK, name


@given(st.sampled_from(list(MACHINES)), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_calls_of_another_architecture_do_not_exist(
    machine: str, architecture: int, number: int
) -> None:
    if architecture in [abi.value for abi in MACHINES[machine]]:
        return
    data = struct.pack("=IIQ6Q", number, architecture, 0, *[0] * 6)
    assert run(PROGRAMS[machine], data) == ABSENT


OPENING = [(Abi.AMD64, 2, 1), (Abi.AMD64, 257, 2), (Abi.I386, 5, 1), (Abi.I386, 295, 2)]
OPENING += [(Abi.ARM64, 56, 2), (Abi.ARM, 5, 1), (Abi.ARM, 322, 2)]


@given(st.sampled_from(OPENING), st.integers(0, 0xFFFFFFFF), st.booleans())
def test_open_is_asked_about_where_it_may_make_a_file(
    call: tuple[Abi, int, int], flags: int, high: bool
) -> None:
    abi, number, index = call
    arguments = [0xFFFFFFFFFFFFFFFF] * 6
    arguments[index] = flags | (0xFFFFFFFF00000000 if high else 0)
    makes = flags & 0o100 or flags & 0o20000000
    assert decide(abi, number, *arguments) == (ASK if makes else ALLOW)


PRCTL = {Abi.AMD64: 157, Abi.I386: 172, Abi.ARM64: 167, Abi.ARM: 172}
PR_ABOUT_PRIVILEGES = {7, 8, 23, 24, 27, 28, 47}


@given(st.sampled_from(list(Abi)), st.one_of(st.integers(0, 80), st.integers(0, 0xFFFFFFFF)))
def test_prctl_is_asked_about_where_it_is_about_privileges(abi: Abi, option: int) -> None:
    expected = ASK if option in PR_ABOUT_PRIVILEGES else SUCCESS if option == 4 else ALLOW
    assert decide(abi, PRCTL[abi], option, 1, 2) == expected


PRLIMIT = {Abi.AMD64: 302, Abi.I386: 340, Abi.ARM64: 261, Abi.ARM: 369}
SETRLIMIT = {Abi.AMD64: 160, Abi.I386: 75, Abi.ARM64: 164, Abi.ARM: 75}


@given(st.sampled_from(list(Abi)), st.integers(0, 20), st.integers(0, (1 << 64) - 1))
def test_the_limit_that_holds_the_identity_is_not_set(abi: Abi, resource: int, new: int) -> None:
    own = resource == 10 and new != 0
    assert decide(abi, PRLIMIT[abi], 0, resource, new) == (SUCCESS if own else ALLOW)
    assert decide(abi, SETRLIMIT[abi], resource, new) == (SUCCESS if resource == 10 else ALLOW)


CLONE = {Abi.AMD64: 56, Abi.I386: 120, Abi.ARM64: 220, Abi.ARM: 120}
UNSHARE = {Abi.AMD64: 272, Abi.I386: 310, Abi.ARM64: 97, Abi.ARM: 337}


@given(st.sampled_from(list(Abi)), st.integers(0, 0xFFFFFFFF))
def test_no_process_gets_a_user_or_mount_namespace(abi: Abi, flags: int) -> None:
    expected = ERRNO | 1 if flags & 0x10020000 else ALLOW
    assert decide(abi, CLONE[abi], flags) == decide(abi, UNSHARE[abi], flags) == expected


def test_a_pointer_of_which_only_the_high_half_is_set_is_one() -> None:
    assert decide(Abi.AMD64, PRLIMIT[Abi.AMD64], 0, 10, 1 << 32) == SUCCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_the_kernel_takes_the_program(machine: str) -> None:
    """Its limits: BPF_MAXINSNS, jumps of 8 bits that stay inside, an end that returns."""
    instructions = PROGRAMS[machine]
    assert len(instructions) < 4096
    assert instructions[-1].code == 0x06
    for at, one in enumerate(instructions):
        assert max(one.jt, one.jf) < 256
        assert at + max(one.jt, one.jf, one.k if one.code == 0x05 else 0) < len(instructions)
    assert len(packed(instructions)) == 8 * len(instructions)
