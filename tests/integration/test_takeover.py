"""RUN in place, in containers only: under the rules of RuntimeDefault no other way is open."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import bundle
from tests.support.isolation_driver import busybox_tar

DRIVER = Path(__file__).parents[1] / "support/isolation_driver.py"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman's --rootfs"),
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = bundle.container_root(tmp_path_factory.mktemp("container") / "root")
    # something of every kind that has to come back exactly as it was
    (root / "etc/only-here").write_text("container\n")
    (root / "etc/only-here").chmod(0o640)
    os.link(root / "etc/only-here", root / "etc/same-file")
    (root / "home/user").mkdir(parents=True)
    os.chown(root / "home/user", 1000, 1001)
    (root / "home/user/link").symlink_to("../nowhere")
    (root / "home/user/suid").write_text("")
    (root / "home/user/suid").chmod(0o4711)
    os.setxattr(root / "home/user/suid", "user.note", b"kept")
    os.mkfifo(root / "home/user/fifo")
    for number, path in enumerate(sorted(root.rglob("*"))):
        if not path.is_relative_to(root / bundle.PREFIX):
            times = (1_500_000_000_000_000_000 + number, 1_400_000_000_123_456_789 + number)
            os.utime(path, ns=times, follow_symlinks=False)
    return root


def serve(
    container: Path, request: dict[str, Any], *, pod: bundle.Pod, volumes: dict[str, str]
) -> dict[str, Any]:
    ran = bundle.run_in_container(
        container,
        [bundle.PYTHON, "-I", "/driver/isolation_driver.py"],
        pod=pod,
        volumes={**volumes, str(DRIVER.parent): "/driver"},
        env={"SECRET": "s3cret"},
        stdin=json.dumps(request),
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


FIRST = (
    "id -u; ls -A /; test -e /etc/only-here && echo LEAK; cat /etc/kept; pwd; env | sort; "
    "tr '\\0' '\\n' < /proc/1/environ; touch /made; chown 1234:99 /made; rm /etc/kept; "
    "rm -r /var/data; mkdir /var/data; mkdir -p /home/user; echo other > /home/user/suid; exit 3"
)
SECOND = "stat -c %u:%g /made; ls /var/data /home/user; cat /m/f; test -L /m && echo link"


def test_under_runtime_default(container: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mounted\n")
    request = {
        "isolation": "auto",
        "workdir": "/workspace/.pybuild",
        "stages": [[FIRST, SECOND], ["ls -A / /etc; cat /etc/kept"], ["true"]],
        "mounts": [("bind", "/m", "/workspace"), ("tmpfs", "/var/cache/t", "")],
    }
    answer = serve(
        container, request, pod=bundle.Pod.RUNTIME_DEFAULT, volumes={str(tmp_path): "/workspace"}
    )
    assert answer["name"] == "takeover"
    assert "clone(CLONE_NEWUSER" in answer["reason"]
    (first, second), (other,), (nothing,) = answer["stages"]
    assert first["status"] == 3
    words = first["out"].split()
    assert words[0] == "0"
    assert {"bin", "etc", "tmp", "var", "kaniko", "busybox", "workspace"} <= set(words)
    assert "LEAK" not in words
    assert "home" not in words[: words.index("kept")]
    assert "s3cret" not in first["out"]
    made = {"file made", "whiteout etc/kept", "whiteout var/data/one", "directory home/user"}
    assert made <= {*first["changes"], "whiteout var/data/one"}
    assert not [change for change in first["changes"] if "kaniko" in change or change[-2:] == " m"]
    assert second["out"].split() == ["1234:99", "/home/user:", "suid", "mounted", "link"] or (
        second["out"].split()[0] == "1234:99" and "mounted" in second["out"]
    )
    assert second["changes"] == []
    assert "kept\n" in other["out"]
    assert "made" not in other["out"].split()
    assert "home" not in other["out"].split()
    assert other["changes"] == nothing["changes"] == []
    assert answer["content"] == [None, "kept\n", "kept\n"]
    assert answer["before"] > 1000
    assert answer["differences"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pybuild", "f"]


def start(container: Path, workspace: Path, script: str, name: str) -> subprocess.Popen[str]:
    request = {
        "isolation": "takeover",
        "workdir": "/workspace/.pybuild",
        "stages": [[script]],
    }
    command = bundle.container_command(
        container,
        ["/busybox/sh", "-c", KILLED_THEN_AGAIN],
        pod=bundle.Pod.RUNTIME_DEFAULT,
        volumes={str(workspace): "/workspace", str(DRIVER.parent): "/driver"},
        options=["--name", name],
    )
    (workspace / "request.json").write_text(json.dumps(request))
    (workspace / "next.json").write_text(json.dumps({**request, "stages": [["true"]]}))
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )


WAIT = (
    "n=0; while ! test -e /workspace/running && test $n -lt 400; do "
    "n=$((n + 1)); /busybox/sleep 0.05; done"
)

# A listing before, a build that is killed while its image is on `/`, the next build, and what is
# different then. The shell lives on through all of it, as Jenkins' does.
KILLED_THEN_AGAIN = f"""
list() {{ {bundle.PYTHON} -I -c '
import sys; sys.path.insert(0, "/driver")
from isolation_driver import listing
print(sorted(listing().items()))' > /workspace/$1; }}
list before
{bundle.PYTHON} -I /driver/isolation_driver.py < /workspace/request.json > /workspace/killed 2>&1 &
builder=$!
{WAIT}
/busybox/kill -KILL $builder
wait $builder
/busybox/ls -A / > /workspace/while
/busybox/sleep 0.3
/busybox/ps > /workspace/processes
{bundle.PYTHON} -I /driver/isolation_driver.py < /workspace/next.json > /workspace/answer
list after
"""


def differences(workspace: Path) -> set[str]:
    before, after = (
        dict(ast.literal_eval((workspace / name).read_text())) for name in ("before", "after")
    )
    assert len(before) > 1000
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


# The same for a build that is asked to stop: it puts everything back itself.
STOPPED = f"""
list() {{ {bundle.PYTHON} -I -c '
import sys; sys.path.insert(0, "/driver")
from isolation_driver import listing
print(sorted(listing().items()))' > /workspace/$1; }}
list before
/kaniko/executor --context=dir:///workspace/context --no-push --isolation=takeover \\
    --destination=x/y:1 > /workspace/log 2>&1 &
builder=$!
{WAIT}
/busybox/kill -TERM $builder
wait $builder
echo $? > /workspace/status
/busybox/ps > /workspace/processes
list after
"""


def test_a_build_that_is_stopped_puts_everything_back(container: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "base.tar").write_bytes(busybox_tar())
    (context / "Dockerfile").write_text(
        "FROM scratch\nADD base.tar /\n"
        "RUN (setsid sleep 6667 &); touch /workspace/running; sleep 6667\n"
    )
    ran = bundle.run_in_container(
        container,
        ["/busybox/sh", "-c", STOPPED],
        pod=bundle.Pod.RUNTIME_DEFAULT,
        volumes={str(tmp_path): "/workspace", str(DRIVER.parent): "/driver"},
    )
    log = (tmp_path / "log").read_text()
    assert ran.returncode == 0, (ran.stderr, log)
    assert (tmp_path / "status").read_text() == "143\n", log
    assert "6667" not in (tmp_path / "processes").read_text()
    assert differences(tmp_path) <= {"/kaniko"}  # the build's own folder was made there


def test_the_build_after_a_kill_puts_everything_back(container: Path, tmp_path: Path) -> None:
    script = "(setsid sleep 6666 &); touch /workspace/running; sleep 6666"
    process = start(container, tmp_path, script, f"takeover-{os.getpid()}-{time.time_ns()}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert "var" in (tmp_path / "while").read_text().split()
    assert "home" not in (tmp_path / "while").read_text().split()
    assert "6666" not in (tmp_path / "processes").read_text()
    assert json.loads((tmp_path / "answer").read_text())["name"] == "takeover"
    assert differences(tmp_path) == set()
