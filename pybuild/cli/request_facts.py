"""What a request needs to know of the place that it is carried out in: the checked-out commit, now,
and the credentials that the pipeline bound to variables."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pybuild.cli.login import auth_key, read_config
from pybuild.cli.request import Facts, logins, without_user
from pybuild.cli.request_values import BadRequest
from pybuild.context.checkout import checkout_of


def facts_of(request: Mapping[str, object], folder: Path, environment: Mapping[str, str]) -> Facts:
    """Asks git only where the request has a use for it, and the context is the checked-out folder.
    Raises BadRequest where the time of the commit is asked for and there is none."""
    epoch = request.get("sourceDateEpoch")
    created = datetime.fromtimestamp(int(time.time()), UTC).isoformat().replace("+00:00", "Z")
    if request.get("reproducible") or epoch is not None or environment.get("SOURCE_DATE_EPOCH"):
        created = ""
    context = str(request.get("context") or ".")
    here = "://" not in context and not context.startswith("git@")
    found = checkout_of(folder, environment) if here and _asks_git(request) else None
    if epoch == "commit" and found is None:
        raise BadRequest(
            "`sourceDateEpoch` can't be 'commit': there is no checked-out commit here",
            hint="check the repository out first, or give the seconds since 1970",
        )
    if found is None:
        return Facts(created=created)
    return Facts(found.revision, without_user(found.remote), found.seconds, created)


def _asks_git(request: Mapping[str, object]) -> bool:
    wanted = ("ociLabels", "provenance")
    return request.get("sourceDateEpoch") == "commit" or any(request.get(name) for name in wanted)


def resolved(request: Mapping[str, object], environment: Mapping[str, str]) -> Mapping[str, object]:
    """The request with the paths of secrets that it names by variables. Raises BadRequest where
    such a variable is not set."""
    given = request.get("secrets")
    if not isinstance(given, dict):
        return request
    places = {
        key: {"file": _variable(str(place["fileEnv"]), environment)}
        if isinstance(place, dict) and list(place) == ["fileEnv"]
        else place
        for key, place in given.items()
    }
    return {**request, "secrets": places}


def request_environment(
    request: Mapping[str, object], facts: Facts, environment: Mapping[str, str]
) -> Mapping[str, str]:
    """The environment that the request is carried out in: with the time of everything, and with
    the credentials that it names by variables, before all others. No file is written."""
    changed = dict(environment)
    epoch = request.get("sourceDateEpoch")
    if epoch is not None:
        changed["SOURCE_DATE_EPOCH"] = str(facts.commit_seconds if epoch == "commit" else epoch)
    config = docker_config(request, environment)
    if config:
        changed["DOCKER_AUTH_CONFIG"] = json.dumps(config)
    return changed


def docker_config(
    request: Mapping[str, object], environment: Mapping[str, str], base: Path | None = None
) -> dict[str, object]:
    """The configuration that `dockerConfig` and `registries` of the request make, over that in
    `base`. Empty if there is neither. Raises BadRequest for a variable that is not set."""
    named = request.get("dockerConfig")
    wanted = logins("registries", request.get("registries") or [])
    if not named and not wanted:
        return {}
    config: dict[str, object] = read_config(base) if base is not None else {}
    if named:
        config |= _merged(config, read_config(Path(_variable(str(named), environment))))
    elif (text := environment.get("DOCKER_AUTH_CONFIG", "")).strip() and base is None:
        config = _parsed(text)
    auths = config.get("auths")
    entries = dict(auths) if isinstance(auths, dict) else {}
    for registry, user, password in wanted:
        entries[auth_key(registry)] = {
            "username": _variable(user, environment),
            "password": _variable(password, environment),
        }
    return {**config, "auths": entries}


def _merged(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    both = {**base, **over}
    for name in ("auths", "credHelpers"):
        below, above = base.get(name), over.get(name)
        if isinstance(below, dict) and isinstance(above, dict):
            both[name] = {**below, **above}
    return both


def _parsed(text: str) -> dict[str, object]:
    try:
        config = json.loads(text)
    except ValueError:
        # The exception holds the text, and with it secrets.
        raise BadRequest("DOCKER_AUTH_CONFIG is no JSON") from None
    if not isinstance(config, dict):
        raise BadRequest("DOCKER_AUTH_CONFIG is no JSON object")
    return config


def _variable(name: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name, "")
    if not value:
        raise BadRequest(
            f"the variable {name} with credentials is not set here",
            hint="the step binds it; does the container's environment arrive?",
        )
    return value


def mounted_config(environment: Mapping[str, str]) -> Path | None:
    """The config.json that the builder's container has by itself."""
    folder = environment.get("DOCKER_CONFIG") or f"{environment.get('HOME') or '/'}/.docker"
    for name in ("config.json", ".dockerconfigjson"):
        if os.access(file := Path(folder) / name, os.R_OK):
            return file
    return None
