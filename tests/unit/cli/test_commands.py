"""The programs as a user runs them: results on stdout, all else on stderr, errors in two lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pybuild import __version__
from pybuild.cli.session import Stop, guarded, reported
from pybuild.errors import Interrupted, RunFailed
from pybuild.events import BuildFailed, Event
from pybuild.layer.errors import DiskFull


def program(
    module: str, *argv: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    code = f"import sys; from pybuild.cli.{module} import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "argv", "expected"),
    [
        ("main", ["version"], f"pybuild {__version__}\n"),
        ("main", ["--version"], f"pybuild {__version__}\n"),
        ("executor", ["version"], f"Kaniko version :  pybuild {__version__}\n"),
        ("warmer", ["version"], f"pybuild {__version__}\n"),
    ],
)
def test_version(module: str, argv: list[str], expected: str) -> None:
    run = program(module, *argv)
    assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        ("main", []), ("main", ["--help"]), ("main", ["build", "--help"]), ("main", ["plan", "-h"]),
        ("main", ["request", "--help"]), ("executor", ["--help"]), ("warmer", ["--help"]),
    ],
)  # fmt: skip
def test_help(module: str, argv: list[str]) -> None:
    run = program(module, *argv)
    assert run.returncode == 0 and "usage:" in run.stdout and run.stderr == ""
    assert max(map(len, run.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("module", "argv", "lines"),
    [
        ("executor", ["--cache", "true"], ["error[unexpected-argument]: 'true' after --cache "
         "belongs to no flag", "hint: a boolean takes its value with '=': --cache=true"]),
        ("executor", ["--context=.", "--context-sub-path=x"], ["error[no-destination]: there is "
         "nowhere to push the image to", "hint: give --destination=registry/repository:tag, "
         "or --no-push to build only"]),
        ("main", ["buld"], ["error[unknown-command]: pybuild has no command 'buld'",
         "hint: did you mean build?"]),
        ("warmer", [], ["error[nothing-to-warm]: you must select at least one image to cache, or a "
         "Dockerfile to find them in", "hint: --image=REFERENCE, or --dockerfile=PATH"]),
        ("executor", ["login", "x"], ["error[bad-option]: the password is missing",
         "hint: --password-stdin, or --password=PASSWORD"]),
        ("executor", ["push", "x"], ["error[no-destination]: at least one --destination is "
         "required", "hint: give --destination=registry/repository:tag"]),
        ("main", ["version", "x"], ["error[unexpected-argument]: pybuild version takes no "
         "argument, not 'x'"]),
        ("main", ["build", "a", "--context=b"], ["error[flags-contradict]: both a and --context "
         "name the context"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_a_hint(module: str, argv: list[str], lines: list[str]) -> None:
    run = program(module, *argv)
    assert run.stderr.splitlines() == lines
    assert (run.returncode, run.stdout) == (1, "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a.txt b.txt /x/\nENV A=1\n")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    return tmp_path


def test_a_folder_with_a_dockerfile_needs_no_flag(project: Path) -> None:
    run = program("main", "build", "--no-push", "--digest-file=out/d", cwd=project)
    assert (run.returncode, run.stdout) == (0, "")
    digest = (project / "out" / "d").read_text()
    assert f"digest  {digest}" in run.stderr and "wrote   out/d" in run.stderr


def test_quiet_gives_the_digest_alone(project: Path) -> None:
    run = program("main", "build", "-q", "--no-push", "--reproducible", str(project))
    again = program("main", "build", "-q", "--no-push", "--reproducible", str(project))
    assert run.stderr == "" and run.stdout.startswith("sha256:") and run.stdout == again.stdout


def test_json_lines_and_an_archive(project: Path) -> None:
    run = program("executor", "--context", str(project), "--no-push", "--log-format=json",
                  "--tar-path=i.tar", cwd=project)  # fmt: skip
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert run.returncode == 0 and lines[-1]["event"] == "build-finished"
    assert lines[-1]["outputs"] == ["i.tar"] and (project / "i.tar").stat().st_size > 1000


def test_an_error_of_the_dockerfile_names_its_line(project: Path) -> None:
    (project / "Dockerfile").write_text("FROM scratch\n\nCOPI a /\n")
    run = program("main", "build", "--no-push", cwd=project)
    assert run.returncode == 1
    error = run.stderr[run.stderr.index("error[") :].splitlines()
    assert error[0].startswith("error[unknown-instruction]: ")
    assert error[1:3] == ["  at Dockerfile:3", "  3 | COPI a /"]
    assert error[3].startswith("hint: ") and "COPY" in error[3] and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["nowhere"], "context-missing"),
        (["tar://x"], "context-missing"),
        (["ftp://x"], "context-unknown"),
        (["-f", "Nofile"], "dockerfile-missing"),
        (["--target=none"], "unknown-target"),
        (["--build-arg=X"], "bad-option"),
    ],
)
def test_codes(project: Path, argv: list[str], code: str) -> None:
    run = program("main", "build", "--no-push", *argv, cwd=project)
    assert run.returncode == 1 and f"error[{code}]: " in run.stderr
    assert "Traceback" not in run.stderr


def test_the_plan_is_on_stdout_and_nothing_is_left(project: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    run = program("main", "plan", str(project), TMPDIR=str(scratch))
    assert run.returncode == 0 and run.stderr == "" and "COPY a.txt b.txt /x/" in run.stdout
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("argv", [["--no-push"], ["--no-push", "-f", "Nofile"]])
def test_a_build_leaves_nothing_behind(project: Path, tmp_path: Path, argv: list[str]) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    program("main", "build", *argv, str(project), TMPDIR=str(scratch))
    assert list(scratch.iterdir()) == []


def test_kaniko_looks_from_the_working_folder_first(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM scratch\nLABEL from=other\n")
    kaniko = program("executor", f"--context={project}", "--no-push", "-v=debug", cwd=other)
    ours = program("main", "build", "--no-push", str(project), cwd=other)
    assert "0 steps" in kaniko.stderr and "1 step" in ours.stderr


def test_the_ignore_file_beside_the_dockerfile_comes_first(project: Path) -> None:
    (project / ".dockerignore").write_text("a.txt\n")
    assert program("main", "build", "--no-push", cwd=project).returncode == 1
    (project / "Dockerfile.dockerignore").write_text("other\n")
    assert program("main", "build", "--no-push", cwd=project).returncode == 0


def test_a_request_gives_a_result(project: Path) -> None:
    request = project / "request.json"
    request.write_text(json.dumps({"push": False, "context": "."}))
    assert program("main", "request", "request.json", cwd=project).returncode == 0
    result = json.loads((project / "result.json").read_text())
    assert result["digest"].startswith("sha256:") and result["pushed"] is False
    request.write_text(json.dumps({"push": False, "context": ".", "target": "none"}))
    assert program("main", "request", "request.json", cwd=project).returncode == 1
    assert json.loads((project / "result.json").read_text())["error"]["code"] == "unknown-target"
    request.write_text(json.dumps({"push": False, "colour": "red"}))
    assert program("main", "request", "request.json", cwd=project).returncode == 1
    assert json.loads((project / "result.json").read_text())["error"]["code"] == "bad-request"


def test_a_mistake_of_ours_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> int:
        raise KeyError("oops")

    monkeypatch.delenv("PYBUILD_DEBUG", raising=False)
    assert guarded(broken) == 1
    told = capsys.readouterr().err
    assert told.startswith("error[bug]: KeyError") and "please report" in told
    assert "Traceback" not in told
    monkeypatch.setenv("PYBUILD_DEBUG", "1")
    guarded(broken)
    assert "Traceback" in capsys.readouterr().err


def events_of(action: object, stop: Stop | None = None) -> tuple[int, list[Event]]:
    told: list[Event] = []
    return reported(told.append, stop or Stop(), action), told  # type: ignore[arg-type]


def test_a_runs_status_is_the_exit_status() -> None:
    def fail() -> int:
        raise RunFailed("ended with 7", status=7)

    status, told = events_of(fail)
    assert status == 7
    assert told == [BuildFailed("run-failed", "ended with 7", "", "", 0, "", 7)]


def test_a_full_disk_has_its_code() -> None:
    def fail() -> int:
        raise OSError(28, "No space left on device", "/x/y")

    status, told = events_of(fail)
    assert status == 1 and isinstance(told[0], BuildFailed)
    assert told[0].code == DiskFull.code and "below /x:" in told[0].message


def test_another_os_error_is_a_mistake_of_ours() -> None:
    def fail() -> int:
        raise OSError(13, "Permission denied")

    with pytest.raises(OSError, match="denied"):
        events_of(fail)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_is_the_reason_for_whatever_fails_after_it(number: int, status: int) -> None:
    def stopped() -> int:
        os.kill(os.getpid(), number)
        assert stop.asked.wait(5)
        raise RunFailed("the command was stopped", status=137)

    before = signal.signal(number, signal.default_int_handler)  # it may be ignored from without
    try:
        with Stop().on_signals() as stop:
            found, told = events_of(stopped, stop)
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert found == status and isinstance(told[0], BuildFailed)
    assert told[0].code == Interrupted.code


def test_a_second_signal_ends_at_once() -> None:
    code = (
        "import os, signal, time\nfrom pybuild.cli.session import Stop\n"
        "with Stop().on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
    )
    # whatever whoever started the tests ignores
    argv = ["env", "--default-signal=INT,TERM", sys.executable, "-c", code]
    assert subprocess.run(argv, timeout=20, check=False).returncode == 130
