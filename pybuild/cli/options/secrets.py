"""The secrets of RUN --mount, from --secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag
from pybuild.cli.parse import Values

if TYPE_CHECKING:
    from pybuild.isolation.command import Secret


_SECRET_LIMIT = 500 * 1024  # BuildKit's


def secrets(values: Values, environment: Mapping[str, str]) -> dict[str, Secret]:
    """The values of all `--secret`, by id; the last one of an id counts. They are read at once,
    since nothing of this container may be found any more when a RUN needs them. Raises BadFlag,
    which never shows a value."""
    texts = values.many("secret") if "secret" in values.texts else ()
    return dict(_secret(text, environment) for text in texts)


def _secret(text: str, environment: Mapping[str, str]) -> tuple[str, Secret]:
    """As Docker and kaniko have it: `id=ID[,src=FILE][,env=VAR][,type=file|env]`."""
    from pybuild.isolation.command import Secret

    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = {"source": "src"}.get(key.strip().lower(), key.strip().lower())
        if key not in ("id", "src", "env", "type") or not (equals and value):
            # what is no key may be a secret that was given where its name belongs
            raise BadFlag("--secret has a part that it does not know", hint=_SECRET_FORM)
        given[key] = value
    name, kind = given.get("id", ""), given.get("type", "")
    if not name:
        raise BadFlag("--secret lacks its id", hint=_SECRET_FORM)
    if kind not in ("", "file", "env"):
        raise BadFlag(f"--secret id={name} can't have the type {kind}", hint="file or env")
    file, variable = given.get("src", ""), given.get("env", "")
    if kind == "env" and file and not variable:
        file, variable = "", file
    if not file and not variable:
        is_variable = kind == "env" or (kind == "" and name in environment)
        file, variable = ("", name) if is_variable else (name, "")
    if variable:
        if variable not in environment:
            raise BadFlag(f"--secret id={name}: no variable {variable} is set")
        return name, Secret(os.fsencode(environment[variable]))
    return name, Secret(_secret_file(name, Path(file)))


_SECRET_FORM = "id=ID[,src=FILE][,env=VARIABLE][,type=file|env]"


def _secret_file(name: str, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            value = opened.read(_SECRET_LIMIT + 1)
    except OSError as error:
        raise BadFlag(
            f"--secret id={name}: {file} can't be read: {error.strerror}",
            hint="is it mounted? Without src= and env= the id itself names a variable or file",
        ) from error
    if len(value) > _SECRET_LIMIT:
        raise BadFlag(f"--secret id={name}: {file} is larger than {_SECRET_LIMIT} bytes")
    return value
