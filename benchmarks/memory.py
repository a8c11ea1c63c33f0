"""The largest single process of a builder, the commands of RUN left out."""

from __future__ import annotations

import re
import threading
from pathlib import Path

INTERVAL_SECONDS = 0.01


class PeakMemory:
    """Watches a process and all below it whose program is one of the builder's own.

    VmHWM is the kernel's own high-water mark, so that sampling only has to see each process once
    after its peak; `programs` are patterns over the name of the executable file.
    """

    def __init__(self, pid: int, programs: str) -> None:
        self._pid = pid
        self._programs = re.compile(programs)
        self._peaks: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Ends the watching; the largest peak in MB."""
        self._ended.set()
        self._thread.join()
        return max(self._peaks.values(), default=0) / 1024

    def _watch(self) -> None:
        while True:
            self._look(self._pid)
            if self._ended.wait(INTERVAL_SECONDS):
                return

    def _look(self, pid: int) -> None:
        process = Path(f"/proc/{pid}")
        try:
            if self._programs.fullmatch((process / "exe").readlink().name):
                status = (process / "status").read_text()
                peak = re.search(r"VmHWM:\s*(\d+) kB", status)
                if peak:
                    self._peaks[pid] = max(self._peaks.get(pid, 0), int(peak[1]))
            tasks = list((process / "task").iterdir())
            below = [child for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it has ended meanwhile
            return
        for child in below:
            self._look(int(child))
