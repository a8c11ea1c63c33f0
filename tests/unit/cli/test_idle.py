"""`pybuild idle` as a container's main process: ends at once when told to, and leaves no zombie."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

IDLE = "import sys; from pybuild.cli.main import main; sys.exit(main(['idle']))"
# An orphan comes to the nearest process above it that asked for such: here the one that idles.
PR_SET_CHILD_SUBREAPER = 36
WITH_ORPHANS = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1)
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            import time
            time.sleep(1)
        os._exit(0)
sys.stdout.write("ready")
sys.stdout.flush()
{IDLE}
"""


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_it_reaps_and_ends_at_once(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WITH_ORPHANS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read(5) == b"ready"
        assert children(process.pid)
        deadline = time.monotonic() + 20
        while children(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children(process.pid) == []
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == 0
        assert time.monotonic() - started < 1
