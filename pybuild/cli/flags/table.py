"""One table of all flags: the parser, the help, docs/cli.md and the compatibility test read it.

Names, short names, defaults and value forms are kaniko's. A flag of kaniko that has no work to do
stays in the table, so that it is taken and told of, never refused or silently dropped.
"""

from __future__ import annotations

from pybuild.cli.flags.build import BUILD_FLAGS
from pybuild.cli.flags.cache import CACHE_FLAGS
from pybuild.cli.flags.caches import CACHES_FLAGS
from pybuild.cli.flags.flag import (
    BUILD,
    EXECUTOR,
    K8S_RENDER,
    K8S_RUN,
    KANIKO,
    MANIFEST,
    PLAN,
    PUSH,
    WARMER,
    Flag,
    Group,
)
from pybuild.cli.flags.jenkins import JENKINS_FLAGS
from pybuild.cli.flags.k8s import K8S_FLAGS, is_for_a_pod
from pybuild.cli.flags.log import LOG_FLAGS
from pybuild.cli.flags.login import LOGIN_FLAGS
from pybuild.cli.flags.pods import POD_FLAGS
from pybuild.cli.flags.registry import REGISTRY_FLAGS
from pybuild.cli.flags.result import RESULT_FLAGS
from pybuild.cli.flags.settled import SETTLED_FLAGS
from pybuild.cli.flags.source import SOURCE_FLAGS
from pybuild.cli.flags.warmer import WARMER_FLAGS

FLAGS = (
    SOURCE_FLAGS
    + RESULT_FLAGS
    + REGISTRY_FLAGS
    + CACHE_FLAGS
    + BUILD_FLAGS
    + LOG_FLAGS
    + WARMER_FLAGS
    + SETTLED_FLAGS
    + POD_FLAGS
    + LOGIN_FLAGS
    + CACHES_FLAGS
    + JENKINS_FLAGS
    + K8S_FLAGS
)


def flags_of(command: str) -> tuple[Flag, ...]:
    """The flags of a command, in the order of the help. A push alone is reached and told as that of
    a build is, and a build in a cluster takes what a build takes."""
    if command == PUSH:
        return tuple(flag for flag in FLAGS if EXECUTOR in flag.commands and _is_of_push(flag))
    own = tuple(flag for flag in FLAGS if command in flag.commands)
    if command == K8S_RUN:
        return own + tuple(flag for flag in FLAGS if BUILD in flag.commands and is_for_a_pod(flag))
    return own


def _is_of_push(flag: Flag) -> bool:
    whole = (Group.REGISTRY, Group.LOG)
    return flag.group in whole or flag.name in ("destination", "kaniko-dir")


def long_names(flag: Flag, command: str) -> tuple[str, ...]:
    """The long names a command takes; the first one is shown.

    kaniko's commands know no others than kaniko's, so that what works here works there too.
    """
    if command in KANIKO:
        return (flag.name, *flag.old)
    return (*flag.docker, flag.name)


def short_names(flag: Flag, command: str) -> tuple[str, ...]:
    """`-t` is what Docker's users type for a tag; the warmer has letters of its own."""
    if command in (BUILD, PLAN, MANIFEST, K8S_RUN, K8S_RENDER) and flag.name == "destination":
        return ("t", "d")
    if command == WARMER:
        own = {"dockerfile": "d", "cache-dir": "c", "force": "f"}.get(flag.name, flag.short)
        return (own,) if own else ()
    return (flag.short,) if flag.short else ()


def default_of(flag: Flag, command: str) -> str:
    """kaniko builds what is mounted at /workspace, our own commands the folder they stand in."""
    return "." if flag.name == "context" and command in (BUILD, PLAN) else flag.default
