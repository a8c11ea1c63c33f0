"""`pybuild jenkins` as users run it, with the unmodified python-jenkins, against a controller of
ours that answers as a real one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fake_jenkins
from tests.support.fake_jenkins import TOKEN, USER, WRONG, FakeBuild, FakeJenkins, FakeJob
from tests.support.registry import make_certificates

PYBUILD = Path(sys.executable).with_name("pybuild")


@pytest.fixture
def jenkins() -> Iterator[FakeJenkins]:
    with fake_jenkins.running() as started:
        started.jobs["job/team/job/shop"] = FakeJob()
        yield started


def environment(jenkins: FakeJenkins, home: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "JENKINS_URL": jenkins.url,
            "JENKINS_USER_ID": USER, "JENKINS_API_TOKEN": TOKEN, "LC_ALL": "C.UTF-8",
            **more}  # fmt: skip


def run(
    jenkins: FakeJenkins, home: Path, *words: str, **more: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([PYBUILD, "jenkins", *words], env=environment(jenkins, home, **more),
                          cwd=home, capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
    return done


def posts(jenkins: FakeJenkins) -> list[tuple[str, dict[str, str]]]:
    return [(path, form) for method, path, form in jenkins.requests if method == "POST"]


@pytest.mark.parametrize(
    ("result", "status"),
    [("SUCCESS", 0), ("FAILURE", 1), ("UNSTABLE", 2), ("ABORTED", 3), ("NOT_BUILT", 4),
     ("ODD", 1)],
)  # fmt: skip
def test_a_build_is_followed_to_its_result(
    jenkins: FakeJenkins, tmp_path: Path, result: str, status: int
) -> None:
    jenkins.jobs["job/team/job/shop"].result = result
    done = run(jenkins, tmp_path, "trigger", "team/shop")
    assert done.returncode == status, done.stderr
    assert done.stdout == "Started by user ann\nbuilding ☃\nFinished: SUCCESS\n"
    assert "waits: Waiting for next available executor" in done.stderr
    assert f"team/shop 1: {result}" in done.stderr
    assert posts(jenkins) == [("/job/team/job/shop/build", {})]


def test_parameters_travel_in_the_body(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.jobs["job/team/job/shop"].parameters = ["TAG", "NOTES"]
    (tmp_path / "notes").write_text("a & b\nü")
    done = run(jenkins, tmp_path, "trigger", "team/shop", "--param=TAG=1=2",
               "--param=NOTES=@notes", "--detach")  # fmt: skip
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert posts(jenkins) == [
        ("/job/team/job/shop/buildWithParameters", {"TAG": "1=2", "NOTES": "a & b\nü"})
    ]


def test_a_parameter_that_the_job_has_not(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.jobs["job/team/job/shop"].parameters = ["TAG"]
    done = run(jenkins, tmp_path, "trigger", "team/shop", "--param=TAGS=1")
    assert done.returncode == 1 and "error[jenkins-parameter]" in done.stderr
    assert "did you mean TAG?" in done.stderr and posts(jenkins) == []


def test_a_branch_with_a_slash(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.jobs["job/team/job/feature%2Fx"] = FakeJob()
    assert run(jenkins, tmp_path, "trigger", "team/feature%2Fx").returncode == 0


def test_a_restart_in_the_middle(jenkins: FakeJenkins, tmp_path: Path) -> None:
    """Of the queue and of the log; no line is lost or comes twice, and nothing is begun twice."""
    left = {"queue": 2, "log": 2, "end": 2}

    def away(method: str, path: str) -> bool:
        build = jenkins.jobs["job/team/job/shop"].builds
        kind = ("queue" if path.startswith("queue") else
                "log" if "logText" in path and build[0].asked else
                "end" if path.endswith("/1/api/json") else "")  # fmt: skip
        if method == "GET" and left.get(kind):
            left[kind] -= 1
            jenkins.restart()
            return True
        return False

    jenkins.away = away
    done = run(jenkins, tmp_path, "trigger", "team/shop")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Started by user ann\nbuilding ☃\nFinished: SUCCESS\n"
    assert left == {"queue": 0, "log": 0, "end": 0} and len(posts(jenkins)) == 1


def test_a_queue_item_that_the_controller_forgot(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.forgets_items = True
    assert run(jenkins, tmp_path, "trigger", "team/shop").returncode == 0


def test_a_queue_item_that_somebody_cancelled(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.queue[39] = {"job": FakeJob(), "polls": 0}
    original = jenkins.away

    def away(method: str, path: str) -> bool:
        for item in jenkins.queue.values():
            item["cancelled"] = True
        return original(method, path)

    jenkins.away = away
    done = run(jenkins, tmp_path, "trigger", "team/shop")
    assert done.returncode == 1 and "error[jenkins-cancelled]" in done.stderr


def test_without_crumbs(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.crumbs = False
    assert run(jenkins, tmp_path, "trigger", "team/shop", "--detach").returncode == 0


def test_it_can_wait_no_longer(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.polls_in_queue = 10**6
    done = run(jenkins, tmp_path, "trigger", "team/shop", "--timeout=1500ms")
    assert done.returncode == 1 and "error[jenkins-timeout]" in done.stderr


def test_a_signal_ends_the_following_alone(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.polls_in_queue = 10**6
    process = subprocess.Popen(
        ["env", "--default-signal=TERM", str(PYBUILD), "jenkins", "trigger", "team/shop"],
        env=environment(jenkins, tmp_path), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not any("queue/item" in path for _, path, _ in jenkins.requests):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143 and "error[interrupted]" in err
    assert [path for path, _ in posts(jenkins)] == ["/job/team/job/shop/build"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["trigger", "team/nothing"], "jenkins-unknown"),
        (["trigger", "team"], "jenkins-not-buildable"),
        (["trigger", "off"], "jenkins-not-buildable"),
        (["status", "team/shop"], "jenkins-unknown"),
        (["status", "team/shop", "x"], "unexpected-argument"),
        (["trigger"], "unexpected-argument"),
        (["trigger", "team/shop", "A=b"], "unexpected-argument"),
        (["check", "none"], "unexpected-argument"),
        (["push"], "unknown-command"),
    ],
)
def test_what_can_t_be_done(
    jenkins: FakeJenkins, tmp_path: Path, words: list[str], code: str
) -> None:
    jenkins.jobs["job/team"] = FakeJob(folder=True)
    jenkins.jobs["job/off"] = FakeJob(buildable=False)
    done = run(jenkins, tmp_path, *words)
    assert done.returncode == 1 and f"error[{code}]" in done.stderr, done.stderr


def test_a_user_whom_the_controller_refuses(jenkins: FakeJenkins, tmp_path: Path) -> None:
    done = run(jenkins, tmp_path, "status", "team/shop", JENKINS_API_TOKEN="wrong-token")
    assert "error[jenkins-refused]" in done.stderr and "wrong-token" not in done.stderr


def test_a_controller_that_stays_away(jenkins: FakeJenkins, tmp_path: Path) -> None:
    jenkins.away = lambda _method, _path: True
    done = run(jenkins, tmp_path, "status", "team/shop", "--patience=1s")
    assert "error[jenkins-unreachable]" in done.stderr and "503" in done.stderr


def test_status_as_json(jenkins: FakeJenkins, tmp_path: Path) -> None:
    shop = jenkins.jobs["job/team/job/shop"]
    shop.builds = [FakeBuild(1, 5, result="UNSTABLE", asked=3), FakeBuild(2, 6)]
    first = run(jenkins, tmp_path, "status", "team/shop", "1", "--json")
    assert first.returncode == 2
    told = json.loads(first.stdout)
    assert (told["number"], told["result"], told["running"], told["seconds"]) == (
        1, "UNSTABLE", False, 1.5)  # fmt: skip
    last = run(jenkins, tmp_path, "status", "team/shop")
    assert last.returncode == 0 and "team/shop 2: runs" in last.stderr


def test_cancel(jenkins: FakeJenkins, tmp_path: Path) -> None:
    shop = jenkins.jobs["job/team/job/shop"]
    shop.builds = [FakeBuild(1, 5)]
    assert run(jenkins, tmp_path, "cancel", "team/shop").returncode == 0
    assert shop.builds[0].stopped
    again = run(jenkins, tmp_path, "cancel", "team/shop", "1")
    assert again.returncode == 0 and "had ended already: ABORTED" in again.stderr
    jenkins.queue[9] = {"job": shop, "polls": 0}
    assert run(jenkins, tmp_path, "cancel", "team/shop").returncode == 0
    assert 9 not in jenkins.queue


def test_check(jenkins: FakeJenkins, tmp_path: Path) -> None:
    (tmp_path / "Jenkinsfile").write_text("pipeline { agent any }\n")
    fine = run(jenkins, tmp_path, "check")
    assert fine.returncode == 0 and "nothing wrong" in fine.stderr
    assert posts(jenkins)[-1][1] == {"jenkinsfile": "pipeline { agent any }\n"}
    jenkins.answer = WRONG
    bad = run(jenkins, tmp_path, "check")
    assert (bad.returncode, bad.stdout) == (1, "Jenkinsfile:3:5: Expected a step\n")


def test_tokens_from_a_file_and_from_netrc(jenkins: FakeJenkins, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    words = ("trigger", "team/shop", "--detach")
    assert (
        run(jenkins, tmp_path, *words, "--token-file=token", JENKINS_API_TOKEN="").returncode == 0
    )
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {TOKEN}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert run(jenkins, tmp_path, *words, JENKINS_API_TOKEN="", JENKINS_USER_ID="").returncode == 0
    url = jenkins.url.replace("://", f"://{USER}:{TOKEN}@")
    refused = run(jenkins, tmp_path, *words, f"--url={url}")
    assert "error[jenkins-credentials]" in refused.stderr


def test_an_authority_of_its_own(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with fake_jenkins.running((made.certificate, made.key)) as jenkins:
        jenkins.jobs["job/a"] = FakeJob()
        words = ("trigger", "a", "--detach")
        refused = run(jenkins, tmp_path, *words, "--patience=1s")
        assert refused.returncode == 1 and "is not trusted" in refused.stderr
        trusted = run(jenkins, tmp_path, *words, f"--certificate={made.authority}")
        assert trusted.returncode == 0, trusted.stderr
