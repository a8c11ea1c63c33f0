"""Where user names, passwords and tokens come from: Docker's config.json and its helpers.

Format: Docker's cli/config/configfile and credential-helper protocol; Kubernetes mounts the same
as `.dockerconfigjson`; podman's auth.json is the same with keys that may have a path.
"""

from __future__ import annotations

import binascii
import json
import threading
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from pybuild.registry.errors import BrokenConfig
from pybuild.registry.helper import HelperFailed, ask_helper
from pybuild.registry.options import DOCKER_HUB, DOCKER_HUB_NAMES

_HUB_KEY = "https://index.docker.io/v1/"  # what Docker calls Docker Hub towards helpers
_FILE_NAMES = ("config.json", ".dockerconfigjson", ".dockercfg")
_HELPER_SECONDS = 30.0


class Credentials(Struct, frozen=True):
    """A user name with password, or a token. None of the secrets shows in `repr`.

    `identity_token` is an OAuth2 refresh token for the token server, `registry_token` a bearer
    token for the registry itself. All empty: anonymous.
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    origin: str = ""  # which file or helper gave them

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, origin={self.origin!r})"

    def __eq__(self, other: object) -> bool:
        """Two are the same if they say the same, wherever they came from."""
        if not isinstance(other, Credentials):
            return NotImplemented
        return self._secrets() == other._secrets()

    def __hash__(self) -> int:
        return hash(self._secrets())

    def _secrets(self) -> tuple[str, str, str, str]:
        return (self.username, self.password, self.identity_token, self.registry_token)

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)


ANONYMOUS = Credentials()


class Keychain(Protocol):
    def credentials(self, registry: str, repository: str) -> Credentials:
        """What to say who we are; ANONYMOUS where nothing is known. Raises BrokenConfig."""
        ...

    def tried(self, registry: str) -> tuple[str, ...]:
        """The sources that were looked into for this registry and what they held; no secrets."""
        ...


class AnonymousKeychain:
    """Knows nobody."""

    def credentials(self, registry: str, repository: str) -> Credentials:  # noqa: ARG002
        return ANONYMOUS

    def tried(self, registry: str) -> tuple[str, ...]:  # noqa: ARG002
        return ()


class _Config(Struct, frozen=True):
    origin: str
    entries: Mapping[str, Credentials]  # by normalized key: host[/path]
    helpers: Mapping[str, str]
    store: str


class DockerConfigKeychain:
    """Looks into DOCKER_AUTH_CONFIG (the JSON itself), then `paths` or, without any, the places
    that `environment` names: $DOCKER_CONFIG, else $HOME/.docker; then podman's auth.json.

    Read once, at first use; helpers are asked once for each registry. Thread-safe.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        paths: tuple[Path, ...] = (),
        *,
        helper_seconds: float = _HELPER_SECONDS,
    ) -> None:
        self._environment = environment
        self._paths = paths
        self._helper_seconds = helper_seconds
        self._lock = threading.Lock()
        self._configs: tuple[_Config, ...] | None = None
        self._missing: list[str] = []
        self._helped: dict[tuple[str, str], Credentials | HelperFailed] = {}

    def credentials(self, registry: str, repository: str) -> Credentials:
        wanted = normalized_key(f"{registry}/{repository}")
        host = normalized_key(registry)
        with self._lock:
            for config in self._loaded():
                for helper in (config.helpers.get(host, ""), None, config.store):
                    found = (
                        _longest(config.entries, wanted)
                        if helper is None
                        else self._help(config, helper, host)
                    )
                    if found:
                        return found
        return ANONYMOUS

    def tried(self, registry: str) -> tuple[str, ...]:
        host = normalized_key(registry)
        with self._lock:
            configs = self._loaded()
            lines = list(self._missing)
            for config in configs:
                keys = [key for key in config.entries if key.partition("/")[0] == host]
                if keys:
                    lines.append(f"{config.origin} (has {', '.join(keys)})")
                else:
                    known = ", ".join(sorted(config.entries)) or "no registry"
                    lines.append(f"{config.origin} (has {known}, not {host})")
                for helper in dict.fromkeys((config.helpers.get(host, ""), config.store)):
                    answer = self._helped.get((helper, host))
                    if isinstance(answer, HelperFailed):
                        lines.append(f"docker-credential-{helper} ({answer})")
                    elif answer is not None:
                        text = "gave credentials" if answer else "knows none"
                        lines.append(f"docker-credential-{helper} ({text})")
        return tuple(lines)

    def _help(self, config: _Config, helper: str, host: str) -> Credentials:
        if not helper:
            return ANONYMOUS
        if (helper, host) not in self._helped:
            server = _HUB_KEY if host == DOCKER_HUB else host
            try:
                answer = ask_helper(
                    helper,
                    server,
                    environment=self._environment,
                    timeout_seconds=self._helper_seconds,
                )
            except HelperFailed as failure:
                # A helper for a registry that needs no credentials must not stop the build;
                # where credentials are needed, the error names it.
                self._helped[helper, host] = failure
                return ANONYMOUS
            username, secret = answer or ("", "")
            origin = f"docker-credential-{helper} ({config.origin})"
            if username == "<token>":
                found = Credentials(identity_token=secret, origin=origin)
            else:
                found = Credentials(username, secret, origin=origin)
            self._helped[helper, host] = found
        known = self._helped[helper, host]
        return ANONYMOUS if isinstance(known, HelperFailed) else known

    def _loaded(self) -> tuple[_Config, ...]:
        if self._configs is None:
            configs: list[_Config] = []
            text = self._environment.get("DOCKER_AUTH_CONFIG", "")
            if text.strip():
                configs.append(parse_config(text, "DOCKER_AUTH_CONFIG"))
            for place in self._paths or _places(self._environment):
                file = _config_file(place)
                if file is None:
                    self._missing.append(f"{place} (not there)")
                    continue
                try:
                    raw = file.read_text(encoding="utf-8-sig")
                except OSError as error:
                    raise BrokenConfig(
                        f"{file} can't be read: {(error.strerror or str(error)).lower()}",
                        hint="the builder runs as another user than the one who may read it",
                    ) from error
                except UnicodeDecodeError as error:
                    raise BrokenConfig(f"{file} is no UTF-8 text") from error
                configs.append(parse_config(raw, str(file)))
            self._configs = tuple(configs)
        return self._configs


def _places(environment: Mapping[str, str]) -> tuple[Path, ...]:
    places: list[Path] = []
    if folder := environment.get("DOCKER_CONFIG"):
        places.append(Path(folder))
    elif home := environment.get("HOME"):
        places.append(Path(home) / ".docker")
    if file := environment.get("REGISTRY_AUTH_FILE"):
        places.append(Path(file))
    elif folder := environment.get("XDG_RUNTIME_DIR"):
        podman = Path(folder) / "containers" / "auth.json"
        if podman.is_file():
            places.append(podman)
    return tuple(places)


def _config_file(place: Path) -> Path | None:
    """The file itself, or the one that a folder holds; Kubernetes secrets are folders."""
    if place.is_dir():
        return next((place / name for name in _FILE_NAMES if (place / name).is_file()), None)
    return place if place.exists() else None


def parse_config(text: str, origin: str) -> _Config:
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
    return _Config(origin, entries, helpers, store)


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


def _longest(entries: Mapping[str, Credentials], wanted: str) -> Credentials:
    """The entry whose key is the longest path above `wanted`."""
    key = wanted
    while key:
        if key in entries:
            return entries[key]
        key = key.rpartition("/")[0]
    return ANONYMOUS
