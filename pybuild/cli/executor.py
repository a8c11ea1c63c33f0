"""kaniko's `executor`: one command without positional arguments, and its few sub-commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pybuild.cli.flags.flag import EXECUTOR
from pybuild.cli.session import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _main(words))


def _main(argv: Sequence[str]) -> int:
    from pybuild import __version__
    from pybuild.cli.parse import parse_flags

    if argv[:1] in (["version"], ["--version"]):
        # kaniko's words, which scripts look for.
        sys.stdout.write(f"Kaniko version :  pybuild {__version__}\n")
        return 0
    if argv[:1] == ["login"]:
        from pybuild.cli.login import login_command

        return login_command(argv[1:], os.environ, sys.stdin)
    if argv[:1] == ["push"]:
        from pybuild.cli.push import push_command

        return push_command(argv[1:], os.environ)
    words = ["--help"] if argv[:1] == ["help"] else argv
    values = parse_flags(EXECUTOR, words, os.environ)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(EXECUTOR))
        return 0
    from pybuild.cli.build import Lookup, build_command

    if os.getpid() == 1:
        from pybuild.cli.account import name_this_user

        name_this_user(os.environ)
    return build_command(values, values.text("context"), Lookup.WORKING_FOLDER_FIRST, os.environ)
