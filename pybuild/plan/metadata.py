"""What the instructions that change no file do to the config."""

from __future__ import annotations

import json
from typing import assert_never

from msgspec.structs import replace

from pybuild.dockerfile.instructions import (
    Cmd,
    Command,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Shell,
    ShellForm,
    Stopsignal,
    User,
    Volume,
)
from pybuild.errors import InputError
from pybuild.image.config import DEFAULT_SHELL, ImageConfig
from pybuild.image.config import Healthcheck as HealthcheckConfig

Metadata = (
    Cmd
    | Entrypoint
    | Env
    | Expose
    | Healthcheck
    | Label
    | Maintainer
    | Onbuild
    | Shell
    | Stopsignal
    | User
    | Volume
)


class BadPort(InputError):
    """EXPOSE names something that is no port, port range or protocol."""

    code = "bad-port"


class BadSignal(InputError):
    """STOPSIGNAL names no signal."""

    code = "bad-signal"


def apply_metadata(config: ImageConfig, instruction: Metadata) -> ImageConfig:
    """The config after the instruction, whose words are expanded already."""
    match instruction:
        case Env():
            return config.with_env(instruction.pairs)
        case Label():
            return config.with_labels(instruction.pairs)
        case Cmd():
            return replace(config, cmd=argv_of(instruction.command, config), args_escaped=True)
        case Entrypoint():
            return replace(config, entrypoint=argv_of(instruction.command, config))
        case Expose():
            ports = [port for text in instruction.ports for port in expose(text)]
            return replace(config, exposed_ports=tuple(sorted({*config.exposed_ports, *ports})))
        case Volume():
            return replace(config, volumes=tuple(sorted({*config.volumes, *instruction.paths})))
        case User():
            return replace(config, user=instruction.user)
        case Shell():
            return replace(config, shell=instruction.args)
        case Stopsignal():
            return replace(config, stop_signal=check_signal(instruction.signal))
        case Healthcheck():
            return replace(config, healthcheck=_healthcheck(instruction))
        case Onbuild():
            return replace(config, on_build=(*config.on_build, instruction.text))
        case Maintainer():
            return replace(config, author=instruction.name)
        case _:
            assert_never(instruction)


def argv_of(command: Command, config: ImageConfig) -> tuple[str, ...]:
    """The shell form runs below SHELL, the exec form as it stands."""
    if isinstance(command, ShellForm):
        return (*(config.shell or DEFAULT_SHELL), command.text)
    return command.args


def _healthcheck(instruction: Healthcheck) -> HealthcheckConfig:
    return HealthcheckConfig(
        instruction.test,
        instruction.interval,
        instruction.timeout,
        instruction.start_period,
        instruction.start_interval,
        instruction.retries,
    )


def expose(text: str) -> list[str]:
    """`80`, `80/udp`, `8000-8002` to ["80/tcp"], …; a published form keeps its last part."""
    ports, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    ports = ports.rpartition(":")[2]
    first, dash, last = ports.partition("-")
    valid = first.isdecimal() and (not dash or last.isdecimal()) and first.isascii()
    if not valid or protocol not in ("tcp", "udp", "sctp"):
        raise BadPort(f"EXPOSE {text}: this is no port", hint="write 80, 80/udp or 8000-8010/tcp")
    start, end = int(first), int(last or first)
    if end < start or end > 65535:
        raise BadPort(f"EXPOSE {text}: ports go from 0 to 65535 and ranges upwards")
    return [f"{port}/{protocol}" for port in range(start, end + 1)]


# fmt: off
_SIGNALS = frozenset((
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP",
    "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
    "RTMAX",
))
# fmt: on
_RTMIN_OFFSETS = range(1, 16)
_RTMAX_OFFSETS = range(1, 15)


def check_signal(text: str) -> str:
    """A signal's number (1 to 64) or name, with or without SIG; kept as it was written."""
    if text.isdecimal() and text.isascii():
        if 1 <= int(text) <= 64:
            return text
    else:
        name = text.upper().removeprefix("SIG")
        below, plus, number = name.partition("+")
        above, minus, down = name.partition("-")
        if (
            name in _SIGNALS
            or (below == "RTMIN" and plus and number.isdecimal() and int(number) in _RTMIN_OFFSETS)
            or (above == "RTMAX" and minus and down.isdecimal() and int(down) in _RTMAX_OFFSETS)
        ):
            return text
    raise BadSignal(f"{text!r} is no signal", hint="write its name, such as SIGTERM, or number")


def shown(argv: tuple[str, ...]) -> str:
    """A list as history shows it: a JSON array."""
    return json.dumps(list(argv), ensure_ascii=False)
