"""`pybuild pod-check`: what is wrong with manifests that their schema takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.flags.flag import POD_CHECK
from pybuild.cli.parse import parse_flags
from pybuild.errors import InputError

if TYPE_CHECKING:
    from pybuild.k8s.rules import Finding

MOST_FILES = 10_000
MOST_BYTES = 4_000_000
STDIN = "-"


class ManifestUnreadable(InputError):
    """A file with manifests is not there, is no text, or may not be read."""

    code = "manifest-unreadable"


def pod_check(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Prints what is found; 1 if any of it is an error, or with --strict a warning."""
    values = parse_flags(POD_CHECK, argv, environment, positionals=MOST_FILES)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(POD_CHECK))
        return 0
    if not values.positional:
        from pybuild.cli.errors import UnexpectedArgument

        raise UnexpectedArgument(
            "pybuild pod-check needs a file", hint="pybuild pod-check pod.yaml, or - for a pipe"
        )
    from pybuild.k8s.check import check_files
    from pybuild.k8s.rules import Severity

    texts = {name: read(name) for name in values.positional}
    found = check_files(texts, values.text("pod-security"))
    lines = json_lines(found) if values.text("log-format") == "json" else plain(found)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    bad = {Severity.ERROR, Severity.WARNING} if values.switch("strict") else {Severity.ERROR}
    return 1 if any(finding.rule.severity in bad for finding in found) else 0


def read(name: str) -> str:
    """The text of a file, `-` for standard input. Raises ManifestUnreadable."""
    try:
        if name == STDIN:
            raw = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(MOST_BYTES + 1)
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ManifestUnreadable(
            f"{name} is no text in UTF-8", hint="is it a manifest at all?"
        ) from error
    except OSError as error:
        what = (error.strerror or str(error)).lower()
        raise ManifestUnreadable(f"{name} can't be read: {what}") from error
    if len(raw) > MOST_BYTES:
        raise ManifestUnreadable(f"{name} has more than {MOST_BYTES} bytes")
    return text


def plain(findings: Sequence[Finding]) -> Iterator[str]:
    """`file:line: error[code]: message`, with the hint below it."""
    from pybuild.report.text import harmless

    for found in findings:
        place = f"{found.file}:{found.line}" if found.line else found.file
        rule = found.rule
        yield harmless(f"{place}: {rule.severity.value}[{rule.code}]: {found.message}")
        if found.hint:
            yield harmless(f"  hint: {found.hint}")


def json_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Keys as in the log: level, event, msg; and file, line, code, hint."""
    import json

    for found in findings:
        yield json.dumps(
            {
                "level": found.rule.severity.value,
                "event": "finding",
                "msg": found.message,
                "file": found.file,
                "line": found.line,
                "code": found.rule.code,
                "hint": found.hint,
            }
        )
