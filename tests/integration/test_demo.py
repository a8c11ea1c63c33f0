"""`make demo` as a user runs it: twice, interrupted, and with a mistake."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.demo import COMMANDS

REPOSITORY = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 900

pytestmark = [
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(os.geteuid() != 0, reason="base images and podman need root here"),
    pytest.mark.skipif(
        not all(map(shutil.which, COMMANDS)),
        reason=f"needs {', '.join(name for name in COMMANDS if not shutil.which(name))}",
    ),
]


def demo(kept: Path) -> list[str]:
    return [sys.executable, "-m", "examples.demo", "--kept", str(kept)]


def run(kept: Path) -> str:
    done = subprocess.run(
        demo(kept),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def children_of(folder: Path) -> list[str]:
    """Command lines of the processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_the_second_run_takes_the_caches_and_says_so(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert "page       Hello, demo!" in first
    assert "0 steps from the cache, 2 carried out" in first
    assert re.search(r"Tests run: 3, Failures: 0, Errors: 0", first)
    assert not re.search(r"Basic |\"auth\"|demo:\S", first), "credentials are shown"
    second = run(tmp_path)
    assert "page       Hello, demo!" in second
    assert "2 steps from the cache, 0 carried out" in second
    assert "Every step came from the cache" in second
    layers = [re.findall(r"^layer +(\S+)", text, re.M) for text in (first, second)]
    assert layers[0] == layers[1]
    assert len(layers[0]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "registry"]
    assert children_of(tmp_path) == []


def test_an_interrupted_demo_leaves_its_cache_only(tmp_path: Path) -> None:
    with subprocess.Popen(
        demo(tmp_path),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("$ mvn"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "registry"]
    assert children_of(tmp_path) == []


def test_a_mistake_in_the_base_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*demo(tmp_path), "--base", "127.0.0.1:9/no/such:1"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 1
    assert "registry-unreachable" in done.stdout
    assert done.stdout.splitlines()[-1] == "demo: pybuild ended with 1"
