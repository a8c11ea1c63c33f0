"""The translator of Pods: what it makes of each field, and that it passes over none."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.bundle import RUNTIME_DEFAULT
from tests.support.pods import (
    Cluster,
    ContainerRun,
    Image,
    NotHere,
    Refused,
    UnknownField,
    pod_folder,
    translate,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other groups")
TEMPLATES = sorted(
    (Path(__file__).resolve().parents[3] / "pod-templates/kubernetes").glob("*-*.yaml")
)
IMAGES = {"builder:1": Image(("builder:1",)), "rootless:1": Image(("rootless:1",), "1000:0")}
CLUSTER = Cluster({"s": {"key": b"value", "other": b"x"}}, {"c": {"a/b": b"text"}})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with pod_folder(tmp_path) as made:
        yield made


def runs(
    folder: Path, spec: str, container: str = "image: builder:1", cluster: Cluster = CLUSTER
) -> list[ContainerRun]:
    """Of a Pod with this spec (YAML) and one container with these fields."""
    value = {"restartPolicy": "Never", "automountServiceAccountToken": False}
    value |= yaml.safe_load(spec) or {}
    value.setdefault("containers", [{"name": "a", **yaml.safe_load(container)}])
    return translate({"apiVersion": "v1", "kind": "Pod", "spec": value}, folder, IMAGES, cluster)


def options(folder: Path, spec: str, container: str = "image: builder:1") -> list[str]:
    (only,) = runs(folder, spec, container)
    return list(only.options)


DEFAULTS = "AUDIT_WRITE,CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,MKNOD,NET_BIND_SERVICE,NET_RAW," \
    "SETFCAP,SETGID,SETPCAP,SETUID,SYS_CHROOT"  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "container", "wanted"),
    [
        ("", "image: builder:1", ["--cap-drop=ALL", f"--cap-add={DEFAULTS}",
                                  "--security-opt=seccomp=unconfined"]),
        ("securityContext: {seccompProfile: {type: RuntimeDefault}}", "image: builder:1",
         [f"--security-opt=seccomp={RUNTIME_DEFAULT}"]),
        ("securityContext: {runAsUser: 1, runAsGroup: 2, fsGroup: 3, supplementalGroups: [4]}",
         "image: builder:1", ["--user=1:2", "--group-add=3", "--group-add=4"]),
        ("securityContext: {runAsUser: 1}", "{image: 'builder:1', securityContext: {runAsUser: 5}}",
         ["--user=5"]),
        ("", "{image: 'builder:1', securityContext: {capabilities: {drop: [ALL], add: [CHOWN]}}}",
         ["--cap-drop=ALL", "--cap-add=CHOWN"]),
        ("", "{image: 'rootless:1', securityContext: {capabilities: {drop: [ALL]}, "
             "allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true}}",
         ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only",
          "--read-only-tmpfs=false"]),
        ("", "{image: 'builder:1', resources: {limits: {memory: 256Mi, cpu: 500m}}}",
         ["--memory=268435456", "--memory-swap=268435456", "--cpus=0.5"]),
        ("activeDeadlineSeconds: 60", "{image: 'builder:1', workingDir: /w, stdin: true}",
         ["--timeout=60", "--workdir=/w", "--interactive"]),
        ("", "{image: 'builder:1', env: [{name: A, value: x}, {name: B, value: $(A)-$(C)-$$(A)}]}",
         ["--env=A=x", "--env=B=x-$(C)-$(A)"]),
        ("", "{image: 'builder:1', env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: key}}},"
             "{name: B, valueFrom: {secretKeyRef: {name: t, key: k, optional: true}}}]}",
         ["--env=A=value"]),
    ],
)  # fmt: skip
def test_options(folder: Path, spec: str, container: str, wanted: list[str]) -> None:
    found = options(folder, spec, container)
    assert [one for one in wanted if one not in found] == []
    assert not [one for one in found if one.startswith("--env=B=") and one not in wanted]


def test_an_ordinary_user_is_given_no_capability(folder: Path) -> None:
    found = options(folder, "securityContext: {runAsUser: 1000}")
    assert not [one for one in found if one.startswith("--cap-")]


def test_command_and_arguments(folder: Path) -> None:
    (only,) = runs(folder, "", "{image: 'builder:1', command: [a, b], args: [$(X), c]}")
    command = only.command(["podman"])
    assert command[:3] == ["podman", "run", "--rm"]
    assert '--entrypoint=["a", "b"]' in command
    assert command[-3:] == ["builder:1", "$(X)", "c"]


def test_init_containers_come_first_in_their_order(folder: Path) -> None:
    spec = "initContainers: [{name: b, image: 'builder:1'}, {name: a, image: 'builder:1'}]"
    found = runs(folder, spec)
    assert [(one.name, one.initial) for one in found] == [("b", True), ("a", True), ("a", False)]


def mounted(options: list[str], path: str) -> tuple[Path, str]:
    """The folder that stands for what is mounted there, and how."""
    for option in options:
        source, _, rest = option.removeprefix("--volume=").partition(":")
        place, _, mode = rest.partition(":")
        if place == path and option.startswith("--volume="):
            return Path(source), mode
    raise AssertionError(path)


def volume(folder: Path, source: str, security: str = "") -> tuple[Path, str]:
    spec = f"volumes: [{{name: v, {source}}}]\nsecurityContext: {{{security}}}"
    container = "{image: 'builder:1', volumeMounts: [{name: v, mountPath: /v}]}"
    return mounted(options(folder, spec, container), "/v")


def mode_of(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid


@pytest.mark.parametrize(
    ("source", "security", "wanted"),
    [
        ("secret: {secretName: s}", "", (0o644, 0, 0)),
        ("secret: {secretName: s, defaultMode: 0400}", "", (0o400, 0, 0)),
        ("secret: {secretName: s, defaultMode: 0400}", "fsGroup: 1000", (0o440, 0, 1000)),
        ("projected: {sources: [{secret: {name: s}}], defaultMode: 0440}", "", (0o440, 0, 0)),
    ],
)
def test_a_secrets_volume(
    folder: Path, source: str, security: str, wanted: tuple[int, int, int]
) -> None:
    place, mode = volume(folder, source, security)
    assert mode == "ro" and mode_of(place)[0] == 0o1777
    assert (place / "key").readlink() == Path("..data/key")
    assert (place / "..data").is_symlink() and (place / "key").read_bytes() == b"value"
    assert mode_of(place / "key") == wanted
    assert os.statvfs(place).f_fsid == os.statvfs("/dev/shm").f_fsid


def test_items_of_a_secret(folder: Path) -> None:
    place, _ = volume(folder, "secret: {secretName: s, items: [{key: key, path: config.json}]}")
    assert sorted(path.name for path in place.iterdir() if path.name[:2] != "..") == ["config.json"]


@pytest.mark.parametrize(
    ("security", "wanted"), [("", (0o777, 0, 0)), ("fsGroup: 1000", (0o2777, 0, 1000))]
)
def test_an_empty_folder(folder: Path, security: str, wanted: tuple[int, int, int]) -> None:
    place, mode = volume(folder, "emptyDir: {sizeLimit: 1Gi}", security)
    assert mode_of(place) == wanted and mode.startswith("rw")


def test_what_is_in_memory_goes_with_the_pod(tmp_path: Path) -> None:
    spec = "volumes: [{name: v, emptyDir: {medium: Memory}}, {name: w, secret: {secretName: s}}]"
    container = "{image: 'builder:1', volumeMounts: [{name: v, mountPath: /v}, " \
        "{name: w, mountPath: /w}]}"  # fmt: skip
    with pod_folder(tmp_path) as folder:
        found = options(folder, spec, container)
        folders = [mounted(found, place)[0] for place in ("/v", "/w")]
        assert all(place.exists() and place.is_relative_to("/dev/shm") for place in folders)
    assert not any(place.exists() for place in (*folders, folder))


@pytest.mark.parametrize(
    ("spec", "container", "error"),
    [
        ("hostPID: true", "image: builder:1", UnknownField),
        ("securityContext: {sysctls: []}", "{image: 'builder:1', tty: 1, port: 2}", UnknownField),
        ("volumes: [{name: v, hostPath: {path: /}}]", "image: builder:1", UnknownField),
        ("", "{image: 'builder:1', securityContext: {privileged: true}}", UnknownField),
        ("", "{image: 'builder:1', resources: {limits: {ephemeral-storage: 1Gi}}}", UnknownField),
        ("restartPolicy: Always", "image: builder:1", UnknownField),
        ("hostUsers: false", "image: builder:1", NotHere),
        ("runtimeClassName: kata", "image: builder:1", NotHere),
        ("nodeSelector: {kubernetes.io/arch: s390x}", "image: builder:1", NotHere),
        ("securityContext: {runAsNonRoot: true}", "image: builder:1", Refused),
        ("volumes: [{name: v, secret: {secretName: absent}}]", "image: builder:1", Refused),
        ("volumes: [{name: v, secret: {secretName: s, items: [{key: k, path: p}]}}]",
         "image: builder:1", Refused),
        ("", "{image: 'builder:1', env: [{name: A, valueFrom: {secretKeyRef: {name: t, key: k}}}]}",
         Refused),
    ],
)  # fmt: skip
def test_what_is_not_started(
    folder: Path, spec: str, container: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        runs(folder, spec, container)


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """All mappings of a manifest below the Pod's spec, labels and requests left out."""
    if isinstance(value, dict):
        if path:
            yield path
        for name, inner in value.items():
            if name not in ("metadata", "requests", "tolerations", "podFailurePolicy"):
                yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_no_field_of_a_manifest_can_be_added_unseen(path: Path, tmp_path: Path) -> None:
    """Whatever is added anywhere in a manifest, the translator stops at it."""
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    if manifest["kind"] not in ("Pod", "Job"):
        return
    name = "registry.example.com/pybuild/executor"
    tags = ("slim", "slim-arm64", "rootless")
    images = {f"{name}:{tag}": Image(("x",), "1000" if tag == "rootless" else "") for tag in tags}
    (tmp_path / "claim").mkdir()
    cluster = Cluster(
        {"dockercred": {".dockerconfigjson": b"{}"}}, claims={"pybuild-cache": tmp_path / "claim"}
    )
    found = list(places(manifest))
    assert len(found) > 10
    for place in found:
        changed = copy.deepcopy(manifest)
        spec = changed["spec"]["template"]["spec"] if changed["kind"] == "Job" else changed["spec"]
        inner: Any = changed
        for part in place:
            inner = inner[part]
        inner["unknownField"] = "x"
        for elsewhere in ("hostUsers", "runtimeClassName"):
            spec.pop(elsewhere, None)
        selector = spec.get("nodeSelector", {})
        selector.pop("kubernetes.io/arch", None)
        with pod_folder(tmp_path) as folder, pytest.raises(UnknownField):
            translate(changed, folder, images, cluster)
