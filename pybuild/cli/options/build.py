"""Flags to how the build runs."""

from __future__ import annotations

from collections.abc import Mapping

from pybuild.cli.errors import BadFlag
from pybuild.cli.parse import Values, parse_duration


def parallel(values: Values) -> int:
    """How many RUNs at once. Raises BadFlag below 1."""
    if "parallel" not in values.texts:
        return 1
    count = values.number("parallel")
    if count < 1:
        raise BadFlag(f"--parallel={count} leaves nothing to run", hint="1 or more")
    return count


def ignored_paths(values: Values) -> tuple[str, ...]:
    """What the image does not get. `plan` has no flags for it: a plan is the same without."""
    if "ignore-path" not in values.texts:
        return ()
    var_run = ("/var/run",) if values.switch("ignore-var-run") else ()
    return (*values.many("ignore-path"), *var_run)


def snapshot_seconds(environment: Mapping[str, str]) -> float | None:
    """How long it may take to find what a RUN changed: kaniko's SNAPSHOT_TIMEOUT_DURATION. None:
    as long as it takes. Raises BadFlag."""
    text = environment.get("SNAPSHOT_TIMEOUT_DURATION", "")
    return parse_duration(text, "the variable SNAPSHOT_TIMEOUT_DURATION") if text else None
