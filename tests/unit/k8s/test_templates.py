"""Manifests with one's values in them: valid, complete, and otherwise as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes import client

from pybuild.cli.flags.k8s import RUNGS as FLAG_RUNGS
from pybuild.k8s.jobs import RUNGS, probe_pod
from pybuild.k8s.templates import Values, load, render, template_text, templates_folder

FOLDER = Path(__file__).parents[3] / "pod-templates"
FILES = sorted((FOLDER / "kubernetes").glob("*.yaml"))
VALUES = Values(
    image="r.example.org/build/pybuild",
    context="https://git.example.org/a.git#refs/heads/yes: #no",
    destinations=("r.example.org/a/b:2", "r.example.org/a/b:latest"),
    dockerfile="docker/Dockerfile",
    cache_repo="r.example.org/a/cache",
    secret="push",
    git_secret="git",
    claim="disk",
    memory="400Mi",
    cpu="2",
    storage="8Gi",
    name="b",
    flags=("--build-arg=A='b' \"c\" # d: e", "--label=x={y}"),
)
MODELS = {"Pod": "V1Pod", "Job": "V1Job", "Secret": "V1Secret", "Role": "V1Role",
          "RoleBinding": "V1RoleBinding",
          "PersistentVolumeClaim": "V1PersistentVolumeClaim"}  # fmt: skip


def test_the_folder_of_a_checkout_is_found() -> None:
    assert templates_folder() == FOLDER
    assert RUNGS == FLAG_RUNGS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEach:
    def test_without_values_it_is_the_file(self, path: Path) -> None:
        assert render(path.read_text(), Values()) == path.read_text()

    @pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
    def test_with_values_it_is_of_the_schema(self, path: Path, version: str) -> None:
        value = load(render(path.read_text(), VALUES))
        value["metadata"] = {"name": "x", **value["metadata"]}
        kubernetes_validate.validate(value, version, strict=True)

    def test_no_placeholder_and_no_comment_is_lost(self, path: Path) -> None:
        old, new = path.read_text(), render(path.read_text(), VALUES)
        assert "registry.example.com" not in json.dumps(load(new))
        for line in old.splitlines():
            if line.lstrip().startswith("#"):
                assert line in new.splitlines()

    def test_values_are_where_they_belong(self, path: Path) -> None:
        value = load(render(path.read_text(), VALUES))
        spec = value.get("spec", {})
        pod = spec.get("template", {}).get("spec", spec)
        if "containers" not in pod:
            return
        (one,) = pod["containers"]
        args = one["args"]
        assert f"--context={VALUES.context}" in args and "--dockerfile=docker/Dockerfile" in args
        at = args.index("--destination=r.example.org/a/b:2")
        assert args[at : at + 4] == [
            "--destination=r.example.org/a/b:2", "--destination=r.example.org/a/b:latest",
            *VALUES.flags,
        ]  # fmt: skip
        assert one["image"].startswith("r.example.org/build/pybuild:")
        assert one["resources"]["limits"]["memory"] == "400Mi"
        assert one["resources"]["requests"]["memory"] == "400Mi", "no request over its limit"
        secrets = [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]
        assert secrets == ["push"]
        assert json.dumps(value).count("8Gi") == 1

    def test_the_clients_models_lose_no_field(self, path: Path) -> None:
        value = load(path.read_text())
        assert round_trip(value, MODELS[value["kind"]]) == value


def round_trip(item: dict[str, Any], model: str) -> Any:
    api = client.ApiClient()
    value = api.deserialize(json.dumps(item), model, "application/json")
    return api.sanitize_for_serialization(value)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_probe_needs_nothing_of_the_namespace(rung: str) -> None:
    pod = probe_pod(template_text(FOLDER, f"kubernetes/{rung}-pod"), "probe", "")
    kubernetes_validate.validate(pod, "1.34", strict=True)
    text = yaml.safe_dump(pod)
    assert "secret" not in text.lower() and "Claim" not in text
    assert round_trip(pod, "V1Pod") == pod
