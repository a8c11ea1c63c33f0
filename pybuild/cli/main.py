"""The `pybuild` program and its commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from pybuild.cli.flags.flag import BUILD, PLAN
from pybuild.cli.session import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _main(words))


def _main(argv: Sequence[str]) -> int:
    from pybuild.cli.help import program_help

    if not argv or argv[0] in ("--help", "-h", "help"):
        sys.stdout.write(program_help())
        return 0
    command = "version" if argv[0] == "--version" else argv[0]
    run = _COMMANDS.get(command)
    if run is None:
        import difflib

        from pybuild.cli.errors import UnknownCommand

        near = difflib.get_close_matches(command, list(_COMMANDS), 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(_COMMANDS)}"
        raise UnknownCommand(f"pybuild has no command {command!r}", hint=hint)
    return run(argv[1:])


def _build(argv: Sequence[str]) -> int:
    return _build_or_plan(BUILD, argv)


def _plan(argv: Sequence[str]) -> int:
    return _build_or_plan(PLAN, argv)


def _build_or_plan(command: str, argv: Sequence[str]) -> int:
    from pybuild.cli.parse import parse_flags

    values = parse_flags(command, argv, os.environ, positionals=1)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(command))
        return 0
    from pybuild.cli.build import Lookup, build_command, plan_command

    if values.positional and "context" in values.given:
        from pybuild.cli.errors import FlagsContradict

        raise FlagsContradict(f"both {values.positional[0]} and --context name the context")
    context = values.positional[0] if values.positional else values.text("context")
    # As Docker: a Dockerfile that is named is looked for from here, the default in the context.
    lookup = Lookup.WORKING_FOLDER_FIRST if "dockerfile" in values.given else Lookup.CONTEXT_ONLY
    if command == PLAN:
        return plan_command(values, context, lookup, os.environ)
    return build_command(values, context, lookup, os.environ)


def _doctor(argv: Sequence[str]) -> int:
    from pybuild.cli.doctor import doctor_command

    return doctor_command(argv, os.environ)


def _k8s(argv: Sequence[str]) -> int:
    from pybuild.cli.k8s import k8s_command

    return k8s_command(argv, os.environ)


def _idle(argv: Sequence[str]) -> int:
    _no_arguments("idle", argv)
    from pybuild.cli.idle import idle

    return idle()


def _cache(argv: Sequence[str]) -> int:
    from pybuild.cli.cache import cache_command

    return cache_command(argv, os.environ)


def _manifest(argv: Sequence[str]) -> int:
    from pybuild.cli.manifest import manifest

    return manifest(argv, os.environ)


def _pod_check(argv: Sequence[str]) -> int:
    from pybuild.cli.pod_check import pod_check

    return pod_check(argv, os.environ)


def _jenkins(argv: Sequence[str]) -> int:
    from pybuild.cli.jenkins import jenkins_command

    return jenkins_command(argv, os.environ)


def _request(argv: Sequence[str]) -> int:
    if len(argv) != 1 or argv[0].startswith("-"):
        if argv and argv[0] in ("--help", "-h"):
            sys.stdout.write("usage: pybuild request FILE\n\nDoes what the JSON file asks for; "
                             "result.json is written beside it.\n")  # fmt: skip
            return 0
        from pybuild.cli.errors import UnexpectedArgument

        raise UnexpectedArgument("pybuild request takes one file", hint="pybuild request FILE")
    from pybuild.cli.request_run import carry_out_request

    return carry_out_request(argv[0], os.environ)


def _version(argv: Sequence[str]) -> int:
    _no_arguments("version", argv)
    from pybuild import __version__

    sys.stdout.write(f"pybuild {__version__}\n")
    return 0


def _no_arguments(command: str, argv: Sequence[str]) -> None:
    if argv:
        from pybuild.cli.errors import UnexpectedArgument

        raise UnexpectedArgument(f"pybuild {command} takes no argument, not {argv[0]!r}")


_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "build": _build,
    "plan": _plan,
    "doctor": _doctor,
    "idle": _idle,
    "cache": _cache,
    "manifest": _manifest,
    "k8s": _k8s,
    "pod-check": _pod_check,
    "jenkins": _jenkins,
    "request": _request,
    "version": _version,
}


if __name__ == "__main__":
    sys.exit(main())
