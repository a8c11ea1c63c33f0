"""How much of an image an isolation keeps, as cache keys have it: known before one is opened."""

from __future__ import annotations

from pybuild.isolation.capabilities import has_capability

FULL = "full"
UNOWNED = "rootless"  # owners, devices and capabilities are recorded beside the files, not on disk

CAP_SYS_ADMIN = 21
NEEDED_IN_PLACE = (
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),  # chmod g+s of another group's file is lost without a word
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETFCAP", 31),
)


def missing_in_place() -> list[str]:
    """The capabilities that takeover needs and this process has not."""
    return [name for name, number in NEEDED_IN_PLACE if not has_capability(number)]


def expected_fidelity(name: str) -> str:
    """That of the isolation which will be chosen for `name`, by a look that costs nothing; one that
    keeps more may come of it, and none that keeps less."""
    if name == "rootless":
        return UNOWNED
    if name == "takeover" or has_capability(CAP_SYS_ADMIN) or not missing_in_place():
        return FULL
    return UNOWNED
