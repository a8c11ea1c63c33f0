"""Every manifest of pod-templates/tekton/, and the catalog's own ways to use kaniko, carried out.

Replaced are the images (those of this checkout, and a Maven of this machine), the registry and the
repository; everything else is run as it stands, by the interpreter in tests/support/tekton.py, and
the results are compared with what the registry has.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support import agent, pods, tekton
from tests.support.agent_images import EVERY, AgentImages, agent_images
from tests.support.bases import directory, push_bases
from tests.support.git_server import make_repository, serving_git
from tests.support.registry import running_registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman"),
    pytest.mark.skipif(bool(agent.missing_commands()), reason="needs podman, runc, a registry"),
    pytest.mark.xdist_group("manifests"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = REPOSITORY / "pod-templates" / "tekton"
MAVEN_PROJECT = REPOSITORY / "examples" / "hello-maven"
MAVEN_IMAGE = "maven:3.9-eclipse-temurin-17"
PROJECT_FILES = {path.name for path in MAVEN_PROJECT.iterdir() if path.name != "target"}
IMAGE = "registry.example.com/pybuild/executor"
PASSWORD, TOKEN = "password-of-a-test", "token-of-a-test"
DOCKERFILE = """\
ARG BASE={host}/base/busybox:latest
FROM ${{BASE}}
ARG WHO=nobody
COPY part /srv/part
RUN --mount=type=cache,target=/root/.cache echo "$WHO $(id -u)" > /srv/made \\
    && chown 1234:1234 /srv/part
"""


def documents(*names: str) -> dict[tuple[str, str], Any]:
    """The Tasks and Pipelines of these files, by kind and name."""
    found = [yaml.safe_load((TEMPLATES / f"{name}.yaml").read_text()) for name in names]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


OBJECTS = documents("kaniko-task", "kaniko-restricted-task", "clone-task", "maven-task", "pipeline")


@dataclass(frozen=True)
class Site:
    """The registry, its password, a git server, and the interpreter with the images."""

    host: str
    git: str
    repository: Path
    runner: tekton.Runner

    def run(self, manifest: Mapping[str, Any], **changes: Any) -> tekton.Done:
        done = tekton.run(replace(self.runner, **changes), manifest)
        for pod in done.pods:
            kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        assert PASSWORD not in done.log and TOKEN not in done.log
        return done

    def fill_in(self, name: str, tag: str) -> dict[str, Any]:
        """A TaskRun with this site's registry and its own tag."""
        text = (TEMPLATES / f"{name}.yaml").read_text()
        assert "registry.example.com/team/app:1.0" in text
        text = text.replace("registry.example.com/team/app:1.0", f"{self.host}/team/app:{tag}")
        value: dict[str, Any] = yaml.safe_load(
            text.replace("registry.example.com/team/", f"{self.host}/team/")
        )
        return value

    def claim(self, name: str, files: Mapping[str, str] | None = None) -> Path:
        """The folder of a claim; with `files` it has these alone."""
        place = self.runner.cluster.claims[name]
        if files is not None:
            shutil.rmtree(place)
            place.mkdir()
        for path, text in (files or {}).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        return place

    def inspect(self, reference: str, *words: str) -> Any:
        command = ["skopeo", "inspect", "--tls-verify=false", f"--creds=builder:{PASSWORD}"]
        output = subprocess.check_output([*command, *words, f"docker://{reference}"])
        return json.loads(output)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        registry = stack.enter_context(
            running_registry(folder / "registry", users={"builder": PASSWORD})
        )
        push_bases(registry.host, ("busybox",), credentials=f"builder:{PASSWORD}")
        images = stack.enter_context(agent_images(EVERY))
        claims = {name: folder / name for name in ("source", "pybuild-cache")}
        # Maven's downloads are the machine's, as long as it stands.
        claims["maven-cache"] = directory().parent / "maven"
        for place in claims.values():
            place.mkdir(parents=True, exist_ok=True)
        (folder / "pods").mkdir()
        (folder / "git").mkdir()
        make_maven_repository(folder / "git/app", registry.host)
        git = stack.enter_context(serving_git(folder / "git", TOKEN))
        secrets = {
            "dockercred": pods.docker_config(registry.host, "builder", PASSWORD),
            "gitcred": {"token": TOKEN.encode()},
        }
        runner = tekton.Runner(
            OBJECTS, images_by_name(images), pods.Cluster(secrets, claims=claims),
            images.podman, folder / "pods",
        )  # fmt: skip
        yield Site(registry.host, git, folder / "git/app.git", runner)


def make_maven_repository(folder: Path, host: str) -> None:
    files = {
        str(path.relative_to(MAVEN_PROJECT)): path.read_text()
        for path in MAVEN_PROJECT.rglob("*")
        if path.is_file() and "target" not in path.relative_to(MAVEN_PROJECT).parts
    }
    assert "FROM ${BASE}" in files["Dockerfile"]
    files["Dockerfile"] = (
        f"ARG BASE={host}/base/busybox:latest\n" + (files["Dockerfile"].partition("\n")[2])
    )
    bare = make_repository(folder, files)
    subprocess.run(["git", "tag", "v1.0"], cwd=bare, check=True)


def images_by_name(images: AgentImages) -> dict[str, pods.Image]:
    """The builder's targets, and a Maven: this machine's, on the debug image."""
    found = {f"{IMAGE}:{name}": image for name, image in images.by_target.items()}
    mounts = ["/usr", "/etc", "/lib", "/lib64", "/bin", "/sbin", "/var/lib"]
    options = [f"--volume={path}:{path}:ro" for path in mounts if Path(path).exists()]
    options.append("--env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    settings = Path.home() / ".m2" / "settings.xml"
    if settings.is_file():
        options.append(f"--volume={settings}:/root/.m2/settings.xml:ro")
    found[MAVEN_IMAGE] = pods.Image((*options, *images.by_target["debug"].arguments))
    # What the catalog's Task writes its second result with.
    found["docker.io/library/bash:5.1.4"] = images.by_target["debug"]
    return found


def source(host: str) -> dict[str, str]:
    return {"Dockerfile": DOCKERFILE.format(host=host), "part": "part\n"}


RUNS = {"kaniko-taskrun": "namespace", "kaniko-restricted-taskrun": "rootless",
        "kaniko-cache-taskrun": "namespace"}  # fmt: skip


def told(site: Site, repository: str, tag: str) -> dict[str, bytes]:
    """The results that an image's build has to leave, from what the registry has."""
    digest = site.inspect(f"{site.host}/{repository}:{tag}")["Digest"]
    return {
        "IMAGE_DIGEST": digest.encode(),
        "IMAGE_URL": f"{site.host}/{repository}:{tag}".encode(),
        "IMAGES": f"{site.host}/{repository}@{digest}\n".encode(),
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_task_run_builds_pushes_and_tells_its_results(site: Site, name: str) -> None:
    site.claim("source", {**source(site.host), "part": f"{name}\n"})
    done = site.run(site.fill_in(name, name))
    assert done.succeeded, done.log[-3000:]
    assert len(done.steps) == 1
    assert done.results == told(site, "team/app", name)
    assert f"isolation {RUNS[name]}" in done.log
    if name == "kaniko-cache-taskrun":
        assert any(site.claim("pybuild-cache").iterdir())


def param(name: str, value: str | list[str]) -> dict[str, Any]:
    return {"name": name, "value": value}


def task_run(site: Site, *params: dict[str, Any], tag: str) -> dict[str, Any]:
    """A TaskRun without a workspace for credentials."""
    return {
        "apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"generateName": "a-"},
        "spec": {
            "taskRef": {"name": "kaniko"},
            "params": [param("IMAGE", f"{site.host}/team/other:{tag}"), *params],
            "workspaces": [
                {"name": "source", "persistentVolumeClaim": {"claimName": "source"}}
            ],
        },
    }  # fmt: skip


def config_json(site: Site) -> bytes:
    return pods.docker_config(site.host, "builder", PASSWORD)[".dockerconfigjson"]


def test_every_parameter_counts_and_credentials_may_be_the_service_accounts(site: Site) -> None:
    files = {"sub dir/its Dockerfile": source(site.host)["Dockerfile"], "sub dir/part": "p\n"}
    site.claim("source", files)
    second = f"{site.host}/team/second:two"
    run = task_run(
        site, param("DOCKERFILE", "its Dockerfile"), param("CONTEXT", "sub dir"),
        param("EXTRA_ARGS", ["--build-arg=WHO=some one; $(id)", f"--destination={second}",
                             "--label=a=b c"]),
        param("KANIKO_DIR", "/kaniko/work/below"), param("WRITER_IMAGE", "not/there:1"), tag="one",
    )  # fmt: skip
    done = site.run(run, credentials=config_json(site))
    assert done.succeeded, done.log[-3000:]
    digest = site.inspect(second)["Digest"]
    expected = told(site, "team/other", "one")
    expected["IMAGES"] += f"{site.host}/team/second@{digest}\n".encode()
    assert done.results == expected
    assert site.inspect(f"{site.host}/team/other:one")["Digest"] == digest
    assert site.inspect(second, "--config")["config"]["Labels"] == {"a": "b c"}


def test_without_credentials_it_fails_and_gives_no_result(site: Site) -> None:
    site.claim("source", source(site.host))
    done = site.run(task_run(site, tag="refused"))
    assert not done.succeeded and done.results == {}
    assert "error[" in done.log


# The catalog's Tasks as people have them, written down in short: 0.8 with a second step for the
# result, and the first ones, which looked for credentials in /tekton/home.
CATALOG = """\
kind: Task
metadata: {{name: {name}}}
spec:
  params:
    - {{name: IMAGE}}
    - {{name: DOCKERFILE, default: ./Dockerfile}}
    - {{name: CONTEXT, default: ./}}
    - {{name: EXTRA_ARGS, type: array, default: []}}
    - {{name: BUILDER_IMAGE, default: "{image}:slim"}}
    - {{name: WRITER_IMAGE, default: "docker.io/library/bash:5.1.4"}}
    - {{name: KANIKO_DIR, default: /kaniko}}
  workspaces:
    - {{name: source}}
    - {{name: dockerconfig, optional: true, mountPath: /kaniko/.docker}}
  results: [{{name: IMAGE_DIGEST}}, {{name: IMAGE_URL}}]
  steps:
    - name: build-and-push
      workingDir: $(workspaces.source.path)
      image: $(params.BUILDER_IMAGE)
      {start}
        - $(params.EXTRA_ARGS)
        - --dockerfile=$(params.DOCKERFILE)
        - --context=$(workspaces.source.path)/$(params.CONTEXT)
        - --destination=$(params.IMAGE)
        - --digest-file=$(results.IMAGE_DIGEST.path)
      env: [{variable}]
      securityContext: {{runAsUser: 0}}
    - name: write-url
      image: $(params.WRITER_IMAGE)
      script: printf %s '$(params.IMAGE)' > $(results.IMAGE_URL.path)
"""
KINDS = {
    "kaniko-dir": ("args:", "{name: KANIKO_DIR, value: $(params.KANIKO_DIR)}"),
    "build-and-push": (
        "command:\n        - /kaniko/executor",
        "{name: DOCKER_CONFIG, value: /tekton/home/.docker}",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalogs_task_runs_with_this_image(site: Site, kind: str) -> None:
    start, variable = KINDS[kind]
    text = CATALOG.format(name=kind, image=IMAGE, start=start, variable=variable)
    task = yaml.safe_load(text)
    site.claim("source", source(site.host))
    run = task_run(site, param("EXTRA_ARGS", ["--cache=true"]), tag=kind)
    run["spec"]["taskRef"]["name"] = kind
    config = config_json(site)
    if kind == "kaniko-dir":
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        secret = {"secretName": "dockercred", "items": items}
        run["spec"]["workspaces"].append({"name": "dockerconfig", "secret": secret})
        config = b""
    done = site.run(run, objects={**OBJECTS, ("Task", kind): task}, credentials=config)
    assert done.succeeded, done.log[-3000:]
    expected = told(site, "team/other", kind)
    del expected["IMAGES"]
    assert done.results == expected


@pytest.mark.skipif(shutil.which("mvn") is None, reason="needs Maven")
def test_the_pipeline_clones_tests_builds_and_pushes(site: Site) -> None:
    text = (TEMPLATES / "pipelinerun.yaml").read_text()
    text = text.replace("https://git.example.com/team", site.git)
    # What is a comment there: the private repository's token, and a volume for Maven.
    begin = text.index("    # - name: gitcred")
    text = text[:begin] + re.sub(r"^    # (?=[- ] )", "    ", text[begin:], flags=re.M)
    run = yaml.safe_load(text.replace("registry.example.com", site.host))
    run["spec"]["params"].append(param("build-args", ["--label=team=a b"]))
    site.claim("source", {"target/of-another-run.jar": "old", ".git/config": "broken"})
    done = site.run(run)
    assert done.succeeded, done.log[-3000:]
    assert [step.name for step in done.steps] == ["step-clone", "step-maven", "step-build-and-push"]
    assert "Tests run: " in done.log
    assert any(site.claim("maven-cache").iterdir())
    commit = subprocess.check_output(
        ["git", "rev-parse", "main"], cwd=site.repository, text=True
    ).strip()
    expected = told(site, "team/app", commit)
    del expected["IMAGES"]
    assert done.results == {**expected, "commit": commit.encode()}
    labels = site.inspect(f"{site.host}/team/app:{commit}")["Labels"]
    assert labels == {
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.source": f"{site.git}/app.git",
        "team": "a b",
    }


def test_a_clone_of_a_tag_with_all_commits(site: Site) -> None:
    site.claim("source", {"old": "x"})
    run = task_run(site, tag="-")
    hostile = "$(touch /workspace/output/x); `touch y`"
    for revision, status in (("v1.0", 0), (hostile, 128)):
        run["spec"] = {
            "taskRef": {"name": "clone"},
            "params": [param("url", f"{site.git}/app.git"), param("revision", revision),
                       param("depth", "0")],
            "workspaces": [
                {"name": "output", "persistentVolumeClaim": {"claimName": "source"}},
                {"name": "basic-auth", "secret": {"secretName": "gitcred"}},
            ],
        }  # fmt: skip
        done = site.run(run)
        assert [step.status for step in done.steps] == [status], done.log
        names = {path.name for path in site.claim("source").iterdir()}
        assert names == ({".git"} if status else {".git", *PROJECT_FILES})
        if not status:
            assert done.results["url"].decode() == f"{site.git}/app.git"
            assert len(done.results["commit"]) == 40


# --- the interpreter itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("$(params.IMAGE)", "$(params.IMGAE)"),
        ("$(results.IMAGE_URL.path)", "$(results.IMAGE_URI.path)"),
        ("$(workspaces.source.path)/", "$(workspaces.sources.path)/"),
        ("computeResources", "resources"),
        ("workingDir", "wrokingDir"),
    ],
)
def test_the_interpreter_refuses_what_tekton_would(old: str, new: str) -> None:
    text = (TEMPLATES / "kaniko-task.yaml").read_text()
    assert old in text
    bindings = [{"name": "source", "emptyDir": {}}]
    given = [param("IMAGE", "registry.example.com/a:1")]
    tekton.task_pod(yaml.safe_load(text), given, bindings, {})
    with pytest.raises((tekton.Undeclared, pods.UnknownField)):
        tekton.task_pod(yaml.safe_load(text.replace(old, new)), given, bindings, {})
