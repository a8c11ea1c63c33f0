"""Which flags an instruction takes, and reading them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from pybuild.dockerfile.errors import BadFlag, UnknownFlag, nearest


class Kind(Enum):
    TEXT = "text"
    TEXTS = "texts"  # may be given more than once
    SWITCH = "switch"


_COPYING: Mapping[str, Kind] = {
    "chown": Kind.TEXT,
    "chmod": Kind.TEXT,
    "link": Kind.SWITCH,
    "exclude": Kind.TEXTS,
}
FLAGS: Mapping[str, Mapping[str, Kind]] = {
    "from": {"platform": Kind.TEXT},
    "copy": {**_COPYING, "from": Kind.TEXT, "parents": Kind.SWITCH},
    "add": {
        **_COPYING,
        "keep-git-dir": Kind.SWITCH,
        "checksum": Kind.TEXT,
        "unpack": Kind.SWITCH,
    },
    "run": {
        "mount": Kind.TEXTS,
        "network": Kind.TEXT,
        "security": Kind.TEXT,
        "device": Kind.TEXTS,
    },
    "healthcheck": {
        "interval": Kind.TEXT,
        "timeout": Kind.TEXT,
        "start-period": Kind.TEXT,
        "start-interval": Kind.TEXT,
        "retries": Kind.TEXT,
    },
}


class Flags(Struct, frozen=True):
    """The flags of one instruction, checked."""

    values: Mapping[str, tuple[str, ...]]

    def text(self, name: str) -> str:
        return self.values.get(name, ("",))[-1]

    def texts(self, name: str) -> tuple[str, ...]:
        return self.values.get(name, ())

    def switch(self, name: str) -> bool | None:
        """None if it was not given."""
        return self.text(name) == "true" if name in self.values else None


def read_flags(instruction: str, words: tuple[str, ...]) -> Flags:
    """`words` as `--name` or `--name=value`; raises UnknownFlag, BadFlag."""
    known = FLAGS.get(instruction, {})
    values: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            raise _unknown(instruction, name, known)
        if name in values and kind is not Kind.TEXTS:
            raise BadFlag(f"--{name} is given twice")
        if kind is Kind.SWITCH and not equals:
            value = "true"
        elif not equals or (kind is Kind.SWITCH and not value):
            raise BadFlag(f"missing a value on flag: --{name}", hint=f"write --{name}=…")
        elif kind is Kind.SWITCH:
            value = value.lower()
            if value not in ("true", "false"):
                raise BadFlag(f"--{name} is true or false, not {word[2:].partition('=')[2]!r}")
        values[name] = (*values.get(name, ()), value)
    return Flags(values)


def _unknown(instruction: str, name: str, known: Mapping[str, Kind]) -> UnknownFlag:
    owners = [other.upper() for other, flags in FLAGS.items() if name in flags]
    near = nearest(name, known)
    if owners:
        hint = f"--{name} belongs to {' and '.join(owners)}"
    elif near:
        hint = f"did you mean --{near}?"
    elif known:
        hint = f"{instruction.upper()} takes " + ", ".join(f"--{flag}" for flag in sorted(known))
    else:
        hint = f"{instruction.upper()} takes no flags; write -- before words that start with --"
    return UnknownFlag(f"unknown flag of {instruction.upper()}: --{name}", hint=hint)


_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse_duration(text: str) -> int:
    """Nanoseconds, written as Go's time.ParseDuration takes them (`1h30m`, `1.5s`, `0`).

    Raises ValueError.
    """
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    total = position = 0
    while match := _PART.match(unsigned, position):
        whole, _, fraction = match[1].partition(".")
        unit = _NANOSECONDS[match[2]]
        total += int(whole or "0") * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
        position = match.end()
    if not unsigned or position != len(unsigned) or total >= 1 << 63:
        raise ValueError(text)
    return -total if text.startswith("-") else total
