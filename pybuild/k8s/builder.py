"""What the builder's container needs, and what gives it away or stops it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from pybuild.k8s import rules
from pybuild.k8s.document import Node
from pybuild.k8s.pods import IDLE, Container, Pod
from pybuild.k8s.references import DOCKER_CONFIG_KEY
from pybuild.k8s.rules import Finding

CONFIG_FOLDER = "/kaniko/.docker"
CONFIG_FILE = "config.json"
WORK_FOLDER = "/kaniko"
# Whose mount hides files that the builder runs from; what lies below /kaniko may be mounted.
OWN_FOLDERS = ("/", "/kaniko", "/kaniko/bin", "/kaniko/lib", "/busybox", "/bin")
IMAGE_FOLDERS = ("/sbin", "/lib", "/lib64", "/usr", "/etc", "/var", "/root", "/boot")
SHELLS = ("sh", "/bin/sh", "/busybox/sh")
OTHER_SHELLS = ("bash", "ash", "dash", "zsh", "ksh")
_ARCHITECTURE = "kubernetes.io/arch"
_PLATFORM = re.compile(r"--custom-?[Pp]latform=(\S+)")
_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|_PAT)$|^DOCKER_AUTH_CONFIG$")
_SOCKETS = ("docker.sock", "containerd.sock", "crio.sock", "buildkitd.sock", "podman.sock")


def check_builder(pod: Pod, container: Container) -> Iterator[Finding]:
    """For one container that builds."""
    yield from _image(container)
    yield from _user(pod, container)
    yield from _memory(container)
    yield from _arguments(container)
    yield from _platform(pod, container)
    yield from _mounts(container)
    yield from _credentials(pod, container)
    yield from _place_to_work(container)
    yield from _rights(pod, container)
    if not (pod.is_agent or container.initial):
        yield from _end(pod, container)


def _image(container: Container) -> Iterator[Finding]:
    node = container.node["image"]
    if container.image and "@" not in container.image and container.image_tag in ("", "latest"):
        yield node.finding(
            rules.FLOATING_IMAGE,
            f"{container.image} may be another builder tomorrow",
            "name a version's tag, or a digest",
        )


def _user(pod: Pod, container: Container) -> Iterator[Finding]:
    user, non_root = pod.user_of(container), pod.non_root_of(container)
    if non_root.value is True and not user and not container.is_rootless_image:
        yield non_root.finding(
            rules.ROOT_REFUSED,
            f"runAsNonRoot, but {container.name}'s image runs as root unless runAsUser is set",
            "runAsUser: 1000 with the image's rootless target",
        )
    elif not user and not container.is_rootless_image:
        yield container.node.finding(
            rules.NO_USER,
            f"{container.name} has no runAsUser: a cluster's default may not be root",
            "runAsUser: 0, or the image's rootless target",
        )


def _memory(container: Container) -> Iterator[Finding]:
    resources = container.node["resources"]
    for kind, why in (
        ("requests", "a node that is short of memory ends the build first"),
        ("limits", "a RUN that needs too much takes the node with it"),
    ):
        if not (resources.at(kind, "memory") or resources.at("limits", "memory")):
            message = f"{container.name} has no memory in its {kind}: {why}"
            yield container.node.finding(rules.NO_MEMORY, message, "memory: 2Gi or so")


def _arguments(container: Container) -> Iterator[Finding]:
    for part in ("command", "args"):
        for word in container.node[part].items():
            flag = re.match(r"(--[A-Za-z][A-Za-z0-9-]*)[ \t]+(\S.*)", word.text)
            if flag:
                yield word.finding(
                    rules.BLANK_IN_ARGUMENT,
                    f"{flag[1]} and its value are one word here, which no flag is called",
                    f"{flag[1]}={flag[2]}",
                )


def _platform(pod: Pod, container: Container) -> Iterator[Finding]:
    """The builder does not emulate: what a RUN starts has to be of the node's architecture."""
    wanted = pod.spec["nodeSelector"][_ARCHITECTURE]
    for word in container.node["args"].items():
        match = _PLATFORM.fullmatch(word.text)
        parts = match[1].split("/") if match else []
        if wanted.text and len(parts) > 1 and parts[1] != wanted.text:
            message = f"the image is for {parts[1]}, the nodes are {wanted.text}"
            yield word.finding(rules.FOREIGN_PLATFORM, message, f"{_ARCHITECTURE}: {parts[1]}")


def _mounts(container: Container) -> Iterator[Finding]:
    for mount in container.mounts():
        path = mount["mountPath"]
        clean = posixpath.normpath(path.text) if path.text else ""
        if clean in OWN_FOLDERS:
            message = f"a volume at {clean} hides the builder's own files"
            yield path.finding(rules.MOUNT_SHADOWS, message, f"mount it below {WORK_FOLDER}/")
        elif clean in IMAGE_FOLDERS:
            yield path.finding(
                rules.MOUNT_IN_IMAGE,
                f"what images have in {clean} can't be put there where RUN works in place",
                f"mount it below {WORK_FOLDER}/ or at a name of its own",
            )


def _credentials(pod: Pod, container: Container) -> Iterator[Finding]:
    config = container.env.get("DOCKER_CONFIG")
    folder = posixpath.normpath(config["value"].text) if config and config["value"].text else ""
    place = folder or CONFIG_FOLDER
    mounted = False
    for mount in container.mounts():
        volume = pod.volumes.get(mount["name"].text)
        path = mount["mountPath"].text
        clean = posixpath.normpath(path) if path else ""
        if volume is None or not clean:
            continue
        if clean in (place, f"{place}/{CONFIG_FILE}"):
            mounted = True
            yield from _config_file(mount, volume, clean)
        elif _is_docker_secret(volume) and not clean.startswith(f"{place}/"):
            yield mount.finding(
                rules.CREDENTIALS_ELSEWHERE,
                f"the credentials are mounted at {clean}, and looked for in {place}",
                f"mountPath: {place}, or the variable DOCKER_CONFIG",
            )
    if folder and not mounted and folder != CONFIG_FOLDER and not container.node["envFrom"]:
        around = container.mount_around(folder)
        if config is not None and around is None:
            message = f"DOCKER_CONFIG is {folder}, where nothing is mounted"
            yield config.finding(rules.CREDENTIALS_ELSEWHERE, message, "mount the Secret there")
    for name, variable in container.env.items():
        if _SECRET_NAME.search(name) and variable["value"].text:
            yield variable.finding(
                rules.SECRET_IN_ENV,
                f"the value of {name} stands in the manifest, which is shown in logs",
                "valueFrom: {secretKeyRef: {name: …, key: …}}",
            )


def _is_docker_secret(volume: Node) -> bool:
    keys = [item["key"].text for item in volume.at("secret", "items").items()]
    return DOCKER_CONFIG_KEY in keys or volume.at("secret", "secretName").text == "dockercred"


def _config_file(mount: Node, volume: Node, place: str) -> Iterator[Finding]:
    """A mount at the folder of config.json, or at the file itself."""
    found = _files_of(volume)
    part = mount["subPath"].text
    if place.endswith(f"/{CONFIG_FILE}"):
        if not part:
            yield mount["mountPath"].finding(
                rules.NO_CONFIG_JSON,
                f"a volume mounted at {place} makes a folder of that name",
                f"mountPath: {posixpath.dirname(place)}, or a subPath",
            )
        return
    if found is None or part:
        return
    if not found:
        yield mount.finding(
            rules.CONFIG_KEY,
            f"without items the file in {place} is called {DOCKER_CONFIG_KEY}, which this builder"
            " reads and kaniko does not",
            f"items: [{{key: {DOCKER_CONFIG_KEY}, path: {CONFIG_FILE}}}]",
        )
    elif CONFIG_FILE not in found and DOCKER_CONFIG_KEY not in found:
        yield mount.finding(
            rules.NO_CONFIG_JSON,
            f"the volume has {', '.join(found)} and no {CONFIG_FILE}",
            f"items: [{{key: {DOCKER_CONFIG_KEY}, path: {CONFIG_FILE}}}]",
        )


def _files_of(volume: Node) -> list[str] | None:
    """The paths that a Secret's items give; none for all keys; None for other volumes."""
    if volume["secret"]:
        return [item["path"].text for item in volume.at("secret", "items").items()]
    sources = list(volume.at("projected", "sources").items())
    if not sources or any(not source.at("secret", "items") for source in sources):
        return None
    return [i["path"].text for source in sources for i in source.at("secret", "items").items()]


def _place_to_work(container: Container) -> Iterator[Finding]:
    read_only = container.node.at("securityContext", "readOnlyRootFilesystem")
    named = container.env.get("KANIKO_DIR")
    place = (named["value"].text if named else "") or WORK_FOLDER
    mount = container.mount_around(place)
    writable = mount is not None and mount["readOnly"].value is not True
    if read_only.value is True and not writable:
        yield read_only.finding(
            rules.NOTHING_WRITABLE,
            f"the root is read-only, and no volume is mounted at {place}",
            "an emptyDir at /kaniko/work, and the variable KANIKO_DIR with that path",
        )
    if mount is not None and named is not None and not writable:
        yield mount.finding(
            rules.NOTHING_WRITABLE,
            f"KANIKO_DIR is {place}, which is mounted read-only",
            "leave readOnly out, or name another folder",
        )


def _rights(pod: Pod, container: Container) -> Iterator[Finding]:
    privileged = container.node.at("securityContext", "privileged")
    if privileged.value is True:
        message = f"{container.name} is privileged, and needs no privilege"
        yield privileged.finding(rules.PRIVILEGED, message, "leave it out")
    for mount in container.mounts():
        path = pod.volumes.get(mount["name"].text, mount).at("hostPath", "path")
        if path.text.endswith(_SOCKETS):
            message = f"{container.name} gets {path.text}, and needs no daemon"
            yield path.finding(rules.DAEMON_SOCKET, message, "leave the volume out")


def _end(pod: Pod, container: Container) -> Iterator[Finding]:
    """A build ends, and must not be started again for that."""
    policy = pod.spec["restartPolicy"]
    builds = container.program not in IDLE and container.words[-1:] != ("idle",)
    if pod.kind == "Pod" and builds and policy.text in ("", "Always"):
        what = "is Always" if policy else "is Always unless it is set"
        message = f"restartPolicy {what}: when the build ends it is started again"
        yield policy.finding(rules.BUILD_RESTARTS, message, "restartPolicy: Never")
