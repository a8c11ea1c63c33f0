"""Building one case with one builder, into the registry, and reading back what came out."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.oracle.buildkit import BuildFailed, Buildkit
from tests.support.oracle.case import Case, lay_out, serving
from tests.support.oracle.flatten import Flattener, Tree
from tests.support.oracle.record import Record, make_record


class Refused(Exception):
    """The builder ended without an image: its exit status, error code if it has one, and words."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(f"exit status {status}, code {code or '-'}:\n{text[-3000:]}")
        self.status = status
        self.code = code
        self.text = text

    @property
    def last_line(self) -> str:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else "nothing was said"


NO_SECRETS: Mapping[str, Path] = {}


class Builder(Protocol):
    """Builds a laid-out context and pushes the result; raises Refused. `secrets` are files by id,
    beside the context."""

    @property
    def name(self) -> str: ...

    def build(
        self,
        context: Path,
        destination: str,
        dockerfile: str,
        target: str,
        platform: str,
        args: dict[str, str],
        secrets: Mapping[str, Path] = NO_SECRETS,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """The registry and what is read from it; shared by the builders of one session."""

    registry: str
    flattener: Flattener
    folder: Path | None = None
    """Where contexts are laid out; the system's place for temporary files if None."""

    def base_tree(self, name: str) -> Tree:
        if name == "scratch":
            return {}
        tag = {"debian": "bookworm", "jre": "17"}.get(name, "latest")
        return self.flattener.flatten(f"base/{name}", tag).tree

    def outcome(self, case: Case, builder: Builder) -> Record:
        """Builds the case and returns its record; raises Refused, BrokenImage."""
        with (
            tempfile.TemporaryDirectory(prefix="case-", dir=self.folder) as work,
            serving(case) as www,
        ):
            # the folder's own name must not matter, and everybody may read it
            Path(work).chmod(0o755)
            context = lay_out(case, Path(work) / "context")
            args = case.build_args(self.registry, www)
            base = case.directory / "base.Dockerfile"
            if base.exists():
                self._build_base(case, builder, Path(work) / "base", base, args)
            repository = f"{builder.name}/{case.name}"
            builder.build(
                context,
                f"{self.registry}/{repository}:latest",
                case.dockerfile,
                case.target,
                case.platform,
                args,
                _write_secrets(case, Path(work) / "secrets"),
            )
        image = self.flattener.flatten(repository, "latest")
        known = {name: self.base_tree(name) for name in ("busybox", "tools")}
        return make_record(image, self.base_tree(case.base), known, case.times)

    def _build_base(
        self, case: Case, builder: Builder, folder: Path, dockerfile: Path, args: dict[str, str]
    ) -> None:
        folder.mkdir()
        (folder / "Dockerfile").write_bytes(dockerfile.read_bytes())
        destination = f"{self.registry}/cases/{case.name}-base:latest"
        builder.build(folder, destination, "Dockerfile", "", "", args)


def _write_secrets(case: Case, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    files = {name: folder / name for name in case.secrets or {}}
    for name, value in (case.secrets or {}).items():
        files[name].write_text(value)
    return files


@dataclass(frozen=True, slots=True)
class OracleBuilder:
    """BuildKit; a `# syntax=` line is blanked out for it, since it would pull that frontend."""

    daemon: Buildkit
    fresh: bool = True
    name: str = "buildkit"

    def build(
        self,
        context: Path,
        destination: str,
        dockerfile: str,
        target: str,
        platform: str,
        args: dict[str, str],
        secrets: Mapping[str, Path] = NO_SECRETS,
    ) -> None:
        options = {f"build-arg:{key}": value for key, value in args.items()}
        if self.fresh:
            options["no-cache"] = ""
        if target:
            options["target"] = target
        if platform:
            options["platform"] = platform
        _blank_syntax(context / dockerfile)
        try:
            self.daemon.build(
                context, destination, dockerfile=dockerfile, options=options, secrets=secrets
            )
        except BuildFailed as failed:
            raise Refused(1, "", failed.log) from failed


def _blank_syntax(dockerfile: Path) -> None:
    if dockerfile.exists():
        about = dockerfile.stat()
        text = dockerfile.read_bytes()
        dockerfile.write_bytes(re.sub(rb"\A#\s*syntax\s*=.*", b"#", text))
        os.utime(dockerfile, (about.st_mtime, about.st_mtime))


@dataclass(frozen=True, slots=True)
class BuildahBuilder:
    """buildah as Debian has it, with storage of its own."""

    storage: Path
    name: str = "buildah"

    def build(
        self,
        context: Path,
        destination: str,
        dockerfile: str,
        target: str,
        platform: str,
        args: dict[str, str],
        secrets: Mapping[str, Path] = NO_SECRETS,
    ) -> None:
        store = [f"--root={self.storage}/root", f"--runroot={self.storage}/run"]
        store += ["--storage-driver=overlay"]
        command = ["buildah", *store, "bud", "--isolation=chroot", "--layers=false", "--no-cache"]
        command += ["--tls-verify=false", f"--file={context / dockerfile}", f"--tag={destination}"]
        command += [f"--build-arg={key}={value}" for key, value in args.items()]
        command += [f"--secret=id={name},src={file}" for name, file in secrets.items()]
        command += [f"--target={target}"] if target else []
        command += [f"--platform={platform}"] if platform else []
        _run_or_refuse([*command, str(context)], _no_code)
        push = ["buildah", *store, "push", "--tls-verify=false", destination]
        _run_or_refuse([*push, f"docker://{destination}"], _no_code)


@dataclass(frozen=True, slots=True)
class PybuildBuilder:
    """pybuild's own command line, as a user of kaniko types it."""

    executable: Path
    isolation: str = "namespace"

    @property
    def name(self) -> str:
        return f"pybuild-{self.isolation}"

    def build(
        self,
        context: Path,
        destination: str,
        dockerfile: str,
        target: str,
        platform: str,
        args: dict[str, str],
        secrets: Mapping[str, Path] = NO_SECRETS,
    ) -> None:
        command = [
            str(self.executable),
            *executor_flags(
                context, destination, dockerfile, target, platform, args, self.isolation
            ),
            *(f"--secret=id={name},src={file}" for name, file in secrets.items()),
            f"--cache-dir={context.parent / 'cache'}",  # no cache of an earlier test is seen
        ]
        _run_or_refuse(command, error_code)


def executor_flags(
    context: Path,
    destination: str,
    dockerfile: str,
    target: str,
    platform: str,
    args: dict[str, str],
    isolation: str,
) -> list[str]:
    """kaniko's flags for one case."""
    flags = [f"--context={context}", f"--dockerfile={context / dockerfile}", "--insecure"]
    flags += [f"--destination={destination}", f"--isolation={isolation}"]
    flags += [f"--build-arg={key}={value}" for key, value in args.items()]
    flags += [f"--target={target}"] if target else []
    flags += [f"--custom-platform={platform}"] if platform else []
    return flags


def _run_or_refuse(command: list[str], code_of: Callable[[str], str]) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=300,
    )
    if done.returncode != 0:
        raise Refused(done.returncode, code_of(done.stdout), done.stdout)


def error_code(text: str) -> str:
    """The stable code in what pybuild printed: the last line's "[code]" or "code: …"."""
    found = re.findall(r"\[([a-z][a-z0-9-]+)\]|\bcode: ([a-z0-9-]+)", text)
    return next((one or other for one, other in reversed(found)), "")


def _no_code(text: str) -> str:
    return ""
