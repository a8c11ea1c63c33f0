"""kaniko's `warmer`: its flags are known, the work is not carried out yet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pybuild.cli.flags.flag import WARMER
from pybuild.cli.session import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _main(words))


def _main(argv: Sequence[str]) -> int:
    from pybuild import __version__
    from pybuild.cli.parse import parse_flags

    if argv[:1] in (["version"], ["--version"]):
        sys.stdout.write(f"pybuild {__version__}\n")
        return 0
    if parse_flags(WARMER, argv, os.environ).help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(WARMER))
        return 0
    from pybuild.errors import NotCarriedOut

    raise NotCarriedOut(
        "warmer is not carried out yet",
        hint="executor keeps what it needs of base images by itself: give it --cache",
    )
