"""Tells how a blob's transfer gets on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from pybuild.events import (
    EventSink,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
)

_SECONDS_BETWEEN = 0.1


class Transfers:
    """Numbers the transfers of one client."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._numbers = itertools.count(1)

    def begin(self, kind: TransferKind, label: str, size: int) -> Transfer:
        return Transfer(self._sink, f"{kind.value}-{next(self._numbers)}", kind, label, size)


class Transfer:
    """One transfer as a context; whoever leaves it without `outcome` set has failed."""

    def __init__(
        self, sink: EventSink, name: str, kind: TransferKind, label: str, size: int
    ) -> None:
        self._sink = sink
        self._name = name
        self._kind = kind
        self._label = label
        self._size = size
        self._started = self._told = time.monotonic()
        self.outcome = TransferOutcome.FAILED
        sink(TransferStarted(name, kind, label, size))

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._started
        self._sink(
            TransferFinished(self._name, self._kind, self._label, self.outcome, self._size, seconds)
        )

    def watch(self, chunks: Iterable[bytes], done: int = 0) -> Iterator[bytes]:
        """Passes the chunks on and tells, ten times a second at most, how far they are."""
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            now = time.monotonic()
            if now - self._told >= _SECONDS_BETWEEN:
                self._told = now
                self._sink(TransferProgress(self._name, done))
