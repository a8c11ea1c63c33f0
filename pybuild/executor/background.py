"""Work that goes on beside the steps: uploads and cache writes, at most a few at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from pybuild.cache.layers import LayerLost
from pybuild.errors import Interrupted


class Background:
    """The first failure sets `cancelled`, and is raised by `finish`. A cached layer that is lost
    stops nothing: the build begins again without it, and what is under way is of use then."""

    def __init__(self, cancelled: threading.Event, workers: int = 4) -> None:
        self._pool = ThreadPoolExecutor(workers, "transfer")
        self._cancelled = cancelled
        self._futures: list[Future[None]] = []
        self._guard = threading.Lock()
        self.failure: BaseException | None = None
        self.lost: LayerLost | None = None

    def submit(self, action: Callable[[], None]) -> None:
        with self._guard:
            self._futures.append(self._pool.submit(self._run, action))

    def _run(self, action: Callable[[], None]) -> None:
        if self._cancelled.is_set():
            return
        try:
            action()
        except LayerLost as error:
            self.lost = error
        except BaseException as error:
            if self.failure is None:
                self.failure = error
            self._cancelled.set()

    def finish(self) -> None:
        """Waits for all that was submitted. Raises Interrupted where something was left undone
        because the build was cancelled, and LayerLost: nothing may be tagged then."""
        while True:
            with self._guard:
                pending, self._futures = self._futures, []
            if not pending:
                break
            wait(pending)
        if self.failure is not None:
            raise self.failure
        if self._cancelled.is_set():
            raise Interrupted(signal.SIGTERM)
        if self.lost is not None:
            raise self.lost

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
