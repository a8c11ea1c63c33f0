"""`pybuild doctor`: which isolation works in this container, and what the others lack."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pybuild.isolation.select import ProbeResult


def doctor_command(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Prints the table, or one JSON object; 0 if anything works."""
    from pybuild.cli.flags.flag import DOCTOR
    from pybuild.cli.parse import parse_flags

    values = parse_flags(DOCTOR, argv, environment)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(DOCTOR))
        return 0
    results = probed(environment)
    if values.text("log-format") == "json":
        import json

        sys.stdout.write(json.dumps(as_json(results, facts())) + "\n")
    else:
        sys.stdout.write(table(results, facts()))
    return 0 if any(result.works for result in results) else 1


def probed(environment: Mapping[str, str]) -> Sequence[ProbeResult]:
    """Each isolation, tried in a folder where a build would work."""
    from pybuild.isolation.select import probe_all

    parent = _folder(environment)
    with tempfile.TemporaryDirectory(prefix="pybuild-", dir=parent) as folder:
        return probe_all(Path(folder))


def as_json(results: Sequence[ProbeResult], facts: Sequence[tuple[str, str]]) -> dict[str, object]:
    """`taken` is the isolation that a build would take, "" where none works."""
    first = next((result.name for result in results if result.works), "")
    each = [{"name": one.name, "works": one.works, "reason": one.reason, "hint": one.hint}
            for one in results]  # fmt: skip
    return {"taken": first, "facts": dict(facts), "isolations": each}


def _folder(environment: Mapping[str, str]) -> Path:
    """As a build chooses it. Raises WorkFolderUnusable."""
    from pybuild.cli.build import KANIKO_FOLDERS
    from pybuild.executor.errors import WorkFolderUnusable

    named = environment.get("KANIKO_DIR", "")
    usual = (*KANIKO_FOLDERS, Path(environment.get("TMPDIR") or tempfile.gettempdir()))
    for folder in (Path(named),) if named else usual:
        if os.access(folder, os.W_OK):
            return folder
    raise WorkFolderUnusable(
        "no folder of the builder's own can be written to",
        hint="name one on a volume with --kaniko-dir or TMPDIR",
    )


def table(results: Sequence[ProbeResult], facts: Sequence[tuple[str, str]]) -> str:
    """What was found, and one block an isolation: works or not, why, what would help."""
    first = next((result.name for result in results if result.works), "")
    lines = [f"{name:<12} {value}" for name, value in facts] + [""]
    for result in results:
        mark = "works" if result.works else "no"
        taken = "  <- taken by --isolation=auto" if result.name == first else ""
        lines.append(f"{result.name:<12} {mark}{taken}")
        lines += [f"{'':<12} {text}" for text in (result.reason, _hint(result)) if text]
    if not first:
        lines += ["", "No RUN can be carried out here; COPY-only Dockerfiles still build."]
    return "\n".join(lines) + "\n"


def _hint(result: ProbeResult) -> str:
    return f"hint: {result.hint}" if result.hint and not result.works else ""


def facts() -> list[tuple[str, str]]:
    """What this process may do, as far as the kernel tells."""
    status = Path("/proc/self/status").read_text(errors="replace")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    seccomp = {"0": "off", "1": "strict", "2": "a filter"}.get(fields.get("Seccomp", ""), "unknown")
    uname = os.uname()
    return [
        ("machine", f"Linux {uname.release}, {uname.machine}"),
        ("user", f"{os.geteuid()}:{os.getegid()}"),
        ("capabilities", fields.get("CapEff", "unknown")),
        ("seccomp", seccomp),
        ("new rights", "refused" if fields.get("NoNewPrivs") == "1" else "allowed"),
    ]
