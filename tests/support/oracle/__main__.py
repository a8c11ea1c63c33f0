"""`python -m tests.support.oracle record|check|show|peers [CASE…]`: the oracle's records.

record   builds the cases with BuildKit and writes what it makes of them into expected.json
check    the same, but only says which records would change
show     prints what BuildKit makes of the cases named, log included
peers    compares buildah with the records, for a second opinion
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.bases import SMALL, BasesMissing, push_bases
from tests.support.oracle.builders import Bench, BuildahBuilder, OracleBuilder, Refused
from tests.support.oracle.buildkit import running_buildkit
from tests.support.oracle.case import NOT_YET, BadCase, Case, load_cases
from tests.support.oracle.flatten import BrokenImage, Flattener
from tests.support.oracle.install import OracleMissing
from tests.support.oracle.record import (
    Record,
    differences,
    read_record,
    unexplained,
    write_record,
)
from tests.support.oracle.registry import RegistryMissing, running_registry

EVERYWHERE = ("config.Labels: expected null, got", "config.ArgsEscaped:", "etc/hosts:", "run:")
"""Differences that buildah 1.28 has in all images: its label, no ArgsEscaped, what RUN leaves."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="oracle", description=__doc__)
    commands = ("record", "check", "show", "peers")
    parser.add_argument("what", nargs="?", choices=commands, default="record")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    chosen = parser.parse_args(arguments)
    try:
        cases = load_cases(tuple(chosen.cases))
        with running_registry() as registry:
            push_bases(registry, SMALL)
            bench = Bench(registry, Flattener(registry))
            if chosen.what == "peers":
                return _peers(cases, bench)
            with running_buildkit(registry) as daemon:
                builder = OracleBuilder(daemon)
                return sum(_one(chosen.what, case, bench, builder) for case in cases) and 1
    except (BadCase, BasesMissing, OracleMissing, RegistryMissing) as problem:
        print(f"oracle: {problem}", file=sys.stderr)
        return 1


def _one(what: str, case: Case, bench: Bench, builder: OracleBuilder) -> int:
    if not case.oracle:
        print(f"{case.name}: left alone, its case.toml says why")
        return 0
    try:
        record = bench.outcome(case, builder)
    except Refused as refused:
        return _refused(what, case, refused)
    except BrokenImage as broken:
        print(f"{case.name}: BuildKit's image is broken: {broken}")
        return 1
    if what == "show":
        print(f"{case.name}: {json.dumps(record, indent=1, sort_keys=True)}")
        return 0
    if case.error and case.error != NOT_YET:
        print(f"{case.name}: BuildKit builds it, but case.toml expects {case.error}")
        return 1
    return _take(what, case, record)


def _refused(what: str, case: Case, refused: Refused) -> int:
    print(f"{case.name}: refused: {refused.last_line}")
    if what == "show":
        print(refused.text)
    return 0 if case.error else 1


def _take(what: str, case: Case, record: Record) -> int:
    if what == "record":
        print(f"{case.name}: {'written' if write_record(case, record) else 'the same'}")
        return 0
    if not case.expected_file.exists():
        print(f"{case.name}: not recorded")
        return 1
    found = differences(read_record(case), record)
    known = [known for known in case.differences if known.where == "oracle"]
    found = {
        key: mismatch
        for key, mismatch in found.items()
        if not any(one.covers(key, mismatch.fields, "oracle") for one in known)
    }
    for key, mismatch in found.items():
        print(f"{case.name}: {key}: {mismatch.text}")
    return 1 if found else 0


def _peers(cases: Sequence[Case], bench: Bench) -> int:
    with tempfile.TemporaryDirectory(prefix="buildah-") as storage:
        builder = BuildahBuilder(Path(storage))
        try:
            for case in cases:
                print(f"{case.name}: {_opinion(case, bench, builder)}", flush=True)
        finally:
            # overlay directories of its storage stay mounted after some failures
            command = ["buildah", f"--root={storage}/root", f"--runroot={storage}/run"]
            subprocess.run([*command, "rm", "--all"], capture_output=True, check=False)
    return 0


def _opinion(case: Case, bench: Bench, builder: BuildahBuilder) -> str:
    try:
        record = bench.outcome(case, builder)
    except Refused as refused:
        return f"refused{' too' if case.error else ''}: {refused.last_line}"
    except BrokenImage as broken:
        return f"broken image: {broken}"
    if case.error:
        return f"builds what should end with {case.error}"
    found = [
        line
        for line in unexplained(case, read_record(case), record, "buildah")
        if not line.startswith(EVERYWHERE)
    ]
    return "the same" if not found else "differs\n  " + "\n  ".join(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
