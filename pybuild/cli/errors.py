"""What can be wrong with a command line. (`bad-flag` is a Dockerfile's.)"""

from __future__ import annotations

from pybuild.errors import InputError


class UnknownFlag(InputError):
    """The command has no flag of that name."""

    code = "unknown-option"


class BadFlag(InputError):
    """A flag has a value it can't have, lacks one, or is given twice."""

    code = "bad-option"


class UnexpectedArgument(InputError):
    """A word on the command line belongs to no flag and names nothing the command takes."""

    code = "unexpected-argument"


class UnknownCommand(InputError):
    """The program has no command of that name."""

    code = "unknown-command"


class NoDestination(InputError):
    """Neither a reference to push to was given, nor that nothing is to be pushed."""

    code = "no-destination"


class NoCache(InputError):
    """No cache is named, or what is named is none."""

    code = "no-cache"


class NothingToWarm(InputError):
    """The warmer was given no image, and no Dockerfile that starts from one."""

    code = "nothing-to-warm"


class NothingWarmed(InputError):
    """Not one of the images that the warmer was given could be fetched."""

    code = "nothing-warmed"


class FlagsContradict(InputError):
    """Two flags can't be had together, or one needs another."""

    code = "flags-contradict"
