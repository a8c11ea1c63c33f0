"""The help texts, made from the table of flags."""

from __future__ import annotations

from collections.abc import Iterator

from pybuild.cli.flags.flag import (
    BUILD,
    CACHE_LS,
    CACHE_PRUNE,
    DOCTOR,
    EXECUTOR,
    JENKINS_CANCEL,
    JENKINS_CHECK,
    JENKINS_STATUS,
    JENKINS_TRIGGER,
    K8S_CANCEL,
    K8S_DOCTOR,
    K8S_LOGS,
    K8S_LS,
    K8S_RENDER,
    K8S_RUN,
    K8S_SECRET,
    LOGIN,
    MANIFEST,
    PLAN,
    POD_CHECK,
    PUSH,
    WARMER,
    Flag,
    Group,
    Kind,
)
from pybuild.cli.flags.table import default_of, flags_of, long_names, short_names

USAGE = {
    EXECUTOR: "executor --context=PATH|URL --destination=REFERENCE [flags]",
    PUSH: "executor push PATH --destination=REFERENCE [flags]",
    LOGIN: "executor login REGISTRY --username=NAME --password-stdin",
    WARMER: "warmer --image=REFERENCE [flags]",
    BUILD: "pybuild build [PATH|URL] --tag=REFERENCE [flags]",
    PLAN: "pybuild plan [PATH|URL] [flags]",
    CACHE_LS: "pybuild cache ls --cache-repo=REPOSITORY [flags]",
    CACHE_PRUNE: "pybuild cache prune --cache-repo=REPOSITORY --older-than=720h [flags]",
    MANIFEST: "pybuild manifest create --tag=REFERENCE IMAGE... [flags]",
    POD_CHECK: "pybuild pod-check FILE... [flags]",
    JENKINS_TRIGGER: "pybuild jenkins trigger JOB [--param=NAME=VALUE] [flags]",
    JENKINS_STATUS: "pybuild jenkins status JOB [NUMBER] [flags]",
    JENKINS_CANCEL: "pybuild jenkins cancel JOB [NUMBER] [flags]",
    JENKINS_CHECK: "pybuild jenkins check [JENKINSFILE] [flags]",
    DOCTOR: "pybuild doctor [flags]",
    K8S_RUN: "pybuild k8s run [PATH|URL] --tag=REFERENCE [flags]",
    K8S_LS: "pybuild k8s ls [flags]",
    K8S_LOGS: "pybuild k8s logs NAME [flags]",
    K8S_CANCEL: "pybuild k8s cancel NAME... [flags]",
    K8S_SECRET: "pybuild k8s secret [NAME] [flags]",
    K8S_RENDER: "pybuild k8s render [MANIFEST...] [flags]",
    K8S_DOCTOR: "pybuild k8s doctor [flags]",
}
ABOUT = {
    EXECUTOR: "Builds an image from a Dockerfile and pushes it; takes kaniko's flags.",
    PUSH: "Pushes the one image in an archive (docker save) or OCI layout; takes kaniko's flags.",
    LOGIN: "Keeps a user name and password in Docker's config.json; asks nothing of the registry.",
    WARMER: "Fetches base images into the cache folder; takes kaniko's flags.",
    BUILD: "Builds an image from the Dockerfile of a folder or repository and pushes it.",
    PLAN: "Says what a build would run, what is cached, and why; changes nothing.",
    CACHE_LS: "Lists what a cache of layers, or the folder of --cache-dir, holds.",
    CACHE_PRUNE: "Removes from a cache what is old, unused, or too much.",
    MANIFEST: "Names images of several platforms together, wherever they are, as one index.",
    POD_CHECK: "Finds in Pods, Jobs and what belongs to them what no schema catches.",
    JENKINS_TRIGGER: "Begins a job's build, follows its log, and ends as it ends.",
    JENKINS_STATUS: "Says how a job's build, the last one if none is named, goes or went.",
    JENKINS_CANCEL: "Stops a job's build; the last one, or what waits, if none is named.",
    JENKINS_CHECK: "Has the controller check a Jenkinsfile.",
    DOCTOR: "Says which isolation this container allows, and why.",
    K8S_RUN: "Builds in a cluster, as a Job that is followed to its end; takes build's flags.",
    K8S_LS: "Lists the builds of a namespace.",
    K8S_LOGS: "Shows the log of a build.",
    K8S_CANCEL: "Ends builds, and removes their Jobs.",
    K8S_SECRET: "Makes the Secret that builds push with: dockercred, or another name.",
    K8S_RENDER: "Prints manifests for builds with one's own values in them.",
    K8S_DOCTOR: "Says which kinds of Pod a cluster takes, and how a RUN is carried out in them.",
}
COMMANDS = {
    "build": "build an image and push it",
    "plan": "say what a build would run, and change nothing",
    "doctor": "say which isolation this container allows, and why",
    "idle": "wait for TERM, as the main process of a container that others run commands in",
    "cache": "list what caches hold (cache ls), and remove what is not needed (cache prune)",
    "manifest": "name images of several platforms together",
    "k8s": "build in a cluster: run, ls, logs, cancel, secret, render, doctor",
    POD_CHECK: "find in Kubernetes manifests what no schema catches",
    "jenkins": "begin, follow, show and stop builds of a job; check a Jenkinsfile",
    "request": "build what a JSON file asks for (the Jenkins library calls it)",
    "version": "print the version",
}
_COLUMN = 36
_WIDTH = 100


def command_help(command: str) -> str:
    """`--help` of one command: a line a flag, grouped; flags that change nothing are left out."""
    lines = [ABOUT[command], "", f"usage: {USAGE[command]}"]
    shown = [flag for flag in flags_of(command) if not flag.why]
    for group in Group:
        flags = [flag for flag in shown if flag.group is group]
        if flags:
            lines += ["", f"{group.value}:", *(_row(flag, command) for flag in flags)]
    lines += ["", "Values are given as --flag=value or --flag value, booleans as --flag or"]
    lines += ["--flag=false; flags marked with + may be given several times."]
    return "\n".join(lines) + "\n"


def program_help() -> str:
    """`pybuild --help`."""
    rows = (f"  {name:<10} {what}" for name, what in COMMANDS.items())
    return "\n".join(
        [
            "Container images from a Dockerfile, inside an ordinary container.",
            "",
            "usage: pybuild COMMAND [flags]",
            "",
            *rows,
            "",
            "`pybuild COMMAND --help` lists a command's flags; `executor` and `warmer` are the",
            "same program under kaniko's names and flags.",
            "",
        ]
    )


def _row(flag: Flag, command: str) -> str:
    head = f"  {_names(flag, command)}"
    text = f"{flag.help}{_default(flag, command)}"
    rows = list(_wrapped(text, _WIDTH - _COLUMN))
    if len(head) >= _COLUMN:
        rows.insert(0, head)
    else:
        rows[0] = f"{head:<{_COLUMN}}{rows[0]}"
    return f"\n{'':{_COLUMN}}".join(rows)


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Cut at blanks; textwrap would do it, and costs a tenth of the program's start."""
    row = ""
    for word in text.split(" "):
        if row and len(row) + 1 + len(word) > width:
            yield row
            row = word
        else:
            row = f"{row} {word}" if row else word
    yield row


def _names(flag: Flag, command: str) -> str:
    shorts = short_names(flag, command)
    short = f"-{shorts[0]} " if shorts else "   "
    value = "" if flag.kind is Kind.BOOLEAN else f"={flag.value}"
    return f"{short}--{long_names(flag, command)[0]}{value}{' +' if flag.repeatable else ''}"


def _default(flag: Flag, command: str) -> str:
    default = default_of(flag, command)
    parts: list[str] = []
    if flag.choices:
        parts.append(", ".join(flag.choices))
    if default and default != "false" and not flag.repeatable:
        parts.append(f"default {default}")
    return f" ({'; '.join(parts)})" if parts else ""
