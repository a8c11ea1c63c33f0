"""One run of a command: signals, errors and the exit status. The only place that has them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pybuild.errors import Interrupted, PybuildError, without_passwords

if TYPE_CHECKING:
    import threading
    from types import FrameType

    from pybuild.events import BuildFailed, EventSink


def guarded(action: Callable[[], int]) -> int:
    """The exit status of `action`; its errors are told on standard error."""
    try:
        return action()
    except PybuildError as error:
        tell(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Who read standard output is gone; nothing may be written to it any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:  # a mistake of ours: say so, and ask for a report
        _tell_bug(error)
        return 1


def tell(error: PybuildError) -> None:
    """Writes an error as the plain report does, where no report is open."""
    from pybuild.report.text import failure, harmless

    for line in failure(failed_event(error)):
        sys.stderr.write(harmless(line) + "\n")


def failed_event(error: PybuildError) -> BuildFailed:
    from pybuild.events import BuildFailed

    source = error.source
    return BuildFailed(
        error.code,
        without_passwords(error.message),
        without_passwords(error.hint),
        source.file if source else "",
        source.line if source else 0,
        without_passwords(source.text) if source else "",
        error.exit_status,
    )


def _tell_bug(error: Exception) -> None:
    import traceback

    from pybuild import __version__

    if os.environ.get("PYBUILD_DEBUG"):
        traceback.print_exc()
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
    sys.stderr.write(
        f"error[bug]: {type(error).__name__}: {error}\n"
        f"  at {where}, pybuild {__version__}\n"
        "hint: this is a mistake of the builder; please report it with what the same command "
        "prints under PYBUILD_DEBUG=1\n"
    )


class Stop:
    """Whether a signal asked the build to stop, and which one. `asked` is what is polled."""

    def __init__(self) -> None:
        import threading

        self.asked: threading.Event = threading.Event()
        self.number = 0
        self._actions: list[Callable[[], None]] = []

    def when_asked(self, action: Callable[[], None]) -> None:
        """Has `action` carried out once a signal came: it wakes what waits and can't poll."""
        self._actions.append(action)
        if self.asked.is_set():
            action()

    @contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """TERM, INT and HUP set `asked`; a second one ends the process there and then."""
        import signal

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._on_signal)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        import threading

        if self.number:
            os._exit(128 + number)
        self.number = number
        # Not here: the main thread may be inside this very event and hold its lock.
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        self.asked.set()
        for action in self._actions:
            action()

    def error(self) -> Interrupted:
        return Interrupted(self.number)


def reported(sink: EventSink, stop: Stop, action: Callable[[], int]) -> int:
    """The exit status of a build, with its failure told to the report.

    Whatever a build fails with after a signal came, the signal is the reason.
    """
    try:
        return action()
    except PybuildError as error:
        failure: PybuildError = error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        from pybuild.layer.errors import DiskFull

        named = str(error.filename or "")
        failure = DiskFull(named.rpartition("/")[0] if named else "the working folder")
    told = stop.error() if stop.number else failure
    sink(failed_event(told))
    return told.exit_status
