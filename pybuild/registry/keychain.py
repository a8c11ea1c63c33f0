"""The credentials of a build, from every source that kaniko has and in its order.

First the configuration files, each with its helpers: DOCKER_AUTH_CONFIG, Docker's config.json,
podman's auth.json. Then, unless switched off, KANIKO_<HOST>_USER, Google, Amazon, Azure and
GitLab's variables; the clouds are asked for hosts of theirs alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.registry.cloud.hosts import cloud_of
from pybuild.registry.credentials import ANONYMOUS, Credentials, Found, NothingFound, Source
from pybuild.registry.docker_config import DockerConfig, normalized_key, read_configs
from pybuild.registry.helper import HelperPrograms, NoSuchProgram
from pybuild.registry.options import DOCKER_HUB
from pybuild.registry.variables import GitlabVariables, KanikoVariables

if TYPE_CHECKING:
    from pybuild.registry.cloud.web import Web

HELPER_NAMES = ("env", "google", "ecr", "acr", "gitlab")  # as --credential-helpers has them
_HUB_KEY = "https://index.docker.io/v1/"  # what Docker calls Docker Hub towards helpers
_HELPER_SECONDS = 30.0
# Helper programs that are built in, and stand in for those that are not installed.
_BUILT_IN = {
    "ecr-login": "ecr",
    "gcr": "google",
    "gcloud": "google",
    "acr-env": "acr",
    "acr-linux": "acr",
    "gitlabci": "gitlab",
}
_EARLIER_SECONDS = 60.0  # before its end, credentials are asked for anew
_FAILURE_SECONDS = 60.0  # a source that failed is asked again after
_YOUNG_SECONDS = 20.0  # what was got just now and is refused is simply wrong


class _Outcome(Struct, frozen=True):
    """What a source said. `failure` "" means that it gave credentials."""

    found: Found
    failure: str
    when: float


class SystemKeychain:
    """Files are read once, at first use; programs and clouds are asked once for each host, and
    again when what they gave is about to end. Thread-safe."""

    def __init__(
        self,
        environment: Mapping[str, str],
        paths: tuple[Path, ...] = (),
        *,
        helpers: Iterable[str] = HELPER_NAMES,
        helper_seconds: float = _HELPER_SECONDS,
    ) -> None:
        self._environment = environment
        self._paths = paths
        self._helpers = frozenset(helpers)
        self._programs = HelperPrograms(environment, helper_seconds)
        self._lock = threading.Lock()
        self._asking: dict[tuple[str, str], threading.Lock] = {}
        self._outcomes: dict[tuple[str, str], _Outcome] = {}
        self._read: tuple[tuple[DockerConfig, ...], tuple[str, ...]] | None = None
        self._web: Web | None = None
        self._sources: dict[str, Source] = {}
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            web = self._web
        self._programs.close()
        if web is not None:
            web.close()

    def credentials(self, registry: str, repository: str) -> Credentials:
        host = normalized_key(registry)
        for find in self._finders(host, normalized_key(f"{registry}/{repository}")):
            if found := find():
                return found
        return ANONYMOUS

    def renew(self, registry: str, repository: str, refused: Credentials) -> bool:
        """Forgets what programs and clouds gave for the host a while ago, unless another thread
        has done so already."""
        host = normalized_key(registry)
        if self.credentials(registry, repository) != refused:
            return True
        with self._lock:
            for key, outcome in list(self._outcomes.items()):
                old = time.monotonic() - outcome.when > _YOUNG_SECONDS
                if key[1] == host and old and not outcome.failure:
                    del self._outcomes[key]
        return self.credentials(registry, repository) != refused

    def tried(self, registry: str) -> tuple[str, ...]:
        host = normalized_key(registry)
        configs, missing = self._configs()
        lines = list(missing)
        for config in configs:
            keys = [key for key in config.entries if key.partition("/")[0] == host]
            if keys:
                lines.append(f"{config.origin} (has {', '.join(keys)})")
            else:
                known = ", ".join(sorted(config.entries)) or "no registry"
                lines.append(f"{config.origin} (has {known}, not {host})")
        with self._lock:
            outcomes = {name: out for (name, asked), out in self._outcomes.items() if asked == host}
        for name, outcome in outcomes.items():
            lines.append(f"{name} ({outcome.failure or 'gave credentials'})")
        for name in self._serving(host):
            if name not in self._helpers and name != "env":
                lines.append(f"{name} (switched off by --credential-helpers)")
        return tuple(lines)

    def _serving(self, host: str) -> tuple[str, ...]:
        """The sources that may know the host, in their order; asks nobody."""
        names = ["env", cloud_of(host)]
        if GitlabVariables(self._environment).serves(host):
            names.append("gitlab")
        return tuple(name for name in names if name)

    def _finders(self, host: str, wanted: str) -> Iterator[Callable[[], Credentials]]:
        configs, _ = self._configs()
        for config in configs:
            # As Docker: a helper for this host, then the entry, then the store for all hosts.
            if name := config.helper(wanted):
                yield partial(self._from_helper, config, name, host)
            yield partial(config.entry, wanted)
            if name := config.store:
                yield partial(self._from_helper, config, name, host)
        for name in self._serving(host):
            if name in self._helpers:
                source = self._source(name)
                yield partial(self._ask, source.title, host, source.ask)

    def _from_helper(self, config: DockerConfig, name: str, host: str) -> Credentials:
        title = f"docker-credential-{name}"

        def ask(host: str) -> Found:
            try:
                found = self._programs.ask(name, _HUB_KEY if host == DOCKER_HUB else host)
            except NoSuchProgram:
                if name not in _BUILT_IN:
                    raise
                if _BUILT_IN[name] not in self._serving(host):
                    raise NothingFound("knows none") from None
                return self._source(_BUILT_IN[name]).ask(host)
            origin = f"{title} ({config.origin})"
            return replace(found, credentials=replace(found.credentials, origin=origin))

        return self._ask(title, host, ask)

    def _ask(self, title: str, host: str, ask: Callable[[str], Found]) -> Credentials:
        """What a source says, remembered. One that fails must not stop the build: many registries
        need no credentials, and where they are needed, the error names it."""
        key = (title, host)
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            with self._lock:
                known = self._outcomes.get(key)
            now = time.monotonic()
            if known is not None and now < _fresh_until(known):
                return known.found.credentials
            if self._closed:
                return ANONYMOUS
            try:
                outcome = _Outcome(ask(host), "", now)
            except NothingFound as nothing:
                # What is about to end is still better than nothing.
                lives = known is not None and not known.failure and known.found.until > now
                found = known.found if known is not None and lives else Found(ANONYMOUS)
                outcome = _Outcome(found, str(nothing), now)
            with self._lock:
                self._outcomes[key] = outcome
            return outcome.found.credentials

    def _configs(self) -> tuple[tuple[DockerConfig, ...], tuple[str, ...]]:
        with self._lock:
            if self._read is None:
                self._read = read_configs(self._environment, self._paths)
            return self._read

    def _source(self, name: str) -> Source:
        with self._lock:
            if name not in self._sources:
                self._sources[name] = self._make_source(name)
            return self._sources[name]

    def _make_source(self, name: str) -> Source:
        if name == "env":
            return KanikoVariables(self._environment)
        if name == "gitlab":
            return GitlabVariables(self._environment)
        # Only for hosts of theirs, so that no other build pays for loading them.
        from pybuild.registry.cloud.acr import Acr
        from pybuild.registry.cloud.ecr import Ecr
        from pybuild.registry.cloud.google import Google
        from pybuild.registry.cloud.web import Web

        if self._web is None:
            self._web = Web(self._environment)
        if self._closed:
            self._web.close()
        makers: Mapping[str, Callable[[Mapping[str, str], Web], Source]] = {
            "acr": Acr,
            "ecr": Ecr,
            "google": Google,
        }
        return makers[name](self._environment, self._web)


def _fresh_until(outcome: _Outcome) -> float:
    if outcome.failure:
        return outcome.when + _FAILURE_SECONDS
    # A token that lives for less than two minutes is used for half of that.
    life = outcome.found.until - outcome.when
    return outcome.found.until - min(_EARLIER_SECONDS, life / 2)
