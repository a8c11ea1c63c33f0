"""Variables: which names an instruction sees, and the instruction with its words expanded.

The order of ARG and ENV decides: the later one wins, as in BuildKit. Build args that nobody
declared are not seen, except the proxies, which every RUN gets and nothing records.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from pybuild.dockerfile.heredoc import Heredoc
from pybuild.dockerfile.instructions import (
    Add,
    Copy,
    Env,
    Expose,
    Instruction,
    Label,
    Run,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from pybuild.dockerfile.words import expand, expand_heredoc, expand_words
from pybuild.errors import PybuildError
from pybuild.image.platform import Platform

PROXIES = frozenset(
    name
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (proxy, proxy.lower())
)


class Scope(Struct, frozen=True):
    """What a stage's instructions see: `variables` for expansion and RUN, `args` those among
    them that ARG gave (name to value), in the order of their declaration."""

    variables: Mapping[str, str]
    args: Mapping[str, str]

    def with_arg(self, name: str, value: str | None) -> Scope:
        if value is None:
            return self
        return Scope({**self.variables, name: value}, {**self.args, name: value})

    def with_env(self, pairs: tuple[tuple[str, str], ...]) -> Scope:
        return Scope({**self.variables, **dict(pairs)}, self.args)


def platform_args(build: Platform, target: Platform, target_stage: str) -> dict[str, str]:
    """The arguments that are there without being given (Dockerfile reference, "Automatic
    platform ARGs in the global scope")."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values[f"{prefix}PLATFORM"] = str(platform)
        values[f"{prefix}OS"] = platform.os
        values[f"{prefix}OSVERSION"] = platform.os_version
        values[f"{prefix}ARCH"] = platform.architecture
        values[f"{prefix}VARIANT"] = platform.variant
    values["TARGETSTAGE"] = target_stage or "default"
    return values


def expanded(instruction: Instruction, scope: Scope, escape: str) -> Instruction:
    """The instruction with variables replaced wherever its grammar says so; RUN, CMD, ENTRYPOINT,
    HEALTHCHECK, SHELL and ONBUILD are left to the shell and to later, but for the options of
    mounts. Errors name the place."""

    def word(text: str) -> str:
        return expand(text, scope.variables, escape)

    def pairs(texts: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((word(name), word(value)) for name, value in texts)

    try:
        match instruction:
            case Env() | Label():
                return replace(instruction, pairs=pairs(instruction.pairs))
            case Workdir():
                return replace(instruction, path=word(instruction.path))
            case User():
                return replace(instruction, user=word(instruction.user))
            case Stopsignal():
                return replace(instruction, signal=word(instruction.signal))
            case Volume():
                return replace(instruction, paths=tuple(word(path) for path in instruction.paths))
            case Expose():
                ports = [expand_words(port, scope.variables, escape) for port in instruction.ports]
                return replace(instruction, ports=tuple(port for found in ports for port in found))
            case Copy() | Add():
                return _expanded_copy(instruction, scope, escape)
            case Run() if instruction.mounts:
                mounts = tuple(mount.expanded(word) for mount in instruction.mounts)
                return replace(instruction, mounts=mounts)
            case _:
                return instruction
    except PybuildError as error:
        raise error.at(instruction.source) from error.__cause__


def _expanded_copy(instruction: Copy | Add, scope: Scope, escape: str) -> Copy | Add:
    def word(text: str) -> str:
        return expand(text, scope.variables, escape)

    changed = replace(
        instruction,
        sources=tuple(word(source) for source in instruction.sources),
        destination=word(instruction.destination),
        heredocs=tuple(_expanded_heredoc(file, scope) for file in instruction.heredocs),
        chown=word(instruction.chown),
        chmod=word(instruction.chmod),
        exclude=tuple(word(pattern) for pattern in instruction.exclude),
    )
    return (
        replace(changed, checksum=word(changed.checksum)) if isinstance(changed, Add) else changed
    )


def _expanded_heredoc(heredoc: Heredoc, scope: Scope) -> Heredoc:
    """Quotes in a here-document's body are text; only variables are replaced in it."""
    if not heredoc.expand:
        return heredoc
    return replace(heredoc, content=expand_heredoc(heredoc.content, scope.variables))
