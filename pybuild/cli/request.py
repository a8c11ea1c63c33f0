"""A build as one JSON file: what `kanikoBuild()` writes and `pybuild request FILE` carries out.

A step of a pipeline puts no value of its user on a command line; it writes the request, runs one
constant command, and reads `result.json`, which lies beside the request. docs/jenkins.md describes
both files. Here the request becomes the flags of `pybuild build` or `pybuild plan`, so that a build
means one thing however it is asked for, and the closing event becomes the result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pybuild.errors import InputError
from pybuild.events import BuildFailed, BuildFinished

SCHEMA = 1
"""The only value of the request's `schema`; raised when an old request would be read wrongly."""

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")


class BadRequest(InputError):
    """A request file can't be read, or says something that no build can mean."""

    code = "bad-request"


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
    """The sub-command of `pybuild` that carries the request out: "build" or "plan"."""
    return "plan" if _flag("dryRun", _given(request).get("dryRun", False)) else "build"


def request_to_flags(request: Mapping[str, object]) -> list[str]:
    """The flags that say the same as the request, each as one `--name=value`.

    Keys that are absent or null keep the command's own default. Raises BadRequest for an unknown
    key, a value of the wrong type, or a build that would push nowhere.
    """
    for name in request:
        if name not in _READERS:
            raise BadRequest(f"unknown option {name!r}", hint=_nearest(name, tuple(_READERS)))
    request = _given(request)
    if request.get("schema", SCHEMA) != SCHEMA:
        raise BadRequest(
            f"schema {request['schema']!r} of the request is not known, only {SCHEMA}",
            hint="the shared library and the builder's image are of different times",
        )
    planned = request_command(request) == "plan"
    flags = [
        flag
        for name in _READERS
        for flag in _flags_of(name, request)
        if not (planned and name in _NOT_PLANNED)
    ]
    flags[0:0] = [f"--destination={reference}" for reference in destinations(request)]
    return flags


def destinations(request: Mapping[str, object]) -> list[str]:
    """Every reference the image gets: `image` with each of `tags`, then `destinations`."""
    request = _given(request)
    image = _text("image", request.get("image") or "")
    tags = _texts("tags", request.get("tags") or [])
    named = _texts("destinations", request.get("destinations") or [])
    if image and not tags:
        raise BadRequest("`image` is given without `tags`", hint="tags: ['1.0']")
    if tags and not image:
        raise BadRequest("`tags` are given without `image`", hint="image: 'registry.example/app'")
    wanted = [f"{image}:{tag}" for tag in tags] + named
    if not wanted and _flag("push", request.get("push", True)):
        raise BadRequest(
            "there is nowhere to push to",
            hint="give `image` and `tags`, or `destinations`, or push: false",
        )
    return list(dict.fromkeys(wanted))


def result_of(finished: BuildFinished, *, pushed: bool) -> dict[str, object]:
    """What a pipeline gets back: only text, numbers, booleans and lists, so that it survives a
    restart of the controller. `size` is bytes, `image` and the tags come from the references."""
    names = [_split_tag(reference) for reference in finished.references]
    image = names[0][0] if names else ""
    return {
        "schema": SCHEMA,
        "image": image,
        "digest": finished.digest,
        "imageRef": f"{image}@{finished.digest}" if image else "",
        "tags": list(dict.fromkeys(tag for name, tag in names if name == image)),
        "destinations": list(finished.references),
        "pushed": pushed,
        "size": finished.size,
        "layers": len(finished.layers),
        "cacheHits": sum(stage.steps_cached for stage in finished.stages),
        "cacheMisses": sum(stage.steps_run for stage in finished.stages),
        "durationMs": round(finished.seconds * 1000),
        "outputs": list(finished.outputs),
    }


def failure_of(failed: BuildFailed, pushed: Sequence[str] = ()) -> dict[str, object]:
    """The result of a build that failed: `error`, and which destinations have the image though."""
    return {
        "schema": SCHEMA,
        **({"destinations": sorted(pushed)} if pushed else {}),
        "error": {
            "code": failed.code,
            "message": failed.message,
            "hint": failed.hint,
            "file": failed.file,
            "line": failed.line,
            "text": failed.text,
            "exitStatus": failed.exit_status,
        },
    }


def result_path(request: Path) -> Path:
    return request.with_name("result.json")


def write_result(request: Path, result: Mapping[str, object]) -> None:
    """Writes the result beside the request, whole or not at all, for the request's owner: the
    agent, which reads and removes it, often runs under another id than the builder."""
    target = result_path(request)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    if os.geteuid() == 0:
        owner = request.stat()
        os.chown(partial, owner.st_uid, owner.st_gid)
    partial.replace(target)


def _split_tag(reference: str) -> tuple[str, str]:
    """(repository, tag) of a reference as the closing event has it; a port is no tag."""
    name, colon, tag = reference.partition("@")[0].rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference.partition("@")[0], "")


# --- the values of a request ------------------------------------------------------------------


def _given(request: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in request.items() if value is not None}


def _flags_of(name: str, request: Mapping[str, object]) -> list[str]:
    return _READERS[name](name, request[name]) if name in request else []


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` has to be a text, not {_json_type(value)}")
    if "\0" in value:
        raise BadRequest(f"`{name}` holds a NUL character")
    return value


def _texts(name: str, value: object) -> list[str]:
    """A list of texts; one text alone is taken for a list of one."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise BadRequest(f"`{name}` has to be a list, not {_json_type(value)}")
    texts = [_text(name, item) for item in values]
    if not all(texts):
        raise BadRequest(f"`{name}` holds an empty text")
    return texts


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(
            f"`{name}` has to be true or false, not {_json_type(value)}",
            hint=f"write {name}: true without quotes" if isinstance(value, str) else "",
        )
    return value


def _table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadRequest(f"`{name}` has to be a map, not {_json_type(value)}")
    return value


def _part(name: str, table: Mapping[str, object], known: Sequence[str]) -> dict[str, str]:
    for key in table:
        if key not in known:
            raise BadRequest(f"unknown option `{name}.{key}`", hint=_nearest(key, known))
    return {key: _text(f"{name}.{key}", value) for key, value in table.items() if value is not None}


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a map"}
    return names.get(type(value), "null")


def _nearest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"did you mean {close[0]!r}?"


# --- one reader an option: (name, value) -> flags ---------------------------------------------


def _nothing(_name: str, _value: object) -> list[str]:
    return []


def _one(flag: str) -> Callable[[str, object], list[str]]:
    def read(name: str, value: object) -> list[str]:
        text = _text(name, value)
        return [f"{flag}={text}"] if text else []

    return read


def _many(flag: str) -> Callable[[str, object], list[str]]:
    return lambda name, value: [f"{flag}={text}" for text in _texts(name, value)]


def _build_args(name: str, value: object) -> list[str]:
    """null takes the value from the builder's environment, as `--build-arg NAME` does."""
    return [
        f"--build-arg={key}" if item is None else f"--build-arg={_pair(name, key, item)}"
        for key, item in _table(name, value).items()
        if _is_key(name, key)
    ]


def _labels(name: str, value: object) -> list[str]:
    table = _table(name, value)
    return [
        f"--label={_pair(name, key, item)}" for key, item in table.items() if _is_key(name, key)
    ]


def _is_key(name: str, key: str) -> bool:
    if not key or "=" in key or "\0" in key:
        raise BadRequest(f"`{name}` has a key that no flag can say: {key!r}")
    return True


def _pair(name: str, key: str, value: object) -> str:
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, int | float):
        return f"{key}={value}"
    return f"{key}={_text(f'{name}.{key}', value)}"


def _secrets(name: str, value: object) -> list[str]:
    """By id, where each lies: `{file: path}` or `{env: variable}`. What else is given may be the
    secret itself, and is never shown."""
    flags = []
    for key, place in _table(name, value).items():
        if not _is_key(name, key) or "," in key:
            raise BadRequest(f"`{name}` has a key that no flag can say: {key!r}")
        if not isinstance(place, dict) or len(place) != 1 or not {"file", "env"} & place.keys():
            raise BadRequest(
                f"`{name}.{key}` does not say where the secret is",
                hint="{file: path} or {env: variable}; its value has no place in a request",
            )
        ((kind, where),) = place.items()
        text = _text(f"{name}.{key}.{kind}", where)
        if not text or "," in text:
            raise BadRequest(f"`{name}.{key}.{kind}` is empty or has a comma")
        flags.append(f"--secret=id={key},{'src' if kind == 'file' else 'env'}={text}")
    return flags


def _cache(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return ["--cache"] if value else []
    if not isinstance(value, dict):
        raise BadRequest(f"`{name}` has to be true, false or a map, not {_json_type(value)}")
    parts = _part(name, value, ("repo", "dir"))
    flags = {"repo": "--cache-repo", "dir": "--cache-dir"}
    return ["--cache", *(f"{flags[key]}={text}" for key, text in parts.items())]


def _push(name: str, value: object) -> list[str]:
    return [] if _flag(name, value) else ["--no-push"]


def _output(name: str, value: object) -> list[str]:
    parts = _part(name, _table(name, value), ("type", "path"))
    flags = {"tar": "--tar-path", "oci": "--oci-layout-path"}
    if parts.get("type") not in flags or not parts.get("path"):
        raise BadRequest(f"`{name}` needs `type`, 'tar' or 'oci', and `path`")
    return [f"{flags[parts['type']]}={parts['path']}"]


def _verbosity(name: str, value: object) -> list[str]:
    level = _text(name, value)
    if level not in LEVELS:
        raise BadRequest(f"`{name}` can't be {level!r}", hint=f"one of {', '.join(LEVELS)}")
    return [f"--verbosity={level}"]


_NOT_PLANNED = frozenset({"output"})  # a plan writes nothing, and has no flag for where

# The order is the order of the flags, whatever the request's own order is.
_READERS: Mapping[str, Callable[[str, object], list[str]]] = {
    "schema": _nothing,
    "image": _nothing,  # these three become --destination, together
    "tags": _nothing,
    "destinations": _nothing,
    "dryRun": _nothing,  # decides between `build` and `plan`
    "context": _one("--context"),
    "dockerfile": _one("--dockerfile"),
    "target": _one("--target"),
    "buildArgs": _build_args,
    "labels": _labels,
    "secrets": _secrets,
    "insecureRegistries": _many("--insecure-registry"),
    "registryMirrors": _many("--registry-mirror"),
    "cache": _cache,
    "push": _push,
    "output": _output,
    "verbosity": _verbosity,
}
