"""The runner: streams, statuses, and that nothing outlives its command. Commands here run on the
machine as it is, without any namespace, and do nothing to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.isolation.errors import (
    IsolationFailed,
    ProgramMissing,
    ProgramNotExecutable,
    RunnerLost,
    WorkingDirectoryMissing,
)
from pybuild.isolation.probe import tiny_program
from pybuild.isolation.process import Outcome, Request, Runner, status_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sets ids and groups")


def request(*argv: str, **changes: object) -> Request:
    values: dict[str, object] = {
        "argv": argv,
        "env": (("PATH", "/bin:/usr/bin"),),
        "cwd": "/",
        "uid": 0,
        "gid": 0,
        "groups": (),
        "flags": 0,
        "operations": (("in_place",),),
        "weak_bounding": True,
    }
    return Request(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()
    runner.close()


def run(runner: Runner, *argv: str, **changes: object) -> tuple[Outcome, bytes, bytes]:
    parts: dict[int, bytes] = {1: b"", 2: b""}

    def output(stream: int, data: bytes) -> None:
        parts[stream] += data

    outcome = runner.run(request(*argv, **changes), output, threading.Event())
    return outcome, parts[1], parts[2]


def test_streams_and_status(runner: Runner) -> None:
    outcome, out, err = run(runner, "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (outcome.status, out, err) == (9, b"out\n", b"err\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGPIPE])
def test_a_signal_is_128_and_its_number(runner: Runner, number: int) -> None:
    outcome, _, _ = run(runner, "sh", "-c", f"kill -{number} $$")
    assert outcome.status == 128 + number


def test_the_environment_is_the_commands_alone(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run(runner, "/usr/bin/env", env=(("A", "1"), ("ODD", "\udcff\n")))
    assert out == b"A=1\nODD=\xff\n\n"


def test_the_runner_itself_has_none_of_our_environment() -> None:
    os.environ["PYBUILD_TEST_SECRET"] = "s3cret"
    try:
        runner = Runner()
        time.sleep(0.2)
        environ = Path(f"/proc/{runner._pid}/environ").read_bytes()
        runner.close()
    finally:
        del os.environ["PYBUILD_TEST_SECRET"]
    assert b"s3cret" not in environ


def test_only_the_three_streams_are_open(runner: Runner) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        own = Runner()
        _, out, _ = run(own, "sh", "-c", "ls /proc/$$/fd")
        own.close()
    finally:
        os.close(inherited)
    assert out.split() == [b"0", b"1", b"2"]


def test_ids_and_groups(runner: Runner) -> None:
    _, out, _ = run(runner, "id", uid=1234, gid=99, groups=(99, 7))
    assert out.startswith(b"uid=1234 gid=99")
    assert b"groups=99,7" in out.replace(b"(lp)", b"") or b"7" in out.split(b"groups=")[1]


@pytest.mark.parametrize(
    ("argv", "changes", "error"),
    [
        (("no-such-program",), {}, ProgramMissing),
        (("/no/such/program",), {}, ProgramMissing),
        (("/etc/passwd",), {}, ProgramNotExecutable),
        (("/etc",), {}, ProgramNotExecutable),
        (("true",), {"cwd": "/no/such"}, WorkingDirectoryMissing),
        (("true",), {"cwd": "/etc/passwd"}, WorkingDirectoryMissing),
        (("true",), {"operations": (("bind", b"/no/such", b"x", False),)}, IsolationFailed),
        (("true",), {"operations": (("no_such",),)}, IsolationFailed),
    ],
)
def test_what_cannot_start_is_an_error_with_a_name(
    runner: Runner, argv: tuple[str, ...], changes: dict[str, object], error: type[Exception]
) -> None:
    outcome, _, _ = run(runner, *argv, **changes)
    with pytest.raises(error):
        status_of(outcome, request(*argv, **changes))


def test_a_script_whose_interpreter_is_missing_says_so(runner: Runner, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    outcome, _, _ = run(runner, str(script))
    with pytest.raises(ProgramNotExecutable) as caught:
        status_of(outcome, request(str(script)))
    assert "interpreter" in caught.value.hint
    assert caught.value.exit_status == 126


def test_the_tiny_program_ends_well(runner: Runner, tmp_path: Path) -> None:
    content = tiny_program(os.uname().machine)
    if content is None:
        pytest.skip("no tiny program for this processor")
    program = tmp_path / "exit"
    program.write_bytes(content)
    program.chmod(0o755)
    assert run(runner, str(program))[0].status == 0
    assert tiny_program("vax") is None


def alive(marker: str) -> bool:
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                if marker.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
    return False


DAEMON = "(setsid sh -c 'sleep {0}; true' & ) ; (sleep {0} &) & sleep {0} & "


def test_daemons_end_with_their_command_without_a_pid_namespace_too(runner: Runner) -> None:
    outcome, _, _ = run(runner, "sh", "-c", DAEMON.format(5551) + "sleep 0.1; exit 4")
    assert outcome.status == 4
    assert not alive("5551")


def test_cancelling_ends_everything(runner: Runner) -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    script = "trap '' TERM; " + DAEMON.format(5552) + "while :; do sleep 5552; done"
    start = time.monotonic()
    outcome = runner.run(request("sh", "-c", script), lambda *_: None, cancelled)
    assert outcome.status == 137
    assert time.monotonic() - start < 5
    assert not alive("5552")


def test_an_output_that_raises_ends_the_command(runner: Runner) -> None:
    def output(_stream: int, _data: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(request("sh", "-c", "echo x; sleep 5553"), output, threading.Event())
    deadline = time.monotonic() + 5
    while alive("5553") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive("5553")


BUILDER = """
import sys, threading
sys.path[:0] = {path!r}
from pybuild.isolation.process import Request, Runner
Runner().run(
    Request(("sh", "-c", {script!r}), (("PATH", "/bin:/usr/bin"),), "/", 0, 0, (), 0,
            (("in_place",),), weak_bounding=True),
    lambda _stream, data: print(data.decode(), flush=True), threading.Event())
"""


def test_a_killed_builder_leaves_nothing_running() -> None:
    script = (
        "trap '' TERM INT HUP; "
        + DAEMON.format(5554)
        + "sleep 0.2; echo up; sleep 5554; sleep 5554"
    )
    code = BUILDER.format(path=sys.path, script=script)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as builder:
        try:
            assert builder.stdout is not None
            assert builder.stdout.readline() == "up\n"
            assert alive("5554")
        finally:
            builder.kill()
    deadline = time.monotonic() + 5
    while alive("5554") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive("5554")


def test_a_runner_that_is_gone_is_reported() -> None:
    runner = Runner()
    os.kill(runner._pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(RunnerLost):
        run(runner, "true")
    runner.close()
    with pytest.raises(RunnerLost):
        run(runner, "true")
