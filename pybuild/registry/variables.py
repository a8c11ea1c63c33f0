"""Credentials in plain environment variables: kaniko's own, and those of GitLab's jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pybuild.registry.credentials import Credentials, Found, NothingFound
from pybuild.registry.options import DOCKER_HUB, DOCKER_HUB_NAMES, split_host


class KanikoVariables:
    """KANIKO_<HOST>_USER and _PASSWORD: the host in upper case with "_" for what no variable may
    hold; with its port, without, then the domains above it."""

    title = "KANIKO_<HOST>_USER"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def ask(self, host: str) -> Found:
        """Raises NothingFound, which names the variable that is looked for first."""
        words = list(_words(host))
        for word in words:
            user = self._environment.get(f"KANIKO_{word}_USER")
            password = self._environment.get(f"KANIKO_{word}_PASSWORD")
            if user and password is not None:
                return Found(Credentials(user, password, origin=f"KANIKO_{word}_USER"))
            if user:
                raise NothingFound(f"KANIKO_{word}_USER is set, KANIKO_{word}_PASSWORD is not")
        raise NothingFound(f"KANIKO_{words[0]}_USER is not set")


def _words(host: str) -> Iterator[str]:
    names = sorted(DOCKER_HUB_NAMES, key=len) if host == DOCKER_HUB else [host]
    for name in names:
        yield _word(name)
        parts = split_host(name)[0].split(".")
        for start in range(len(parts)):
            yield _word(".".join(parts[start:]))


def _word(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", text.upper())


class GitlabVariables:
    """What GitLab sets in its jobs: the project's registry and the group's dependency proxy."""

    title = "GitLab's variables"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def serves(self, host: str) -> bool:
        """Whether GitLab's variables name this host."""
        return any(host == known for known, *_ in self._known())

    def ask(self, host: str) -> Found:
        """Raises NothingFound."""
        for known, user, password, origin in self._known():
            if known == host and user and password:
                return Found(Credentials(user, password, origin=origin))
        raise NothingFound("the host is set, but no user and password for it")

    def _known(self) -> Iterator[tuple[str, str, str, str]]:
        values = self._environment
        job_token = values.get("CI_JOB_TOKEN", "")
        for host, prefix in (
            ("CI_REGISTRY", "CI_REGISTRY"),
            ("CI_DEPENDENCY_PROXY_SERVER", "CI_DEPENDENCY_PROXY"),
        ):
            if not values.get(host):
                continue
            name = values[host].partition("://")[2] or values[host]
            name = name.rstrip("/").removesuffix(":443").lower()
            user = values.get(f"{prefix}_USER", "")
            password = values.get(f"{prefix}_PASSWORD", "")
            if user and password:
                yield name, user, password, f"{prefix}_USER"
            else:
                yield name, "gitlab-ci-token" if job_token else "", job_token, "CI_JOB_TOKEN"
