"""What a cache holds, and which of it goes: values, and one pure decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from msgspec import Struct


class Kind(Enum):
    LAYER = "layer"  # what a step made
    INDEX = "index"  # what a base layer holds
    IMAGE = "image"  # of the warmer
    MOUNT = "mount"  # the folder of a RUN --mount=type=cache


class Item(Struct, frozen=True):
    """`blobs` are digests (or what else is unique to the place) with their sizes in bytes; several
    items may share one. Times are None where nothing tells them."""

    kind: Kind
    id: str  # unique in its place
    name: str
    blobs: tuple[tuple[str, int], ...]
    created: datetime | None = None
    used: datetime | None = None

    @property
    def size(self) -> int:
        return sum(size for _, size in self.blobs)


class Policy(Struct, frozen=True):
    """What goes: each rule alone is enough. `keep_size` is what may be left, in bytes."""

    older_than: timedelta | None = None
    unused_for: timedelta | None = None
    keep_size: int | None = None
    everything: bool = False


class Stock(Protocol):
    """A place whose entries can be listed and removed; both raise RegistryError, InputError or
    OSError."""

    name: str

    def items(self) -> Sequence[Item]: ...

    def remove(self, items: Sequence[Item]) -> Sequence[Item]:
        """Gives those that are gone: what is in use at this moment may stay."""


def total_size(items: Iterable[Item]) -> int:
    """What is shared counts once."""
    return sum({blob: size for item in items for blob, size in item.blobs}.values())


def doomed(items: Sequence[Item], policy: Policy, now: datetime) -> tuple[Item, ...]:
    """The items that go, in the order of `items`. An item that does not tell its age is not too
    old; for the size, what was not used for longest goes first."""
    if policy.everything:
        return tuple(items)
    gone = {item.id for item in items if _is_too_old(item, policy, now)}
    left = [item for item in items if item.id not in gone]
    if policy.keep_size is not None:
        left.sort(key=lambda item: _last(item) or now)
        while left and total_size(left) > policy.keep_size:
            gone.add(left.pop(0).id)
    return tuple(item for item in items if item.id in gone)


def _is_too_old(item: Item, policy: Policy, now: datetime) -> bool:
    return _is_past(item.created, policy.older_than, now) or _is_past(
        _last(item), policy.unused_for, now
    )


def _is_past(then: datetime | None, limit: timedelta | None, now: datetime) -> bool:
    return then is not None and limit is not None and now - then > limit


def _last(item: Item) -> datetime | None:
    """When it was last of use; being made is one."""
    return max(filter(None, (item.created, item.used)), default=None)
