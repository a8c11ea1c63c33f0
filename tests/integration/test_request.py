"""`pybuild request FILE` as the Jenkins step runs it: what it leaves beside the request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import is_available, running_registry

PYBUILD = Path(sys.executable).with_name("pybuild")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY a /a\n")
    (folder / "a").write_text("hello\n")
    (tmp_path / "hello@tmp").mkdir()
    return folder


def request(workspace: Path, **arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, result, and what was shown."""
    file = workspace.with_name("hello@tmp") / "request.json"
    file.write_text(json.dumps({"schema": 1, "push": False, **arguments}))
    done = subprocess.run(
        [str(PYBUILD), "request", str(file)],
        cwd=workspace,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    result = json.loads(file.with_name("result.json").read_text())
    assert isinstance(result, dict)
    return done.returncode, result, done.stdout + done.stderr


def test_a_build(workspace: Path) -> None:
    output = {"type": "tar", "path": "out.tar"}
    status, result, _shown = request(workspace, destinations=["r.example/a:1"], output=output)
    assert status == 0
    assert result["digest"].startswith("sha256:")
    assert (result["pushed"], result["layers"], result["imageRef"]) == (False, 1, "")
    assert (workspace / "out.tar").exists()


def test_a_dry_run_shows_the_plan_and_writes_nothing_else(workspace: Path) -> None:
    output = {"type": "tar", "path": "out.tar"}
    status, result, shown = request(workspace, dryRun=True, output=output)
    assert (status, result) == (0, {"schema": 1})
    assert "COPY a /a" in shown
    assert sorted(path.name for path in workspace.iterdir()) == ["Dockerfile", "a"]


@pytest.mark.parametrize("dry", [False, True], ids=["build", "plan"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param({"cach": True}, "bad-request", id="unknown option"),
        pytest.param({"dockerfile": "none"}, "dockerfile-missing", id="no Dockerfile"),
        pytest.param({"target": "none"}, "unknown-target", id="no such target"),
    ],
)
def test_a_failure_is_in_the_result(
    workspace: Path, arguments: dict[str, object], code: str, dry: bool
) -> None:
    status, result, _shown = request(workspace, dryRun=dry, **arguments)
    assert status == 1
    assert result["error"]["code"] == code
    assert result["error"]["message"]


def test_a_failing_run_keeps_its_place_and_status(workspace: Path) -> None:
    (workspace / "Dockerfile").write_text('FROM scratch\nRUN ["/none"]\n')
    status, result, _shown = request(workspace)
    assert status == result["error"]["exitStatus"] != 0
    assert (result["error"]["file"], result["error"]["line"]) == ("Dockerfile", 2)


def test_the_reports_lie_in_their_folder(workspace: Path) -> None:
    reports = workspace.with_name("hello@tmp") / "reports/kaniko/app"
    status, result, shown = request(
        workspace, image="r.example/app", tags=["1"], reports=str(reports), sbom="spdx",
        provenance=True, invocation="https://jenkins.example/7", buildArgs={"TOKEN": "hunter2"},
    )  # fmt: skip
    assert status == 0, shown
    assert result["reports"] == {
        "sbom": "sbom.spdx.json", "provenance": "provenance.json", "report": "report.html",
    }  # fmt: skip
    assert all((reports / name).exists() for name in result["reports"].values())
    statement = json.loads((reports / "provenance.json").read_text())
    digest = result["digest"].removeprefix("sha256:")
    assert statement["subject"] == [{"name": "r.example/app", "digest": {"sha256": digest}}]
    assert statement["predicate"]["runDetails"]["metadata"]["invocationId"].endswith("/7")
    assert "hunter2" not in json.dumps(statement)
    assert (result["image"], result["tags"], result["imageRef"]) == ("r.example/app", ["1"], "")


def test_the_checked_out_commit_gives_labels_and_the_time(workspace: Path) -> None:
    date = {"GIT_AUTHOR_DATE": "@1700000000 +0000", "GIT_COMMITTER_DATE": "@1700000000 +0000"}
    own = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"],
                  ["remote", "add", "origin", "https://u:hunter2@git.example/a.git"]):  # fmt: skip
        subprocess.run([*own, *words], cwd=workspace, check=True, env={**os.environ, **date})
    revision = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=workspace, text=True)
    asked: dict[str, object] = {"ociLabels": {"version": "1"}, "sourceDateEpoch": "commit"}
    status, result, _shown = request(workspace, **asked, output={"type": "oci", "path": "../out"})
    assert status == 0
    assert result["labels"] == {
        "org.opencontainers.image.source": "https://git.example/a.git",
        "org.opencontainers.image.revision": revision.strip(),
        "org.opencontainers.image.version": "1",
    }
    assert request(workspace, **asked)[1]["digest"] == result["digest"]
    shutil.rmtree(workspace / ".git")
    assert request(workspace, **asked)[1]["error"]["code"] == "bad-request"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not is_available():
        pytest.skip("needs docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with running_registry(folder, users={"builder": "hunter2"}) as running:
        yield running.host


def test_built_now_pushed_later_then_named_together(
    workspace: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With credentials that are in variables only: three requests, one digest."""
    monkeypatch.setenv("THE_USER", "builder")
    monkeypatch.setenv("THE_PASSWORD", "hunter2")
    monkeypatch.setenv("DOCKER_CONFIG", str(workspace))
    login = {"url": registry, "usernameEnv": "THE_USER", "passwordEnv": "THE_PASSWORD"}
    layout = str(workspace.with_name("layout"))
    status, built, _shown = request(workspace, output={"type": "oci", "path": layout})
    assert status == 0
    where = {"image": f"{registry}/team/app", "push": None, "registries": [login]}
    push: dict[str, object] = {"command": "push", "path": layout, "tags": ["1", "2"], **where}
    status, refused, _shown = request(workspace, **push, digest=f"sha256:{'0' * 64}")
    assert (status, refused["error"]["code"]) == (1, "image-changed")
    status, pushed, shown = request(workspace, **push, digest=built["digest"])
    assert status == 0, shown
    assert (pushed["digest"], pushed["tags"]) == (built["digest"], ["1", "2"])
    assert pushed["imageRef"] == f"{registry}/team/app@{built['digest']}"
    status, index, shown = request(
        workspace, command="manifest", sources=[pushed["imageRef"]], tags=["all"], **where
    )
    assert status == 0, shown
    assert index["destinations"] == [f"{registry}/team/app:all"]
    assert index["digest"] != built["digest"]
    assert "hunter2" not in json.dumps([pushed, index]) + shown
    status, missing, _shown = request(
        workspace, **(push | {"registries": [login | {"usernameEnv": "NONE"}]})
    )
    assert (status, missing["error"]["code"]) == (1, "bad-request")


def test_a_login_is_a_file_for_its_owner_over_what_is_mounted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = workspace.with_name("mounted")
    mounted.mkdir()
    (mounted / ".dockerconfigjson").write_text('{"auths": {"base.example": {"auth": "eDp5"}}}')
    secret = workspace.with_name("secret-file")
    secret.write_text('{"auths": {"other.example": {"auth": "eDp5"}}}')
    for name, value in (("U", "me"), ("P", "hunter2"), ("FILE", str(secret)),
                        ("DOCKER_CONFIG", str(mounted))):  # fmt: skip
        monkeypatch.setenv(name, value)
    folder = workspace.with_name("hello@tmp") / "docker"
    login = {"url": "docker.io", "usernameEnv": "U", "passwordEnv": "P"}
    status, result, shown = request(
        workspace, push=None, command="login", registries=[login], dockerConfig="FILE",
        configFolder=str(folder),
    )  # fmt: skip
    assert (status, result) == (0, {"schema": 1}), shown
    config = json.loads((folder / "config.json").read_text())
    assert list(config["auths"]) == ["base.example", "other.example", "https://index.docker.io/v1/"]
    assert config["auths"]["https://index.docker.io/v1/"] == {
        "username": "me",
        "password": "hunter2",
    }
    assert (folder / "config.json").stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in shown
