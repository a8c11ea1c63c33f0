"""What this process may do: capabilities(7)."""

from __future__ import annotations

from pathlib import Path


def own_capabilities() -> int:
    """The effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_capability(number: int) -> bool:
    return bool(own_capabilities() >> number & 1)
