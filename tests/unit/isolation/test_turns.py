"""Who waits for whom, what is announced, and what is nobody's any more."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pybuild.errors import Cancelled
from pybuild.events import Event, Notice
from pybuild.isolation import turns
from pybuild.isolation.turns import Place, Presence, Waiting


def waiting(what: str, told: list[Event], cancelled: threading.Event | None = None) -> Waiting:
    return Waiting(what, told.append, cancelled or threading.Event())


def test_the_second_is_told_for_whom_it_waits_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TELL_AGAIN_SECONDS", 0.15)
    place, told = Place(tmp_path / "place"), list[Event]()
    first = place.alone(waiting("r/one:1", []))
    done = threading.Event()

    def second() -> None:
        os.close(place.alone(waiting("r/two:1", told)))
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not done.wait(0.5)
    os.close(first)  # as the kernel does for a process that ended
    thread.join(10)
    assert done.is_set()
    texts = [event.message for event in told if isinstance(event, Notice)]
    assert len(texts) > 1
    assert all(f"r/one:1 (pid {os.getpid()}, since " in text for text in texts)


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    place, cancelled = Place(tmp_path / "place"), threading.Event()
    first = place.alone(waiting("first", []))
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(Cancelled):
        Presence(place, waiting("second", [], cancelled))
    os.close(first)


def test_what_builds_announce_is_known_and_what_they_left_is_removed(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    left = tmp_path / "left"
    left.mkdir()
    alive, dead = (Presence(place, waiting(name, [])) for name in ("alive", "dead"))
    alive.announce(keep=[tmp_path / "context"])
    dead.announce(leave=[left])
    os.close(dead._fd)  # killed
    kept = [path for other in place.others() for path in other.keep]
    assert kept == [os.fsencode(tmp_path / "context")]
    assert not left.exists() or not any(left.iterdir())
    alive.close()
    assert not (tmp_path / "place").exists()


def test_the_place_stays_while_files_wait_in_it(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    presence = Presence(place, waiting("one", []))
    (place.path / turns.WAITING_FILES).mkdir()
    presence.close()
    assert (place.path / turns.WAITING_FILES).exists()
