"""The record of what a build used."""

from __future__ import annotations

from datetime import UTC, date, datetime

from pybuild.cache.entry import EMPTY, index_manifest
from pybuild.cache.uses import parse_uses, record_tag, uses_manifest, with_uses

NOW = datetime(2026, 6, 1, 23, 59, tzinfo=UTC)


def test_a_record_says_again_what_it_was_told() -> None:
    uses = {"a" * 64: date(2026, 5, 1), "b" * 64: date(2026, 6, 1)}
    assert parse_uses(uses_manifest(uses)) == uses


def test_what_is_no_record_says_nothing() -> None:
    assert parse_uses(None) == {}
    assert parse_uses(index_manifest(EMPTY, "2026-06-01T00:00:00Z")) == {}


def test_todays_uses_are_added_and_old_ones_forgotten() -> None:
    known = {"old": date(2026, 1, 1), "known": date(2026, 5, 31), "again": date(2026, 5, 1)}
    today = date(2026, 6, 1)
    assert with_uses(known, ["new", "again"], NOW) == {
        "known": date(2026, 5, 31), "new": today, "again": today,
    }  # fmt: skip


def test_a_record_has_a_tag_that_registries_take_and_no_entry_has() -> None:
    tag = record_tag("registry.example/app x linux/amd64")
    assert tag.startswith("used-") and len(tag) < 64 and tag != record_tag("another")
