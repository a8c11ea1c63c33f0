"""The rules of credentials(7) and capabilities(7), held against the kernel's own: a child process
of root does the same to itself."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.isolation import identity
from pybuild.isolation.identity import DOCKER, Identity, Refused, initial
from tests.support import kernel_identity

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64", reason="needs root; call numbers of amd64"
)

SETTERS = {
    "setuid": identity.set_uid,
    "setgid": identity.set_gid,
    "setreuid": identity.set_reuid,
    "setregid": identity.set_regid,
    "setresuid": identity.set_resuid,
    "setresgid": identity.set_resgid,
    "setfsuid": identity.set_fsuid,
    "setfsgid": identity.set_fsgid,
}
PROGRAM = kernel_identity.__file__
Step = tuple[str, tuple[int, ...]]

real_ids = st.sampled_from([0, 33, 44])
any_ids = st.sampled_from([-1, 0, 33, 44])
capability = st.sampled_from([0, 6, 7, 8, 13, 21, 41])
some = st.sets(st.sampled_from([0, 6, 7, 8, 13]), max_size=5).map(
    lambda numbers: sum(1 << number for number in numbers)
)
steps = st.one_of(
    st.tuples(st.sampled_from(["setuid", "setgid", "setfsuid", "setfsgid"]), st.tuples(real_ids)),
    st.tuples(st.sampled_from(["setreuid", "setregid"]), st.tuples(any_ids, any_ids)),
    st.tuples(st.sampled_from(["setresuid", "setresgid"]), st.tuples(any_ids, any_ids, any_ids)),
    st.tuples(st.just("setgroups"), st.lists(real_ids, max_size=3).map(tuple)),
    st.tuples(st.just("keepcaps"), st.tuples(st.sampled_from([0, 1, 2]))),
    st.tuples(st.just("bounding"), st.tuples(capability)),
    st.tuples(
        st.just("securebits"), st.tuples(st.sampled_from([0, 1, 3, 4, 16, 32, 48, 64, 1 << 20]))
    ),
    st.tuples(st.just("ambient"), st.tuples(capability)),
    st.tuples(st.just("capset"), st.one_of(st.tuples(some, some, some), st.tuples(*[some] * 3))),
    st.tuples(st.just("inherit"), st.tuples(some)),
)


def by_rule(who: Identity, name: str, words: tuple[int, ...]) -> Identity:
    if name in SETTERS:
        return SETTERS[name](who, *words)
    match name:
        case "setgroups":
            return identity.set_groups(who, words)
        case "keepcaps":
            return identity.keep_capabilities(who, *words)
        case "bounding":
            return identity.drop_bounding(who, *words)
        case "securebits":
            return identity.set_securebits(who, *words)
        case "ambient":
            if words[0] > identity.CAP_LAST:
                raise Refused(22)
            return identity.raise_ambient(who, *words)
        case "inherit":
            return identity.set_capabilities(who, who.effective, who.permitted, *words)
        case _:
            return identity.set_capabilities(who, *words)


def seen(who: Identity) -> list[object]:
    """As /proc/PID/status tells it."""
    sets = (who.inheritable, who.permitted, who.effective, who.bounding, who.ambient)
    return [list(who.uids), list(who.gids), sorted(who.groups), list(sets)]


def by_rules(todo: list[Step]) -> list[object]:
    who = initial(0, 0, ())
    told: list[object] = []
    for name, words in todo:
        try:
            who = by_rule(who, name, words)
            told.append([0, *seen(who)])
        except Refused as problem:
            told.append([problem.number, *seen(who)])
    return [*told, seen(identity.execute(who))]


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_the_kernel_does_the_same(todo: list[Step]) -> None:
    command = [sys.executable, "-I", "-S", PROGRAM, json.dumps(todo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, _, rest = done.stdout.partition("\n")
    assert [*json.loads(first), kernel_identity.parsed(rest)] == by_rules(todo)


def test_a_setuid_program_gives_its_owner() -> None:
    bob = initial(1001, 1002, (5,))
    as_root = identity.execute(bob, owner=0)
    assert as_root.uids == (1001, 0, 0, 0)
    assert (as_root.permitted, as_root.effective) == (DOCKER, DOCKER)
    as_lp = identity.execute(bob, owner=7, group=8)
    assert (as_lp.uids, as_lp.gids) == ((1001, 7, 7, 7), (1002, 8, 8, 8))
    assert (as_lp.permitted, as_lp.groups) == (0, (5,))


def test_a_program_with_capabilities_gives_those() -> None:
    value = struct.pack("=5I", 0x02000001, 1 << 13 | 1 << 21, 0, 0, 0)  # 21 is not in the bounds
    who = identity.execute(initial(1001, 1002, ()), capability=value)
    assert (who.permitted, who.effective) == (1 << 13, 1 << 13)
