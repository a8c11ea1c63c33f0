"""The container's own files, which wait aside while an image has their place.

Wherever this is cut off, and by whatever, `put_back` makes it undone: in the same process, or in
that of the next build.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.isolation.errors import MountMoved, PutBackFailed
from pybuild.isolation.ground import ground_of
from pybuild.isolation.moving import Kept, Twice
from pybuild.isolation.record import (
    RootRecord,
    displaced_mounts,
    put_mounts_back,
    read_record,
    restore_devices,
    restore_folders,
    restore_links,
    take_record,
    write_record,
)
from pybuild.isolation.removal import mount_points, remove_tree
from pybuild.isolation.turns import WAITING_FILES, Place, Presence, Waiting

STRAY_SECONDS = 10.0  # for the processes of a build that was killed, and for what they still write
MOVING, MOVED, RESTORING = "moving", "moved", "restoring"


class OwnFiles:
    """In `place`, on the filesystem of `root`: `container` has the files, `record` what is needed
    to put them back exactly, `state` how far this got: while "moving" or "restoring" no file of an
    image is on `root`. Whoever calls holds the place's lock alone."""

    def __init__(self, place: Path, root: str = "/") -> None:
        self._ground = ground_of(root)
        self._place = place
        self._own = place / WAITING_FILES
        self._stages = place / "stages"
        self._state = place / "state"
        self._record_file = place / "record"
        self._record: RootRecord | None = None  # a RUN can spoil the file, but not this

    @property
    def folder(self) -> str:
        """Where they are while they are aside."""
        return str(self._own)

    @property
    def are_aside(self) -> bool:
        return self._record is not None or self._own.exists()

    def move_aside(self, kept: Kept, session: int = 0) -> RootRecord:
        record = take_record(self._ground, kept, session)
        write_record(record, self._record_file)
        self._note(MOVING)  # first: where `container` is, there is a state
        self._own.mkdir()
        self._record = record
        self._ground.move_out(str(self._own), kept)
        self._note(MOVED)
        return record

    def after_run(self) -> None:
        """Mends what a RUN may have done to more than the image. Raises MountMoved."""
        assert self._record is not None
        restore_devices(self._record)
        for now, before in displaced_mounts(self._record):
            raise MountMoved(now, before)

    def put_back(self) -> None:
        """Everything as it was, from whatever point was reached. Raises OSError, PutBackFailed."""
        if self.are_aside:
            record = self._record or read_record(self._record_file)
            if record is not None and self._record is None:
                await_session_end(record.session)
            state = self._read_state()
            if state == MOVED:
                kept = frozenset(record.kept_paths()) if record else frozenset()
                self.clear(kept | {str(self._place)})
                if record is not None:
                    put_mounts_back(record)
                self._note(RESTORING)
            whole = Twice.TARGET if state == MOVING else Twice.SOURCE
            if self._own.exists():
                self._ground.move_in(str(self._own), whole=whole)
            lost = self._restore(record) if record is not None else []
            if self._own.exists():
                self._own.rmdir()
            self._record = None
            if lost:
                raise PutBackFailed(
                    f"a RUN removed what this process can't make again: {', '.join(lost)}",
                    hint="take a new container; nodes of /dev can be made with CAP_MKNOD",
                )
        if self._stages.exists():
            for stored in self._stages.iterdir():
                remove_tree(stored)

    def _restore(self, record: RootRecord) -> list[str]:
        restore_links(record.links)
        lost = restore_devices(record)
        restore_folders(record.folders)
        return lost

    def clear(self, kept: frozenset[str]) -> None:
        """Removes the image from the root. Mounts are asked for again: a RUN may have renamed what
        leads to one. What dying processes still write is removed with it."""
        deadline = time.monotonic() + STRAY_SECONDS
        while True:
            try:
                self._ground.empty((kept | mount_points()).__contains__)
                return
            except OSError as error:
                passing = error.errno in (errno.ENOTEMPTY, errno.ENOENT)
                if not passing or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def _note(self, state: str) -> None:
        draft = self._state.with_suffix(".new")
        draft.write_text(state)
        draft.rename(self._state)

    def _read_state(self) -> str:
        """A file that is gone was removed by a RUN, and there is one only while "moved"."""
        try:
            return self._state.read_text()
        except OSError:
            return MOVED


def arrive(path: Path, waiting: Waiting) -> Presence:
    """A build makes itself known to the others of its container, once the container's own files
    are where they belong: it waits for a build that is under way, and undoes what one that was
    killed has left. Raises Cancelled, PutBackFailed."""
    place, own = Place(path), OwnFiles(path)
    while True:
        presence = Presence(place, waiting)
        if not own.are_aside:
            return presence
        presence.close()
        lock = place.alone(waiting)
        try:
            with failing_by_name(path):
                own.put_back()
        finally:
            os.close(lock)


@contextmanager
def failing_by_name(place: Path) -> Iterator[None]:
    """Raises PutBackFailed for an OSError."""
    try:
        yield
    except OSError as error:
        raise PutBackFailed(
            f"the container's own files could not be put back: {error}",
            hint=f"they are in {place}; the next build in this container tries again",
        ) from error


def await_session_end(session: int) -> None:
    """Those that start RUNs end by themselves when their builder has, with all that they started;
    nothing can be put back while these still write."""
    deadline = time.monotonic() + STRAY_SECONDS
    while session and _has_process(session) and time.monotonic() < deadline:
        time.sleep(0.02)


def _has_process(session: int) -> bool:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # the name in parentheses may hold anything; after the last one come state,
                    # parent, group and session: proc(5)
                    if int(file.read().rpartition(b")")[2].split()[3]) == session:
                        return True
            except (OSError, IndexError):
                continue
    return False
