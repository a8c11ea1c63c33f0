"""The context as COPY reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pybuild.context.directory import DirectoryContext
from pybuild.context.errors import ContextUnreadable
from pybuild.events import Event, Notice
from pybuild.executor import state
from pybuild.executor.state import ContextSource


def test_a_reading_that_takes_long_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"f{number}" for number in range(100)]
    for name in names:
        (tmp_path / name).write_text(name)
    events: list[Event] = []
    source = ContextSource(DirectoryContext(tmp_path), events.append)
    assert source.digests(names[:50]).keys() == set(names[:50]) and not events
    monkeypatch.setattr(state, "TOLD_SECONDS", 0.0)
    found = source.digests(names)
    assert {name: digest.hex for name, digest in found.items()} == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in names
    }
    told = [event.message for event in events if isinstance(event, Notice)]
    assert told[-1] == "reading the context: 32 of 50 files so far"


def test_a_file_that_went_away(tmp_path: Path) -> None:
    source = ContextSource(DirectoryContext(tmp_path))
    with pytest.raises(ContextUnreadable):
        source.digests(["none"])
