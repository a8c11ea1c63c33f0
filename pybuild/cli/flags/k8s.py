"""How builds are run in a cluster: `pybuild k8s`."""

from __future__ import annotations

from pybuild.cli.flags.flag import (
    DOCTOR,
    K8S_CANCEL,
    K8S_DOCTOR,
    K8S_LOGS,
    K8S_LS,
    K8S_RENDER,
    K8S_RUN,
    K8S_SECRET,
    Flag,
    Group,
    Kind,
    many,
    number,
    switch,
    text,
)

_CLUSTER = (K8S_RUN, K8S_LS, K8S_LOGS, K8S_CANCEL, K8S_SECRET, K8S_DOCTOR)
_RUN, _POD = (K8S_RUN,), (K8S_RUN, K8S_DOCTOR)
_FILL = (K8S_RUN, K8S_RENDER)
# `user-namespace` and so on: the manifests of pod-templates/kubernetes.
RUNGS = ("default", "runtime-default", "user-namespace", "restricted", "openshift", "gvisor",
         "kata", "cache-pvc")  # fmt: skip


def _flag(
    name: str,
    help_text: str,
    value: str,
    commands: tuple[str, ...],
    *,
    short: str = "",
    environment: str = "",
) -> Flag:
    return text(
        name,
        Group.K8S,
        help_text,
        value,
        short=short,
        environment=environment,
        commands=commands,
        kaniko=False,
    )


def _duration(name: str, help_text: str, default: str = "") -> Flag:
    return Flag(name, Group.K8S, help_text, "DURATION", Kind.DURATION, default, commands=_RUN,
                kaniko=False)  # fmt: skip


K8S_FLAGS = (
    _flag("kubeconfig", "where the cluster is written down; else as kubectl has it", "FILE",
          _CLUSTER),
    _flag("kube-context", "another context of the kubeconfig", "NAME", _CLUSTER),
    _flag("namespace", "another namespace than the context's", "NAME", _CLUSTER, short="n"),
    text("rung", Group.K8S, "the kind of Pod, see docs/kubernetes.md", "NAME", default="default",
         commands=_RUN, kaniko=False, choices=RUNGS),
    text("rung", Group.K8S, "probe this kind of Pod only", "NAME", commands=(K8S_DOCTOR,),
         kaniko=False, choices=RUNGS),
    _flag("image", "the builder; without a tag, the one that the rung needs", "REFERENCE",
          (*_FILL, K8S_DOCTOR), environment="PYBUILD_IMAGE"),
    _flag("pull-secret", "the Secret that nodes pull the builder with", "NAME", _POD),
    _flag("registry-secret", "the Secret with config.json for pushing (dockercred)", "NAME", _FILL),
    _flag("git-secret", "the Secret with a git token (gitcred)", "NAME", _FILL),
    many("mount-secret", Group.K8S, "a Secret at /kaniko/secrets/NAME, for --secret=id=…,src=…",
         "NAME", commands=_RUN, kaniko=False),
    _flag("service-account", "the Pod's identity, where a cloud gives credentials by it", "NAME",
          _RUN),
    _flag("claim", "the volume claim of the rung cache-pvc (pybuild-cache)", "NAME", _FILL),
    _flag("memory", "the memory limit", "AMOUNT", _FILL),
    _flag("cpu", "the processor request", "AMOUNT", _FILL),
    _flag("storage", "how large the working volume may grow", "AMOUNT", _FILL),
    many("platform", Group.K8S, "a Job on nodes of each, then an index; commas separate them",
         "linux/ARCH", commands=_RUN, kaniko=False),
    _flag("file-of-images", "build the images that a YAML file lists", "FILE", _RUN),
    number("limit", Group.K8S, "how many Jobs run at once", default="4", commands=_RUN,
           kaniko=False),
    switch("detach", Group.K8S, "leave the build alone once it runs; its name is printed",
           commands=_RUN, kaniko=False),
    switch("keep", Group.K8S, "leave the Job in the cluster after its end", commands=_RUN,
           kaniko=False),
    _duration("deadline", "how long the build may take (1h)"),
    _duration("start-timeout", "how long its Pod may take to start", "15m"),
    _flag("name", "what it is called; else as the repository", "NAME", _FILL),
    _flag("templates", "another folder than the pod-templates that came along", "FOLDER",
          (*_FILL, K8S_DOCTOR)),
    switch("follow", Group.K8S, "until the build ends, with its exit status", short="f",
           commands=(K8S_LOGS,), kaniko=False),
    _flag("server", "the registry as it stands in image names; else Docker Hub", "HOST",
          (K8S_SECRET,)),
    _flag("username", "the user's name", "NAME", (K8S_SECRET,), short="u"),
    switch("password-stdin", Group.K8S, "read the password from standard input",
           commands=(K8S_SECRET,), kaniko=False),
    _flag("password-file", "read the password from a file", "FILE", (K8S_SECRET,)),
    _flag("password-env", "take the password from this variable", "VARIABLE", (K8S_SECRET,)),
    _flag("from-config", "the credentials of a config.json, - for standard input", "FILE",
          (K8S_SECRET,)),
    many("destination", Group.K8S, "where the image goes", "REFERENCE", commands=(K8S_RENDER,),
         kaniko=False, docker=("tag",)),
    _flag("context", "what is built: a git address or an object store's", "URL", (K8S_RENDER,)),
    _flag("dockerfile", "the Dockerfile in the context", "PATH", (K8S_RENDER,), short="f"),
    _flag("cache-repo", "a cache of layers", "REPOSITORY", (K8S_RENDER,)),
    _flag("output", "write each manifest into this folder", "FOLDER", (K8S_RENDER,), short="o"),
    switch("list", Group.K8S, "only the names", commands=(K8S_RENDER,), kaniko=False),
    text("log-format", Group.K8S, "plain for people, json for programs, on standard output",
         "FORMAT", default="plain", choices=("plain", "json"),
         commands=(K8S_LS, K8S_DOCTOR, DOCTOR), kaniko=False),
)  # fmt: skip

# Of the builder's flags those that a Pod can't carry out, or that `run` gives it by itself.
_NOT_FOR_A_POD = frozenset({
    "context", "custom-platform", "digest-file", "image-name-with-digest-file",
    "image-name-tag-with-digest-file", "tar-path", "oci-layout-path", "sbom", "kaniko-dir", "force",
    "quiet", "log-timestamp", "report",
})  # fmt: skip


def is_for_a_pod(flag: Flag) -> bool:
    """Whether `pybuild k8s run` takes this flag of `pybuild build`."""
    return not flag.why and flag.name not in _NOT_FOR_A_POD
