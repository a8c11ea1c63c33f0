"""Flags to how registries are reached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag
from pybuild.cli.parse import Values, parted

if TYPE_CHECKING:
    from pybuild.registry.keychain import SystemKeychain
    from pybuild.registry.options import RegistryOptions


def keychain(values: Values, environment: Mapping[str, str]) -> SystemKeychain:
    """Where credentials come from. Raises BadFlag for a helper that there is none of."""
    from pybuild.registry.keychain import HELPER_NAMES, SystemKeychain

    name = "credential-helpers"
    if name not in values.given:
        return SystemKeychain(environment)
    # kaniko's list begins with "default": the configuration files, which are always read.
    wanted = [part for part in parted(values.many(name), ",") if part != "default"]
    for part in wanted:
        if part not in HELPER_NAMES:
            raise BadFlag(
                f"--{name} can't be {part!r}",
                hint=f"some of {', '.join(HELPER_NAMES)}, or nothing to switch them all off",
            )
    return SystemKeychain(environment, helpers=wanted)


def registry_options(
    values: Values, environment: Mapping[str, str] | None = None
) -> RegistryOptions:
    """How registries are reached. Raises BadFlag for a host map that can't be read."""
    from pybuild.registry.options import RegistryOptions
    from pybuild.registry.retry import RetryPolicy

    def switch(name: str) -> bool:  # the warmer has no flags for pushing
        return name in values.texts and values.switch(name)

    named = ("push-retry", "image-download-retry", "image-fs-extract-retry")
    retries = [values.number(name) for name in named if name in values.texts]
    policy = RetryPolicy()
    mirrors = parted(values.many("registry-mirror"), ",")
    mapped = _registry_map(values.many("registry-map"))
    return RegistryOptions(
        insecure=_hosts(values, "insecure-registry") | _plain_hosts(mirrors, mapped),
        insecure_push=switch("insecure"),
        insecure_pull=switch("insecure-pull"),
        skip_tls_hosts=_hosts(values, "skip-tls-verify-registry"),
        skip_tls_push=switch("skip-tls-verify"),
        # kaniko's --skip-tls-verify is for pulls too, and recipes rely on it.
        skip_tls_pull=switch("skip-tls-verify-pull") or switch("skip-tls-verify"),
        mirrors=mirrors,
        map=mapped,
        default_fallback=not switch("skip-default-registry-fallback"),
        certificates={
            host: _existing("registry-certificate", file)
            for host, file in values.pairs("registry-certificate").items()
        },
        client_certificates=_client_certificates(values.pairs("registry-client-cert")),
        check_push=not switch("skip-push-permission-check"),
        ignore_immutable=switch("push-ignore-immutable-tag-errors"),
        client_name=_header_text((environment or {}).get("UPSTREAM_CLIENT_TYPE", "")),
        retry=RetryPolicy(tries=max([policy.tries, *(count + 1 for count in retries)])),
    )


def _header_text(text: str) -> str:
    return "".join(letter for letter in text if letter.isascii() and letter.isprintable())


def _registry_map(texts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`host=other;host=third`, tried in the order given."""
    found: dict[str, tuple[str, ...]] = {}
    for text in parted(texts, ";"):
        host, equals, other = text.partition("=")
        if not (host and equals and other):
            raise BadFlag(f"--registry-map can't be {text!r}", hint="HOST=HOST[/PREFIX]")
        found[host] = (*found.get(host, ()), other)
    return found


def _hosts(values: Values, name: str) -> frozenset[str]:
    """Hosts, also where they are written as addresses, which would match no reference."""
    bare = (text.rpartition("://")[2].partition("/")[0] for text in values.many(name))
    return frozenset(filter(None, bare))


def _plain_hosts(mirrors: tuple[str, ...], mapped: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The hosts of places that are written with http://, as for Docker's own daemon."""
    places = [*mirrors, *(place for others in mapped.values() for place in others)]
    plain = (place.removeprefix("http://") for place in places if place.startswith("http://"))
    return frozenset(place.partition("/")[0] for place in plain)


def _client_certificates(pairs: Mapping[str, str]) -> dict[str, tuple[Path, Path]]:
    found = {}
    for host, text in pairs.items():
        certificate, comma, key = text.partition(",")
        if not comma:
            raise BadFlag(f"--registry-client-cert={host}={text} names no key",
                          hint=f"{host}=CERTIFICATE,KEY")  # fmt: skip
        name = "registry-client-cert"
        found[host] = (_existing(name, certificate), _existing(name, key))
    return found


def _existing(flag: str, file: str) -> Path:
    if not Path(file).is_file():
        raise BadFlag(f"--{flag}: there is no file {file}", hint="is its secret mounted?")
    return Path(file)
