"""How registries are reached. All host names are as in references: `host` or `host:port`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from msgspec import Struct, field

from pybuild.registry.retry import RetryPolicy

# kaniko's names for Docker Hub in references, config files and flags all mean one registry.
DOCKER_HUB = "docker.io"
DOCKER_HUB_HOST = "registry-1.docker.io"
DOCKER_HUB_NAMES = frozenset(
    {DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST, "registry.hub.docker.com"}
)


class Purpose(Enum):
    """What a host is asked for; kaniko's flags tell the two apart."""

    PULL = "pull"
    PUSH = "push"


class RegistryOptions(Struct, frozen=True):
    """`insecure` hosts may be spoken to in plain HTTP; `skip_tls` ones are not verified.

    `mirrors` stand in for Docker Hub, `map` for any registry: `host[/prefix]`, tried in order,
    then the original unless `default_fallback` is off. `certificates` are further authorities by
    host, `client_certificates` pairs of certificate and key file by host. `check_push` has the
    right to push tried before the build; with `ignore_immutable` a tag that exists and may not be
    moved is no failure. `client_name` is added to the User-Agent.
    """

    insecure: frozenset[str] = frozenset()
    insecure_push: bool = False
    insecure_pull: bool = False
    skip_tls_hosts: frozenset[str] = frozenset()
    skip_tls_push: bool = False
    skip_tls_pull: bool = False
    mirrors: tuple[str, ...] = ()
    map: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default_fallback: bool = True
    certificates: Mapping[str, Path] = field(default_factory=dict)
    client_certificates: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = 60.0
    check_push: bool = True
    ignore_immutable: bool = False
    client_name: str = ""

    def may_be_plain(self, host: str, purpose: Purpose) -> bool:
        """Whether plain HTTP may be spoken, by a flag or since the host is this machine."""
        by_purpose = self.insecure_pull if purpose is Purpose.PULL else self.insecure_push
        return by_purpose or host in self.insecure or is_loopback(host)

    def verifies(self, host: str, purpose: Purpose) -> bool:
        by_purpose = self.skip_tls_pull if purpose is Purpose.PULL else self.skip_tls_push
        return not (by_purpose or host in self.skip_tls_hosts)


def is_loopback(host: str) -> bool:
    """Whether `host` or `host:port` can only be this machine; no name is looked up."""
    name = split_host(host)[0]
    if name == "localhost" or name.endswith(".localhost") or name == "::1":
        return True
    parts = name.split(".")
    return parts[0] == "127" and len(parts) == 4 and all(part.isdigit() for part in parts)


def split_host(host: str) -> tuple[str, int | None]:
    """`name:port`, `[v6]:port` or a name alone as (name without brackets, port or None)."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    return name.lower(), int(port) if port.isdigit() else None


def host_of(registry: str) -> str:
    """The host that serves a reference's registry."""
    return DOCKER_HUB_HOST if registry in DOCKER_HUB_NAMES else registry
