"""`pybuild request FILE` as the Jenkins step runs it: what it leaves beside the request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
