"""When a failed request is tried again, and how long to wait before."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.errors import ContentMismatch, RegistryError
from pybuild.events import EventSink, Level, Notice

if TYPE_CHECKING:
    import threading

# A stream that came at least this far since its last break is not near its end of patience.
_PROGRESS_BYTES = 256 << 10


class RetryPolicy(Struct, frozen=True):
    """At most `tries` attempts in all; waits double from the first one up to the longest."""

    tries: int = 5
    first_wait_seconds: float = 0.4
    longest_wait_seconds: float = 15.0
    total_seconds: float = 120.0  # of waiting, for one operation

    def wait_seconds(self, failures: int, spread: float) -> float:
        """The wait after that many failures (from 1); `spread` in [0, 1) takes up to half off."""
        longest = self.first_wait_seconds * 2.0 ** (failures - 1)
        return min(longest, self.longest_wait_seconds) * (1 - spread / 2)


class Transient(Exception):
    """A failure that may pass; `error` is what the user sees when it does not."""

    def __init__(
        self, error: RegistryError | ContentMismatch, after_seconds: float | None = None
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.after_seconds = after_seconds


class Budget:
    """How often and how long one operation may still be tried. Used by one thread."""

    def __init__(self, policy: RetryPolicy, sink: EventSink, closed: threading.Event) -> None:
        self._policy = policy
        self._sink = sink
        self._closed = closed
        self._failures = 0
        self._waited = 0.0

    def spend(self, failure: Transient) -> None:
        """Waits until the next attempt, or raises the failure's error if there is none left."""
        self._failures += 1
        error = failure.error
        if self._failures >= self._policy.tries or self._closed.is_set():
            if self._failures > 1:
                error.message = f"{error.message} (tried {self._failures} times)"
                error.args = (error.message,)
            raise error from failure
        wait = self._policy.wait_seconds(self._failures, random.random())
        if failure.after_seconds is not None:
            wait = max(wait, failure.after_seconds)
        if self._waited + wait > self._policy.total_seconds:
            error.message = f"{error.message} (and asks to wait {wait:.0f} s, which is too long)"
            error.args = (error.message,)
            raise error from failure
        self._sink(
            Notice(
                Level.WARNING,
                f"{error.message}; trying again in {wait:.1f} s "
                f"({self._failures + 1} of {self._policy.tries})",
                "registry-retry",
            )
        )
        self._waited += wait
        if self._closed.wait(wait):
            raise error from failure

    def progressed(self, count: int) -> None:
        """Tells that `count` bytes came through since the last failure."""
        if count >= _PROGRESS_BYTES:
            self._failures = 0


def retry_after_seconds(header: str, now: float | None = None) -> float | None:
    """The Retry-After header (RFC 9110, 10.2.3): seconds, or a date. None if it has neither."""
    text = header.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return max(0.0, moment - (time.time() if now is None else now))
