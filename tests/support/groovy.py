"""The Groovy tests, run by Maven once a process: their outcomes, and what they recorded."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = REPOSITORY / "tests" / "groovy"
RECORDED = MODULE / "target" / "requests"
NEEDED = "apt-get install maven openjdk-17-jdk-headless"
TIMEOUT_SECONDS = 600


def is_available() -> bool:
    return bool(shutil.which("mvn") and shutil.which("javac"))


def _java_home() -> str:
    java = shutil.which("javac") or ""
    return os.environ.get("JAVA_HOME") or str(Path(java).resolve().parent.parent)


def _run_maven(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["mvn", "-B", "-ntp", "-q", "-Dmaven.test.failure.ignore=true", *options, "test"],
        cwd=MODULE,
        env={**os.environ, "JAVA_HOME": _java_home()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@functools.cache
def outcomes() -> dict[str, str]:
    """Failure text by test, empty where it passed."""
    for stale in ("surefire-reports", "requests", "test-classes"):
        shutil.rmtree(MODULE / "target" / stale, ignore_errors=True)
    run = _run_maven("-o")
    if run.returncode and re.search(r"offline|has not been downloaded|resolve", run.stdout):
        run = _run_maven()
    assert run.returncode == 0, run.stdout[-4000:]
    found = {}
    for report in (MODULE / "target" / "surefire-reports").glob("TEST-*.xml"):
        for case in ET.parse(report).getroot().iter("testcase"):
            name = f"{case.attrib['classname'].rpartition('.')[2]}.{case.attrib['name']}"
            found[name] = "\n".join(
                part.text or part.tag
                for part in case
                if part.tag in ("failure", "error", "skipped")
            )
    return found
