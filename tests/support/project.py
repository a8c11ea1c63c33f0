"""A folder with a Dockerfile, and the real command line run in it as users run it.

`Project.executor` runs to the end, `Project.start` gives a build that can be watched and stopped.
What a build leaves behind, on disk, as mounts or as processes, is found by `Project.leftovers`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EXECUTOR = Path(sys.executable).with_name("executor")
_MARK = "PYBUILD_TEST_PROJECT"


@dataclass(frozen=True)
class Finished:
    """A command that ended. `killed` says that it had to be, since it did not end in time."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def codes(self) -> list[str]:
        """The codes of all errors that were told."""
        return re.findall(r"^error\[([^\]]*)\]", self.text, re.MULTILINE)

    @property
    def error(self) -> str:
        """From the error's first line to the end: message, place and hint."""
        return self.text[self.text.find("error[") :]

    @property
    def place(self) -> str:
        found = re.search(r"^  at (\S+)$", self.error, re.MULTILINE)
        return found[1] if found else ""

    @property
    def hint(self) -> str:
        found = re.search(r"^hint: (.*)$", self.error, re.MULTILINE)
        return found[1] if found else ""


@dataclass
class Running:
    """A command on its way."""

    process: subprocess.Popen[bytes]
    started: float
    _err: list[bytes] = field(default_factory=list)
    _reader: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        while data := os.read(self.process.stderr.fileno(), 1 << 16):
            self._err.append(data)

    @property
    def err(self) -> str:
        return b"".join(self._err).decode(errors="backslashreplace")

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        """Until the log holds `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.err:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{text!r} was never told:\n{self.err}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def finish(self, seconds: float = 30.0) -> Finished:
        """Fails the test when the command does not end in time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end within {seconds:g} s:\n{self.err}") from None
        assert self._reader is not None
        self._reader.join(5)
        out = b"" if self.process.stdout is None else self.process.stdout.read()
        took = time.monotonic() - self.started
        return Finished(self.process.returncode, out.decode(errors="replace"), self.err, took)


class Project:
    """`context` is the build context and the working folder, `work` where the builder's own
    folder is made, `out` for files that a build should leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context, self.work, self.out = folder / "context", folder / "work", folder / "out"
        self.home = folder / "home"
        for made in (self.context, self.work, self.out, self.home):
            made.mkdir()
        self.mark = uuid.uuid4().hex

    def write(self, name: str, content: str | bytes) -> Path:
        """A file of the context."""
        path = self.context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def environment(self, more: Mapping[str, str | None]) -> dict[str, str]:
        """A small one; None takes a variable out."""
        names = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.work),
            "LC_ALL": "C.UTF-8",
            "PYBUILD_ISOLATION": "namespace",  # a test never falls back to the machine's own `/`
            _MARK: self.mark,
            **more,
        }
        return {name: value for name, value in names.items() if value is not None}

    def start(
        self,
        *flags: str,
        environment: Mapping[str, str | None] | None = None,
        before: Sequence[str] = (),
        folder: Path | None = None,
    ) -> Running:
        """`before` are the words of a command that runs the executor, such as `unshare -m`."""
        process = subprocess.Popen(
            # Whoever started the tests may ignore signals (nohup, a background job).
            ["env", "--default-signal=HUP,INT,TERM", *before, str(EXECUTOR), *flags],
            cwd=folder or self.context,
            env=self.environment(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return Running(process, time.monotonic())

    def executor(
        self,
        *flags: str,
        environment: Mapping[str, str | None] | None = None,
        before: Sequence[str] = (),
        folder: Path | None = None,
        seconds: float = 60.0,
    ) -> Finished:
        running = self.start(*flags, environment=environment, before=before, folder=folder)
        return running.finish(seconds)

    def leftovers(self, words: Sequence[str] = (), seconds: float = 4.0) -> list[str]:
        """What a build left: files of its own, mounts, processes (those that have the project's
        environment, or one of `words` on their command line). Waits a little for them to go."""
        deadline = time.monotonic() + seconds
        while found := self._leftovers(words):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return found

    def _leftovers(self, words: Sequence[str]) -> list[str]:
        found = [f"file {path}" for path in self.work.iterdir()]
        found += [f"file {path}" for path in self.folder.glob("pybuild-*")]
        found += [f"file {path}" for path in self.out.rglob("*")]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [f"mount {line}" for line in mounts.splitlines() if str(self.folder) in line]
        return found + [f"process {line}" for line in processes([self.mark, *words])]


def processes(words: Sequence[str]) -> list[str]:
    """Those whose environment or command line holds one of `words`; zombies have neither."""
    wanted = [word.encode() for word in words]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            about = command + (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(word in about for word in wanted):
            shown = command.replace(bytes(1), b" ").decode(errors="replace")
            found.append(f"{folder.name} {shown}")
    return found


def end_processes(words: Sequence[str]) -> None:
    """Ends what a failed test left, by its id."""
    for line in processes(words):
        try:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue
