"""What of a cache goes: by age, use and size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.cache.inventory import Item, Kind, Policy, doomed, total_size
from pybuild.cli.cache import parse_size
from pybuild.cli.errors import BadFlag

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def item(name: str, created: int | None, used: int | None, *blobs: tuple[str, int]) -> Item:
    """Times are hours ago."""
    times = (None if hours is None else NOW - hours * HOUR for hours in (created, used))
    return Item(Kind.LAYER, name, name, blobs or ((name, 10),), *times)


ITEMS = (
    item("old, used", 100, 1),
    item("old", 100, None),
    item("young", 2, None),
    item("read", None, 50),
    item("unknown", None, None),
)


@pytest.mark.parametrize(
    ("policy", "gone"),
    [
        (Policy(), []),
        (Policy(older_than=10 * HOUR), ["old, used", "old"]),
        (Policy(unused_for=10 * HOUR), ["old", "read"]),
        (Policy(older_than=60 * HOUR, unused_for=10 * HOUR), ["old, used", "old", "read"]),
        (Policy(keep_size=50), []),
        (Policy(keep_size=49), ["old"]),
        (Policy(keep_size=25), ["old", "young", "read"]),
        (Policy(older_than=60 * HOUR, keep_size=30), ["old, used", "old"]),
        (Policy(everything=True), [one.name for one in ITEMS]),
    ],
    ids=str,
)
def test_doomed(policy: Policy, gone: list[str]) -> None:
    assert [one.name for one in doomed(ITEMS, policy, NOW)] == gone


def test_what_is_shared_counts_once() -> None:
    items = [
        item(name, age, None, ("shared", 100), (name, 1)) for name, age in (("a", 9), ("b", 5))
    ]
    assert total_size(items) == 102
    assert not doomed(items, Policy(keep_size=102), NOW)
    assert [one.name for one in doomed(items, Policy(keep_size=101), NOW)] == ["a"]


ages = st.none() | st.integers(0, 100)
items = st.lists(
    st.tuples(ages, ages, st.lists(st.tuples(st.sampled_from("abcdef"), st.just(7)), max_size=3)),
    max_size=8,
).map(lambda rows: [item(str(n), c, u, *blobs) for n, (c, u, blobs) in enumerate(rows)])


@given(items, st.integers(0, 60))
def test_what_is_left_fits_and_nothing_goes_in_vain(found: list[Item], size: int) -> None:
    gone = doomed(found, Policy(keep_size=size), NOW)
    left = [one for one in found if one not in gone]
    assert total_size(left) <= size
    if gone:
        assert total_size(found) > size


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("1.5G", 1_500_000_000), ("10 MB", 10_000_000), ("2GiB", 2 << 30),
     ("7k", 7000), ("3Ki", 3072)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "10 XB", "-1", "1,5G", "G"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(BadFlag):
        parse_size(text)
