"""Writes docs/cli.md and docs/errors.md from the table of flags and the classes of errors.

`python -m pybuild.cli.docs` writes both; a test holds that they are current.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pybuild
from pybuild.cli.flags.environment import IDLE
from pybuild.cli.flags.flag import BUILD, DOCTOR, PLAN, POD_CHECK, WARMER, Flag, Group, Kind
from pybuild.cli.flags.table import FLAGS, default_of, long_names, short_names
from pybuild.cli.help import ABOUT, COMMANDS, USAGE
from pybuild.errors import InputError, NotCarriedOut, PybuildError

_MADE = "<!-- Made by `python -m pybuild.cli.docs`; change the code, not this file. -->\n"

_FORMS = """\
## How values are written

- `--flag=value` or `--flag value`; short: `-f value`, `-fvalue`, `-f=value`.
- Booleans: `--flag`, `--flag=true`, `--flag=false` (also `1`, `0`, `t`, `f`). Never `--flag true`:
  a word that belongs to no flag is an error.
- Durations carry a unit: `30m`, `336h`, `1h30m`.
- Flags marked **+** may be given several times. Of the others the last one counts.
- `--` ends the flags.
- A word with a blank in it, such as the YAML item `- --flag host=/file`, is one argument: the error
  says how to write it.
"""

_CONTEXTS = """\
## Contexts

| form | what it is |
|---|---|
| `path`, `/path`, `dir://path` | a folder, used in place; `dir://path` also from `/` |
| `git://host/repository.git[#ref[#commit]]` | kaniko's form, fetched over https |
| `https://host/repository.git[#ref[:folder]]` | Docker's form; it has to end in `.git` |
| `git@host:repository.git`, `ssh://…`, `http://…`, `file://…` | the same by other ways |

`GIT_PULL_METHOD` is `https`, `http`, `ssh`, or `git` for git's own protocol, for kaniko's form.
`ref` is a branch, a tag, `refs/…`, a commit, or the first digits of one. Only that commit is
fetched (`--git=depth=0` for the whole history); `.git` is removed unless
`--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1`. Submodules are fetched in all forms but kaniko's `git://`;
`--git=recurse-submodules=true|false` decides for each. Credentials: in the URL, or `GIT_TOKEN`, or
`GIT_USERNAME` and `GIT_PASSWORD`; they are given to the host of the URL only, and never shown.
Archives (`tar://`, `https://….tar.gz`), standard input (`-`, `tar://stdin`) and buckets (`s3://`,
`gs://`, Azure): see docs/contexts.md.

What is ignored is said in `<Dockerfile>.dockerignore` beside the Dockerfile, else in
`.dockerignore` at the context's root.
"""

_STREAMS = """\
## What goes where

Standard output carries results only: the plan, the version, the digest with `--quiet`. All log,
the output of RUN included, goes to standard error (kaniko writes RUN's standard output to standard
output; a log that is read as one stream shows no difference).

| `--log-format` | what is written |
|---|---|
| `auto` | `progress` on a terminal that can show it, unless `CI` is set; else `plain` |
| `progress` | stages and transfers side by side, the log above them |
| `plain` | lines: seconds since the start, stage and step, text; RUN's output after a bar |
| `color` | kaniko's coloured `INFO[0012] …`, with --log-timestamp `INFO[2026-…]` |
| `text` | kaniko's `time="…" level=info msg="…"` |
| `json` | one object a line: `time`, `level`, `event`, `msg`, and the event's own fields |

Control characters in what a RUN writes are cut out or made visible; `color` and `progress` keep its
colours. `NO_COLOR` is honoured by `progress`.

## Exit status

| status | meaning |
|---|---|
| 0 | built, and pushed if that was asked for |
| 1 | every error but these |
| N | a RUN ended with status N; 128 + n if signal n ended it |
| 129, 130, 143 | stopped by HUP, INT, TERM |

When a signal stops a build, RUN is ended, everything is put back and nothing is tagged; a second
signal ends the builder at once. An error is written as `error[code]: message`, the place with its
text where there is one, and a `hint:`; errors.md lists the codes.
"""

_ERRORS = """\
# Errors

Each error has a code that stays the same; it stands in `error[code]: …`, in the JSON log and in the
result of a request. The exit status is 1, but for `run-failed` and its kin (RUN's own status) and
`interrupted` (128 and the signal's number). `error[bug]` is no code but a mistake of the builder.
"""


def cli_page() -> str:
    """docs/cli.md."""
    commands = [
        "| command | what it does |",
        "|---|---|",
        *(f"| `{_escaped(usage)}` | {ABOUT[name]} |" for name, usage in USAGE.items()),
    ]
    commands += [
        f"| `pybuild {name}` | {what[0].upper()}{what[1:]}. |"
        for name, what in COMMANDS.items()
        if name not in (BUILD, PLAN, DOCTOR, "cache", "manifest", "jenkins", "k8s", POD_CHECK)
    ]
    parts = [f"# Command line\n\n{_MADE}", "\n".join(commands) + "\n", _FORMS, "## Flags\n"]
    at_work = [flag for flag in FLAGS if not flag.why]
    for group in Group:
        rows = [_row(flag) for flag in at_work if flag.group is group]
        head = ["| flag | commands | default | meaning |", "|---|---|---|---|"]
        parts.append(f"### {group.value}\n\n" + "\n".join([*head, *rows]) + "\n")
    parts += [_without_effect(), _variables(), _CONTEXTS, _STREAMS]
    return "\n".join(parts)


def _row(flag: Flag) -> str:
    value = "" if flag.kind is Kind.BOOLEAN else f"={_escaped(flag.value)}"
    first = flag.commands[0]
    names = [f"`-{name}`" for name in _unique(short_names(flag, one) for one in flag.commands)]
    names += [f"`--{name}{value}`" for name in _unique(long_names(flag, c) for c in flag.commands)]
    mark = " **+**" if flag.repeatable else ""
    defaults = [default_of(flag, command) for command in flag.commands]
    shown = " or ".join(f"`{text}`" for text in dict.fromkeys(defaults) if text)
    choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
    alone = first in (WARMER, POD_CHECK) or flag.group is Group.K8S
    own = "" if flag.kaniko or alone else " Not a flag of kaniko."
    commands = ", ".join(flag.commands)
    return f"| {', '.join(names)}{mark} | {commands} | {shown} | {flag.help}{choices}.{own} |"


def _unique(names: Iterator[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in each))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _without_effect() -> str:
    rows = [
        f"| {_long(flag)} | {', '.join(f'`{value}`' for value in flag.harmless)} | {flag.why} |"
        for flag in FLAGS
        if flag.why
    ]
    text = (
        "These flags of kaniko are taken and change nothing. With another value than the one that "
        "says what\nhappens anyway, one line of the log says what happens instead:\n"
    )
    head = ["| flag | what happens anyway | instead of another value |", "|---|---|---|"]
    return "\n".join([f"### Without effect\n\n{text}", *head, *rows]) + "\n"


def _long(flag: Flag) -> str:
    return ", ".join(f"`--{name}`" for name in (flag.name, *flag.old))


def _variables() -> str:
    rows = []
    for flag in FLAGS:
        if flag.environment:
            how = "stands in for"
            if flag.environment_wins:
                how = "overrides"
            elif flag.repeatable:
                how = "adds to"
            rows.append(f"| `{flag.environment}` | {how} `--{flag.name}` |")
    rows += [
        "| `DOCKER_CONFIG` | the folder with config.json or .dockerconfigjson; else `~/.docker` |",
        "| `DOCKER_AUTH_CONFIG` | the JSON of config.json itself; comes first |",
        "| `REGISTRY_AUTH_FILE`, `XDG_RUNTIME_DIR`, `XDG_CONFIG_HOME` | where podman's auth.json "
        "lies |",
        "| `KANIKO_<HOST>_USER`, `KANIKO_<HOST>_PASSWORD` | credentials of one registry |",
        "| `AWS_…`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_…`, `CI_REGISTRY…` | who we are for a "
        "cloud or GitLab, see [Registries](registries.md) |",
        "| `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` | the way to registries and "
        "addresses |",
        "| `SSL_CERT_FILE`, `SSL_CERT_DIR` | further authorities, beside those in "
        "`/kaniko/ssl/certs` |",
        "| `GIT_TOKEN`, `GIT_USERNAME`, `GIT_PASSWORD`, `GIT_PULL_METHOD` | see Contexts |",
        "| `SNAPSHOT_TIMEOUT_DURATION` | how long it may take to find what a RUN changed; no limit "
        "if not given |",
        "| `UPSTREAM_CLIENT_TYPE` | is added to the User-Agent |",
        "| `SOURCE_DATE_EPOCH` | the one time of everything in the image, in seconds since 1970 |",
        "| `TMPDIR` | where the build keeps its files, without --kaniko-dir and `/kaniko` |",
        "| `CI`, `TERM`, `NO_COLOR` | see What goes where |",
        "| `PYBUILD_DEBUG` | shows the traceback of a mistake of the builder |",
        "| `FF_KANIKO_…` | kaniko's switches: what they turn on is always done; one line says so "
        "where one is turned off |",
    ]
    rows += [f"| `{name}` | nothing, and one line says so: {why} |" for name, why in IDLE.items()]
    return "\n".join(["## Environment\n", "| variable | what it does |", "|---|---|", *rows]) + "\n"


def errors_page() -> str:
    """docs/errors.md."""
    parts = [_ERRORS.replace("# Errors\n", f"# Errors\n\n{_MADE}", 1)]
    sections: dict[str, list[type[PybuildError]]] = {}
    for error in all_errors():
        bases = [base for base in error.__mro__ if base.__module__ == PybuildError.__module__]
        name = bases[0].__name__ if bases[0] is not PybuildError else "Others"
        if issubclass(error, NotCarriedOut):
            name = InputError.__name__
        sections.setdefault(name, []).append(error)
    for name in sorted(sections, key=lambda name: (name == "Others", name)):
        text = [f"## {name}", "", "| code | what happened |", "|---|---|"]
        for error in sorted(sections[name], key=lambda error: error.code):
            text.append(f"| `{error.code}` | {_escaped(first_paragraph(error))} |")
        parts.append("\n".join(text) + "\n")
    return "\n".join(parts)


def all_errors() -> Iterator[type[PybuildError]]:
    """Every class of error that has a code of its own, of every module of the package."""
    for module in pkgutil.walk_packages(pybuild.__path__, "pybuild."):
        importlib.import_module(module.name)
    pending: list[type[PybuildError]] = list(PybuildError.__subclasses__())
    seen: set[type[PybuildError]] = set()
    while pending:
        error = pending.pop(0)
        if error in seen or not error.__module__.startswith("pybuild."):
            continue
        seen.add(error)
        pending += error.__subclasses__()
        if "code" in vars(error):
            yield error


def first_paragraph(error: type[PybuildError]) -> str:
    """The docstring up to its first empty line, as one line."""
    text = inspect.cleandoc(vars(error).get("__doc__") or "")
    return " ".join(text.split("\n\n")[0].split())


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the pages into the folder named, `docs` if none is."""
    words = sys.argv[1:] if argv is None else argv
    folder = Path(words[0] if words else "docs")
    (folder / "cli.md").write_text(cli_page())
    (folder / "errors.md").write_text(errors_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
