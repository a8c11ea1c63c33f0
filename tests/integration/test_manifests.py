"""Every manifest of pod-templates/: of the schema, without findings, and run with a real build.

Replaced are the image (the one of this checkout), the registry and the context; everything else is
run as it stands: the Secret as the kubelet mounts it, the token of a private repository, volumes,
users, capabilities, seccomp, the digest as the container's message.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support import agent, pods
from tests.support.agent_images import AgentImages, agent_images
from tests.support.bases import push_bases
from tests.support.git_server import make_repository, serving_git
from tests.support.registry import running_registry

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = REPOSITORY / "pod-templates"
FILES = sorted(
    [*(TEMPLATES / "kubernetes").glob("*.yaml"), *(TEMPLATES / "jenkins").glob("*.yaml")]
)
VERSIONS = ("1.28", "1.31", "1.34", kubernetes_validate.latest_version())
RUNGS = (
    "default", "runtime-default", "user-namespace", "restricted", "openshift", "gvisor", "kata",
    "cache-pvc", "arm64",
)  # fmt: skip
ELSEWHERE = ("user-namespace", "gvisor", "kata", "arm64")
"""What needs another node than the one that tests run on."""
RUN_HERE = tuple(rung for rung in RUNGS if rung not in ELSEWHERE)
OPENSHIFT_USER = 1_000_650_000
IMAGE = "registry.example.com/pybuild/executor"
CONTEXT = "git://git.example.com/team/app.git"
TOKEN, PASSWORD = "token-of-a-test", "password-of-a-test"
LEVELS = {"restricted": "restricted", "openshift": "restricted"}
"""The level of Pod Security that a rung's manifests are for; the others are for `baseline`."""


def short(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path) -> dict[str, Any]:
    """Jenkins fills in what a template may leave out."""
    value: dict[str, Any] = yaml.safe_load(path.read_text())
    return {"apiVersion": "v1", "kind": "Pod", **value} if path.parent.name == "jenkins" else value


def pod_check(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("pybuild")), "pod-check", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- as text ----------------------------------------------------------------------------------


def test_there_is_a_pod_and_a_job_for_every_rung() -> None:
    names = {path.stem for path in (TEMPLATES / "kubernetes").glob("*.yaml")}
    wanted = {f"{rung}-{kind}" for rung in RUNGS for kind in ("pod", "job")}
    assert names == wanted | {"dockercred", "cache-claim", "rbac-role", "rbac-binding"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=short)
def test_it_is_of_the_schema(path: Path, version: str) -> None:
    value = load(path)
    value["metadata"] = {"name": "x", **value.get("metadata", {})}  # Jenkins gives its Pods one
    kubernetes_validate.validate(value, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=short)
def test_the_schema_would_find_a_mistake(path: Path) -> None:
    value = load(path)
    value["metadata"] = {"name": "x", **value.get("metadata", {}), "lables": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(value, VERSIONS[0], strict=True)


@pytest.mark.parametrize("path", FILES, ids=short)
def test_pod_check_finds_nothing(path: Path) -> None:
    """Notes apart: what the cluster has to have is told of a manifest by itself."""
    level = next((LEVELS[rung] for rung in LEVELS if path.stem.startswith(rung)), "baseline")
    done = pod_check("--strict", f"--pod-security={level}", "--log-format=json", path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in found if one["level"] != "note"] == []
    assert done.returncode == 0, done.stderr


def test_together_they_need_what_no_file_can_make() -> None:
    files = [path for path in FILES if path.parent.name == "kubernetes"]
    done = pod_check("--log-format=json", *files)
    needs = {json.loads(line)["msg"] for line in done.stdout.splitlines() if '"needs"' in line}
    assert needs == {
        "it needs the RuntimeClass gvisor",
        "it needs the RuntimeClass kata",
        "it needs the Secret gitcred with token, if it is there",
    }


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rungs_pod_and_job_are_the_same_pod(rung: str) -> None:
    pod = load(TEMPLATES / f"kubernetes/{rung}-pod.yaml")
    job = load(TEMPLATES / f"kubernetes/{rung}-job.yaml")
    template = job["spec"]["template"]
    assert template["metadata"]["labels"] == pod["metadata"]["labels"]
    deadline = {"activeDeadlineSeconds": job["spec"]["activeDeadlineSeconds"]}  # with all its Pods
    assert template["spec"] | deadline == pod["spec"]


# --- carried out ------------------------------------------------------------------------------

DOCKERFILE = """\
ARG BASE={host}/base/busybox:latest
FROM ${{BASE}} AS build
COPY src /srv/src
RUN --mount=type=cache,target=/root/.cache echo "made by $(id -u)" > /srv/made \\
    && cat /srv/src/part >> /srv/made
FROM ${{BASE}}
COPY --from=build --chown=app /srv/made /home/app/made
RUN chown 1234:1234 /tmp && test "$(id -u)" = 0
USER app
CMD ["cat", "/home/app/made"]
"""
needs_podman = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman"),
    pytest.mark.skipif(bool(agent.missing_commands()), reason="needs podman, runc, a registry"),
    pytest.mark.xdist_group("manifests"),
]


@dataclass(frozen=True)
class Site:
    """The registry and the repository that the manifests' placeholders stand for."""

    host: str
    git: str
    images: AgentImages
    folder: Path

    @property
    def cluster(self) -> pods.Cluster:
        claim = self.folder / "claim"
        claim.mkdir(exist_ok=True)
        secrets = {
            "dockercred": pods.docker_config(self.host, "builder", PASSWORD),
            "gitcred": {"token": TOKEN.encode()},
        }
        return pods.Cluster(secrets, claims={"pybuild-cache": claim})

    def fill_in(self, path: Path, tag: str) -> dict[str, Any]:
        """The manifest with this site's registry, repository and tag."""
        text = path.read_text()
        assert CONTEXT in text and "registry.example.com/team/app:1.0" in text
        text = text.replace("registry.example.com/team/app:1.0", f"{self.host}/team/app:{tag}")
        text = text.replace("registry.example.com/team/", f"{self.host}/team/")
        value: dict[str, Any] = yaml.safe_load(text.replace(CONTEXT, f"{self.git}/app.git"))
        return value

    def run(self, manifest: dict[str, Any], cluster: pods.Cluster) -> list[pods.Ended]:
        images = {f"{IMAGE}:{name}": image for name, image in self.images.by_target.items()}
        return pods.run(manifest, self.folder, images, cluster, self.images.podman)

    def digest_of(self, tag: str) -> str:
        command = ["skopeo", "inspect", "--tls-verify=false", f"--creds=builder:{PASSWORD}"]
        command += ["--format={{.Digest}}", f"docker://{self.host}/team/app:{tag}"]
        return subprocess.check_output(command, text=True).strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        registry = stack.enter_context(
            running_registry(folder / "registry", users={"builder": PASSWORD})
        )
        push_bases(registry.host, ("busybox",), credentials=f"builder:{PASSWORD}")
        files = {"Dockerfile": DOCKERFILE.format(host=registry.host), "src/part": "part\n"}
        (folder / "git").mkdir()
        make_repository(folder / "git/app", files)
        git = stack.enter_context(serving_git(folder / "git", TOKEN))
        yield Site(registry.host, git, stack.enter_context(agent_images()), folder)


@pytest.mark.parametrize("kind", ["pod", "job"])
@pytest.mark.parametrize("rung", RUN_HERE)
class TestRun:
    pytestmark = needs_podman

    def test_it_builds_and_pushes(self, site: Site, rung: str, kind: str) -> None:
        tag = f"{rung}-{kind}"
        manifest = site.fill_in(TEMPLATES / f"kubernetes/{tag}.yaml", tag)
        cluster = site.cluster
        if rung == "openshift":
            cluster = pods.Cluster(cluster.secrets, claims=cluster.claims,
                                   random_user=OPENSHIFT_USER)  # fmt: skip
        (ended,) = site.run(manifest, cluster)
        assert ended.status == 0, ended.err[-3000:]
        assert ended.message == site.digest_of(tag)
        assert PASSWORD not in ended.err + ended.out and TOKEN not in ended.err + ended.out


@pytest.mark.parametrize("rung", ELSEWHERE)
def test_what_needs_another_node_is_known_to(rung: str, tmp_path: Path) -> None:
    """But for that, the translator knows every field of it."""
    for kind in ("pod", "job"):
        manifest = load(TEMPLATES / f"kubernetes/{rung}-{kind}.yaml")
        secrets = {"dockercred": {".dockerconfigjson": b"{}"}}
        images = {f"{IMAGE}:{tag}": pods.Image(("none",)) for tag in ("slim", "slim-arm64")}
        with pods.pod_folder(tmp_path) as folder, pytest.raises(pods.NotHere):
            pods.translate(manifest, folder, images, pods.Cluster(secrets))
        elsewhere = copy.deepcopy(manifest)
        pod = elsewhere["spec"]["template"] if kind == "job" else elsewhere
        for name in ("hostUsers", "runtimeClassName", "nodeSelector"):
            pod["spec"].pop(name, None)
        with pods.pod_folder(tmp_path) as folder:
            assert len(pods.translate(elsewhere, folder, images, pods.Cluster(secrets))) == 1
