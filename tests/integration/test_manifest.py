"""`pybuild manifest create`: images of several platforms under one name, wherever they are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.image.manifest import Index, parse_manifest
from pybuild.image.media_type import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX
from tests.support import fake_registry
from tests.support.fake_registry import FakeRegistry
from tests.support.images import add_image

PYBUILD = Path(sys.executable).with_name("pybuild")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry.running() as running:
        yield running


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    with fake_registry.running() as running:
        yield running


def create(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        [str(PYBUILD), "manifest", "create", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def image(registry: FakeRegistry, repository: str, architecture: str) -> str:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(architecture))
    config = {"architecture": architecture}
    return add_image(registry, repository, [layer.getvalue()], tag=architecture, config=config)


def index_at(registry: FakeRegistry, repository: str, tag: str) -> Index:
    media_type, raw = registry.manifests[repository][tag]
    found = parse_manifest(raw, media_type)
    assert isinstance(found, Index)
    return found


def platforms(index: Index) -> list[str]:
    return [str(entry.platform) for entry in index.manifests]


def test_images_of_one_repository(registry: FakeRegistry, tmp_path: Path) -> None:
    names = [image(registry, "app", "amd64"), image(registry, "app", "arm64")]
    host = registry.host
    done = create(
        f"--tag={host}/app:1",
        f"-t={host}/app:latest",
        "--annotation=a=b",
        f"--digest-file={tmp_path}/digest",
        "-q",
        *names,
    )
    assert done.returncode == 0, done.stderr
    index = index_at(registry, "app", "1")
    assert index.media_type == OCI_INDEX and platforms(index) == ["linux/amd64", "linux/arm64"]
    assert index_at(registry, "app", "latest").digest == index.digest
    assert dict(index.annotations) == {"a": "b"}
    assert done.stdout == f"{index.digest}\n" == (tmp_path / "digest").read_text() + "\n"


def test_images_are_brought_from_other_registries_and_repositories(
    registry: FakeRegistry, other: FakeRegistry
) -> None:
    names = [image(other, "far/app", "arm64"), image(registry, "near/app", "amd64")]
    done = create(f"--tag={registry.host}/app:1", *names)
    assert done.returncode == 0, done.stderr
    index = index_at(registry, "app", "1")
    assert platforms(index) == ["linux/arm64", "linux/amd64"]
    for entry in index.manifests:
        held = json.loads(registry.manifests["app"][entry.digest][1])
        for blob in (held["config"], *held["layers"]):
            assert blob["digest"] in registry.blobs["app"]
    # what the registry had was mounted: only the far image's layer and config came as bytes
    assert registry.count("PUT", "/app/blobs/uploads/") == 2


def test_an_index_is_taken_apart_and_one_image_named_twice_is_one(registry: FakeRegistry) -> None:
    first, second = image(registry, "app", "amd64"), image(registry, "app", "arm64")
    assert create(f"--tag={registry.host}/app:two", first, second).returncode == 0
    third = image(registry, "app", "s390x")
    done = create(f"--tag={registry.host}/app:three", f"{registry.host}/app:two", first, third)
    assert done.returncode == 0, done.stderr
    found = platforms(index_at(registry, "app", "three"))
    assert found == ["linux/amd64", "linux/arm64", "linux/s390x"]


def test_docker_s_images_stay_docker_s(registry: FakeRegistry) -> None:
    kind = {"mediaType": DOCKER_MANIFEST}
    layer = b"\0" * 1024
    name = add_image(registry, "app", [layer], tag="d", manifest=kind)
    assert create(f"--tag={registry.host}/app:1", name).returncode == 0
    assert index_at(registry, "app", "1").media_type == DOCKER_LIST


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param([], "no-destination", "needs a name", id="no name"),
        pytest.param(["--tag=HOST/app:1"], "unexpected-argument", "needs images", id="no image"),
        pytest.param(["--tag=HOST/app:1", "HOST/app:no"], "manifest-unknown", "app:no",
                     id="missing"),
        pytest.param(["--tag=HOST/app:1", "HOST/app:amd64", "HOST/again:amd64"], "platforms-clash",
                     "both for linux/amd64", id="two of one platform"),
        pytest.param(["--tag=HOST/app:1", "--colour", "x"], "unknown-option", "--col", id="flag"),
    ],
)  # fmt: skip
def test_mistakes(registry: FakeRegistry, words: list[str], code: str, text: str) -> None:
    image(registry, "app", "amd64")
    layer = b"\0" * 10240
    config = {"architecture": "amd64"}
    add_image(registry, "again", [layer], tag="amd64", config=config)
    done = create(*(word.replace("HOST", registry.host) for word in words))
    assert done.returncode == 1 and f"error[{code}]" in done.stderr, done.stderr
    assert text in done.stderr and "1" not in registry.manifests["app"]


def test_manifest_has_one_command() -> None:
    words = [str(PYBUILD), "manifest", "inspect"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "error[unknown-command]" in done.stderr
