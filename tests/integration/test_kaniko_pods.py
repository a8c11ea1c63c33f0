"""The published ways to run kaniko, as they are written: only the image's name is ours, and what
they leave to fill in (registry, tag, claim) is filled in. Each has a registry that wants a
password, in a Pod without a seccomp profile (`namespace`) and in one with RuntimeDefault
(`takeover`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import agent, pods
from tests.support.agent_images import AgentImages, agent_images
from tests.support.bases import push_bases
from tests.support.bundle import Pod
from tests.support.registry import running_registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman"),
    pytest.mark.skipif(bool(agent.missing_commands()), reason="needs podman, runc, a registry"),
    pytest.mark.xdist_group("kaniko-pods"),
]
PASSWORD = "password-of-a-test"
WORKSPACE = "/home/jenkins/agent/workspace/app"
PROFILES = {"default": {}, "runtime-default": {"seccompProfile": {"type": "RuntimeDefault"}}}

# From kaniko's README ("Pushing to different registries") and its tutorial.
TUTORIAL_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: kaniko
spec:
  containers:
    - name: kaniko
      image: gcr.io/kaniko-project/executor:latest
      args:
        - "--dockerfile=/workspace/dockerfile"
        - "--context=dir://workspace"
        - "--destination=<user-name>/<repo>"
      volumeMounts:
        - name: kaniko-secret
          mountPath: /kaniko/.docker
        - name: dockerfile-storage
          mountPath: /workspace
  restartPolicy: Never
  volumes:
    - name: kaniko-secret
      secret:
        secretName: dockercred
        items:
          - key: .dockerconfigjson
            path: config.json
    - name: dockerfile-storage
      persistentVolumeClaim:
        claimName: dockerfile-claim
"""
CONFIG_MAP_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: kaniko
spec:
  containers:
    - name: kaniko
      image: gcr.io/kaniko-project/executor:latest
      args:
        - "--dockerfile=dockerfile"
        - "--context=dir:///workspace/"
        - "--destination=<user-name>/<repo>"
      volumeMounts:
        - name: docker-config
          mountPath: /kaniko/.docker/
        - name: dockerfile-storage
          mountPath: /workspace
  restartPolicy: Never
  volumes:
    - name: docker-config
      configMap:
        name: docker-config
    - name: dockerfile-storage
      persistentVolumeClaim:
        claimName: dockerfile-claim
"""
# Tekton's tutorial.
TASK = """\
apiVersion: tekton.dev/v1beta1
kind: Task
metadata:
  name: build-and-push
spec:
  params:
    - name: pathToDockerFile
      default: $(workspaces.source.path)/dockerfile
    - name: pathToContext
      default: $(workspaces.source.path)
    - name: image
  workspaces:
    - name: source
  steps:
    - name: build-and-push
      image: gcr.io/kaniko-project/executor:v1.5.1
      # specifying DOCKER_CONFIG is required to allow kaniko to detect docker credential
      env:
        - name: "DOCKER_CONFIG"
          value: "/tekton/home/.docker/"
      command:
        - /kaniko/executor
      args:
        - --dockerfile=$(params.pathToDockerFile)
        - --destination=$(params.image)
        - --context=$(params.pathToContext)
"""
DOCKERFILE = """\
FROM {host}/base/busybox AS build
COPY greeting /src/
RUN mkdir /out && cat /src/greeting > /out/app && id -u >> /out/app
FROM {host}/base/busybox
COPY --from=build /out/app /app
RUN chmod 0711 /app
"""


@dataclass(frozen=True)
class Site:
    host: str
    images: AgentImages
    folder: Path

    def project(self, name: str, dockerfile: str = "dockerfile") -> Path:
        """A folder with a Dockerfile and what it copies; the tutorials call the file so."""
        folder = self.folder / name
        folder.mkdir()
        (folder / dockerfile).write_text(DOCKERFILE.format(host=self.host))
        (folder / "greeting").write_text("hello\n")
        return folder

    def run(self, manifest: dict[str, Any], claims: dict[str, Path]) -> pods.Ended:
        secret = pods.docker_config(self.host, "builder", PASSWORD)
        config = {"config.json": secret[".dockerconfigjson"]}
        cluster = pods.Cluster({"dockercred": secret}, {"docker-config": config}, claims)
        names = ("gcr.io/kaniko-project/executor:latest", "gcr.io/kaniko-project/executor:v1.5.1")
        images = dict.fromkeys(names, self.images.by_target["slim"])
        (ended,) = pods.run(manifest, self.folder, images, cluster, self.images.podman)
        return ended

    def holds(self, tag: str) -> bool:
        """Whether the image was pushed, with the right files in it."""
        command = ["skopeo", "inspect", "--config", "--tls-verify=false",
                   f"--creds=builder:{PASSWORD}", f"docker://{self.host}/{tag}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        history = json.loads(done.stdout or "{}").get("history", [])
        return any("chmod 0711 /app" in line["created_by"] for line in history)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        users = {"builder": PASSWORD}
        registry = stack.enter_context(running_registry(folder / "registry", users=users))
        push_bases(registry.host, ("busybox",), credentials=f"builder:{PASSWORD}")
        yield Site(registry.host, stack.enter_context(agent_images(("slim", "debug"))), folder)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("text", [TUTORIAL_POD, CONFIG_MAP_POD], ids=["secret", "config map"])
def test_the_pod(site: Site, text: str, profile: str, request: pytest.FixtureRequest) -> None:
    tag = f"pod/{request.node.callspec.id.replace(' ', '-')}"
    manifest = yaml.safe_load(text.replace("<user-name>/<repo>", f"{site.host}/{tag}"))
    manifest["spec"]["securityContext"] = PROFILES[profile]
    project = site.project(tag.replace("/", "-"))
    ended = site.run(manifest, {"dockerfile-claim": project})
    assert ended.status == 0, ended.err
    assert site.holds(tag), ended.err
    assert sorted(path.name for path in project.iterdir()) == ["dockerfile", "greeting"]
    assert ("takeover" in ended.err) == (profile == "runtime-default")
    assert PASSWORD not in ended.out + ended.err


def pod_of_task(task: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """The Pod that Tekton makes of a Task of one step: values filled in, the workspace and Tekton's
    own folders as volumes, HOME and the working folder as Tekton sets them."""
    spec = task["spec"]
    found = {f"params.{one['name']}": one.get("default", "") for one in spec["params"]}
    found |= {f"params.{name}": value for name, value in values.items()}
    found |= {f"workspaces.{one['name']}.path": f"/workspace/{one['name']}"
              for one in spec["workspaces"]}  # fmt: skip

    def fill_in(value: Any) -> Any:
        if isinstance(value, list):
            return [fill_in(item) for item in value]
        if isinstance(value, dict):
            return {key: fill_in(item) for key, item in value.items()}
        for _ in range(2):  # a parameter's default may name a workspace
            for name, text in found.items():
                value = value.replace(f"$({name})", text)
        return value

    (step,) = fill_in(spec["steps"])
    step["env"] = [{"name": "HOME", "value": "/tekton/home"}, *step["env"]]
    mounts = {"home": "/tekton/home", "source": "/workspace/source", "results": "/tekton/results",
              "steps": "/tekton/steps", "workspace": "/workspace"}  # fmt: skip
    step["volumeMounts"] = [{"name": name, "mountPath": path} for name, path in mounts.items()]
    step["workingDir"] = "/workspace"
    volumes: list[dict[str, Any]] = [
        {"name": name, "emptyDir": {}} for name in ("results", "steps", "workspace")
    ]
    claims = {"home": "tekton-home", "source": "source"}
    volumes += [{"name": name, "persistentVolumeClaim": {"claimName": claim}}
                for name, claim in claims.items()]  # fmt: skip
    spec = {"restartPolicy": "Never", "containers": [step], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "spec": spec}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_tekton_task(site: Site, profile: str) -> None:
    tag = f"tekton/{profile}"
    manifest = pod_of_task(yaml.safe_load(TASK), {"image": f"{site.host}/{tag}:1"})
    manifest["spec"]["securityContext"] = PROFILES[profile]
    project = site.project(f"tekton-{profile}")
    home = site.folder / f"tekton-home-{profile}"
    (home / ".docker").mkdir(parents=True)
    secret = pods.docker_config(site.host, "builder", PASSWORD)[".dockerconfigjson"]
    (home / ".docker/config.json").write_bytes(secret)  # what Tekton's entrypoint writes there
    ended = site.run(manifest, {"tekton-home": home, "source": project})
    assert ended.status == 0, ended.err
    assert site.holds(f"{tag}:1"), ended.err


@pytest.mark.parametrize("pod", [Pod.DEFAULT, Pod.RUNTIME_DEFAULT], ids=lambda pod: pod.name)
def test_the_jenkins_pod(site: Site, pod: Pod) -> None:
    """``sh '/kaniko/executor --context `pwd` --destination …'`` in a container that waits."""
    name = f"jenkins-{pod.name.lower().replace('_', '-')}"
    workspace = site.project(name, "Dockerfile")
    with pods.pod_folder(site.folder) as folder, waiting(site, name, pod, workspace, folder) as sh:
        first = sh(f"/kaniko/executor --context `pwd` --destination {site.host}/{name}:1")
        assert first.returncode == 0, first.stderr
        assert site.holds(f"{name}:1"), first.stderr
        again = sh(f"/kaniko/executor -f `pwd`/Dockerfile -c `pwd` --cache=true "
                   f"--destination={site.host}/{name}:2 --cleanup")  # fmt: skip
        assert again.returncode == 0, again.stderr
        assert site.holds(f"{name}:2")
        failing = sh("printf 'FROM scratch\\nCOPY none /\\n' > F; /kaniko/executor -f F -c `pwd` "
                     "--no-push")  # fmt: skip
        assert failing.returncode == 1 and "error[copy-source-missing]" in failing.stderr
        left = sh("ls / /kaniko/.docker; pwd").stdout.split()
        assert "app" not in left and {"busybox", "kaniko", "config.json"} <= set(left)


Shell = Callable[[str], subprocess.CompletedProcess[str]]


@contextmanager
def waiting(site: Site, name: str, pod: Pod, workspace: Path, folder: Path) -> Iterator[Shell]:
    """A container of the debug image that sleeps, as Jenkins' Pods have it; gives what runs a
    script in it, in the workspace."""
    config = pods.docker_config(site.host, "builder", PASSWORD)[".dockerconfigjson"]
    secret = pods.lay_out_files(folder / "secret", {"config.json": (config, 0o644)}, None)
    reference = site.images.by_target["debug"].arguments[-1]
    podman = list(site.images.podman)
    run = ["run", "--rm", "--detach", f"--name={name}", "--net=host", "--tty", *pod.value]
    run += ["--timeout=110", "--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000"]
    run += [f"--volume={workspace}:{WORKSPACE}", f"--volume={secret}:/kaniko/.docker:ro"]
    run += ["--entrypoint=/busybox/sleep", reference, "999999"]
    started = subprocess.run([*podman, *run], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr

    def sh(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*podman, "exec", f"--workdir={WORKSPACE}", name, "sh", "-c", script],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    try:
        yield sh
    finally:
        remove = [*podman, "rm", "--force", "--time=0", name]
        subprocess.run(remove, capture_output=True, check=False)
