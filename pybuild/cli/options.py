"""Flags to the small options values that the packages own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Event as Signal
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag, FlagsContradict, NoDestination
from pybuild.cli.parse import Values
from pybuild.errors import NotCarriedOut
from pybuild.events import EventSink

if TYPE_CHECKING:
    from pybuild.cache.layers import LayerCache
    from pybuild.context.open import ContextOptions, GitOptions
    from pybuild.image.platform import Platform
    from pybuild.image.reference import Reference
    from pybuild.isolation.command import Secret
    from pybuild.layer.compress import CompressionOptions
    from pybuild.registry.client import Client
    from pybuild.registry.options import RegistryOptions

_GIT_KEYS = ("branch", "single-branch", "recurse-submodules", "insecure-skip-tls", "depth")


def registry_options(values: Values) -> RegistryOptions:
    """How registries are reached. Raises BadFlag for a host map that can't be read."""
    from pybuild.registry.options import RegistryOptions
    from pybuild.registry.retry import RetryPolicy

    def switch(name: str) -> bool:  # the warmer has no flags for pushing
        return name in values.texts and values.switch(name)

    retries = [values.number(name) for name in ("push-retry", "image-download-retry")
               if name in values.texts]  # fmt: skip
    policy = RetryPolicy()
    return RegistryOptions(
        insecure=frozenset(values.many("insecure-registry")),
        insecure_push=switch("insecure"),
        insecure_pull=switch("insecure-pull"),
        skip_tls_hosts=frozenset(values.many("skip-tls-verify-registry")),
        skip_tls_push=switch("skip-tls-verify"),
        # kaniko's --skip-tls-verify is for pulls too, and recipes rely on it.
        skip_tls_pull=switch("skip-tls-verify-pull") or switch("skip-tls-verify"),
        mirrors=_parted(values.many("registry-mirror"), ","),
        map=_registry_map(values.many("registry-map")),
        default_fallback=not switch("skip-default-registry-fallback"),
        certificates={
            host: _existing("registry-certificate", file)
            for host, file in values.pairs("registry-certificate").items()
        },
        client_certificates=_client_certificates(values.pairs("registry-client-cert")),
        retry=RetryPolicy(tries=max([policy.tries, *(count + 1 for count in retries)])),
    )


def _parted(texts: tuple[str, ...], mark: str) -> tuple[str, ...]:
    return tuple(part.strip() for text in texts for part in text.split(mark) if part.strip())


def _registry_map(texts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`host=other;host=third`, tried in the order given."""
    found: dict[str, tuple[str, ...]] = {}
    for text in _parted(texts, ";"):
        host, equals, other = text.partition("=")
        if not (host and equals and other):
            raise BadFlag(f"--registry-map can't be {text!r}", hint="HOST=HOST[/PREFIX]")
        found[host] = (*found.get(host, ()), other)
    return found


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


def build_args(values: Values, environment: Mapping[str, str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for the variable of that name. Raises BadFlag where there is none."""
    found = {}
    for text in values.many("build-arg"):
        name, equals, value = text.partition("=")
        if not name:
            raise BadFlag(f"--build-arg={text} names no argument", hint="NAME=VALUE")
        if not equals:
            if name not in environment:
                raise BadFlag(
                    f"--build-arg={name} has no value, and no variable of that name is set",
                    hint=f"write --build-arg={name}=VALUE, or --build-arg={name}= for an empty one",
                )
            value = environment[name]
        found[name] = value
    return found


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


def mount_caches(values: Values, fallback: Path) -> Path:
    """Where the folders of RUN --mount=type=cache are kept: in --cache-dir if that is given or
    there, and can be written to; else in `fallback`, for as long as the container lives."""
    if "cache-dir" in values.texts:
        folder = Path(values.text("cache-dir")).absolute()
        if ("cache-dir" in values.given or folder.is_dir()) and _is_writable(folder):
            return folder / "mounts"
    return fallback.absolute() / "pybuild-mounts"


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def labels(values: Values) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for text in values.many("label"):
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise BadFlag(f"--label can't be {text!r}", hint="KEY=VALUE")
        found[key] = value
    return tuple(found.items())


def destinations(values: Values, *, needed: bool) -> tuple[Reference, ...]:
    """Where to push, each once. Raises BadReference, and NoDestination if one is `needed`, unless
    --no-push is given."""
    from pybuild.image.reference import parse_reference

    found = tuple(dict.fromkeys(parse_reference(text) for text in values.many("destination")))
    for reference in found:
        if reference.digest is not None:
            raise BadFlag(f"--destination={reference} names a digest", hint="name a tag to push to")
    if needed and not found and not values.switch("no-push"):
        raise NoDestination(
            "there is nowhere to push the image to",
            hint="give --destination=registry/repository:tag, or --no-push to build only",
        )
    return found


def target(values: Values) -> str:
    """The one stage asked for; kaniko's list of several is refused."""
    names = _parted(values.many("target"), ",")
    if len(names) > 1:
        raise NotCarriedOut(
            "more than one --target is not carried out yet", hint="build them apart"
        )
    return names[0] if names else ""


def platform(values: Values) -> Platform:
    from pybuild.image.platform import parse_platform

    text = values.text("custom-platform")
    return parse_platform(text) if text else machine_platform()


def machine_platform() -> Platform:
    from pybuild.image.platform import platform_of_machine

    return platform_of_machine(os.uname().machine)


def epoch(values: Values, environment: Mapping[str, str]) -> int | None:
    """The one time that everything in the image gets: SOURCE_DATE_EPOCH, as build arg or variable,
    else 0 with --reproducible, else None. Raises BadFlag."""
    text = build_args(values, environment).get("SOURCE_DATE_EPOCH") or environment.get(
        "SOURCE_DATE_EPOCH", ""
    )
    if not text:
        return 0 if values.switch("reproducible") else None
    if not (text.isascii() and text.isdigit()):
        raise BadFlag(f"SOURCE_DATE_EPOCH can't be {text!r}", hint="seconds since 1970")
    return int(text)


def compression(values: Values, epoch: int | None) -> CompressionOptions:
    """Raises BadFlag for a level the kind has not; -1 and 0 are the fast default, as in kaniko."""
    from pybuild.layer.compress import Compression, CompressionOptions

    reproducible = epoch is not None
    kind = Compression[values.text("compression").upper()]
    level = values.number("compression-level")
    highest = 22 if kind is Compression.ZSTD else 9
    if level not in (-1, 0) and not 1 <= level <= highest:
        raise BadFlag(
            f"--compression-level={level} is none of {kind.name.lower()}",
            hint=f"1 to {highest}, or -1 for the fast default",
        )
    return CompressionOptions(kind, level if level > 0 else -1, reproducible)


def parallel(values: Values) -> int:
    """How many RUNs at once. Raises BadFlag below 1."""
    if "parallel" not in values.texts:
        return 1
    count = values.number("parallel")
    if count < 1:
        raise BadFlag(f"--parallel={count} leaves nothing to run", hint="1 or more")
    return count


def cache_repository(values: Values, destinations: tuple[Reference, ...]) -> Reference | None:
    """Where cached layers are kept: --cache-repo, else `cache` below the first destination; None
    without --cache. Raises FlagsContradict, BadReference, NotCarriedOut for a layout on disk."""
    from pybuild.image.reference import parse_reference

    if not values.switch("cache"):
        return None
    named = values.text("cache-repo")
    if named.startswith("oci:"):
        raise NotCarriedOut(
            "a layer cache in a folder is not carried out yet", hint="name a repository"
        )
    if named:
        return parse_reference(named)
    if not destinations:
        raise FlagsContradict(
            "--cache does not know where to keep layers",
            hint="give --cache-repo=registry/repository; without a destination none can be derived",
        )
    return parse_reference(f"{destinations[0].name}/cache")


def layer_cache(
    values: Values, repository: Reference | None, client: Client, sink: EventSink
) -> LayerCache | None:
    """The layer cache in the repository; indexes of bases also in --cache-dir if that is there."""
    if repository is None:
        return None
    from datetime import timedelta

    from pybuild.cache.folder import IndexFolder, ReadOnlyCache
    from pybuild.cache.layers import RegistryCache

    ttl = timedelta(seconds=values.seconds("cache-ttl"))
    cache: LayerCache = RegistryCache(client, repository, sink, ttl=ttl)
    if "no-push-cache" in values.texts and values.switch("no-push-cache"):
        cache = ReadOnlyCache(cache)
    folder = Path(values.text("cache-dir"))
    # kaniko's default is a mount that most builds have not: it is never made.
    if "cache-dir" in values.given or folder.is_dir():
        cache = IndexFolder(folder, cache, sink)
    return cache


def context_options(
    values: Values, directory: Path, environment: Mapping[str, str], cancelled: Signal
) -> ContextOptions:
    from pybuild.context.open import ContextOptions

    keep = build_args(values, environment).get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "0")
    return ContextOptions(
        directory,
        sub_path=values.text("context-sub-path"),
        environment=environment,
        git=_git_options(values.pairs("git")),
        keep_git_dir=keep in ("1", "true"),
        cancelled=cancelled,
    )


def _git_options(pairs: Mapping[str, str]) -> GitOptions:
    from pybuild.context.open import GitOptions

    for key in pairs:
        if key not in _GIT_KEYS:
            raise BadFlag(f"--git has no key {key!r}", hint=f"one of {', '.join(_GIT_KEYS)}")
    depth = pairs.get("depth", "1")
    if not (depth.isascii() and depth.isdigit()):
        raise BadFlag(f"--git=depth={depth} is no number", hint="0 fetches the whole history")
    submodules = pairs.get("recurse-submodules")
    return GitOptions(
        branch=pairs.get("branch", ""),
        single_branch=_is_true(pairs, "single-branch"),
        recurse_submodules=None if submodules is None else _is_true(pairs, "recurse-submodules"),
        insecure_skip_tls=_is_true(pairs, "insecure-skip-tls"),
        depth=int(depth),
    )


def _is_true(pairs: Mapping[str, str], key: str) -> bool:
    text = pairs.get(key, "false").lower()
    if text not in ("true", "false", "1", "0", "t", "f"):
        raise BadFlag(f"--git={key}={pairs[key]} is neither true nor false")
    return text in ("true", "1", "t")
