"""The build cases: pybuild's images against what BuildKit makes of the same Dockerfiles.

Each case is built by the real command line into a real registry, in each isolation; the image is
read back and compared with the case's record, and for cases marked `live` with what BuildKit makes
of it now. See tests/support/oracle/case.py for what a case may say.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bundle
from tests.support.bases import SMALL, push_bases
from tests.support.oracle.builders import (
    Bench,
    Builder,
    OracleBuilder,
    PybuildBuilder,
    Refused,
)
from tests.support.oracle.buildkit import running_buildkit
from tests.support.oracle.case import Case, load_cases
from tests.support.oracle.flatten import Flattener
from tests.support.oracle.install import OracleMissing, install
from tests.support.oracle.record import Record, differences, read_record, unexplained
from tests.support.oracle.registry import running_registry
from tests.support.oracle.takeover import TakeoverBuilder, running_rootless, running_takeover

EXECUTOR = Path(sys.executable).with_name("executor")
NEEDED = ("docker-registry", "setfattr", "setcap", "zstd", "xz")
CASES = load_cases()
missing = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="build cases need root"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]


def runs_something(case: Case) -> bool:
    """Whether the isolation matters at all: what only copies is made from the index in each."""
    texts = [path.read_text(errors="replace") for path in case.directory.rglob("*Dockerfile*")]
    runs = any(re.search(r"^\s*(ONBUILD\s+)?RUN\b", text, re.MULTILINE | re.I) for text in texts)
    return runs or "rootless" in (case.refused or {})


def cases(only: str, *, live: bool = False, running: bool = False) -> list[object]:
    chosen = [case for case in CASES if case.only in ("", only) and (case.live or not live)]
    chosen = [case for case in chosen if runs_something(case) or not running]
    return [pytest.param(case, id=case.name) for case in chosen]


class Outcomes:
    """What pybuild makes of each case, built once for all that look at it."""

    def __init__(self, bench: Bench, builder: Builder) -> None:
        self._bench = bench
        self._builder = builder
        self._known: dict[str, Record | Refused] = {}

    def of(self, case: Case) -> Record | Refused:
        if case.name not in self._known:
            try:
                self._known[case.name] = self._bench.outcome(case, self._builder)
            except Refused as refused:
                self._known[case.name] = refused
        return self._known[case.name]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with running_registry() as registry:
        push_bases(registry, SMALL)
        yield Bench(registry, Flattener(registry))


@pytest.fixture(scope="module")
def namespace(bench: Bench) -> Outcomes:
    return Outcomes(bench, PybuildBuilder(EXECUTOR))


@pytest.fixture(scope="module")
def takeover(bench: Bench) -> Iterator[Outcomes]:
    if lacking := bundle.missing_commands():
        pytest.skip(f"not installed: {', '.join(lacking)}")
    with running_takeover() as builder:
        assert isinstance(builder, TakeoverBuilder)
        yield Outcomes(Bench(bench.registry, bench.flattener, builder.volume), builder)


@pytest.fixture(scope="module")
def rootless(bench: Bench) -> Iterator[Outcomes]:
    if lacking := bundle.missing_commands():
        pytest.skip(f"not installed: {', '.join(lacking)}")
    with running_rootless(bundle.Pod.RESTRICTED) as builder:
        yield Outcomes(Bench(bench.registry, bench.flattener, builder.volume), builder)


@pytest.fixture(scope="module")
def oracle(bench: Bench) -> Iterator[Outcomes]:
    try:
        install()
    except OracleMissing as problem:
        pytest.skip(str(problem))
    with running_buildkit(bench.registry) as daemon:
        yield Outcomes(bench, OracleBuilder(daemon))


def check(case: Case, outcome: Record | Refused, where: str) -> None:
    """The image is the recorded one but for the differences that the case names, or the build
    ended with the error that the case expects."""
    if case.error:
        assert isinstance(outcome, Refused), f"built, instead of ending with {case.error}"
        found = (outcome.code, outcome.status)
        assert found == (case.error, case.exit_status), str(outcome)
        return
    if code := (case.refused or {}).get(where):
        assert isinstance(outcome, Refused), f"built, instead of ending with {code}"
        assert outcome.code == code, str(outcome)
        return
    if isinstance(outcome, Refused):
        pytest.fail(str(outcome))
    problems = unexplained(case, read_record(case), outcome, where)
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.xdist_group("cases-namespace")
@pytest.mark.parametrize("case", cases("namespace"))
def test_namespace(case: Case, namespace: Outcomes) -> None:
    check(case, namespace.of(case), "namespace")


@pytest.mark.xdist_group("cases-takeover")
@pytest.mark.parametrize("case", cases("takeover"))
def test_takeover(case: Case, takeover: Outcomes) -> None:
    check(case, takeover.of(case), "takeover")


@pytest.mark.xdist_group("cases-rootless")
@pytest.mark.parametrize("case", cases("rootless", running=True))
def test_rootless(case: Case, rootless: Outcomes) -> None:
    check(case, rootless.of(case), "rootless")


@pytest.mark.xdist_group("cases-namespace")
@pytest.mark.parametrize("case", cases("namespace", live=True))
def test_live(case: Case, namespace: Outcomes, oracle: Outcomes) -> None:
    """The record is still what BuildKit makes of it, and pybuild's image is the same."""
    today, ours = oracle.of(case), namespace.of(case)
    assert not isinstance(today, Refused), str(today)
    assert not isinstance(ours, Refused), str(ours)
    changed = differences(read_record(case), today)
    assert not changed, f"the record is not what BuildKit makes today: {changed}"
    problems = unexplained(case, today, ours, "namespace")
    assert not problems, "\n" + "\n".join(problems)


def test_enough_cases_are_compared_live() -> None:
    assert len(CASES) >= 60
    assert len(cases("namespace", live=True)) >= 20


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_case_is_complete(case: Case) -> None:
    """A case without a record compares nothing, and one with `error` needs none."""
    assert bool(case.error and case.error != "not-carried-out") != case.expected_file.exists()
