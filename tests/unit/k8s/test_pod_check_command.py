"""`pybuild pod-check` as a command: files, a pipe, formats and the exit status."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from pybuild.cli.main import main

GOOD = """\
apiVersion: v1
kind: Secret
metadata: {name: dockercred}
stringData: {a: b}
"""
WARNED = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers: [{name: a, image: "r.example.com/a:1"}]
  volumes:
  - {name: v, emptyDir: {}}
"""
WRONG = WARNED.replace("emptyDir: {}", "emptyDir: {sizeLimit: big}")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("good", GOOD), ("warned", WARNED), ("wrong", WRONG)):
        (tmp_path / f"{name}.yaml").write_text(text)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["good.yaml"], 0),
        (["warned.yaml"], 0),
        (["--strict", "warned.yaml"], 1),
        (["good.yaml", "wrong.yaml"], 1),
        (["--pod-security=baseline", "warned.yaml"], 0),
        (["--pod-security=restricted", "warned.yaml"], 1),
    ],
)
def test_exit_status(words: list[str], status: int) -> None:
    assert main(["pod-check", *words]) == status


@pytest.mark.usefixtures("files")
def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pod-check", "wrong.yaml"])
    assert capsys.readouterr().out == (
        "wrong.yaml:7: error[bad-quantity]: 'big' is no quantity\n"
        "  hint: a number with a unit: 500m of CPU, 512Mi or 2Gi of memory\n"
        "wrong.yaml:7: warning[unused-volume]: no container mounts v\n"
    )


@pytest.mark.usefixtures("files")
def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pod-check", "--log-format=json", "warned.yaml"])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "level": "warning",
        "event": "finding",
        "msg": "no container mounts v",
        "file": "warned.yaml",
        "line": 7,
        "code": "unused-volume",
        "hint": "",
    }


def test_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WRONG.encode())))
    assert main(["pod-check", "-"]) == 1
    assert capsys.readouterr().out.startswith("-:7: error[bad-quantity]")


def test_what_a_manifest_says_can_not_steer_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WRONG.replace("sizeLimit: big", 'sizeLimit: "\\e[2J\\x07"')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["pod-check", "-"]) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "unexpected-argument"),
        (["absent.yaml"], "manifest-unreadable"),
        (["."], "manifest-unreadable"),
        (["--pod-security=high", "good.yaml"], "bad-option"),
        (["--level=high", "good.yaml"], "unknown-option"),
    ],
)
def test_mistakes(words: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pod-check", *words]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"error[{code}]: ") and told.out == ""


def test_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    assert main(["pod-check", str(tmp_path / "a.yaml")]) == 1
    assert "error[manifest-unreadable]" in capsys.readouterr().err


def test_without_pyyaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["pod-check", str(tmp_path / "a.yaml")]) == 1
    told = capsys.readouterr().err
    assert "error[yaml-missing]" in told and "pybuild[yaml]" in told
