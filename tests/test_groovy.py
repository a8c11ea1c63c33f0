"""The Groovy tests as items of pytest: Maven runs once, each of its tests is one item here.

Also the contract between the two languages: the requests that the steps wrote in those tests are
read by the real command's code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pybuild.cli.parse import parse_flags
from pybuild.cli.request import destinations, request_command, request_to_flags

REPOSITORY = Path(__file__).parent.parent
MODULE = REPOSITORY / "tests" / "groovy"
SOURCES = sorted(MODULE.glob("src/test/groovy/**/*Test.groovy"))
TIMEOUT_SECONDS = 600

# One worker runs Maven, whatever pytest-xdist does with the rest.
pytestmark = pytest.mark.xdist_group("groovy")


def names_in(source: Path) -> list[str]:
    names = re.findall(r"@Test[^\n]*\n\s*void (\w+)\(", source.read_text())
    return [f"{source.stem}.{name}" for name in names]


TESTS = [name for source in SOURCES for name in names_in(source)]


def java_home() -> str:
    java = shutil.which("javac") or ""
    return os.environ.get("JAVA_HOME") or str(Path(java).resolve().parent.parent)


def run_maven(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["mvn", "-B", "-ntp", "-q", "-Dmaven.test.failure.ignore=true", *options, "test"],
        cwd=MODULE,
        env={**os.environ, "JAVA_HOME": java_home()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@pytest.fixture(scope="session")
def outcomes() -> dict[str, str]:
    """Failure text by test, empty where it passed."""
    if not shutil.which("mvn") or not shutil.which("javac"):
        pytest.skip("needs: apt-get install maven openjdk-17-jdk-headless")
    for stale in ("surefire-reports", "requests", "test-classes"):
        shutil.rmtree(MODULE / "target" / stale, ignore_errors=True)
    run = run_maven("-o")
    if run.returncode and re.search(r"offline|has not been downloaded|resolve", run.stdout):
        run = run_maven()
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


def test_every_groovy_test_ran(outcomes: dict[str, str]) -> None:
    assert TESTS
    assert sorted(outcomes) == sorted(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_groovy(name: str, outcomes: dict[str, str]) -> None:
    assert name in outcomes, "it was not run"
    if outcomes[name]:
        pytest.fail(outcomes[name], pytrace=False)


def test_the_requests_of_the_steps_are_understood(outcomes: dict[str, str]) -> None:
    recorded = sorted((MODULE / "target" / "requests").glob("*.json"))
    assert len(recorded) >= 10
    for path in recorded:
        request = json.loads(path.read_bytes())
        values = parse_flags(request_command(request), request_to_flags(request), {}, positionals=1)
        assert values.many("destination") == tuple(destinations(request)), path.name
        wanted = request.get("context")
        assert wanted is None or values.text("context") == wanted


def test_every_argument_is_documented_and_understood() -> None:
    """The names in the step, its help page, docs/jenkins.md and the Python side are the same."""
    step = (REPOSITORY / "vars" / "kanikoBuild.groovy").read_text()
    table = re.search(r"REQUESTED = \[(.*?)\]", step, re.S)
    assert table
    requested = re.findall(r"'(\w+)'", table[1])
    own = ["container", "shell"]
    page = (REPOSITORY / "vars" / "kanikoBuild.txt").read_text()
    assert re.findall(r"<li><code>(\w+)</code>", page) == requested + own
    docs = (REPOSITORY / "docs" / "jenkins.md").read_text().partition("## The step")[2]
    assert re.findall(r"^\| `(\w+)` \|", docs.partition("\n## ")[0], re.M) == requested + own
    for name in requested:
        assert request_to_flags({"destinations": ["a:1"], name: None} | {"destinations": ["a:1"]})


def test_every_step_has_a_help_page() -> None:
    steps = {path.stem for path in (REPOSITORY / "vars").glob("*.groovy")}
    assert steps
    assert steps == {path.stem for path in (REPOSITORY / "vars").glob("*.txt")}
