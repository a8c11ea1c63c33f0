"""Whether a RUN can be told that it is another user: found by asking from inside one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pybuild.isolation.errors import describe_errno
from pybuild.isolation.ownership import Faked
from pybuild.isolation.probe import Found, tiny_program
from pybuild.isolation.process import Request, Runner
from pybuild.rootfs.ids import Ids

# exit(getuid()), as machine code: the program must not depend on anything that may be missing here
USER_CODE = {
    "x86_64": (62, bytes.fromhex("b866000000 0f05 89c7 b83c000000 0f05")),
    "aarch64": (183, bytes.fromhex("c81580d2 010000d4 a80b80d2 010000d4")),
}
ASKED = 77  # nobody's real id


def try_faked(runner: Runner, directory: Path) -> Found:
    """One RUN of a tiny program below `directory`, which is asked who it is; an empty `reason`
    means that it said what it was told. What is made for it is removed again."""
    code = tiny_program(os.uname().machine, USER_CODE)
    if code is None:
        return Found(
            None, f"no filter for {os.uname().machine} is known", "build on amd64 or arm64"
        )
    program = directory / f"probe-{os.urandom(6).hex()}"
    program.write_bytes(code)
    program.chmod(0o755)
    request = Request(
        argv=(str(program),),
        env=(),
        cwd="/",
        uid=os.geteuid(),
        gid=os.getegid(),
        groups=None,
        flags=0,
        operations=(("in_place",),),
        capabilities=0,
        weak_bounding=True,
        faked=Faked(Ids(ASKED, ASKED, (), "/")),
    )
    try:
        outcome = runner.run(request, lambda _stream, _data: None, threading.Event())
    finally:
        program.unlink()
    if outcome.failed is not None:
        step, number, detail = outcome.failed
        return _refused(f"{step}{f' {detail}' if detail else ''}: {describe_errno(number)}")
    if outcome.status != ASKED:
        return _refused(f"a RUN was not told who it is, but ended with status {outcome.status}")
    return Found(None, "")


def _refused(reason: str) -> Found:
    return Found(
        None,
        f"a seccomp filter that asks its builder can't be had: {reason}",
        "the seccomp profile has to allow seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER",
    )
