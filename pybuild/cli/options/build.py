"""Flags to how the build runs."""

from __future__ import annotations

from pybuild.cli.errors import BadFlag
from pybuild.cli.parse import Values


def parallel(values: Values) -> int:
    """How many RUNs at once. Raises BadFlag below 1."""
    if "parallel" not in values.texts:
        return 1
    count = values.number("parallel")
    if count < 1:
        raise BadFlag(f"--parallel={count} leaves nothing to run", hint="1 or more")
    return count
