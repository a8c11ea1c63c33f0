"""The Groovy tests as items of pytest: Maven runs once, each of its tests is one item here.

Also the contract between the two languages: the requests that the steps wrote in those tests are
read by the real command's code.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pybuild.cli.flags.flag import BUILD, MANIFEST, PLAN, PUSH
from pybuild.cli.parse import parse_flags
from pybuild.cli.request import (
    destinations,
    logins,
    request_command,
    request_to_flags,
    sources,
)
from pybuild.cli.request_run import carry_out_request
from tests.support import groovy

REPOSITORY = Path(__file__).parent.parent
SOURCES = sorted(groovy.MODULE.glob("src/test/groovy/**/*Test.groovy"))

# One worker runs Maven, whatever pytest-xdist does with the rest.
pytestmark = pytest.mark.xdist_group("groovy")


def names_in(source: Path) -> list[str]:
    names = re.findall(r"@Test[^\n]*\n\s*void (\w+)\(", source.read_text())
    return [f"{source.stem}.{name}" for name in names]


TESTS = [name for source in SOURCES for name in names_in(source)]


@pytest.fixture(scope="session")
def outcomes() -> dict[str, str]:
    if not groovy.is_available():
        pytest.skip(f"needs: {groovy.NEEDED}")
    return groovy.outcomes()


def test_every_groovy_test_ran(outcomes: dict[str, str]) -> None:
    assert TESTS
    assert sorted(outcomes) == sorted(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_groovy(name: str, outcomes: dict[str, str]) -> None:
    assert name in outcomes, "it was not run"
    if outcomes[name]:
        pytest.fail(outcomes[name], pytrace=False)


# --- the contract -----------------------------------------------------------------------------

COMMANDS = {"build": BUILD, "plan": PLAN, "push": PUSH, "manifest": MANIFEST}


def recorded() -> list[Path]:
    return sorted(groovy.RECORDED.glob("*.json"))


def environment_of(path: Path) -> dict[str, str]:
    """The variables that the pipeline had bound when it wrote the request."""
    names = path.with_suffix(".environment").read_text().split("\n")
    return {name: f"value-of-{name}" for name in names if name}


def test_the_requests_of_the_steps_are_understood(outcomes: dict[str, str]) -> None:
    assert len(recorded()) >= 80
    kinds = set()
    for path in recorded():
        request = json.loads(path.read_bytes())
        command = request_command(request)
        kinds.add(command)
        flags, words = request_to_flags(request), sources(request)
        if command == "login":
            continue
        values = parse_flags(COMMANDS[command], [*flags, *words], {}, positionals=len(words))
        assert values.many("destination") == tuple(destinations(request)), path.name
        assert values.positional == tuple(words)
        wanted = request.get("context")
        assert wanted is None or values.text("context") == wanted
    assert kinds == {"build", "plan", "push", "manifest", "login"}


def test_what_a_request_names_is_bound_when_it_is_read(outcomes: dict[str, str]) -> None:
    named = 0
    for path in recorded():
        request, bound = json.loads(path.read_bytes()), environment_of(path)
        for url, user, password in logins("registries", request.get("registries") or []):
            assert {user, password} <= bound.keys(), (path.name, url)
            named += 1
        for place in (request.get("secrets") or {}).values():
            if "fileEnv" in place:
                assert place["fileEnv"] in bound, path.name
                named += 1
        assert request.get("dockerConfig", "PYBUILD_REQUEST") in bound, path.name
    assert named >= 5


def test_the_real_command_plans_what_the_steps_ask_for(
    outcomes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each build of the Groovy tests as a dry run; what needs a server is left out."""
    workspace = tmp_path / "workspace"
    for folder in (".", "a", "api", "web", "worker", "sub dir"):
        (workspace / folder / "a").mkdir(parents=True, exist_ok=True)
        for name in ("Dockerfile", "a/Dockerfile"):
            (workspace / folder / name).write_text("FROM scratch AS last\nCOPY . /a\n")
    monkeypatch.chdir(workspace)
    (workspace / "secret").write_text("x")
    planned = 0
    for path in recorded():
        request = json.loads(path.read_bytes())
        context = request.get("context", ".")
        if request_command(request) not in ("build", "plan") or "://" in context:
            continue
        if context != "." and not (workspace / context).is_dir():
            continue  # the hostile text
        request |= {"dryRun": True, "cache": False, "reports": str(tmp_path / "reports")}
        request |= {"dockerConfig": None, "secrets": None}
        if request.get("sourceDateEpoch") == "commit":
            request["sourceDateEpoch"] = 1
        file = tmp_path / "request.json"
        file.write_text(json.dumps(request))
        bound = {**os.environ, **environment_of(path)}
        arguments = request.get("buildArgs", {})
        taken = [name for name, value in arguments.items() if value is None]
        taken += request.get("buildArgsFromEnv", [])
        status = carry_out_request(str(file), {**bound, **dict.fromkeys(taken, "x")})
        assert (status, json.loads((tmp_path / "result.json").read_text())) == (
            0,
            {"schema": 1},
        ), path.name
        planned += 1
    assert planned >= 60


# --- the library ------------------------------------------------------------------------------

STEPS = {
    "kanikoBuild", "kanikoCredentials", "kanikoManifest", "kanikoPipeline", "kanikoPodTemplate",
    "kanikoPodYaml", "kanikoPush", "kanikoTags",
}  # fmt: skip


def step(name: str) -> str:
    return (REPOSITORY / "vars" / f"{name}.groovy").read_text()


def documented(name: str) -> list[str]:
    """The arguments in a step's help page, in its order."""
    page = (REPOSITORY / "vars" / f"{name}.txt").read_text()
    found = []
    for item in re.findall(r"<li>(.*?):", page, re.S):
        found += re.findall(r"<code>(\w+)</code>", item)
    return found


def listed(text: str, name: str) -> list[str]:
    table = re.search(rf"\b{name} = \[(.*?)\]", text, re.S)
    assert table, name
    return re.findall(r"'(\w+)'", table[1])


def library(name: str) -> str:
    return (REPOSITORY / "src" / "kaniko" / f"{name}.groovy").read_text()


def known(name: str) -> set[str]:
    """The arguments that a step takes, from its code."""
    if name == "kanikoPodYaml":
        return set(listed(library("Pod"), "KNOWN"))
    lists = {
        "kanikoBuild": ("REQUESTED", "HERE"),
        "kanikoPodTemplate": ("TEMPLATE", "OWN"),
        "kanikoPipeline": ("OWN",),
    }
    own = [one for part in lists.get(name, ("KNOWN",)) for one in listed(step(name), part)]
    if name in ("kanikoPush", "kanikoManifest"):
        for part in ("DESTINATION", "REGISTRIES", "HERE"):
            own += listed(library("Arguments"), part)
    return set(own)


def test_all_steps_are_there_each_with_a_help_page() -> None:
    assert {path.stem for path in (REPOSITORY / "vars").glob("*.groovy")} == STEPS
    assert {path.stem for path in (REPOSITORY / "vars").glob("*.txt")} == STEPS


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_argument_is_in_the_help_page(name: str) -> None:
    found = documented(name)
    assert len(found) == len(set(found))
    assert set(found) == known(name)


def test_every_argument_of_a_build_is_in_the_documentation_and_understood() -> None:
    docs = (REPOSITORY / "docs" / "jenkins.md").read_text().partition("## kanikoBuild")[2]
    cells = re.findall(r"^\| (`[^|]*) \|", docs.partition("\n## ")[0], re.M)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == known("kanikoBuild")
    for name in listed(step("kanikoBuild"), "REQUESTED"):
        assert request_to_flags({name: None} | {"destinations": ["a:1"]})


def test_every_step_is_in_the_documentation() -> None:
    docs = (REPOSITORY / "docs" / "jenkins.md").read_text()
    assert all(f"`{name}" in docs or f"## {name}" in docs for name in STEPS)


def test_no_step_has_a_value_in_a_command_line() -> None:
    """Shell lines of the library are constants in single quotes."""
    texts = [path.read_text() for path in [*(REPOSITORY / "vars").glob("*.groovy"),
             *(REPOSITORY / "src").rglob("*.groovy")]]  # fmt: skip
    scripts = [script for text in texts for script in re.findall(r"\bsh\(([^)]*)\)", text)]
    assert len(scripts) == 2
    for script in scripts:
        assert re.search(r"script: (COMMAND|'[^'$]*'),", script), script
