"""Pods and Jobs as `podman run`: what a kubelet and containerd would do of a manifest, done here.

`translate` reads a manifest and gives the commands, in the order of a Pod's start; a field that it
does not know is an error, so that no line of a manifest goes untested in silence. `run` makes the
volumes, runs init containers one after the other and then the containers, and tells how each ended.
Facts about Kubernetes are from measurements in a cluster: what a Secret's volume looks like, which
modes an emptyDir has, what fsGroup changes, which capabilities a container has.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.bundle import RUNTIME_DEFAULT

# What containerd gives a container: Docker's. podman's own default is three fewer.
DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class UnknownField(Exception):
    """A manifest says something that is not carried out here; the message has its path."""


class NotHere(Exception):
    """A manifest asks for another kind of node than this machine is."""


class Refused(Exception):
    """What the kubelet would not start."""


@dataclass(frozen=True)
class Cluster:
    """What a Pod is given: content of Secrets and ConfigMaps by name, claims as folders, and the
    user that the namespace's security context constraint (OpenShift) chooses, if there is one."""

    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    claims: Mapping[str, Path] = field(default_factory=dict)
    random_user: int = 0


@dataclass(frozen=True)
class Image:
    """How an image is run: podman's arguments for it, and the user that its config names."""

    arguments: tuple[str, ...]
    user: str = ""


@dataclass(frozen=True)
class Volume:
    """A folder that stands for a volume; `read_only` ones can't be written by anybody."""

    source: Path
    read_only: bool


@dataclass(frozen=True)
class ContainerRun:
    """A container: podman's options, its image's arguments, and the words after the image."""

    name: str
    initial: bool
    options: tuple[str, ...]
    image: Image
    words: tuple[str, ...]
    message: Path  # what the container writes to its termination log

    def command(self, podman: Sequence[str]) -> list[str]:
        return [*podman, "run", "--rm", *self.options, *self.image.arguments, *self.words]


@dataclass(frozen=True)
class Ended:
    """How a container ended; `message` is what Kubernetes would show of it."""

    name: str
    status: int
    out: str
    err: str
    message: str


class Fields:
    """A mapping of a manifest, emptied by whoever reads it: what is left at the end is unknown."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise UnknownField(f"{path} is no mapping")
        self._left: dict[str, Any] = dict(value)
        self.path = path

    def take(self, name: str, default: Any = None) -> Any:
        value = self._left.pop(name, None)
        return default if value is None else value

    def mapping(self, name: str) -> Fields:
        return Fields(self.take(name, {}), f"{self.path}.{name}")

    def items(self, name: str) -> list[Fields]:
        value = self.take(name, [])
        return [Fields(item, f"{self.path}.{name}[{n}]") for n, item in enumerate(value)]

    def ignore(self, *names: str) -> None:
        """What does not change what the containers can do."""
        for name in names:
            self._left.pop(name, None)

    def only(self, name: str, *allowed: object) -> Any:
        """A field of which one of these values only is carried out."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise UnknownField(f"{self.path}.{name}: {value!r} is not carried out here")
        return value

    def done(self) -> None:
        if self._left:
            names = ", ".join(f"{self.path}.{name}" for name in sorted(self._left))
            raise UnknownField(f"not known here: {names}")


@dataclass(frozen=True)
class _Security:
    """A Pod's or container's own, with what comes from around it filled in."""

    user: int | None
    group: int | None
    non_root: bool
    seccomp: str
    fs_group: int | None = None
    groups: tuple[int, ...] = ()


@dataclass
class _Context:
    """What containers of one Pod share while it is read."""

    folder: Path
    cluster: Cluster
    images: Mapping[str, Image]
    security: _Security
    volumes: dict[str, Volume]
    deadline: int


def pod_of(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The Pod that an object makes, and its deadline in seconds (0 for none)."""
    top = Fields(manifest, manifest.get("kind", "?"))
    kind = top.only("kind", "Pod", "Job")
    top.only("apiVersion", "v1" if kind == "Pod" else "batch/v1")
    top.ignore("metadata")
    if kind == "Pod":
        pod = {"spec": top.take("spec")}
        top.done()
        return pod, 0
    spec = top.mapping("spec")
    top.done()
    template = spec.mapping("template")
    # How often it is tried, and how long it is kept: one run is what is looked at here.
    spec.ignore("backoffLimit", "podFailurePolicy", "ttlSecondsAfterFinished")
    deadline = spec.take("activeDeadlineSeconds", 0)
    spec.done()
    template.ignore("metadata")
    pod = {"spec": template.take("spec")}
    template.done()
    return pod, deadline


def translate(
    manifest: Mapping[str, Any], folder: Path, images: Mapping[str, Image], cluster: Cluster
) -> list[ContainerRun]:
    """The containers of a Pod or Job, init containers first; their volumes are made below `folder`.

    `images` says how each image that a manifest names is run. Raises UnknownField, NotHere,
    Refused.
    """
    pod, job_deadline = pod_of(manifest)
    spec = Fields(pod["spec"], "spec")
    # What tells the cluster where and how to start the Pod, and nobody in it.
    spec.ignore("enableServiceLinks", "tolerations", "terminationGracePeriodSeconds")
    spec.only("restartPolicy", "Never")
    spec.only("hostNetwork", False)
    if spec.take("hostUsers", True) is False:
        raise NotHere("hostUsers: false")
    if spec.take("runtimeClassName"):
        raise NotHere("runtimeClassName")
    _check_node(spec.take("nodeSelector", {}))
    security = _pod_security(spec.mapping("securityContext"), cluster)
    deadline = int(spec.take("activeDeadlineSeconds", 0)) or int(job_deadline)
    context = _Context(folder, cluster, images, security, {}, deadline)
    for volume in spec.items("volumes"):
        _add_volume(volume, context)
    if spec.take("automountServiceAccountToken", True):
        files = dict.fromkeys(("token", "namespace", "ca.crt"), (b"of-a-test", 0o644))
        place = folder / "service-account"
        context.volumes[ACCOUNT] = Volume(lay_out_files(place, files, security.fs_group), True)
    runs = [_container(item, context, initial=True) for item in spec.items("initContainers")]
    runs += [_container(item, context, initial=False) for item in spec.items("containers")]
    spec.done()
    return runs


def _check_node(selector: Mapping[str, str]) -> None:
    here = {"kubernetes.io/os": "linux", "kubernetes.io/arch": MACHINES.get(platform.machine(), "")}
    for name, value in selector.items():
        if name not in here:
            raise UnknownField(f"spec.nodeSelector.{name}")
        if here[name] != value:
            raise NotHere(f"{name}: {value}")


# --- security ---------------------------------------------------------------------------------


def _pod_security(fields: Fields, cluster: Cluster) -> _Security:
    user, group = fields.take("runAsUser"), fields.take("runAsGroup")
    fs_group = fields.take("fsGroup")
    fields.ignore("fsGroupChangePolicy")  # when, not what
    if cluster.random_user:
        if user is not None or fs_group is not None:
            raise Refused("the security context constraint does not take runAsUser or fsGroup")
        user, group, fs_group = cluster.random_user, 0, cluster.random_user
    found = _Security(
        user,
        group,
        bool(fields.take("runAsNonRoot", False)),
        _seccomp(fields, ""),
        fs_group,
        tuple(fields.take("supplementalGroups", ())),
    )
    fields.done()
    return found


def _seccomp(fields: Fields, around: str) -> str:
    profile = fields.mapping("seccompProfile")
    kind = str(profile.only("type", "", "RuntimeDefault", "Unconfined"))
    profile.done()
    return kind or around


def _security_options(fields: Fields, pod: _Security, image: Image) -> Iterator[str]:
    """podman's options for a container's securityContext."""
    user, group = fields.take("runAsUser", pod.user), fields.take("runAsGroup", pod.group)
    non_root = bool(fields.take("runAsNonRoot", pod.non_root))
    shown = str(user) if user is not None else image.user or "0"
    if non_root and shown.partition(":")[0] in ("0", "root"):
        raise Refused("runAsNonRoot, and the container would run as root")
    if user is not None:
        yield f"--user={user}" if group is None else f"--user={user}:{group}"
    yield from (f"--group-add={one}" for one in pod.groups)
    if pod.fs_group is not None:
        yield f"--group-add={pod.fs_group}"
    is_root = shown.partition(":")[0] in ("0", "root")
    yield from _capability_options(fields.mapping("capabilities"), is_root=is_root)
    runtime_default = _seccomp(fields, pod.seccomp) == "RuntimeDefault"
    profile = str(RUNTIME_DEFAULT) if runtime_default else "unconfined"
    yield f"--security-opt=seccomp={profile}"
    if fields.take("allowPrivilegeEscalation", True) is False:
        yield "--security-opt=no-new-privileges"
    if fields.take("readOnlyRootFilesystem", False):
        yield "--read-only"
        yield "--read-only-tmpfs=false"
    fields.only("privileged", False)
    fields.done()


def _capability_options(fields: Fields, *, is_root: bool) -> Iterator[str]:
    add, drop = fields.take("add", []), fields.take("drop", [])
    fields.done()
    kept = set() if "ALL" in drop else set(DEFAULT_CAPABILITIES) - set(drop)
    kept |= set(add)
    if not is_root:
        # Kubernetes raises none for an ordinary user; podman would, for those named with --cap-add.
        if add:
            raise UnknownField("capabilities.add of a container that is not root")
        yield from (f"--cap-drop={name}" for name in drop)
        return
    yield "--cap-drop=ALL"
    if kept:
        yield f"--cap-add={','.join(sorted(kept))}"


# --- volumes ----------------------------------------------------------------------------------


def _add_volume(fields: Fields, context: _Context) -> None:
    name = fields.take("name")
    place = context.folder / f"volume-{name}"
    fs_group = context.security.fs_group
    secret, config_map = fields.take("secret"), fields.take("configMap")
    empty, claim = fields.take("emptyDir"), fields.take("persistentVolumeClaim")
    projected = fields.take("projected")
    fields.done()
    path = f"volume {name}"
    if secret is not None:
        files = _files(Fields(secret, path), "secretName", context.cluster.secrets)
        context.volumes[name] = Volume(lay_out_files(place, files, fs_group), True)
    elif config_map is not None:
        files = _files(Fields(config_map, path), "name", context.cluster.config_maps)
        context.volumes[name] = Volume(lay_out_files(place, files, fs_group), True)
    elif projected is not None:
        files = _projected(Fields(projected, path), context.cluster)
        context.volumes[name] = Volume(lay_out_files(place, files, fs_group), True)
    elif claim is not None:
        fields = Fields(claim, path)
        place = context.cluster.claims[fields.take("claimName")]
        fields.done()
        context.volumes[name] = Volume(_writable(place, fs_group, 0o755), False)
    elif empty is not None:
        fields = Fields(empty, path)
        fields.ignore("sizeLimit")  # the kubelet looks now and then, and evicts
        memory = fields.only("medium", "", "Memory") == "Memory"
        fields.done()
        if memory:
            place = _in_memory(place)
        place.mkdir()
        context.volumes[name] = Volume(_writable(place, fs_group, 0o777), False)


def _writable(place: Path, fs_group: int | None, mode: int) -> Path:
    """As the kubelet leaves a volume's folder: with fsGroup the group may write, and keeps new
    files."""
    place.chmod(mode)
    if fs_group is not None:
        os.chown(place, -1, fs_group)
        place.chmod(mode | stat.S_ISGID | 0o060)
    return place


Files = Mapping[str, tuple[bytes, int]]
"""Content and mode by path."""


def _files(fields: Fields, key: str, known: Mapping[str, Mapping[str, bytes]]) -> Files:
    """The files that a Secret's or ConfigMap's volume has; no file of an optional one that is not
    there."""
    name, optional = fields.take(key), fields.take("optional", False)
    mode = int(fields.take("defaultMode", 0o644))
    items = fields.items("items")
    fields.done()
    if name not in known:
        if optional:
            return {}
        raise Refused(f"{fields.path}: there is no {name}")
    content = known[name]
    if not items:
        return {path: (data, mode) for path, data in content.items()}
    found = {}
    for item in items:
        data = content.get(item.take("key"))
        path, own = item.take("path"), int(item.take("mode", mode))
        item.done()
        if data is None:
            raise Refused(f"{fields.path}: {name} lacks a key that is asked for")
        found[path] = (data, own)
    return found


def _projected(fields: Fields, cluster: Cluster) -> Files:
    mode = fields.take("defaultMode", 0o644)
    found: dict[str, tuple[bytes, int]] = {}
    for source in fields.items("sources"):
        for name, known in (("secret", cluster.secrets), ("configMap", cluster.config_maps)):
            value = source.take(name)
            if value is not None:
                value = {"defaultMode": mode, **value}
                found |= _files(Fields(value, f"{fields.path}.{name}"), "name", known)
        source.done()
    fields.done()
    return found


def lay_out_files(place: Path, files: Files, fs_group: int | None) -> Path:
    """A Secret's volume on a tmpfs: the files in a folder named after the time, `..data` a link to
    it, and each file's first name a link through that."""
    place = _in_memory(place)
    place.mkdir()
    place.chmod(0o1777)
    dated = place / "..2024_01_02_03_04_05.1234567890"
    dated.mkdir()
    (place / "..data").symlink_to(dated.name)
    for path, (data, mode) in files.items():
        file = dated / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode)
        if fs_group is not None:
            os.chown(file, 0, fs_group)
            file.chmod(mode | 0o440)
        first = path.split("/")[0]
        if not (place / first).is_symlink():
            (place / first).symlink_to(f"..data/{first}")
    return place


def _in_memory(place: Path) -> Path:
    """Where the machine has a tmpfs; removed by `run`."""
    return Path("/dev/shm", f"pods-{os.getpid()}-{place.parent.name}-{place.name}")


# --- containers -------------------------------------------------------------------------------


def _container(fields: Fields, context: _Context, *, initial: bool) -> ContainerRun:
    name = fields.take("name")
    image = context.images[fields.take("image")]
    fields.ignore("imagePullPolicy", "terminationMessagePolicy")
    environment = _environment(fields, context.cluster)
    options = ["--net=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000"]
    options += ["--passwd=false"]  # podman would add the user; a kubelet does not
    if context.deadline:
        options.append(f"--timeout={context.deadline}")
    options += _security_options(fields.mapping("securityContext"), context.security, image)
    options += _resource_options(fields.mapping("resources"))
    options += (f"--env={key}={value}" for key, value in environment.items())
    options += _mount_options(fields, context)
    message = context.folder / f"message-{name}"
    message.touch()
    message.chmod(0o666)
    options.append(
        f"--volume={message}:{fields.take('terminationMessagePath', '/dev/termination-log')}"
    )
    if fields.take("stdin", False):
        options.append("--interactive")
    if fields.take("tty", False):
        options.append("--tty")
    place = fields.take("workingDir")
    options += [f"--workdir={place}"] if place else []
    command = [_expanded(word, environment) for word in fields.take("command", [])]
    words = [_expanded(word, environment) for word in fields.take("args", [])]
    if command:
        options.append(f"--entrypoint={json.dumps(command)}")
    fields.done()
    return ContainerRun(name, initial, tuple(options), image, tuple(words), message)


def _environment(fields: Fields, cluster: Cluster) -> dict[str, str]:
    # What every Pod has, whatever enableServiceLinks says.
    found = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for item in fields.items("env"):
        name, value, source = item.take("name"), item.take("value"), item.take("valueFrom")
        item.done()
        if source is None:
            found[name] = _expanded(value or "", found)
            continue
        data = _from_key(Fields(source, item.path), cluster)
        if data is not None:
            found[name] = data.decode()
    return found


def _from_key(fields: Fields, cluster: Cluster) -> bytes | None:
    known = {"secretKeyRef": cluster.secrets, "configMapKeyRef": cluster.config_maps}
    for kind, objects in known.items():
        reference = fields.take(kind)
        if reference is None:
            continue
        inner = Fields(reference, f"{fields.path}.{kind}")
        name, key = inner.take("name"), inner.take("key")
        optional = inner.take("optional", False)
        inner.done()
        fields.done()
        data = objects.get(name, {}).get(key)
        if data is None and not optional:
            raise Refused(f"{fields.path}: there is no {key} in {name}")
        return data
    fields.done()
    return None


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` of variables that are there, `$$` for a dollar."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", value, text)


def _resource_options(fields: Fields) -> Iterator[str]:
    fields.ignore("requests")  # what the scheduler reads
    limits = fields.mapping("limits")
    memory, cpu = limits.take("memory"), limits.take("cpu")
    limits.done()
    fields.done()
    if memory is not None:
        yield f"--memory={_amount(memory)}"
        yield f"--memory-swap={_amount(memory)}"
    if cpu is not None:
        text = str(cpu)
        cores = Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text)
        yield f"--cpus={cores}"


def _amount(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)([kMG]i?|Ki|)", str(text))
    if match is None:
        raise UnknownField(f"{text} of memory")
    return int(Decimal(match[1]) * _UNITS[match[2]])


def _mount_options(fields: Fields, context: _Context) -> Iterator[str]:
    mounts = fields.items("volumeMounts")
    if ACCOUNT in context.volumes:
        mounts.append(Fields({"name": ACCOUNT, "mountPath": ACCOUNT}, "service account"))
    for mount in mounts:
        volume = context.volumes[mount.take("name")]
        source = volume.source / str(mount.take("subPath", "")).strip("/")
        read_only = mount.take("readOnly", False) or volume.read_only
        mode = "ro" if read_only else "rw,suid,dev,exec"  # podman's default leaves these out
        yield f"--volume={source}:{mount.take('mountPath')}:{mode}"
        mount.done()


# --- running ----------------------------------------------------------------------------------


@contextmanager
def pod_folder(parent: Path) -> Iterator[Path]:
    """Where a Pod's volumes lie; they go at the end, those in memory too."""
    folder = Path(tempfile.mkdtemp(prefix="pod-", dir=parent))
    try:
        yield folder
    finally:
        for place in Path("/dev/shm").glob(f"pods-{os.getpid()}-{folder.name}-*"):
            shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def run(
    manifest: Mapping[str, Any],
    parent: Path,
    images: Mapping[str, Image],
    cluster: Cluster,
    podman: Sequence[str],
    *,
    timeout_seconds: float = 120,
) -> list[Ended]:
    """Runs a Pod to its end: init containers in their order, then the containers side by side.
    After an init container that fails nothing else is started."""
    with pod_folder(parent) as folder:
        runs = translate(manifest, folder, images, cluster)
        ended = []
        for one in (one for one in runs if one.initial):
            done = subprocess.run(
                one.command(podman), capture_output=True, text=True, timeout=timeout_seconds,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            ended.append(_ended(one, done.returncode, done.stdout, done.stderr))
            if done.returncode != 0:
                return ended
        started = [
            (one, subprocess.Popen(one.command(podman), stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            for one in runs if not one.initial
        ]  # fmt: skip
        for one, process in started:
            out, err = process.communicate(timeout=timeout_seconds)
            ended.append(_ended(one, process.returncode, out, err))
        return ended


def _ended(one: ContainerRun, status: int, out: str, err: str) -> Ended:
    return Ended(one.name, status, out, err, one.message.read_text())


def docker_config(host: str, user: str, password: str) -> dict[str, bytes]:
    """The content of a Secret of type kubernetes.io/dockerconfigjson, as kubectl makes it."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    entry = {"username": user, "password": password, "auth": auth}
    return {".dockerconfigjson": json.dumps({"auths": {host: entry}}).encode()}
