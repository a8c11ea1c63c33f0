"""A build case: a folder below tests/cases with a Dockerfile, its context and what is expected.

Everything in the folder is the context, except the files named here:

- `case.toml`: see `Case`; every key has a default, the file may be missing;
- `prepare.sh`: run with `sh -eu` in the copied context, for what git can't hold (modes, times,
  links, odd names); `base.Dockerfile`: built first and pushed as `cases/<name>-base:latest`;
- `served/`: served over HTTP while the case is built, its address is the build arg WWW;
- `expected.json`: the oracle's record.

The build arg REG is always given: the registry's host and port, for `FROM ${REG}/base/busybox`.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

CASES = Path(__file__).parents[2] / "cases"
NOT_CONTEXT = ("case.toml", "prepare.sh", "expected.json", "base.Dockerfile", "served")
IN_PLACE = ("takeover", "rootless")
NOT_YET = "not-carried-out"
"""The error of cases that are recorded already, but whose instruction pybuild only understands."""
CONTEXT_TIME = 1_577_934_245
"""2020-01-02 03:04:05 UTC: the time of every file of a context unless prepare.sh sets another."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference from BuildKit that is meant, and why.

    `path` is a pattern over the tree's paths, or "config.Name"; `field` (mode, owner, xattrs, "same
    as", …) limits it to entries that differ in that alone. `where` is an isolation, "in place" for
    takeover and rootless, "both" for all, or "oracle" for what differs from one BuildKit run to the
    next.
    """

    path: str
    reason: str
    field: str = ""
    where: str = "both"

    def covers(self, key: str, fields: tuple[str, ...], where: str) -> bool:
        if self.field and fields != (self.field,):
            return False
        everywhere = (where, "both", "oracle", *(("in place",) if where in IN_PLACE else ()))
        return self.where in everywhere and fnmatchcase(key, self.path)


@dataclass(frozen=True, slots=True)
class Case:
    """One build case, as its case.toml says it."""

    name: str
    directory: Path
    base: str = "busybox"
    """The base image that the record is a difference to; "scratch" for none."""
    dockerfile: str = "Dockerfile"
    target: str = ""
    platform: str = ""
    args: Mapping[str, str] | None = None
    secrets: Mapping[str, str] | None = None
    """Values of secrets by their id; each is given as a file."""
    error: str = ""
    """The code of the error that the build has to end with, instead of an image."""
    exit_status: int = 1
    times: tuple[str, ...] = ()
    """Patterns of paths whose modification times are compared too."""
    live: bool = False
    """Whether `make test` builds it with BuildKit again, instead of trusting the record."""
    oracle: bool = True
    """False where BuildKit can't say what is right; then expected.json is written by hand."""
    refused: Mapping[str, str] | None = None
    """By isolation, the code of the error that the build ends with there, with the reason in a
    comment."""
    only: str = ""
    """The one isolation that it is for, with the reason in a comment; both if empty."""
    buildah: str = ""
    """What buildah 1.28 does otherwise: a second opinion, for the reader."""
    differences: tuple[Difference, ...] = ()

    @property
    def expected_file(self) -> Path:
        return self.directory / "expected.json"

    def build_args(self, registry: str, www: str) -> dict[str, str]:
        served = {"WWW": www} if www else {}
        return {"REG": registry, **served, **(self.args or {})}


class BadCase(Exception):
    """A case.toml says something that nobody reads, or something needed is missing."""


def load_cases(names: tuple[str, ...] = ()) -> tuple[Case, ...]:
    """All cases in order of their names, or those named; raises BadCase."""
    found = sorted(
        path.name
        for path in CASES.iterdir()
        if (path / "Dockerfile").exists() or path.name in names
    )
    return tuple(load_case(CASES / name) for name in (names or found))


def load_case(directory: Path) -> Case:
    if not directory.is_dir():
        raise BadCase(f"there is no case {directory.name}")
    settings = directory / "case.toml"
    told: dict[str, Any] = tomllib.loads(settings.read_text()) if settings.exists() else {}
    differences = tuple(Difference(**found) for found in told.pop("difference", ()))
    if "times" in told:
        told["times"] = tuple(told["times"])
    try:
        return Case(directory.name, directory, differences=differences, **told)
    except TypeError as problem:
        raise BadCase(f"{settings}: {problem}") from problem


def lay_out(case: Case, target: Path) -> Path:
    """Copies the context to `target` with fixed modes and times, and runs prepare.sh there."""
    shutil.copytree(
        case.directory, target, symlinks=True, ignore=_only_at_top(case.directory, NOT_CONTEXT)
    )
    for directory, directories, files in os.walk(target):
        for name in (*directories, *files):
            path = Path(directory) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    script = case.directory / "prepare.sh"
    stamp_times(target)
    if script.exists():
        command = ["sh", "-eu", str(script)]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        subprocess.run(command, cwd=target, check=True, env=environment, umask=0o022)
    return target


def stamp_times(target: Path) -> None:
    """Gives everything below the context the one fixed time, innermost first."""
    for directory, directories, files in os.walk(target, topdown=False):
        for name in (*files, *directories):
            path = Path(directory) / name
            os.utime(path, (CONTEXT_TIME, CONTEXT_TIME), follow_symlinks=False)
    os.utime(target, (CONTEXT_TIME, CONTEXT_TIME))


def _only_at_top(top: Path, names: tuple[str, ...]) -> Any:
    def ignored(directory: str, found: list[str]) -> list[str]:
        return [name for name in found if Path(directory) == top and name in names]

    return ignored


@contextmanager
def serving(case: Case) -> Iterator[str]:
    """Serves `served/` on loopback while in use; yields its address, "" where there is none."""
    folder = case.directory / "served"
    if not folder.is_dir():
        yield ""
        return
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Tells the same time for every file, so that a checkout's own times do not matter."""

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Last-Modified":
            value = self.date_time_string(CONTEXT_TIME)
        super().send_header(keyword, value)
