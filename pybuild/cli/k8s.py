"""`pybuild k8s`: builds in a cluster, and what they need there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pybuild.cli.errors import BadFlag, FlagsContradict, UnexpectedArgument, UnknownCommand
from pybuild.cli.flags.flag import (
    K8S_CANCEL,
    K8S_DOCTOR,
    K8S_LOGS,
    K8S_LS,
    K8S_RENDER,
    K8S_RUN,
    K8S_SECRET,
)
from pybuild.cli.parse import Values, parse_flags

if TYPE_CHECKING:
    from pybuild.k8s.cluster import Cluster

MOST_NAMES = 1000
T = TypeVar("T")


def k8s_command(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status. Raises UnknownCommand."""
    from pybuild.cli.help import command_help

    if not argv or argv[0] in ("--help", "-h"):
        names = ", ".join(name.removeprefix("k8s ") for name in _COMMANDS)
        sys.stdout.write(f"pybuild k8s COMMAND [flags], one of: {names}\n\n")
        sys.stdout.write("`pybuild k8s COMMAND --help` lists a command's flags.\n")
        return 0
    command = f"k8s {argv[0]}"
    if command not in _COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, list(_COMMANDS), 1)
        names = ", ".join(name.removeprefix("k8s ") for name in _COMMANDS)
        hint = f"did you mean pybuild {near[0]}?" if near else f"one of {names}"
        raise UnknownCommand(f"pybuild k8s has no command {argv[0]!r}", hint=hint)
    values = parse_flags(command, argv[1:], environment, positionals=MOST_NAMES)
    if values.help:
        sys.stdout.write(command_help(command))
        return 0
    return _COMMANDS[command](values, environment)


def cluster_of(values: Values, environment: Mapping[str, str]) -> Cluster:
    """Raises KubernetesMissing, ClusterUnknown."""
    from pybuild.k8s.cluster import Access, connect

    access = Access(values.text("kubeconfig"), values.text("kube-context"),
                    values.text("namespace"))  # fmt: skip
    return connect(access, environment)


def one_word(values: Values, what: str, default: str = "") -> str:
    """The one positional. Raises UnexpectedArgument."""
    words = values.positional or ((default,) if default else ())
    if len(words) != 1:
        raise UnexpectedArgument(f"one {what} is needed, not {len(words)}")
    return words[0]


def templates(values: Values) -> Path:
    """Raises TemplateUnknown."""
    from pybuild.k8s.templates import templates_folder

    named = values.text("templates")
    return Path(named) if named else templates_folder()


def _run(values: Values, environment: Mapping[str, str]) -> int:
    from pybuild.cli.k8s_run import run

    return run(values, environment)


def _ls(values: Values, environment: Mapping[str, str]) -> int:
    from pybuild.k8s.jobs import DESTINATION_NOTE, PLATFORM_NOTE, SELECTOR

    if values.positional:
        one_word(values, "command without arguments, k8s ls,")
    rows = []
    for job in patiently(lambda: cluster_of(values, environment).jobs(SELECTOR)):
        notes = job["metadata"].get("annotations", {})
        rows.append(
            {
                "name": job["metadata"]["name"],
                "state": state_of(job),
                "started": job["metadata"].get("creationTimestamp", ""),
                "platform": notes.get(PLATFORM_NOTE, ""),
                "destination": notes.get(DESTINATION_NOTE, ""),
            }
        )
    rows.sort(key=lambda row: str(row["started"]))
    if values.text("log-format") == "json":
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    elif rows:
        from pybuild.report.text import harmless

        table = [tuple(rows[0]), *(tuple(map(str, row.values())) for row in rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write(harmless("  ".join(cells).rstrip()) + "\n")
    return 0


def state_of(job: Mapping[str, Any]) -> str:
    """running, waiting, done or failed, with the reason where there is one."""
    status = job.get("status", {})
    for one in status.get("conditions") or ():
        if one.get("status") == "True" and one.get("type") in ("Complete", "Failed"):
            reason = one.get("reason", "")
            failed = f"failed ({reason})" if reason else "failed"
            return "done" if one["type"] == "Complete" else failed
    ready = status.get("ready", status.get("active"))
    return "running" if ready else "waiting"


def patiently(action: Callable[[], T]) -> T:
    """Tries a few times where the cluster does not answer. Raises ClusterUnreachable."""
    import time

    from pybuild.k8s.cluster import Broken, unreachable

    begun = time.monotonic()
    for pause in (0.3, 1.0, 0.0):
        try:
            return action()
        except Broken as error:
            if not pause:
                raise unreachable(error, time.monotonic() - begun) from error
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _logs(values: Values, environment: Mapping[str, str]) -> int:
    from pybuild.cli.k8s_run import logs

    return logs(values, environment, one_word(values, "build"))


def _cancel(values: Values, environment: Mapping[str, str]) -> int:
    from pybuild.k8s.errors import BuildUnknown

    if not values.positional:
        one_word(values, "build")
    cluster = cluster_of(values, environment)
    for name in values.positional:
        if not patiently(lambda name=name: cluster.delete_job(name)):  # type: ignore[misc]
            raise BuildUnknown(f"there is no build {name} in {cluster.namespace}")
        sys.stderr.write(f"{name} is cancelled\n")
    return 0


def _secret(values: Values, environment: Mapping[str, str]) -> int:
    from pybuild.k8s.credentials import check_replaceable, config_of, secret_of, usable_config

    name = one_word(values, "name", "dockercred")
    from_config = values.text("from-config")
    if from_config:
        if {"server", "username"} & values.given:
            raise FlagsContradict("--from-config brings servers and user names of its own")
        config = usable_config(_read(from_config), from_config)
    else:
        config = config_of(values.text("server"), values.text("username"),
                           _password(values, environment))  # fmt: skip
    cluster = cluster_of(values, environment)
    check_replaceable(name, patiently(lambda: cluster.secret(name)))
    patiently(lambda: cluster.put_secret(secret_of(name, config)))
    sys.stderr.write(f"the Secret {name} of {cluster.namespace} has the credentials\n")
    return 0


def _password(values: Values, environment: Mapping[str, str]) -> str:
    """Never from the command line, which every process of the machine can read."""
    ways = ("password-stdin", "password-file", "password-env")
    given = [way for way in ways if way in values.given]
    if len(given) != 1:
        what = "is missing" if not given else "is given twice"
        raise BadFlag(f"the password {what}", hint="one of --" + ", --".join(ways))
    if given[0] == "password-env":
        name = values.text("password-env")
        if name not in environment:
            raise BadFlag(f"there is no variable {name}")
        return environment[name]
    source = "-" if given[0] == "password-stdin" else values.text("password-file")
    return _read(source).rstrip("\r\n")


def _read(name: str) -> str:
    from pybuild.cli.pod_check import read

    return read(name)


def _render(values: Values, _environment: Mapping[str, str]) -> int:
    from pybuild.k8s.templates import Values as Filled
    from pybuild.k8s.templates import render, template_names, template_text

    folder = templates(values)
    names = values.positional or template_names(folder)
    if values.switch("list"):
        sys.stdout.writelines(f"{name}\n" for name in template_names(folder))
        return 0
    filled = Filled(
        image=values.text("image"),
        context=values.text("context"),
        destinations=values.many("destination"),
        dockerfile=values.text("dockerfile"),
        cache_repo=values.text("cache-repo"),
        secret=values.text("registry-secret"),
        git_secret=values.text("git-secret"),
        claim=values.text("claim"),
        memory=values.text("memory"),
        cpu=values.text("cpu"),
        storage=values.text("storage"),
        name=values.text("name"),
    )
    texts = {name: render(template_text(folder, name), filled) for name in names}
    output = values.text("output")
    if output:
        for name, text in texts.items():
            target = Path(output, f"{name.removesuffix('.yaml')}.yaml")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    else:
        sys.stdout.write("---\n".join(texts.values()))
    return 0


def _doctor(values: Values, environment: Mapping[str, str]) -> int:
    from pybuild.cli.k8s_doctor import doctor

    return doctor(values, environment)


_COMMANDS: Mapping[str, Callable[[Values, Mapping[str, str]], int]] = {
    K8S_RUN: _run,
    K8S_LS: _ls,
    K8S_LOGS: _logs,
    K8S_CANCEL: _cancel,
    K8S_SECRET: _secret,
    K8S_RENDER: _render,
    K8S_DOCTOR: _doctor,
}
