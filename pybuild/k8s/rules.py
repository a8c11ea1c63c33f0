"""What `pybuild pod-check` looks for: a stable code each, how bad it is, and what it means.

docs/kubernetes.md lists them; a test holds that it lists all.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Severity(Enum):
    """An ERROR will not work; a WARNING works and is regretted later; a NOTE has to be known."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Rule(Struct, frozen=True):
    code: str
    severity: Severity
    meaning: str


class Finding(Struct, frozen=True):
    """One thing that was found. `line` counts from 1; 0 where the file as a whole is meant."""

    file: str
    line: int
    rule: Rule
    message: str
    hint: str = ""


def _error(code: str, meaning: str) -> Rule:
    return Rule(code, Severity.ERROR, meaning)


def _warning(code: str, meaning: str) -> Rule:
    return Rule(code, Severity.WARNING, meaning)


def _note(code: str, meaning: str) -> Rule:
    return Rule(code, Severity.NOTE, meaning)


# The file itself.
YAML_SYNTAX = _error("yaml-syntax", "the file is no YAML")
DUPLICATE_KEY = _error("duplicate-key", "a key stands twice in one mapping; the first is lost")
NO_POD = _error("no-pod", "nothing in the file has a Pod in it")
NOT_CHECKED = _note("not-checked", "an object of a kind whose Pod, if any, is not looked for")

# Values that the schema calls strings.
BAD_QUANTITY = _error("bad-quantity", "no Kubernetes quantity")
ODD_QUANTITY = _warning("odd-quantity", "a quantity that is hardly meant: `m` of memory is 1/1000")
UNKNOWN_RESOURCE = _error("unknown-resource", "neither cpu, memory … nor a domain's own resource")
REQUEST_OVER_LIMIT = _error("request-over-limit", "more is requested than the limit allows")
BAD_VALUE = _error("bad-value", "none of the words that the field takes")
BAD_NAME = _error("bad-name", "a name or label with characters or a length it can't have")
DUPLICATE_NAME = _error("duplicate-name", "two containers, volumes or variables of one name")
BAD_PATH = _error("bad-path", "a path that a mount or an item can't have")
ONE_OF = _error("one-of", "exactly one of several fields has to be there")
BAD_IMAGE = _error("bad-image", "no image reference")
ROOT_REFUSED = _error("root-refused", "runAsNonRoot with a container that runs as root")
CONTRADICTION = _error("contradiction", "two fields that the API server does not take together")

# What one part says of another.
NO_SUCH_VOLUME = _error("no-such-volume", "a mount names a volume that the Pod has not")
UNUSED_VOLUME = _warning("unused-volume", "no container mounts the volume")
DUPLICATE_MOUNT = _error("duplicate-mount", "two mounts of a container at one path")
NO_SUCH_KEY = _error("no-such-key", "a Secret or ConfigMap of these files lacks the key")
BAD_SECRET = _error("bad-secret", "a Secret whose content its type does not allow")
UNDEFINED_VARIABLE = _warning("undefined-variable", "$(NAME) of a variable that is not there")
NEEDS = _note("needs", "an object that the cluster has to have")

# The builder.
CONTAINER_ENDS = _error("container-ends", "an agent's container whose main process ends by itself")
BUILD_RESTARTS = _error("build-restarts", "the Pod starts the build again whenever it ends")
NO_SHELL = _error("no-shell", "the image has no shell where one is called")
NO_CONFIG_JSON = _error("no-config-json", "the Secret does not become a config.json")
CONFIG_KEY = _warning("config-key", "the Secret is mounted without making config.json of its key")
CREDENTIALS_ELSEWHERE = _error(
    "credentials-elsewhere", "DOCKER_CONFIG names another place than the Secret's mount"
)
SECRET_IN_ENV = _warning("secret-in-env", "a secret's value stands in the manifest")
MOUNT_SHADOWS = _error("mount-shadows", "a mount hides the builder's own files")
MOUNT_IN_IMAGE = _warning("mount-in-image", "a mount where images have files of their own")
NOTHING_WRITABLE = _error("nothing-writable", "a read-only root, and no volume to work in")
BLANK_IN_ARGUMENT = _error("blank-in-argument", "a flag and its value in one list item")
FOREIGN_PLATFORM = _error("foreign-platform", "the node's architecture is not the image's")
NO_USER = _warning("no-user", "it depends on the image, which user the builder is")
FLOATING_IMAGE = _warning("floating-image", "the builder may be another one tomorrow")
NO_MEMORY = _warning("no-memory", "the builder has no memory request or no limit")
PRIVILEGED = _warning("privileged", "the builder needs no privilege")
DAEMON_SOCKET = _warning("daemon-socket", "the builder needs no daemon's socket")

# An agent of Jenkins.
SECOND_AGENT = _error("second-agent", "the agent's image in a container that is not called jnlp")
AGENT_COMMAND = _error("agent-command", "the agent's container runs something else")
WORKING_DIR_DIFFERS = _error("working-dir-differs", "the workspace lies at different paths")
LOST_ON_MERGE = _note("lost-on-merge", "fields of a child template that merge() drops")

# Tekton.
UNKNOWN_FIELD = _error("unknown-field", "a field that Tekton's v1 objects have not")
WRONG_TYPE = _error("wrong-type", "a list where a text belongs, or the like")
MISSING_FIELD = _error("missing-field", "a field that has to be there")
OLD_VERSION = _warning("old-version", "an API version that is on its way out")
UNDECLARED = _error("undeclared", "a $(variable) of a parameter, workspace or result not declared")
ARRAY_IN_TEXT = _error("array-in-text", "an array's variable that is no list item by itself")
NOT_GIVEN = _error("not-given", "a parameter without default or a workspace that nothing gives")
NO_SUCH_TASK = _error("no-such-task", "runAfter or a result names no task of the Pipeline")
CIRCLE = _error("circle", "tasks that wait for one another")
SCRIPT_INJECTION = _warning("script-injection", "a parameter's text becomes part of a script")

POD_SECURITY = _error("pod-security", "not allowed by the Pod Security level that was asked for")

TEKTON = (UNKNOWN_FIELD, WRONG_TYPE, MISSING_FIELD, OLD_VERSION, UNDECLARED, ARRAY_IN_TEXT,
          NOT_GIVEN, NO_SUCH_TASK, CIRCLE, SCRIPT_INJECTION)  # fmt: skip
RULES = tuple(value for value in list(globals().values()) if isinstance(value, Rule))
