"""The seccomp filter of a RUN by an ordinary user, as a value. Pure.

It asks the listener about every call that tells or changes identity, owners, capabilities, file
capabilities and devices, and lets all others pass. Why each is in the table:

* identity: not answered by the filter itself with a plain 0, because after `su bob` that is wrong;
* the mode: root can write where a mode says that nobody can;
* the stat family: programs copy owners that they see (`cp -a`, `useradd` rewriting /etc/passwd);
* what makes a file: it belongs to whoever the process believes to be;
* execve: capabilities change there, and the setuid bit counts;
* io_uring does some of this past every filter, so it does not exist;
* a process in a user or mount namespace of its own would be another user in another root: container
  engines refuse these as well. clone3 has its flags in memory, and libraries do without it;
* RLIMIT_LOCKS, which no kernel since 2.4 enforces, holds who a process is (listener.py);
* a process that is not dumpable can't be looked into, so none can become so.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct

# linux/seccomp.h, asm-generic/errno.h
ALLOW, ASK, ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
EPERM, ENOSYS = 1, 38
X32_BIT = 0x40000000
O_CREAT, TMPFILE_BIT = 0o100, 0o20000000  # the same on both processors
RLIMIT_LOCKS = 10
NEW_USER_OR_MOUNTS = 0x10020000  # CLONE_NEWUSER, CLONE_NEWNS; linux/sched.h
# linux/prctl.h: KEEPCAPS, CAPBSET, SECUREBITS (get and set), CAP_AMBIENT
PR_SET_DUMPABLE = 4
PR_ASKED = (7, 8, 23, 24, 27, 28, 47)


class Abi(Enum):
    """A way of calling the kernel: AUDIT_ARCH_* of linux/audit.h. x32 is AMD64 with X32_BIT."""

    AMD64 = 0xC000003E
    I386 = 0x40000003
    ARM64 = 0xC00000B7
    ARM = 0x40000028


MACHINES: Mapping[str, tuple[Abi, ...]] = {
    "x86_64": (Abi.AMD64, Abi.I386),
    "aarch64": (Abi.ARM64, Abi.ARM),
}

# call, its numbers on amd64 (two where x32 has its own), i386, arm64, arm; names with 16 are the
# old calls of 32-bit machines, whose ids have 16 bits
_TABLE = """
getuid           102        199  174  199
geteuid          107        201  175  201
getgid           104        200  176  200
getegid          108        202  177  202
getresuid        118        209  148  209
getresgid        120        211  150  211
getgroups        115        205  158  205
setuid           105        213  146  213
setgid           106        214  144  214
setreuid         113        203  145  203
setregid         114        204  143  204
setresuid        117        208  147  208
setresgid        119        210  149  210
setfsuid         122        215  151  215
setfsgid         123        216  152  216
setgroups        116        206  159  206
getuid16         -          24   -    24
geteuid16        -          49   -    49
getgid16         -          47   -    47
getegid16        -          50   -    50
getresuid16      -          165  -    165
getresgid16      -          171  -    171
getgroups16      -          80   -    80
setuid16         -          23   -    23
setgid16         -          46   -    46
setreuid16       -          70   -    70
setregid16       -          71   -    71
setresuid16      -          164  -    164
setresgid16      -          170  -    170
setfsuid16       -          138  -    138
setfsgid16       -          139  -    139
setgroups16      -          81   -    81
capget           125        184  90   184
capset           126        185  91   185
prctl            157        172  167  172
execve           59,520     11   221  11
execveat         322,545    358  281  387

chown            92         212  -    212
lchown           94         198  -    198
fchown           93         207  55   207
fchownat         260        298  54   325
chown16          -          182  -    182
lchown16         -          16   -    16
fchown16         -          95   -    95
chmod            90         15   -    15
fchmod           91         94   52   94
fchmodat         268        306  53   333
fchmodat2        452        452  452  452
stat             4          -    -    -
lstat            6          -    -    -
fstat            5          -    80   -
newfstatat       262        -    79   -
statx            332        383  291  397
stat64           -          195  -    195
lstat64          -          196  -    196
fstat64          -          197  -    197
fstatat64        -          300  -    327
stat32           -          106  -    106
lstat32          -          107  -    107
fstat32          -          108  -    108
oldstat          -          18   -    -
oldlstat         -          84   -    -
oldfstat         -          28   -    -

open             2          5    -    5
openat           257        295  56   322
openat2          437        437  437  437
creat            85         8    -    8
mkdir            83         39   -    39
mkdirat          258        296  34   323
symlink          88         83   -    83
symlinkat        266        304  36   331
mknod            133        14   -    14
mknodat          259        297  33   324

setxattr         188        226  5    226
lsetxattr        189        227  6    227
fsetxattr        190        228  7    228
getxattr         191        229  8    229
lgetxattr        192        230  9    230
fgetxattr        193        231  10   231
listxattr        194        232  11   232
llistxattr       195        233  12   233
flistxattr       196        234  13   234
removexattr      197        235  14   235
lremovexattr     198        236  15   236
fremovexattr     199        237  16   237
setxattrat       463        463  463  463
getxattrat       464        464  464  464
listxattrat      465        465  465  465
removexattrat    466        466  466  466

chroot           161        61   51   61
clone            56         120  220  120
clone3           435        435  435  435
unshare          272        310  97   337
setrlimit        160        75   164  75
prlimit64        302        340  261  369
io_uring_setup   425        425  425  425
io_uring_enter   426        426  426  426
io_uring_register 427       427  427  427
"""

# Calls that are newer than every program that can't do without them, and old forms of stat(2) that
# are gone from libraries for twenty years.
_ABSENT = frozenset(
    (
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"),
        *("oldstat", "oldlstat", "oldfstat"),
        *("setxattrat", "getxattrat", "listxattrat", "removexattrat"),
    )
)


class Test(Struct, frozen=True):
    """Of the argument at `index`: one of its low `bits` is set, or its low word equals a value,
    or it is not zero at all."""

    __test__ = False

    index: int
    bits: int = 0
    equals: int = -1


class Case(Struct, frozen=True):
    """`action` where every test holds; SECCOMP_RET_*."""

    tests: tuple[Test, ...]
    action: int


_SUCCESS = ERRNO  # with number 0: the call is not made and gives 0
_CONDITIONAL: Mapping[str, tuple[Case, ...]] = {
    "open": (Case((Test(1, bits=O_CREAT | TMPFILE_BIT),), ASK),),
    "openat": (Case((Test(2, bits=O_CREAT | TMPFILE_BIT),), ASK),),
    "prctl": (
        *(Case((Test(0, equals=option),), ASK) for option in PR_ASKED),
        Case((Test(0, equals=PR_SET_DUMPABLE),), _SUCCESS),
    ),
    "clone": (Case((Test(0, bits=NEW_USER_OR_MOUNTS),), ERRNO | EPERM),),
    "unshare": (Case((Test(0, bits=NEW_USER_OR_MOUNTS),), ERRNO | EPERM),),
    "setrlimit": (Case((Test(0, equals=RLIMIT_LOCKS),), _SUCCESS),),
    "prlimit64": (Case((Test(1, equals=RLIMIT_LOCKS), Test(2)), _SUCCESS),),
}


def calls(abi: Abi) -> dict[int, str]:
    """The calls of the table by their number; those of x32 without X32_BIT."""
    column = list(Abi).index(abi) + 1
    found = {}
    for line in _TABLE.splitlines():
        words = line.split()
        if words and words[column] != "-":
            found.update({int(number): words[0] for number in words[column].split(",")})
    return found


def cases(call: str) -> tuple[Case, ...]:
    """What the filter does with a call of the table; where none fits, the call passes."""
    if call in _ABSENT:
        return (Case((), ERRNO | ENOSYS),)
    return _CONDITIONAL.get(call, (Case((), ASK),))


def asked(machine: str) -> dict[int, dict[int, str]]:
    """What the listener is asked about: audit architecture → number → call."""
    return {abi.value: calls(abi) for abi in MACHINES.get(machine, ())}


# --- assembling ---------------------------------------------------------------------------------


class Instruction(Struct, frozen=True):
    """One of classic BPF: struct sock_filter of linux/filter.h. A conditional jump skips `jt` or
    `jf` instructions."""

    code: int
    k: int
    jt: int = 0
    jf: int = 0


# linux/bpf_common.h
LOAD, AND, JUMP, IF_EQUAL, IF_BITS, RETURN = 0x20, 0x54, 0x05, 0x15, 0x45, 0x06
# offsets in struct seccomp_data; both processors are little endian
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


def program(machine: str) -> tuple[Instruction, ...]:
    """The filter for a processor, as uname(2) names it. The architecture of the call is checked
    first; calls of one that is not known do not exist."""
    found = [Instruction(LOAD, _ARCHITECTURE)]
    for abi in MACHINES.get(machine, ()):
        block = _block(abi)
        found += [Instruction(IF_EQUAL, abi.value, jt=1), Instruction(JUMP, len(block)), *block]
    return (*found, Instruction(RETURN, ERRNO | ENOSYS))


def _block(abi: Abi) -> list[Instruction]:
    found = [Instruction(LOAD, _NUMBER)]
    if abi is Abi.AMD64:
        found.append(Instruction(AND, ~X32_BIT & 0xFFFFFFFF))
    for number, call in sorted(calls(abi).items()):
        body = _body(cases(call))
        found += [Instruction(IF_EQUAL, number, jf=len(body)), *body]
    return [*found, Instruction(RETURN, ALLOW)]


def _body(found: Sequence[Case]) -> list[Instruction]:
    body: list[Instruction] = []
    for case in found:
        end = [Instruction(RETURN, case.action)]
        for test in reversed(case.tests):
            end = _test(test, len(end)) + end
        body += end
        if not case.tests:
            return body
    return [*body, Instruction(RETURN, ALLOW)]


def _test(test: Test, rest: int) -> list[Instruction]:
    """Goes on where it holds, else skips `rest` more instructions."""
    low = _ARGUMENTS + 8 * test.index
    if test.bits:
        return [Instruction(LOAD, low), Instruction(IF_BITS, test.bits, jf=rest)]
    if test.equals >= 0:
        return [Instruction(LOAD, low), Instruction(IF_EQUAL, test.equals, jf=rest)]
    return [
        Instruction(LOAD, low),
        Instruction(IF_EQUAL, 0, jf=2),
        Instruction(LOAD, low + 4),
        Instruction(IF_EQUAL, 0, jt=rest),
    ]


def packed(instructions: Sequence[Instruction]) -> bytes:
    """As an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", i.code, i.jt, i.jf, i.k) for i in instructions)
