"""A build as one JSON file: what the steps of the Jenkins library write and `pybuild request FILE`
carries out.

A step of a pipeline puts no value of its user on a command line; it writes the request, runs one
constant command, and reads `result.json`, which lies beside the request. docs/jenkins.md describes
both files. Here the request becomes the flags of a command, so that a build means one thing however
it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from pybuild.cli import request_values as values
from pybuild.cli.request_values import BadRequest

__all__ = ["NO_FACTS", "SCHEMA", "BadRequest", "Facts", "destinations", "labels", "read_request",
           "request_command", "request_to_flags", "sources"]  # fmt: skip

SCHEMA = 1
"""The only value of the request's `schema`; raised when an old request would be read wrongly."""

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")
COMMANDS = ("build", "push", "manifest", "login")
SBOM_FILES = {"spdx": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json"}
_OCI = "org.opencontainers.image."
_OCI_LABELS = ("source", "revision", "created", "version", "url", "title", "ref.name")


class Facts(Struct, frozen=True):
    """What is known of where a request is carried out: the commit and origin of the checked-out
    repository, its time in seconds since 1970, and now as RFC 3339 text. Empty: not known."""

    revision: str = ""
    source: str = ""
    commit_seconds: int | None = None
    created: str = ""


NO_FACTS = Facts()


def read_request(path: Path) -> Mapping[str, object]:
    """The request in a file. Raises BadRequest where there is none, or it is no JSON object."""
    try:
        request = json.loads(path.read_bytes())
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}", hint="kanikoBuild() writes it") from error
    except ValueError as error:
        raise BadRequest(f"{path} is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise BadRequest(f"{path} holds no JSON object")
    return request


def request_command(request: Mapping[str, object]) -> str:
    """What carries the request out: "build", "plan", "push", "manifest" or "login"."""
    request = _given(request)
    command = values.one_of("command", request.get("command", "build"), COMMANDS)
    dry = values.flag("dryRun", request.get("dryRun", False))
    return "plan" if dry and command == "build" else command


def request_to_flags(request: Mapping[str, object], facts: Facts = NO_FACTS) -> list[str]:
    """The flags that say the same as the request, each as one `--name=value`.

    Keys that are absent or null keep the command's own default. Raises BadRequest for an unknown
    key, a value of the wrong type, or a build that would push nowhere.
    """
    for name in request:
        if name not in _OPTIONS:
            raise BadRequest(f"unknown option {name!r}", hint=values.nearest(name, [*_OPTIONS]))
    request = _given(request)
    if request.get("schema", SCHEMA) != SCHEMA:
        raise BadRequest(
            f"schema {request['schema']!r} of the request is not known, only {SCHEMA}",
            hint="the shared library and the builder's image are of different times",
        )
    command = request_command(request)
    kind = "build" if command == "plan" else command
    for name in request:
        if kind not in _OPTIONS[name].commands:
            raise BadRequest(f"`{name}` is no option of {_ACTIONS[kind]}")
    flags = [f"--destination={reference}" for reference in destinations(request)]
    for name, option in _OPTIONS.items():
        if name in request and not (command == "plan" and name in _NOT_PLANNED):
            flags += option.read(name, request[name], request)
    if kind == "build":
        flags += [f"--label={key}={value}" for key, value in labels(request, facts).items()]
        flags += values.texts("extraArgs", request.get("extraArgs") or [])
    return flags


def destinations(request: Mapping[str, object]) -> list[str]:
    """Every reference the image gets: `image` and `mirrors` with each of `tags`, then
    `destinations`."""
    request = _given(request)
    image = values.text("image", request.get("image") or "")
    tags = values.texts("tags", request.get("tags") or [])
    mirrors = values.texts("mirrors", request.get("mirrors") or [])
    named = values.texts("destinations", request.get("destinations") or [])
    command = request_command(request)
    pushes = values.flag("push", request.get("push", True)) and command != "login"
    if image and not tags and pushes:
        raise BadRequest("`image` is given without `tags`", hint="tags: ['1.0']")
    if (tags or mirrors) and not image:
        raise BadRequest("`tags` are given without `image`", hint="image: 'registry.example/app'")
    wanted = [f"{repository}:{tag}" for repository in (image, *mirrors) for tag in tags] + named
    if not wanted and pushes:
        raise BadRequest(
            "there is nowhere to push to",
            hint="give `image` and `tags`, or `destinations`, or push: false",
        )
    return list(dict.fromkeys(wanted))


def labels(request: Mapping[str, object], facts: Facts = NO_FACTS) -> dict[str, str]:
    """The labels that the image gets: those of the OCI specification's annotations that are known,
    where `ociLabels` is true or a map of them, and over them `labels`."""
    wanted = request.get("ociLabels") or False
    given: dict[str, object] = {}
    if isinstance(wanted, dict):
        given = values.parts("ociLabels", wanted, _OCI_LABELS)
    elif not values.flag("ociLabels", wanted):
        return _own_labels(request)
    title = str(request.get("image") or "").rpartition("/")[2]
    known: dict[str, object] = {
        "source": facts.source,
        "revision": facts.revision,
        "created": facts.created,
        "title": title,
        **given,
    }
    known["source"] = without_user(values.text("ociLabels.source", known["source"]))
    texts = {key: values.text(f"ociLabels.{key}", value) for key, value in known.items()}
    oci = {f"{_OCI}{key}": texts[key] for key in _OCI_LABELS if texts.get(key)}
    return oci | _own_labels(request)


def without_user(address: str) -> str:
    """An address of a repository without the user and password that may stand in it."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address  # user@host:path: the user is part of how it is reached, and no secret
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def sources(request: Mapping[str, object]) -> list[str]:
    """What stands on the command line without a flag: the archive or layout that is pushed, or the
    images that an index is made of. Raises BadRequest where it is missing."""
    command = request_command(request)
    if command == "push":
        path = values.text("path", request.get("path") or "")
        if not path:
            raise BadRequest("`path` is missing: the archive or OCI layout to push")
        return [path if path[0] in "/." else f"./{path}"]
    if command == "manifest":
        found = values.texts("sources", request.get("sources") or [])
        if not found:
            raise BadRequest("`sources` is missing: the images that the index is made of")
        if any(source.startswith("-") for source in found):
            raise BadRequest("`sources` holds something that is no image")
        return found
    return []


# --- one reader an option: (name, value, request) -> flags ------------------------------------

Reader = Callable[[str, object, Mapping[str, object]], list[str]]


class Option(Struct, frozen=True):
    read: Reader
    commands: frozenset[str] = frozenset({"build"})


def _given(request: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in request.items() if value is not None}


def _own_labels(request: Mapping[str, object]) -> dict[str, str]:
    own = values.table("labels", request.get("labels") or {})
    return {
        values.key("labels", key): values.plain(f"labels.{key}", item) for key, item in own.items()
    }


def _nothing(_name: str, _value: object, _request: Mapping[str, object]) -> list[str]:
    return []


def _one(flag: str) -> Reader:
    def read(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
        text = values.text(name, value)
        return [f"{flag}={text}"] if text else []

    return read


def _many(flag: str) -> Reader:
    return lambda name, value, _request: [f"{flag}={text}" for text in values.texts(name, value)]


def _switch(flag: str) -> Reader:
    return lambda name, value, _request: [flag] if values.flag(name, value) else []


def _pairs(flag: str) -> Reader:
    def read(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
        return [
            f"{flag}={values.key(name, key)}={values.plain(f'{name}.{key}', item)}"
            for key, item in values.table(name, value).items()
        ]

    return read


def _choice(flag: str, *known: str) -> Reader:
    return lambda name, value, _request: [f"{flag}={values.one_of(name, value, known)}"]


def _numbers(*flags: str) -> Reader:
    def read(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
        count = values.number(name, value)
        return [f"{flag}={count}" for flag in flags]

    return read


def _build_args(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    """null takes the value from the builder's environment, as `--build-arg NAME` does."""
    flags = []
    for key, item in values.table(name, value).items():
        text = "" if item is None else f"={values.plain(f'{name}.{key}', item)}"
        flags.append(f"--build-arg={values.key(name, key)}{text}")
    return flags


def _build_args_from_env(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    return [f"--build-arg={values.key(name, text)}" for text in values.texts(name, value)]


_PLACES = frozenset({"file", "env", "fileEnv"})


def _secrets(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    """By id, where each lies: `{file: path}`, `{env: variable}`, or `{fileEnv: variable}` of a
    path. What else is given may be the secret itself, and is never shown."""
    flags = []
    for key, place in values.table(name, value).items():
        if not values.key(name, key) or "," in key:
            raise BadRequest(f"`{name}` has a key that no flag can say: {key!r}")
        if not isinstance(place, dict) or len(place) != 1 or not _PLACES & place.keys():
            raise BadRequest(
                f"`{name}.{key}` does not say where the secret is",
                hint="{file: path}, {env: variable} or {fileEnv: variable of a path}; its value "
                "has no place in a request",
            )
        ((kind, where),) = place.items()
        text = values.text(f"{name}.{key}.{kind}", where)
        if not text or "," in text:
            raise BadRequest(f"`{name}.{key}.{kind}` is empty or has a comma")
        flags.append(f"--secret=id={key},{'env' if kind == 'env' else 'src'}={text}")
    return flags


_CACHE_TEXTS = {"repo": "--cache-repo", "dir": "--cache-dir", "ttl": "--cache-ttl"}
_CACHE_FLAGS = {"copyLayers": "--cache-copy-layers", "runLayers": "--cache-run-layers"}
_CACHE_ONLY_BUILT = {"readOnly": "--no-push-cache", "inline": "--inline-cache"}
_CACHE_KEYS = (*_CACHE_TEXTS, *_CACHE_FLAGS, *_CACHE_ONLY_BUILT, "from")


def _cache(name: str, value: object, request: Mapping[str, object]) -> list[str]:
    if isinstance(value, bool):
        return ["--cache"] if value else []
    if not isinstance(value, dict):
        raise BadRequest(f"`{name}` has to be true, false or a map, not {values.json_type(value)}")
    parts = values.parts(name, value, _CACHE_KEYS)
    flags = ["--cache"]
    for key, item in parts.items():
        full = f"{name}.{key}"
        if key in _CACHE_TEXTS:
            flags.append(f"{_CACHE_TEXTS[key]}={values.text(full, item)}")
        elif key in _CACHE_FLAGS:
            flags.append(f"{_CACHE_FLAGS[key]}={str(values.flag(full, item)).lower()}")
        elif key == "from":
            flags += [f"--cache-from={place}" for place in values.texts(full, item)]
        elif values.flag(full, item) and request_command(request) != "plan":
            flags.append(_CACHE_ONLY_BUILT[key])
    return flags


def _push(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    return [] if values.flag(name, value) else ["--no-push"]


def _output(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    parts = values.parts(name, value, ("type", "path"))
    given = {key: values.text(f"{name}.{key}", item) for key, item in parts.items()}
    flags = {"tar": "--tar-path", "oci": "--oci-layout-path"}
    if given.get("type") not in flags or not given.get("path"):
        raise BadRequest(f"`{name}` needs `type`, 'tar' or 'oci', and `path`")
    return [f"{flags[given['type']]}={given['path']}"]


def _registry_map(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    return [
        f"--registry-map={values.key(name, host)}={other}"
        for host, others in values.table(name, value).items()
        for other in values.texts(f"{name}.{host}", others)
    ]


def _sbom(name: str, value: object, request: Mapping[str, object]) -> list[str]:
    if value is False:
        return []
    form = "spdx" if value is True else values.one_of(name, value, tuple(SBOM_FILES))
    folder = values.text("reports", request.get("reports") or "")
    return [f"--sbom={form}={folder}/{SBOM_FILES[form]}" if folder else f"--sbom={form}"]


def _checked(*read: Callable[[str, object], object]) -> Reader:
    """For what becomes no flag of its own, and still has to be of its type."""

    def check(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
        for reader in read:
            reader(name, value)
        return []

    return check


def _epoch(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    if value != "commit":
        values.number(name, value)
    return []


def _registries(name: str, value: object, _request: Mapping[str, object]) -> list[str]:
    logins(name, value)
    return []


def logins(name: str, value: object) -> list[tuple[str, str, str]]:
    """(registry, variable with the user name, variable with the password) of each entry."""
    if not isinstance(value, list):
        raise BadRequest(f"`{name}` has to be a list, not {values.json_type(value)}")
    found = []
    for number, entry in enumerate(value):
        parts = values.parts(f"{name}[{number}]", entry, ("url", "usernameEnv", "passwordEnv"))
        texts = [
            values.text(f"{name}.{key}", parts.get(key, ""))
            for key in ("url", "usernameEnv", "passwordEnv")
        ]
        if not all(texts):
            raise BadRequest(f"`{name}[{number}]` needs `url`, `usernameEnv` and `passwordEnv`")
        found.append((texts[0], texts[1], texts[2]))
    return found


# A plan writes nothing, and has no flag for where.
_NOT_PLANNED = frozenset({"output", "sbom", "reports"})
_ACTIONS = {"build": "a build", "push": "a push", "manifest": "an index", "login": "a login"}
_ALL = frozenset(COMMANDS)
_REACHING = frozenset({"build", "push", "manifest"})


def _retries(name: str, value: object, request: Mapping[str, object]) -> list[str]:
    pull = ("--image-download-retry",)
    flags = {"push": ("--push-retry", *pull), "manifest": pull, "plan": pull}
    every = ("--push-retry", *pull, "--image-fs-extract-retry")
    return _numbers(*flags.get(request_command(request), every))(name, value, request)


# The order is the order of the flags, whatever the request's own order is.
_OPTIONS: Mapping[str, Option] = {
    "schema": Option(_nothing, _ALL),
    "command": Option(_nothing, _ALL),
    "image": Option(_nothing, _REACHING),  # these four become --destination, together
    "tags": Option(_nothing, _REACHING),
    "mirrors": Option(_nothing, _REACHING),
    "destinations": Option(_nothing, _REACHING),
    "dryRun": Option(_nothing),  # decides between `build` and `plan`
    "path": Option(_nothing, frozenset({"push"})),
    "digest": Option(_checked(values.text), frozenset({"push"})),
    "sources": Option(_nothing, frozenset({"manifest"})),
    "registries": Option(_registries, _ALL),
    "dockerConfig": Option(_checked(values.text), _ALL),
    "configFolder": Option(_checked(values.text), frozenset({"login"})),
    "context": Option(_one("--context")),
    "subPath": Option(_one("--context-sub-path")),
    "dockerfile": Option(_one("--dockerfile")),
    "target": Option(_one("--target")),
    "platform": Option(_one("--custom-platform")),
    "buildArgs": Option(_build_args),
    "buildArgsFromEnv": Option(_build_args_from_env),
    "labels": Option(_nothing),  # with `ociLabels`, at the end
    "ociLabels": Option(_nothing),
    "annotations": Option(_pairs("--annotation"), frozenset({"build", "manifest"})),
    "secrets": Option(_secrets),
    "insecureRegistries": Option(_many("--insecure-registry"), _REACHING),
    "registryMirrors": Option(_many("--registry-mirror"), _REACHING),
    "registryMap": Option(_registry_map, _REACHING),
    "retries": Option(_retries, _REACHING),
    "cache": Option(_cache),
    "reproducible": Option(_switch("--reproducible")),
    "sourceDateEpoch": Option(_epoch),
    "compression": Option(_choice("--compression", "gzip", "zstd")),
    "compressionLevel": Option(_numbers("--compression-level")),
    "format": Option(_choice("--image-format", "docker", "oci")),
    "push": Option(_push),
    "output": Option(_output),
    "sbom": Option(_sbom),
    "provenance": Option(_checked(values.flag)),
    "reports": Option(_one("--report")),
    "invocation": Option(_checked(values.text)),
    "verbosity": Option(
        lambda name, value, _request: [f"--verbosity={values.one_of(name, value, LEVELS)}"],
        _REACHING,
    ),
    "extraArgs": Option(_checked(values.texts)),
}
