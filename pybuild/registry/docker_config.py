"""Docker's config.json and what is like it: where it lies, what it holds, which entry counts.

Format: Docker's cli/config/configfile; Kubernetes mounts the same as `.dockerconfigjson`; podman's
auth.json is the same with keys that may have a path (containers-auth.json(5)).
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from pybuild.registry.credentials import ANONYMOUS, Credentials
from pybuild.registry.errors import BrokenConfig
from pybuild.registry.options import DOCKER_HUB, DOCKER_HUB_NAMES

_Value = TypeVar("_Value")

_FILE_NAMES = ("config.json", ".dockerconfigjson", ".dockercfg")


class DockerConfig(Struct, frozen=True):
    """One file's content. Keys are normalized: host[:port][/path]."""

    origin: str
    entries: Mapping[str, Credentials]
    helpers: Mapping[str, str]
    store: str

    def entry(self, wanted: str) -> Credentials:
        """Of the longest key that is `wanted` or a path above it; else ANONYMOUS."""
        return _longest(self.entries, wanted) or ANONYMOUS

    def helper(self, wanted: str) -> str:
        """The helper program that is named for it, by the same rule; else ""."""
        return _longest(self.helpers, wanted) or ""


def read_configs(
    environment: Mapping[str, str], paths: tuple[Path, ...] = ()
) -> tuple[tuple[DockerConfig, ...], tuple[str, ...]]:
    """All configurations in the order in which they count, and what is not there, for the user.

    DOCKER_AUTH_CONFIG (the JSON itself) comes first, then `paths` or, without any, the places
    that `environment` names. Raises BrokenConfig.
    """
    configs: list[DockerConfig] = []
    missing: list[str] = []
    text = environment.get("DOCKER_AUTH_CONFIG", "")
    if text.strip():
        configs.append(parse_config(text, "DOCKER_AUTH_CONFIG"))
    for place, told in _places(environment) if not paths else [(path, True) for path in paths]:
        file = _config_file(place)
        if file is not None:
            configs.append(parse_config(_read(file), str(file)))
        elif told:
            missing.append(f"{place} (not there)")
    return tuple(configs), tuple(missing)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BrokenConfig(
            f"{file} can't be read: {(error.strerror or str(error)).lower()}",
            hint="the builder runs as another user than the one who may read it",
        ) from error
    except UnicodeDecodeError as error:
        raise BrokenConfig(f"{file} is no UTF-8 text") from error


def _places(environment: Mapping[str, str]) -> list[tuple[Path, bool]]:
    """Docker's folder, then podman's file; and whether it is worth telling that one is missing."""
    places: list[tuple[Path, bool]] = []
    home = environment.get("HOME")
    if folder := environment.get("DOCKER_CONFIG"):
        places.append((Path(folder), True))
    elif home:
        places.append((Path(home) / ".docker", True))
    if file := environment.get("REGISTRY_AUTH_FILE"):
        places.append((Path(file), True))
        return places
    if folder := environment.get("XDG_RUNTIME_DIR"):
        places.append((Path(folder) / "containers" / "auth.json", False))
    # Where `podman login` writes on machines without a session (containers-auth.json(5)).
    if folder := environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config"):
        places.append((Path(folder) / "containers" / "auth.json", False))
    return places


def _config_file(place: Path) -> Path | None:
    """The file itself, or the one that a folder holds; Kubernetes secrets are folders."""
    if place.is_dir():
        return next((place / name for name in _FILE_NAMES if (place / name).is_file()), None)
    return place if place.exists() else None


def parse_config(text: str, origin: str) -> DockerConfig:
    """Reads a config.json. Raises BrokenConfig, which names `origin` and the line."""
    try:
        body = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise BrokenConfig(
            f"{origin}, line {error.lineno}: this is no JSON: {error.msg}",
            hint="`docker login` writes such a file; check how the secret was made",
        ) from None  # the exception holds the text, and with it the secrets
    except RecursionError:
        raise BrokenConfig(f"{origin}: this is no Docker configuration") from None
    if not isinstance(body, dict):
        raise BrokenConfig(f"{origin}: the whole is no JSON object")
    if origin.endswith(".dockercfg") and "auths" not in body:
        body = {"auths": body}
    auths = _mapping(body, "auths", origin)
    entries: dict[str, Credentials] = {}
    for key, value in auths.items():
        found = _entry(key, value, origin)
        if found:
            entries.setdefault(normalized_key(key), found)
    helpers: dict[str, str] = {}
    for key, value in _mapping(body, "credHelpers", origin).items():
        if not isinstance(value, str):
            raise BrokenConfig(f"{origin}: the entry for {key} in credHelpers is no text")
        helpers[normalized_key(key)] = value
    store = body.get("credsStore") or ""
    if not isinstance(store, str):
        raise BrokenConfig(f"{origin}: credsStore is no text")
    return DockerConfig(origin, entries, helpers, store)


def _mapping(body: Mapping[str, object], name: str, origin: str) -> Mapping[str, object]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BrokenConfig(f"{origin}: {name} is no JSON object")
    return value


def _entry(key: str, value: object, origin: str) -> Credentials:
    if value is None:
        return ANONYMOUS
    if not isinstance(value, dict):
        raise BrokenConfig(f"{origin}: the entry for {key} is no JSON object")
    texts: dict[str, str] = {}
    for name in ("auth", "username", "password", "identitytoken", "registrytoken"):
        text = value.get(name) or ""
        if not isinstance(text, str):
            raise BrokenConfig(f"{origin}: `{name}` of the entry for {key} is no text")
        texts[name] = text
    username, password = texts["username"], texts["password"]
    if texts["auth"]:
        try:
            # Some tools wrap the text or leave the padding out.
            encoded = "".join(texts["auth"].split())
            encoded += "=" * (-len(encoded) % 4)
            pair = b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            pair = ""
        name, colon, secret = pair.partition(":")
        if not colon:
            raise BrokenConfig(
                f"{origin}: `auth` of the entry for {key} is not `user:password` in base64",
                hint="make it with: printf '%s' 'user:password' | base64 -w0",
            )
        # Docker itself lets `auth` win; old ones end in NUL bytes.
        username, password = name, secret.rstrip("\0")
    return Credentials(
        username,
        password,
        identity_token=texts["identitytoken"],
        registry_token=texts["registrytoken"],
        origin=origin,
    )


def normalized_key(key: str) -> str:
    """A key of `auths` as host[:port][/path]: without scheme, API version and closing slash;
    all names of Docker Hub are docker.io."""
    text = key.strip()
    for scheme in ("https://", "http://"):
        if text.lower().startswith(scheme):
            text = text[len(scheme) :]
    host, _, path = text.partition("/")
    path = path.strip("/")
    if path in ("v1", "v2"):
        path = ""
    host = host.lower()
    if host in DOCKER_HUB_NAMES:
        host = DOCKER_HUB
    return f"{host}/{path}" if path else host


def _longest(entries: Mapping[str, _Value], wanted: str) -> _Value | None:
    key = wanted
    while key:
        if key in entries:
            return entries[key]
        key = key.rpartition("/")[0]
    return None
