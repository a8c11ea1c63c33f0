"""What a newcomer relies on: the layout, the commands of the README, the locks, the Pod's YAML."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
TEMPLATES = sorted((REPOSITORY / "pod-templates/jenkins").glob("*.yaml"))
KUBERNETES = ("1.28", "1.31", "1.34", kubernetes_validate.latest_version())
LOCKS = ("requirements.lock", "requirements-dev.lock")


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text()


def source_files() -> list[Path]:
    """What is, or is about to be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for name in names.stdout.split("\n") if (path := REPOSITORY / name).is_file()]


# --- layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "vars/kanikoBuild.groovy",
        "vars/kanikoBuild.txt",
        "pybuild/cli",
        "pod-templates/jenkins/maven-kaniko.yaml",
        "tests",
        "Jenkinsfile.example",
        "README.md",
        "pyproject.toml",
        "Makefile",
        ".ci/run",
        "docs/jenkins.md",
        "examples/hello-maven/Dockerfile",
    ],
)
def test_what_the_top_level_promises_is_there(name: str) -> None:
    assert (REPOSITORY / name).exists()


def test_the_whole_check_is_make_test_and_nothing_else() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if "make" in line] == lines[-1:]
    assert re.search(r"\bmake\b.* test\b", lines[-1])


def test_no_file_of_a_case_or_an_example_is_kept_out_of_git() -> None:
    command = [
        "git",
        "ls-files",
        "--others",
        "--ignored",
        "--exclude-standard",
        "tests",
        "examples",
    ]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    made = re.compile(r"__pycache__/|^tests/groovy/target/|^examples/hello-maven/target/")
    assert [name for name in names.stdout.splitlines() if not made.search(name)] == []


UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")


def test_nothing_is_left_for_later() -> None:
    written = {".py", ".groovy", ".sh", ".md", ".yaml", ".toml"}
    for path in source_files():
        if path.suffix in written and path != Path(__file__):
            found = UNFINISHED.search(path.read_text())
            assert not found, f"{path}: {found and found[0]}"


def test_no_path_of_a_developers_machine() -> None:
    here = str(Path(__file__).parent.parent).encode()
    for path in source_files():
        if path != Path(__file__) and path.stat().st_size < 1_000_000:
            content = path.read_bytes()
            for word in (here, b"/root/.pyenv", b"/home/runner"):
                assert word not in content, path


# --- README and Makefile ----------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.M))


def test_every_make_command_that_is_written_about_exists() -> None:
    for name in ("README.md", "docs/jenkins.md", "pyproject.toml", ".ci/run", ".ci/setup"):
        for command in re.findall(r"^\s*make ([a-z-]+)\b|`make ([a-z-]+)\b", text_of(name), re.M):
            assert (command[0] or command[1]) in targets(), name


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", text_of("README.md"))
    assert links
    for link in links:
        assert link.startswith("https://") or (REPOSITORY / link).exists(), link


def test_the_readmes_jenkinsfile_is_the_example() -> None:
    blocks = re.findall(r"```groovy\n(.*?)```", text_of("README.md"), re.S)
    assert blocks == [text_of("Jenkinsfile.example")]


# --- locks ------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, int]:
    """Package: number of hashes."""
    found = {}
    for block in re.split(r"\n(?=[a-z0-9])", text_of(name)):
        match = re.match(r"([a-z0-9._-]+)==", block)
        if match:
            found[match[1]] = block.count("--hash=sha256:")
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_names_no_index(name: str) -> None:
    assert locked(name)
    assert all(locked(name).values())
    assert not re.search(r"://|^--(index|extra|find)", text_of(name), re.M)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~; \[]", line)[0].lower() for line in requirements}

    extras = project["optional-dependencies"]
    needed = names(project["dependencies"])
    assert needed <= set(locked("requirements.lock"))
    everything = needed.union(*(names(extra) for extra in extras.values()))
    assert everything <= set(locked("requirements-dev.lock"))


# --- Pod templates ----------------------------------------------------------------------------


def pod(path: Path) -> dict[str, Any]:
    """The template; Jenkins gives the name, which the schema wants."""
    template: dict[str, Any] = yaml.safe_load(path.read_text())
    return {**template, "metadata": {"name": "x", **template.get("metadata", {})}}


def containers(path: Path) -> dict[str, dict[str, Any]]:
    return {container["name"]: container for container in pod(path)["spec"]["containers"]}


def amount(quantity: str) -> float:
    """A Kubernetes quantity as a number; refuses what no cluster would take."""
    match = re.fullmatch(r"([0-9.]+)(m|[kMGT]i?|)", str(quantity))
    assert match, f"{quantity!r} is no quantity"
    units = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    binary = {"Ki": 2**10, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(match[1]) * {**units, **binary}[match[2]]


@pytest.fixture(params=TEMPLATES, ids=lambda path: str(path.stem))
def template(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_pod_is_of_the_schema(template: Path, version: str) -> None:
    kubernetes_validate.validate(pod(template), version, strict=True)


def test_the_schema_would_find_a_mistake(template: Path) -> None:
    wrong = pod(template)
    wrong["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_every_mount_has_its_volume(template: Path) -> None:
    volumes = {volume["name"] for volume in pod(template)["spec"]["volumes"]}
    mounts = {
        mount["name"]
        for container in containers(template).values()
        for mount in container.get("volumeMounts", ())
    }
    assert mounts == volumes


def test_what_is_asked_for_is_at_most_the_limit(template: Path) -> None:
    for name, container in containers(template).items():
        limits = container["resources"].get("limits", {})
        for what, quantity in container["resources"]["requests"].items():
            assert amount(quantity) <= amount(limits.get(what, quantity)), (name, what)


def test_containers_that_jenkins_enters_idle_without_a_terminal(template: Path) -> None:
    for name, container in containers(template).items():
        if name != "jnlp":
            assert container["command"] == ["sleep"], name
            assert container["args"] == ["99d"], name
            assert "workingDir" not in container, "it would be another path than the agent's"


RUNG_OF = {"maven-kaniko": "default", "builder-only": "default"}


def test_it_is_as_confined_as_the_same_rung_without_jenkins(template: Path) -> None:
    """Two groups apart: the workspace belongs to the agent's, which restricted Pods have anyway."""
    rung = RUNG_OF.get(template.stem, template.stem)
    other = pod(REPOSITORY / f"pod-templates/kubernetes/{rung}-pod.yaml")["spec"]
    mine = pod(template)["spec"]
    assert mine["containers"][-1]["name"] == other["containers"][0]["name"] == "kaniko"
    builder, plain = mine["containers"][-1], other["containers"][0]
    assert builder["securityContext"] == plain["securityContext"]
    for name in ("hostUsers", "runtimeClassName", "tolerations"):
        assert mine.get(name) == other.get(name)
    wanted = other.get("securityContext", {})
    if rung != "openshift":
        wanted = {"fsGroup": 1000, **wanted}
    assert mine["securityContext"] == wanted
    assert {"kubernetes.io/os": "linux"} | other.get("nodeSelector", {}) == mine["nodeSelector"]
    tag = plain["image"].rpartition(":")[2]
    assert builder["image"].rpartition(":")[2] == tag.replace("slim", "debug")  # Jenkins needs sh
    for one in mine["containers"][:-1]:
        assert one["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_builder_finds_its_credentials(template: Path) -> None:
    builder = containers(template)["kaniko"]
    secrets = [volume for volume in pod(template)["spec"]["volumes"] if "secret" in volume]
    (secret,) = secrets
    assert secret["secret"].pop("defaultMode", 0o440) == 0o440
    assert secret == {
        "name": "dockercred",
        "secret": {
            "secretName": "dockercred",
            "items": [{"key": ".dockerconfigjson", "path": "config.json"}],
        },
    }
    mounted = {mount["name"]: mount for mount in builder["volumeMounts"]}["dockercred"]
    assert mounted["readOnly"]
    environment = {variable["name"]: variable["value"] for variable in builder["env"]}
    assert environment["DOCKER_CONFIG"] == mounted["mountPath"] == "/kaniko/.docker"


def test_the_builder_works_on_a_volume(template: Path) -> None:
    builder = containers(template)["kaniko"]
    environment = {variable["name"]: variable["value"] for variable in builder["env"]}
    volumes = {
        volume["name"] for volume in pod(template)["spec"]["volumes"] if "emptyDir" in volume
    }
    places = {mount["mountPath"] for mount in builder["volumeMounts"] if mount["name"] in volumes}
    assert environment["KANIKO_DIR"] in places


def test_only_the_builder_sees_the_credentials(template: Path) -> None:
    for name, container in containers(template).items():
        mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert ("dockercred" in mounts) == (name == "kaniko"), name
