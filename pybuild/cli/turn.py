"""A build among the others of its container: they know of it, and it waits where it has to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.isolation.turns import Presence, Waiting, shared_place

if TYPE_CHECKING:
    import threading

    from pybuild.events import EventSink


class Turn(Struct, frozen=True):
    waiting: Waiting
    presence: Presence | None = None  # None: nobody here can put an image on `/`

    def announce(self, *, keep: Sequence[Path] = (), leave: Sequence[Path] = ()) -> None:
        """`keep`: what others have to leave alone, whatever they put on `/`; `leave`: what is to be
        removed by whoever comes, if this build is killed."""
        if self.presence is not None:
            self.presence.announce(keep, leave)


@contextmanager
def among_others(what: str, sink: EventSink, cancelled: threading.Event) -> Iterator[Turn]:
    """Waits while another build has its image on `/`, and undoes what one that was killed left.
    Raises Cancelled, PutBackFailed."""
    from pybuild.isolation.container import signs_of_container

    waiting = Waiting(what, sink, cancelled)
    place = shared_place()
    if place is None or not signs_of_container():
        yield Turn(waiting)
        return
    from pybuild.isolation.own_files import arrive

    presence = arrive(place, waiting)
    try:
        yield Turn(waiting, presence)
    finally:
        presence.close()
