from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.events import Event, Notice
from pybuild.registry.errors import RegistryBroken
from pybuild.registry.retry import Budget, RetryPolicy, Transient, retry_after_seconds


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_waits_grow_and_stay_below_the_longest(failures: int, spread: float) -> None:
    policy = RetryPolicy(first_wait_seconds=1, longest_wait_seconds=8)
    wait = policy.wait_seconds(failures, spread)
    assert min(8, 2 ** (failures - 1)) / 2 <= wait <= 8


def spend_all(policy: RetryPolicy, after: float | None = None) -> tuple[str, list[Event]]:
    events: list[Event] = []
    budget = Budget(policy, events.append, threading.Event())
    with pytest.raises(RegistryBroken) as caught:
        for _ in range(100):
            budget.spend(Transient(RegistryBroken("it failed"), after))
    return caught.value.message, events


def test_it_gives_up_after_the_last_try_and_tells_each_one() -> None:
    message, events = spend_all(RetryPolicy(tries=3, first_wait_seconds=0))
    assert message == "it failed (tried 3 times)"
    assert [event.message for event in events if isinstance(event, Notice)] == [
        "it failed; trying again in 0.0 s (2 of 3)",
        "it failed; trying again in 0.0 s (3 of 3)",
    ]


def test_it_does_not_wait_longer_than_it_may() -> None:
    message, events = spend_all(RetryPolicy(total_seconds=10), after=3600)
    assert "asks to wait 3600 s, which is too long" in message
    assert events == []


def test_progress_renews_the_tries() -> None:
    budget = Budget(
        RetryPolicy(tries=2, first_wait_seconds=0), lambda event: None, threading.Event()
    )
    for _ in range(10):
        budget.spend(Transient(RegistryBroken("x")))
        budget.progressed(1 << 20)
    budget.spend(Transient(RegistryBroken("x")))
    budget.progressed(10)
    with pytest.raises(RegistryBroken):
        budget.spend(Transient(RegistryBroken("x")))


def test_closing_ends_a_wait() -> None:
    closed = threading.Event()
    budget = Budget(RetryPolicy(first_wait_seconds=60), lambda event: None, closed)
    threading.Timer(0.05, closed.set).start()
    started = time.monotonic()
    with pytest.raises(RegistryBroken):
        budget.spend(Transient(RegistryBroken("x")))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("120", 120.0),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after(header: str, expected: float | None) -> None:
    assert retry_after_seconds(header, now=1445412480) == expected
