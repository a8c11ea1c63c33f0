"""Runs stages in the order of their graph, side by side where that is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from pybuild.cache.layers import LayerLost
from pybuild.errors import Cancelled

if TYPE_CHECKING:
    import threading

    from pybuild.plan.steps import StagePlan


def run_stages(
    stages: Sequence[StagePlan],
    build: Callable[[StagePlan], None],
    at_once: int,
    cancelled: threading.Event,
) -> None:
    """Builds each stage after those it needs (of these `stages`). The first failure sets
    `cancelled`, so that the others stop, and is raised when they have. LayerLost is raised too, but
    lets those finish that run: what they make is found in the cache when all begins again."""
    if at_once == 1 or len(stages) == 1:
        for stage in stages:
            if not cancelled.is_set():
                build(stage)
        return
    numbers = frozenset(stage.number for stage in stages)
    waiting = list(stages)
    running: dict[Future[None], int] = {}
    done: set[int] = set()
    failures: list[BaseException] = []
    with ThreadPoolExecutor(min(at_once + 2, len(stages)), "stage") as pool:
        while (waiting and not (cancelled.is_set() or failures)) or running:
            for stage in [] if cancelled.is_set() or failures else list(waiting):
                if done.issuperset(numbers.intersection(stage.needs)):
                    running[pool.submit(build, stage)] = stage.number
                    waiting.remove(stage)
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                done.add(running.pop(future))
                error = future.exception()
                if error is not None:
                    failures.append(error)
                    if not isinstance(error, LayerLost):
                        cancelled.set()
    if failures:
        raise _first(failures)


def _first(failures: list[BaseException]) -> BaseException:
    """The one that the user has to know of: the first that is no echo of the others' stop, and
    that is not mended by beginning again."""
    return min(failures, key=lambda failure: isinstance(failure, Cancelled | LayerLost))
