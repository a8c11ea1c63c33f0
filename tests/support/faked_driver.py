"""Runs commands as an ordinary user who is shown another world, and tells what came of it: a
program for containers, JSON on stdin and stdout.

Asked with {"cases": {name: {"script": …, "ids": [uid, gid, groups], "absent": [], "after": ""}}};
answers with what each wrote, and with the records by path below its own folder, where it is run. A
case that names an earlier one in "after" goes on there, with the records known so far.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pybuild.isolation.ownership import Faked, Record
from pybuild.isolation.process import Request, Runner
from pybuild.rootfs.ids import Ids

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def by_path(folder: Path, records: list[Record]) -> dict[str, list[object]]:
    """uid, gid, capability in hex, kind, rdev."""
    known = {(record.device, record.inode): record for record in records}
    found: dict[str, list[object]] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        record = known.get((info.st_dev, info.st_ino))
        if record is not None:
            fields = [record.uid, record.gid, record.capability.hex(), record.kind, record.rdev]
            if record.mode >= 0:
                fields.append(oct(record.mode))
            found[str(path.relative_to(folder))] = fields
    return found


def carry_out(
    runner: Runner, folder: Path, case: dict[str, Any], records: tuple[Record, ...]
) -> tuple[dict[str, Any], list[Record]]:
    folder.mkdir(parents=True, exist_ok=True)
    uid, gid, groups = case["ids"]
    request = Request(
        argv=("/bin/sh", "-c", case["script"]),
        env=(("PATH", PATH), ("LC_ALL", "C"), ("DEBIAN_FRONTEND", "noninteractive")),
        cwd=str(folder),
        uid=os.getuid(),
        gid=os.getgid(),
        groups=(),
        flags=0,
        operations=(("in_place",),),
        weak_bounding=True,
        faked=Faked(Ids(uid, gid, tuple(groups), "/"), records, tuple(case["absent"])),
    )
    streams: dict[int, bytes] = {1: b"", 2: b""}

    def output(stream: int, data: bytes) -> None:
        streams[stream] += data

    began = time.monotonic()
    outcome = runner.run(request, output, threading.Event())
    answer = {
        "status": outcome.status,
        "out": streams[1].decode(errors="replace"),
        "err": streams[2].decode(errors="replace"),
        "failed": outcome.failed,
        "refused": outcome.refused,
        "records": by_path(folder, outcome.records),
        "seconds": time.monotonic() - began,
    }
    return answer, outcome.records


def main() -> None:
    asked = json.load(sys.stdin)
    answers: dict[str, Any] = {}
    records: dict[str, list[Record]] = {}
    runner = Runner()
    for name, case in asked["cases"].items():
        after = case["after"]
        folder = Path("/workspace") / (after or name)
        known = tuple(records.get(after, ()))
        answers[name], records[name] = carry_out(runner, folder, case, known)
    runner.close()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
