"""Flags to what is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event as Signal
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag
from pybuild.cli.parse import Values, parted

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions, GitOptions
    from pybuild.image.platform import Platform
    from pybuild.registry.options import RegistryOptions


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


def labels(values: Values) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for text in values.many("label"):
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise BadFlag(f"--label can't be {text!r}", hint="KEY=VALUE")
        found[key] = value
    return tuple(found.items())


def targets(values: Values) -> tuple[str, ...]:
    """The stages asked for, each once: the first is the image, the others are only built. Without
    any, the last stage, which is ""."""
    return tuple(dict.fromkeys(parted(values.many("target"), ","))) or ("",)


def platform(values: Values) -> Platform:
    from pybuild.image.platform import parse_platform

    text = values.text("custom-platform")
    return parse_platform(text) if text else machine_platform()


def machine_platform() -> Platform:
    from pybuild.image.platform import platform_of_machine

    return platform_of_machine(os.uname().machine)


def context_place(values: Values, named: str) -> str:
    """The context, which kaniko's old --bucket may name as well: it counts where no folder is
    named as context."""
    bucket = values.text("bucket") if "bucket" in values.texts else ""
    if not bucket:
        return named
    from pybuild.context.kinds import with_bucket

    return with_bucket(named if "context" in values.given else "", bucket)


def without_effect(values: Values, place: str) -> Iterator[str]:
    """Tells of flags about other contexts than the one at `place`."""
    from pybuild.context.git_url import is_git_url, without_password

    shown = without_password(place.partition("?")[0])  # a signature may follow
    if "git" in values.given and not is_git_url(place):
        yield f"--git has no effect: the context {shown} is no git repository"
    if "bucket" in values.given and place == values.text("context"):
        yield f"--bucket has no effect: --context={shown} names the place itself"


def context_options(
    values: Values,
    directory: Path,
    environment: Mapping[str, str],
    cancelled: Signal,
    *,
    when_cancelled: Callable[[Callable[[], None]], None] = lambda _: None,
    web: RegistryOptions | None = None,
) -> ContextOptions:
    """`web` is how hosts are reached; `when_cancelled` is told what ends a download."""
    from pybuild.context.open import ContextOptions
    from pybuild.registry.options import RegistryOptions

    keep = build_args(values, environment).get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "0")
    return ContextOptions(
        directory,
        sub_path=values.text("context-sub-path"),
        environment=environment,
        git=_git_options(values.pairs("git")),
        keep_git_dir=keep in ("1", "true"),
        cancelled=cancelled,
        when_cancelled=when_cancelled,
        web=web or RegistryOptions(),
    )


_GIT_KEYS = ("branch", "single-branch", "recurse-submodules", "insecure-skip-tls", "depth")


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
