"""`executor` and `pybuild` against a real registry: push, cache, refusals, signals.

RUNs are confined by `namespace`, named in each call: nothing here may fall back to `/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import bases, registry

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not registry.is_available() or shutil.which("unshare") is None,
    reason="needs root and docker-registry",
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry.running_registry(tmp_path_factory.mktemp("registry")) as running:
        bases.push_bases(running.host, ["busybox"])
        yield running.host


@dataclass
class Project:
    """A context, and the programs run on it."""

    folder: Path
    host: str
    environment: dict[str, str] = field(default_factory=dict)

    def dockerfile(self, *lines: str) -> None:
        text = "\n".join((f"FROM {self.host}/base/busybox", *lines))
        (self.folder / "Dockerfile").write_text(text + "\n")

    def start(self, *argv: str) -> subprocess.Popen[str]:
        code = "import sys; from pybuild.cli.executor import main; sys.exit(main())"
        (self.folder.parent / "tmp").mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder.parent),
            "TMPDIR": str(self.folder.parent / "tmp"), "PYBUILD_ISOLATION": "namespace",
        }  # fmt: skip
        return subprocess.Popen(
            ["env", "--default-signal=HUP,INT,TERM", sys.executable, "-c", code,
             f"--context={self.folder}", *argv],
            cwd=self.folder, env=environment | self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*argv)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def tags(self, repository: str) -> list[str]:
        try:
            with urllib.request.urlopen(f"http://{self.host}/v2/{repository}/tags/list") as answer:
                return json.loads(answer.read())["tags"] or []
        except urllib.error.HTTPError:
            return []

    def left_behind(self) -> list[str]:
        """After a while: large folders are removed by a process that outlives the build."""
        folder = self.folder.parent / "tmp"
        deadline = time.monotonic() + 10
        while any(folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def project(tmp_path: Path, host: str) -> Project:
    (tmp_path / "context").mkdir()
    return Project(tmp_path / "context", host)


def test_build_push_and_digest_files(project: Project) -> None:
    project.dockerfile("RUN echo out; echo err >&2; id -u > /uid", "ENV A=1")
    run = project.run(f"-d={project.host}/a/app:1", f"--destination={project.host}/b:2",
                      "--digest-file=d", "--image-name-with-digest-file=n",
                      "--image-name-tag-with-digest-file=t", "--image-url-file=u")  # fmt: skip
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    digest = (project.folder / "d").read_text()
    assert (project.folder / "u").read_text() == f"{project.host}/a/app:1"
    assert {
        name: (project.folder / name).stat().st_mode & 0o777 for name in "dntu"
    } == dict.fromkeys("dntu", 0o644)
    assert (project.folder / "n").read_text().splitlines() == [
        f"{project.host}/a/app@{digest}", f"{project.host}/b@{digest}"
    ]  # fmt: skip
    assert (project.folder / "t").read_text().splitlines()[1] == f"{project.host}/b:2@{digest}"
    with urllib.request.urlopen(f"http://{project.host}/v2/a/app/manifests/{digest}") as answer:
        assert answer.headers["Docker-Content-Digest"] == digest
    assert "| out" in run.stderr and "| err" in run.stderr and project.left_behind() == []


def test_without_a_push_the_name_files_tell_the_destinations(project: Project) -> None:
    project.dockerfile("LABEL a=b")
    run = project.run(f"-d={project.host}/unpushed:1", "--no-push", "--digest-file=d",
                      "--image-name-with-digest-file=n",
                      "--image-name-tag-with-digest-file=t")  # fmt: skip
    assert run.returncode == 0, run.stderr
    digest = (project.folder / "d").read_text()
    assert (project.folder / "n").read_text() == f"{project.host}/unpushed@{digest}\n"
    assert (project.folder / "t").read_text() == f"{project.host}/unpushed:1@{digest}\n"
    assert project.tags("unpushed") == []


def blob_downloads(log: Path) -> list[str]:
    """The digest of each blob that the registry was asked for, by its own log."""
    return re.findall(r'"GET /v2/[^ ]+/blobs/(sha256:[0-9a-f]+) HTTP', log.read_text())


@pytest.mark.parametrize(
    "line",
    ["LABEL a=b", "COPY Dockerfile /bin/", "RUN echo made > /made"],
    ids=["none", "copy", "run"],
)
def test_a_base_for_another_registry_is_fetched_once(
    project: Project, tmp_path: Path, line: str
) -> None:
    with (
        registry.running_registry(tmp_path / "from") as here,
        registry.running_registry(tmp_path / "to") as there,
    ):
        bases.push_bases(here.host, ["busybox"])
        before = len(blob_downloads(here.log))
        project.host = here.host
        project.dockerfile(line)
        run = project.run(f"-d={there.host}/app:1")
        assert run.returncode == 0, run.stderr
        asked = blob_downloads(here.log)[before:]
        accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
        manifest = f"http://{there.host}/v2/app/manifests/1"
        with urllib.request.urlopen(urllib.request.Request(manifest, headers=accept)) as answer:
            layers = json.loads(answer.read())["layers"]
        assert len(asked) == len(set(asked)) and layers[0]["digest"] in asked
        for layer in layers:
            url = f"http://{there.host}/v2/app/blobs/{layer['digest']}"
            with urllib.request.urlopen(url) as answer:
                assert f"sha256:{hashlib.sha256(answer.read()).hexdigest()}" == layer["digest"]
    assert project.left_behind() == []


@pytest.mark.parametrize("more", [(), ("--reproducible",)], ids=["as ever", "reproducible"])
def test_a_second_build_takes_the_cache(project: Project, more: tuple[str, ...]) -> None:
    project.dockerfile("RUN cat /proc/sys/kernel/random/uuid > /unlike")
    flags = (f"-d={project.host}/cached{len(more)}:1", "--cache", "--digest-file=d", *more)
    first = project.run(*flags)
    digest = (project.folder / "d").read_text()
    second = project.run(*flags)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "(cached" not in first.stderr and "(cached" in second.stderr
    if more:
        assert (project.folder / "d").read_text() == digest


def test_the_cache_folder_keeps_indexes(project: Project) -> None:
    project.dockerfile("COPY Dockerfile /")
    cache = project.folder.parent / "indexes"
    flags = (f"-d={project.host}/indexed:1", "--cache", f"--cache-dir={cache}")
    assert project.run(*flags).returncode == 0
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert len(kept) == 1 and kept[0].stat().st_size > 100
    kept[0].write_bytes(b"broken")
    project.dockerfile("COPY Dockerfile /again")
    again = project.run(*flags)
    assert again.returncode == 0, again.stderr
    assert kept[0].read_bytes() != b"broken"


def test_no_push_cache_keeps_nothing(project: Project) -> None:
    project.dockerfile("RUN true > /x")
    run = project.run(f"-d={project.host}/ro:1", "--cache", "--no-push-cache")
    assert run.returncode == 0 and project.tags("ro/cache") == []


def test_the_status_of_a_run_is_kept_and_nothing_is_tagged(project: Project) -> None:
    project.dockerfile("RUN echo before", "RUN echo last words >&2; exit 7")
    run = project.run(f"-d={project.host}/failing:1")
    assert run.returncode == 7 and project.tags("failing") == []
    assert "error[run-failed]: " in run.stderr and "  at Dockerfile:3\n" in run.stderr
    assert "| last words" in run.stderr and project.left_behind() == []


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_everything(project: Project, number: int, status: int) -> None:
    mark = f"31{number}.{os.getpid()}"
    project.dockerfile(f"RUN (sleep {mark} &) ; echo started; sleep {mark}")
    process = project.start(f"-d={project.host}/stopped:1")
    assert process.stderr is not None
    for line in process.stderr:
        if "| started" in line:
            break
    process.send_signal(number)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == status and time.monotonic() - started < 5
    assert "error[interrupted]" in err and "error[bug]" not in err
    assert project.tags("stopped") == [] and project.left_behind() == []
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(mark.encode() in command for command in commands)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("COPY missing /", "copy-source-missing"),
        ("COPY *.none /", "copy-source-missing"),
        ("COPY --from=none /a /", "manifest-unknown"),
        ("USER nobody-here\nRUN true", "unknown-user"),
        ('RUN ["/no/such/program"]', "program-missing"),
    ],
)
def test_mistakes_have_codes_and_places(project: Project, line: str, code: str) -> None:
    project.dockerfile(line.replace("--from=none", f"--from={project.host}/none"))
    run = project.run("--no-push")
    assert f"error[{code}]: " in run.stderr, run.stderr
    assert "  at Dockerfile:" in run.stderr and "Traceback" not in run.stderr
    assert project.left_behind() == []


def test_a_registry_that_is_down(project: Project) -> None:
    project.dockerfile("RUN true > /x")
    run = project.run("-d=127.0.0.1:9/app:1")
    assert run.returncode == 1 and "error[registry-unreachable]: " in run.stderr
    assert "127.0.0.1:9" in run.stderr and project.left_behind() == []


def test_refused_credentials_name_what_was_tried(project: Project, tmp_path: Path) -> None:
    project.dockerfile()
    with registry.running_registry(tmp_path / "closed", users={"u": "p"}) as closed:
        config = tmp_path / "docker"
        config.mkdir()
        project.environment = {"DOCKER_CONFIG": str(config)}
        (config / "config.json").write_text(
            json.dumps({"auths": {closed.host: {"username": "u", "password": "not-the-password"}}})
        )
        wrong = project.run(f"-d={closed.host}/app:1")
        (config / "config.json").write_text(
            json.dumps({"auths": {closed.host: {"username": "u", "password": "p"}}})
        )
        right = project.run(f"-d={closed.host}/app:1")
    assert wrong.returncode == 1 and "error[unauthorized]: " in wrong.stderr
    assert "config.json" in wrong.stderr and "not-the-password" not in wrong.stderr
    assert right.returncode == 0, right.stderr


def test_the_plan_changes_nothing(project: Project) -> None:
    project.dockerfile("RUN true > /x")
    code = "import sys; from pybuild.cli.main import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", code, "plan", str(project.folder), f"-t={project.host}/planned:1",
         "--cache"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0 and "runs: not in the cache" in run.stdout, run.stderr
    assert project.tags("planned") == [] and project.tags("planned/cache") == []
