"""What the table of flags is made of."""

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
    LOGIN = "Who logs in"
    PODS = "How manifests are checked"
    JENKINS = "Jenkins"
    K8S = "Builds in a cluster"


EXECUTOR, WARMER, BUILD, PLAN = "executor", "warmer", "build", "plan"
PUSH, LOGIN = "executor push", "executor login"
KANIKO = (EXECUTOR, WARMER, PUSH, LOGIN)  # that take kaniko's names only
POD_CHECK = "pod-check"
MANIFEST = "manifest create"
JENKINS_TRIGGER, JENKINS_STATUS = "jenkins trigger", "jenkins status"
JENKINS_CANCEL, JENKINS_CHECK = "jenkins cancel", "jenkins check"
CACHE_LS, CACHE_PRUNE = "cache ls", "cache prune"
DOCTOR = "doctor"
K8S_RUN, K8S_LS, K8S_LOGS, K8S_CANCEL = "k8s run", "k8s ls", "k8s logs", "k8s cancel"
K8S_SECRET, K8S_RENDER, K8S_DOCTOR = "k8s secret", "k8s render", "k8s doctor"
ALL = (EXECUTOR, BUILD, PLAN)
PULLING = (EXECUTOR, BUILD, PLAN, WARMER)
BUILDING = (EXECUTOR, BUILD)
PUSHING = (*ALL, MANIFEST)  # what `plan` takes though it pushes nothing, as `build` does
CACHES = (CACHE_LS, CACHE_PRUNE)
REACHING = (*PULLING, MANIFEST, *CACHES)  # all that talk to registries


class Flag(Struct, frozen=True):
    """A flag of one or more commands.

    `value` names the value in the help; `environment` is a variable that gives the value where
    the flag is not given (`environment_wins`: also where it is, as kaniko has it for that one);
    `docker` holds spellings of our own commands, `old` kaniko's former ones.
    A flag with `why` has no work to do: values in `harmless` say what happens anyway, any other is
    told of in one line that ends in `why`, what happens instead.
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
    commands: tuple[str, ...] = BUILDING
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    environment: str = ""
    environment_wins: bool = False
    harmless: tuple[str, ...] = ()
    why: str = ""
    kaniko: bool = True


text = partial(Flag, kind=Kind.TEXT)
many = partial(Flag, kind=Kind.TEXT, repeatable=True)
pairs = partial(Flag, kind=Kind.PAIR, repeatable=True)
switch = partial(Flag, kind=Kind.BOOLEAN, default="false", value="")
number = partial(Flag, kind=Kind.NUMBER, value="N")
settled_switch = partial(switch, harmless=("false",))
