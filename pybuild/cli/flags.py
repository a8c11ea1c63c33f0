"""One table of all flags: the parser, the help, docs/cli.md and the compatibility test read it.

Names, short names, defaults and value forms are kaniko's. A flag of kaniko that is not carried out
stays in the table, so that it is refused by name and never silently dropped.
"""

from __future__ import annotations

from enum import Enum
from functools import partial

from msgspec import Struct


class Kind(Enum):
    TEXT = "text"
    BOOLEAN = "boolean"
    NUMBER = "number"
    DURATION = "duration"
    PAIR = "key=value"


class Group(Enum):
    SOURCE = "What is built"
    RESULT = "Where the image goes"
    REGISTRY = "Registries"
    CACHE = "Cache"
    BUILD = "How it is built"
    LOG = "What is shown"


EXECUTOR, WARMER, BUILD, PLAN = "executor", "warmer", "build", "plan"
_ALL = (EXECUTOR, BUILD, PLAN)
_PULLING = (EXECUTOR, BUILD, PLAN, WARMER)
_BUILDING = (EXECUTOR, BUILD)


class Flag(Struct, frozen=True):
    """A flag of one or more commands.

    `value` names the value in the help; `environment` is a variable that gives the value where
    the flag is not given (`environment_wins`: also where it is, as kaniko has it for that one);
    `docker` holds spellings of our own commands, `old` kaniko's former ones.
    `carried_out` False: only the values in `harmless` are taken, since the build does just that
    anyway; any other answers "not carried out yet". `why` says in one sentence what happens then.
    """

    name: str
    group: Group
    help: str
    value: str = "TEXT"
    kind: Kind = Kind.TEXT
    default: str = ""
    short: str = ""
    docker: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    commands: tuple[str, ...] = _BUILDING
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    environment: str = ""
    environment_wins: bool = False
    carried_out: bool = True
    harmless: tuple[str, ...] = ()
    why: str = ""
    kaniko: bool = True


_text = partial(Flag, kind=Kind.TEXT)
_many = partial(Flag, kind=Kind.TEXT, repeatable=True)
_pairs = partial(Flag, kind=Kind.PAIR, repeatable=True)
_switch = partial(Flag, kind=Kind.BOOLEAN, default="false", value="")
_number = partial(Flag, kind=Kind.NUMBER, value="N")
_refused = partial(Flag, carried_out=False)
_refused_switch = partial(_switch, carried_out=False, harmless=("false",))

_SOURCE = (
    _text(
        "context",
        Group.SOURCE,
        "the build context: a folder, dir://, git:// or https://….git#ref",
        "PATH|URL",
        short="c",
        default="/workspace/",
        commands=_ALL,
    ),
    _text(
        "context-sub-path",
        Group.SOURCE,
        "a folder inside the context that is used as context",
        "PATH",
        commands=_ALL,
    ),
    _text(
        "dockerfile",
        Group.SOURCE,
        "the Dockerfile, looked for in the working folder, then in the context",
        "PATH",
        short="f",
        docker=("file",),
        default="Dockerfile",
        commands=_ALL,
    ),
    _text(
        "target",
        Group.SOURCE,
        "the stage to build; the last one if not given",
        "STAGE",
        commands=_ALL,
    ),
    _many(
        "build-arg",
        Group.SOURCE,
        "a build argument; without a value, the variable of that name",
        "NAME[=VALUE]",
        commands=_ALL,
    ),
    _many("label", Group.SOURCE, "a label for the image", "KEY=VALUE", commands=_ALL),
    _text(
        "custom-platform",
        Group.SOURCE,
        "the platform to build for; this machine's if not given",
        "OS/ARCH",
        docker=("platform",),
        old=("customPlatform",),
        commands=_PULLING,
    ),
    _many(
        "secret",
        Group.SOURCE,
        "a secret for RUN --mount=type=secret; without src and env, the variable ID or the file ID",
        "id=ID[,src=FILE][,env=VAR]",
    ),
    _pairs(
        "git",
        Group.SOURCE,
        "for a git context: branch, depth, recurse-submodules, single-branch, insecure-skip-tls",
        "KEY=VALUE",
        commands=_ALL,
    ),
)

_RESULT = (
    _many(
        "destination",
        Group.RESULT,
        "where the image is pushed: registry/repository:tag",
        "REFERENCE",
        short="d",
        docker=("tag",),
        commands=_ALL,
    ),
    _switch(
        "no-push",
        Group.RESULT,
        "build only, push no image",
        environment="KANIKO_NO_PUSH",
        environment_wins=True,
        commands=_ALL,
    ),
    _text(
        "tar-path",
        Group.RESULT,
        "also write the image as a docker-load archive",
        "FILE",
        old=("tarPath",),
    ),
    _text("oci-layout-path", Group.RESULT, "also write the image as an OCI layout", "FOLDER"),
    _text("digest-file", Group.RESULT, "write the image's digest to this file", "FILE"),
    _text(
        "image-name-with-digest-file",
        Group.RESULT,
        "write repository@digest, one line a destination",
        "FILE",
    ),
    _text(
        "image-name-tag-with-digest-file",
        Group.RESULT,
        "write repository:tag@digest, one line a destination",
        "FILE",
    ),
    _text(
        "compression",
        Group.RESULT,
        "how new layers are compressed",
        "KIND",
        default="gzip",
        choices=("gzip", "zstd"),
        commands=_ALL,
    ),
    _switch(
        "reproducible",
        Group.RESULT,
        "the same bytes for the same input: every time is SOURCE_DATE_EPOCH, or 1970",
        commands=_ALL,
    ),
    _number(
        "compression-level",
        Group.RESULT,
        "how hard; -1: the fast default",
        default="-1",
        commands=_ALL,
    ),
)

_REGISTRY = (
    _switch("insecure", Group.REGISTRY, "push over plain HTTP", commands=_ALL),
    _switch("insecure-pull", Group.REGISTRY, "pull over plain HTTP", commands=_PULLING),
    _many(
        "insecure-registry",
        Group.REGISTRY,
        "plain HTTP for this registry",
        "HOST",
        commands=_PULLING,
    ),
    _switch("skip-tls-verify", Group.REGISTRY, "push without checking certificates", commands=_ALL),
    _switch(
        "skip-tls-verify-pull",
        Group.REGISTRY,
        "pull without checking certificates",
        commands=_PULLING,
    ),
    _many(
        "skip-tls-verify-registry",
        Group.REGISTRY,
        "no certificate check for this registry",
        "HOST",
        commands=_PULLING,
    ),
    _pairs(
        "registry-certificate",
        Group.REGISTRY,
        "an authority to trust for this registry",
        "HOST=FILE",
        commands=_PULLING,
    ),
    _pairs(
        "registry-client-cert",
        Group.REGISTRY,
        "a client certificate and its key for this registry",
        "HOST=CERT,KEY",
        commands=_PULLING,
    ),
    _many(
        "registry-mirror",
        Group.REGISTRY,
        "ask this registry before Docker Hub",
        "HOST[/PREFIX]",
        environment="KANIKO_REGISTRY_MIRROR",
        commands=_PULLING,
    ),
    _many(
        "registry-map",
        Group.REGISTRY,
        "ask another registry first; several parted by ';'",
        "HOST=HOST[/PREFIX]",
        environment="KANIKO_REGISTRY_MAP",
        commands=_PULLING,
    ),
    _switch(
        "skip-default-registry-fallback",
        Group.REGISTRY,
        "never ask the registry itself when a mirror lacks the image",
        commands=_PULLING,
    ),
    _number(
        "push-retry",
        Group.REGISTRY,
        "how often a failed request of a push is tried again, at least 4",
        default="0",
    ),
    _number(
        "image-download-retry", Group.REGISTRY, "the same for pulls", default="0", commands=_ALL
    ),
)

_CACHE = (
    _switch(
        "cache",
        Group.CACHE,
        "take finished layers from the cache, and keep new ones there",
        commands=_ALL,
    ),
    _text(
        "cache-repo",
        Group.CACHE,
        "where cached layers are kept; <destination>/cache if not given",
        "REPOSITORY",
        commands=_ALL,
    ),
    _text(
        "cache-dir",
        Group.CACHE,
        "where indexes of base images, and caches of RUN --mount, are kept between builds",
        "FOLDER",
        default="/cache",
        commands=_PULLING,
    ),
    Flag(
        "cache-ttl",
        Group.CACHE,
        "how long a cached layer counts",
        "DURATION",
        Kind.DURATION,
        default="336h",
        commands=_PULLING,
    ),
    _switch("no-push-cache", Group.CACHE, "only read the cache"),
)

_BUILD = (
    _text(
        "isolation",
        Group.BUILD,
        "how a RUN is confined; see `pybuild doctor`",
        "KIND",
        default="auto",
        choices=("auto", "namespace", "takeover", "rootless"),
        environment="PYBUILD_ISOLATION",
        kaniko=False,
    ),
    _number("parallel", Group.BUILD, "how many RUNs at once", default="4", kaniko=False),
    _switch(
        "single-snapshot",
        Group.BUILD,
        "one layer for all that the Dockerfile changes",
        commands=_ALL,
    ),
    _switch("force", Group.BUILD, "allow takeover isolation outside a container"),
    _text(
        "kaniko-dir",
        Group.BUILD,
        "where the build keeps its files",
        "FOLDER",
        environment="KANIKO_DIR",
    ),
)

_LOG = (
    _text(
        "verbosity",
        Group.LOG,
        "how much is told",
        "LEVEL",
        short="v",
        default="info",
        commands=_PULLING,
        choices=("trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"),
    ),
    _text(
        "log-format",
        Group.LOG,
        "how it is told; auto: progress on a terminal, else plain",
        "FORMAT",
        default="auto",
        choices=("auto", "progress", "plain", "json", "text", "color"),
        docker=("progress",),
        commands=_PULLING,
    ),
    _switch(
        "log-timestamp",
        Group.LOG,
        "date and time on each plain line, not the seconds since the start",
        commands=_PULLING,
    ),
    _switch(
        "quiet",
        Group.LOG,
        "say nothing but errors; the digest goes to standard output",
        short="q",
        commands=(BUILD,),
        kaniko=False,
    ),
)

_WARMER = (
    _many("image", Group.SOURCE, "an image to keep", "REFERENCE", short="i", commands=(WARMER,)),
    _text(
        "dockerfile",
        Group.SOURCE,
        "keep all images that this Dockerfile starts from",
        "PATH",
        short="f",
        commands=(WARMER,),
    ),
    _many(
        "build-arg",
        Group.SOURCE,
        "a build argument for FROM lines",
        "NAME[=VALUE]",
        commands=(WARMER,),
    ),
    _switch("force", Group.CACHE, "fetch again what is there", commands=(WARMER,)),
)

_ALWAYS = ("true", "false")
_NOT_CARRIED_OUT = (
    _refused("bucket", Group.BUILD, "the bucket of a context", short="b"),
    _refused(
        "annotation", Group.BUILD, "an annotation of the manifest", repeatable=True, kind=Kind.PAIR
    ),
    _refused(
        "snapshot-mode",
        Group.BUILD,
        "how changes are found",
        default="full",
        old=("snapshotMode",),
        harmless=("full", "redo", "time"),
        why="changes are always found exactly, without reading what did not change",
    ),
    _refused_switch(
        "use-new-run",
        Group.BUILD,
        "find changes by their times",
        harmless=_ALWAYS,
        why="changes are always found exactly, without reading what did not change",
    ),
    _refused_switch(
        "cache-copy-layers",
        Group.BUILD,
        "also cache COPY",
        harmless=_ALWAYS,
        why="with --cache, COPY layers are always cached",
    ),
    _refused_switch(
        "cache-run-layers",
        Group.BUILD,
        "cache RUN",
        default="true",
        harmless=("true",),
    ),
    _refused_switch(
        "compressed-caching",
        Group.BUILD,
        "keep compressed layers in memory",
        default="true",
        harmless=_ALWAYS,
        why="layers are never kept in memory",
    ),
    _refused_switch(
        "skip-unused-stages",
        Group.BUILD,
        "leave out stages that nothing needs",
        harmless=_ALWAYS,
        why="stages that nothing needs are never built",
    ),
    _refused_switch(
        "cleanup",
        Group.BUILD,
        "delete the root file system at the end",
        harmless=_ALWAYS,
        environment="KANIKO_CLEANUP",
        why="everything is always put back as it was",
    ),
    _refused_switch(
        "ignore-var-run",
        Group.BUILD,
        "leave /var/run out of the image",
        default="true",
        old=("whitelist-var-run",),
        harmless=("false",),
    ),
    _refused(
        "image-fs-extract-retry",
        Group.BUILD,
        "retries of the base image",
        default="0",
        harmless=("0",),
        why="broken downloads are always resumed",
        kind=Kind.NUMBER,
    ),
    _refused("image-format", Group.BUILD, "docker or oci"),
    _refused_switch(
        "pre-cleanup",
        Group.BUILD,
        "delete the root file system first",
        environment="KANIKO_PRE_CLEANUP",
    ),
    _refused_switch(
        "preserve-context",
        Group.BUILD,
        "put the root file system back at the end",
        environment="KANIKO_PRESERVE_CONTEXT",
        harmless=_ALWAYS,
        why="everything is always put back as it was",
    ),
    _refused_switch(
        "materialize",
        Group.BUILD,
        "unpack the image even if all of it was cached",
    ),
    _refused_switch(
        "dryrun",
        Group.BUILD,
        "only print a plan",
        why="use `pybuild plan`",
    ),
    _refused("ignore-path", Group.BUILD, "a path that never gets into the image", repeatable=True),
    _refused_switch(
        "push-ignore-immutable-tag-errors",
        Group.BUILD,
        "a tag that can't be moved is no failure",
    ),
    _refused_switch(
        "skip-push-permission-check",
        Group.BUILD,
        "do not try before the build whether the push is allowed",
    ),
    _refused(
        "credential-helpers", Group.REGISTRY, "which credential helpers are asked", repeatable=True
    ),
    _refused_switch(
        "force-build-metadata",
        Group.BUILD,
        "a layer for each metadata instruction",
    ),
)

FLAGS = _SOURCE + _RESULT + _REGISTRY + _CACHE + _BUILD + _LOG + _WARMER + _NOT_CARRIED_OUT


def flags_of(command: str) -> tuple[Flag, ...]:
    """The flags of "executor", "warmer", "build" or "plan", in the order of the help."""
    return tuple(flag for flag in FLAGS if command in flag.commands)


def long_names(flag: Flag, command: str) -> tuple[str, ...]:
    """The long names a command takes; the first one is shown.

    kaniko's commands know no others than kaniko's, so that what works here works there too.
    """
    if command in (EXECUTOR, WARMER):
        return (flag.name, *flag.old)
    return (*flag.docker, flag.name)


def short_names(flag: Flag, command: str) -> tuple[str, ...]:
    """`-t` is what Docker's users type for a tag; the warmer has letters of its own."""
    if command in (BUILD, PLAN) and flag.name == "destination":
        return ("t", "d")
    if command == WARMER:
        own = {"dockerfile": "d", "cache-dir": "c", "force": "f"}.get(flag.name, flag.short)
        return (own,) if own else ()
    return (flag.short,) if flag.short else ()


def default_of(flag: Flag, command: str) -> str:
    """kaniko builds what is mounted at /workspace, our own commands the folder they stand in."""
    return "." if flag.name == "context" and command in (BUILD, PLAN) else flag.default
