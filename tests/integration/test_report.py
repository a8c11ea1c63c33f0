"""`--report`: of real builds that go well or fail, and as a browser shows it under the policy that
Jenkins serves artifacts with."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.report.html.page import PAGE, render
from tests.support import chromium, fake_registry
from tests.support.fake_registry import FakeRegistry
from tests.support.images import add_base
from tests.support.project import Project
from tests.support.stories import STORIES

pytestmark = pytest.mark.xdist_group("report")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the base image")


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with fake_registry.running() as running:
        add_base(running, "busybox")
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@needs_root
def test_a_build_leaves_its_page(project: Project, registry: FakeRegistry) -> None:
    project.write("Dockerfile", f"FROM {registry.host}/base/busybox AS build\n"
                  "RUN echo token-in-the-output && mkdir /out && echo 1 > /out/a\n"
                  "FROM scratch\nCOPY --from=build /out /opt/made\n"
                  "COPY big /srv/big\n")  # fmt: skip
    project.write("big", os.urandom(300_000))
    flags = ["--context=.", f"--destination={registry.host}/app:1", "--cache",
             f"--cache-repo={registry.host}/cache",
             f"--report={project.out}/made/page"]  # fmt: skip
    first = project.executor(*flags, "--sbom=spdx")
    assert first.status == 0, first.text
    page = (project.out / "made/page" / PAGE).read_text()
    for words in ("Built and pushed", f"{registry.host}/app:1", "not in the cache", "/srv/big",
                  "/opt/made/a", f"{registry.host}/base/busybox", "linux/",
                  "0 packages"):  # fmt: skip
        assert words in page, words
    assert "token-in-the-output" not in page.replace("echo token-in-the-output", "")
    assert f"wrote   {project.out}/made/page/report.html" in first.text
    second = project.executor(*flags)
    assert second.status == 0, second.text
    page = (project.out / "made/page" / PAGE).read_text()
    assert "3 of 3 steps came from the cache" in page or "1 stage skipped" in page
    assert "Not counted in this build" in page
    assert "/srv/big" in page  # a cached layer's index comes with its entry


@needs_root
def test_a_page_makes_no_build_read_its_base(project: Project, registry: FakeRegistry) -> None:
    project.write("Dockerfile", f"FROM {registry.host}/base/busybox\nCOPY --link a /x/a\n")
    project.write("a", "a")
    registry.requests.clear()
    found = project.executor("--context=.", "--report=page", f"--destination={registry.host}/b:1")
    assert found.status == 0, found.text
    asked = [one for one in registry.requests if one.method == "GET" and "/blobs/" in one.path]
    config = [one for one in asked if "base/busybox" in one.path]
    assert len(config) == 1  # the base's config, and no layer
    page = (project.context / "page" / PAGE).read_text()
    assert "Its files were not read in this build." in page


@needs_root
def test_a_failed_build_leaves_its_page_too(project: Project, registry: FakeRegistry) -> None:
    project.write("Dockerfile", f"FROM {registry.host}/base/busybox\nRUN exit 7\n")
    found = project.executor("--context=.", "--no-push", "--report=page")
    assert found.status == 7
    page = (project.context / "page" / PAGE).read_text()
    assert "Failed" in page and "exit status 7" in page and "Dockerfile:2" in page
    assert "not finished" in page and "RUN exit 7" in page


def test_a_build_that_never_began_leaves_its_page(project: Project) -> None:
    project.write("Dockerfile", "FROM scratch\nCOPPY a b\n")
    found = project.executor("--context=.", "--no-push", "--report=page")
    assert found.status == 1
    assert "Dockerfile:2" in (project.context / "page" / PAGE).read_text()


def test_a_folder_that_can_t_be_is_found_before_the_build(project: Project) -> None:
    project.write("Dockerfile", "FROM scratch\n")
    project.write("page", "a file")
    found = project.executor("--context=.", "--no-push", "--report=page")
    assert found.codes == ["output-failed"] and "--report=" in found.text


def test_a_request_gets_its_page_beside_the_other_reports(project: Project) -> None:
    from subprocess import run

    project.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
    request = project.write("r/request.json", json.dumps({"push": False, "reports": "made"}))
    pybuild = Path(sys.executable).with_name("pybuild")
    done = run([pybuild, "request", str(request)], cwd=project.context, capture_output=True,
               env=project.environment({}), text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((request.parent / "result.json").read_text())
    assert result["reports"]["report"] == "report.html"
    assert (project.context / "made" / PAGE).exists()


WIDTHS = (360, 768, 1280)
QUESTIONS = {
    "overflow": "document.documentElement.scrollWidth - innerWidth",
    "pictures": "[...document.images].map(i => [i.currentSrc.split('/').pop(), i.naturalWidth])",
    "ground": "getComputedStyle(document.body).backgroundColor",
    "size": "parseFloat(getComputedStyle(document.querySelector('td, dd')).fontSize)",
    "outside": "[...document.querySelectorAll('main *')].filter(e => "
    "e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, thead')).length",
}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    if not chromium.is_available():
        pytest.skip("there is no chromium")
    with chromium.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("artifacts")
    for name, make in STORIES.items():
        (folder / name).mkdir()
        for file, raw in render(make()).items():
            (folder / name / file).write_bytes(raw)
    (folder / "broken.html").write_text(
        "<!DOCTYPE html><html><head><style>p{color:red}</style></head>"
        "<body style='margin:0'><img src='https://elsewhere.invalid/x.png'><dd>x</dd></body></html>"
    )
    with chromium.jenkins_artifacts(folder) as address:
        yield address


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["built", "failed", "hostile"])
def test_a_browser_shows_it_under_the_policy(
    tab: chromium.Browser, served: str, name: str, width: int, theme: str
) -> None:
    visit = tab.visit(f"{served}/{name}/{PAGE}", width=width, theme=theme, questions=QUESTIONS)
    assert visit.complaints == []
    assert all(url.startswith(served) for url in visit.statuses), visit.statuses
    assert set(visit.statuses.values()) <= {200, 0}  # 0: began, and another picture was chosen
    assert visit.values["overflow"] <= 0 and visit.values["outside"] == 0
    assert visit.values["size"] >= 14
    dark, narrow = theme == "dark", width < 640
    assert visit.values["ground"] == ("rgb(17, 22, 28)" if dark else "rgb(246, 247, 249)")
    pictures = visit.values["pictures"]
    assert pictures and all(natural > 0 for _, natural in pictures)
    for file, _ in pictures:
        assert ("-narrow" in file, "-dark" in file) == (narrow, dark)
    assert png_width(visit.picture) == width
    if folder := os.environ.get("REPORT_PICTURES"):
        (Path(folder) / f"{name}-{width}-{theme}.png").write_bytes(visit.picture)


def test_the_browser_would_complain(tab: chromium.Browser, served: str) -> None:
    """The policy is in force, and what it refuses is seen."""
    visit = tab.visit(f"{served}/broken.html", width=768, theme="light")
    assert any("Content Security Policy" in text for text in visit.complaints)
    assert any("elsewhere.invalid" in text for text in visit.complaints)


def png_width(picture: bytes) -> int:
    """PNG specification, 11.2.2 IHDR."""
    width: int = struct.unpack(">I", picture[16:20])[0]
    return width
