"""kaniko's `executor login`: keeps a user name and password in Docker's config.json.

As with kaniko nothing is asked of the registry: what is wrong with them shows at the first push.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pybuild.cli.errors import BadFlag, UnexpectedArgument
from pybuild.cli.flags.flag import LOGIN
from pybuild.cli.parse import Values, parse_flags
from pybuild.errors import InputError

_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"  # under which Docker keeps Docker Hub


class LoginNotKept(InputError):
    """The file that credentials are kept in can't be read or written."""

    code = "login-not-kept"


def login_command(argv: Sequence[str], environment: Mapping[str, str], stdin: TextIO) -> int:
    """Writes `$DOCKER_CONFIG/config.json`, `~/.docker` without that variable; the exit status."""
    values = parse_flags(LOGIN, argv, environment, positionals=1)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(LOGIN))
        return 0
    if not values.positional:
        raise UnexpectedArgument(
            "executor login needs the registry", hint="executor login REGISTRY --username=NAME"
        )
    key = auth_key(values.positional[0])
    username, password = values.text("username"), _password(values, stdin)
    if not username:
        raise BadFlag("--username is missing", hint="--username=NAME")
    file = _folder(environment) / "config.json"
    _keep(file, key, b64encode(f"{username}:{password}".encode()).decode())
    sys.stderr.write(f"the credentials for {key} are in {file}\n")
    return 0


def _password(values: Values, stdin: TextIO) -> str:
    from_stdin = values.switch("password-stdin")
    if from_stdin and "password" in values.given:
        raise BadFlag("--password and --password-stdin are both given", hint="give one of them")
    if not from_stdin and "password" not in values.given:
        raise BadFlag("the password is missing", hint="--password-stdin, or --password=PASSWORD")
    password = stdin.read().rstrip("\r\n") if from_stdin else values.text("password")
    if not password:
        raise BadFlag("the password is empty", hint="does the variable that holds it have a value?")
    return password


def auth_key(registry: str) -> str:
    """The key of `auths`: the host, or host and path for a part of a registry."""
    from pybuild.registry.docker_config import normalized_key

    key = normalized_key(registry)
    if not key or any(letter.isspace() for letter in key):
        raise UnexpectedArgument(f"{registry!r} is no registry", hint="a host, such as ghcr.io")
    return _HUB_KEY if key == _HUB else key


def _folder(environment: Mapping[str, str]) -> Path:
    named = environment.get("DOCKER_CONFIG", "")
    return Path(named) if named else Path(environment.get("HOME") or "/") / ".docker"


def _keep(file: Path, key: str, auth: str) -> None:
    """Sets one entry and leaves the rest of the file as it is; only its owner can read it."""
    config = read_config(file)
    auths = config.setdefault("auths", {})
    if not isinstance(auths, dict):
        raise LoginNotKept(f"{file}: auths is no JSON object")
    auths[key] = {"auth": auth}
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(file, json.dumps(config, indent="\t") + "\n")
    except OSError as error:
        raise LoginNotKept(
            f"{file} can't be written: {(error.strerror or str(error)).lower()}",
            hint="a mounted secret is read-only: name a folder of your own with DOCKER_CONFIG",
        ) from error
    helper = _helper(config, key)
    if helper:
        sys.stderr.write(f"warning: {file} names the helper {helper}, which is asked first\n")


def _replace(file: Path, text: str) -> None:
    """Whole or not at all."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:  # noqa: PTH123
            opened.write(text)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def read_config(file: Path) -> dict[str, object]:
    """A config.json, empty where there is none. Raises LoginNotKept, which shows nothing of it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise LoginNotKept(f"{file} can't be read: {type(error).__name__}") from error
    try:
        config = json.loads(text) if text.strip() else {}
    except ValueError:
        # The exception holds the text, and with it secrets.
        raise LoginNotKept(f"{file} is no JSON", hint="remove it, or mend it") from None
    if not isinstance(config, dict):
        raise LoginNotKept(f"{file} is no JSON object", hint="remove it, or mend it")
    return config


def _helper(config: Mapping[str, object], key: str) -> str:
    helpers = config.get("credHelpers")
    named = helpers.get(key) if isinstance(helpers, dict) else None
    return str(named or config.get("credsStore") or "")
