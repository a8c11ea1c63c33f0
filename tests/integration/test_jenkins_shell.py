"""What the examples type into shells, carried out: the clone in the agent, Maven, and the step's
one command in the builder's container, made from the Pod that the example asks for.

The Groovy tests record the scripts, the requests and the Pod. Here the Pod's builder is started
from the image of this checkout, idles as its YAML says, and is entered as the Kubernetes plugin
enters it: an exec of `sh`, lines typed into it, and in them the durable-task plugin's wrapper. The
agent is another user than the builder, as in Jenkins.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.demo import java
from tests.support import agent, groovy, pods
from tests.support.agent_images import AgentImages, agent_images
from tests.support.bases import push_bases
from tests.support.git_server import make_repository
from tests.support.registry import running_registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman"),
    pytest.mark.skipif(bool(agent.missing_commands()), reason="needs podman, runc, a registry"),
    pytest.mark.skipif(not groovy.is_available(), reason=f"needs: {groovy.NEEDED}"),
    pytest.mark.xdist_group("groovy"),
]
PASSWORD = "password-of-a-test"
IMAGE = "registry.example.com/pybuild/executor"
GIT = "https://git.example.com/team/hello.git"
HOME = "/home/jenkins/agent"  # where the plugin mounts the workspace's volume in every container
AGENT_USER = 1000
STEP_SECONDS = 120
PROJECT = groovy.REPOSITORY / "examples/hello-maven"
DOCKERFILE = """\
FROM {host}/base/busybox:latest
WORKDIR /app
COPY target/*.jar app.jar
RUN test "$(id -u)" = 0 && test ! -e /kaniko/.docker/config.json && wc -c < app.jar > size
CMD ["cat", "size"]
"""


@dataclass(frozen=True)
class Site:
    host: str
    images: AgentImages
    folder: Path

    def digest_of(self, reference: str) -> str:
        command = ["skopeo", "inspect", "--tls-verify=false", f"--creds=builder:{PASSWORD}"]
        return subprocess.check_output(
            [*command, "--format={{.Digest}}", f"docker://{reference}"], text=True
        ).strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="jenkins-"))  # that the agent's user can reach
    folder.chmod(0o755)
    try:
        with ExitStack() as stack:
            place = tmp_path_factory.mktemp("registry")
            registry = stack.enter_context(running_registry(place, users={"builder": PASSWORD}))
            push_bases(registry.host, ("busybox",), credentials=f"builder:{PASSWORD}")
            sources = (path for path in PROJECT.rglob("*") if path.is_file())
            files = {
                str(path.relative_to(PROJECT)): path.read_text()
                for path in sources
                if "target" not in path.relative_to(PROJECT).parts
            }
            files["Dockerfile"] = DOCKERFILE.format(host=registry.host)
            bare = make_repository(folder / "hello", files)
            for path in (bare, *bare.rglob("*")):  # git takes nothing from another user
                os.chown(path, AGENT_USER, AGENT_USER)
            yield Site(registry.host, stack.enter_context(agent_images(("debug",))), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def builder(site: Site, manifest: dict[str, Any], volume: Path) -> Iterator[str]:
    """The Pod's builder, idling; its name. The other containers are this machine."""
    containers = manifest["spec"]["containers"]
    assert [one["name"] for one in containers] == ["jnlp", "maven", "kaniko"]
    manifest["spec"]["containers"] = [containers[-1]]
    secrets = {"dockercred": pods.docker_config(site.host, "builder", PASSWORD)}
    name = f"jenkins-{os.getpid()}-{time.monotonic_ns()}"
    podman = site.images.podman
    with pods.pod_folder(site.folder) as folder:
        images = {f"{IMAGE}:{target}": image for target, image in site.images.by_target.items()}
        (one,) = pods.translate(manifest, folder, images, pods.Cluster(secrets))
        run, remove, *words = one.command(podman)[len(podman) :]
        own = ["--detach", f"--name={name}", f"--volume={volume}:{HOME}"]
        try:
            subprocess.run([*podman, run, remove, *own, *words], check=True, capture_output=True)
            yield name
        finally:
            stop = [*podman, "rm", "--force", "--time=1", name]
            subprocess.run(stop, check=False, capture_output=True)


@dataclass(frozen=True)
class Pod:
    """The workspace is at `volume`/workspace/hello here, below HOME in the builder."""

    site: Site
    name: str
    volume: Path

    @property
    def workspace(self) -> Path:
        return self.volume / "workspace/hello"

    def as_agent(self, *command: str) -> None:
        user = ["setpriv", f"--reuid={AGENT_USER}", f"--regid={AGENT_USER}", "--clear-groups"]
        subprocess.run([*user, *command], cwd=self.workspace, check=True, capture_output=True)

    def here(self, script: str, *, as_agent: bool) -> None:
        """A step in a container that this machine stands for."""
        if as_agent:
            self.as_agent("env", "HOME=/tmp", "sh", "-xe", "-c", script)
        else:
            subprocess.run(
                ["sh", "-xe", "-c", script], cwd=self.workspace, env=os.environ | java(),
                check=True, capture_output=True,
            )  # fmt: skip

    def in_builder(self, script: str, variables: Sequence[str]) -> tuple[int, str]:
        """A step in the builder: status and log. The files are the agent's, in its folder."""
        control = f"{HOME}/workspace/hello@tmp/durable-1"
        here = self.volume / "workspace/hello@tmp/durable-1"
        self.as_agent("mkdir", "-p", str(here))
        (here / "script.sh").write_text(script)
        typed = [f"cd {shlex.quote(f'{HOME}/workspace/hello')}"]
        typed += [f"export {shlex.quote(line)}" for line in variables]
        typed.append(WRAPPER.format(control=control))
        typed.append("exit")
        command = [*self.site.images.podman, "exec", "--interactive", self.name, "sh"]
        subprocess.run(command, input="\n".join(typed) + "\n", text=True, check=True,
                       capture_output=True, timeout=STEP_SECONDS)  # fmt: skip
        deadline = time.monotonic() + STEP_SECONDS
        while not (here / "result.txt").exists():  # as the controller does, by the agent
            assert time.monotonic() < deadline, (here / "log.txt").read_text()
            time.sleep(0.1)
        log = (here / "log.txt").read_text()
        status = int((here / "result.txt").read_text())
        self.as_agent("rm", "-rf", str(here.with_name("left")), str(here / "script.sh"))
        return status, log


WRAPPER = """\
nohup sh -c "({{ while test -d '{control}' -a \\! -f '{control}/result.txt'; do
touch '{control}/log.txt'; sleep 3; done }} & jsc=durable-cookie;
JENKINS_SERVER_COOKIE=\\$jsc sh -xe '{control}/script.sh' > '{control}/log.txt' 2>&1;
echo \\$? > '{control}/result.txt.tmp'; mv '{control}/result.txt.tmp' '{control}/result.txt';
wait) > /dev/null 2>&1 &" > /dev/null 2>&1"""


@pytest.mark.parametrize("example", ["scripted", "declarative"])
def test_the_shell_of_an_example_builds_and_pushes(site: Site, example: str) -> None:
    failed = {name: text for name, text in groovy.outcomes().items() if text}
    recorded = groovy.RECORDED / f"{example}.shell"
    assert recorded.exists(), failed
    text = recorded.read_text().replace("registry.example.com/team", f"{site.host}/team")
    text = text.replace(GIT, f"file://{site.folder}/hello.git").replace(
        "team/hello", f"team/{example}"
    )
    run = json.loads(text)
    volume = site.folder / f"volume-{example}"
    (volume / "workspace/hello").mkdir(parents=True)
    (volume / "workspace/hello@tmp").mkdir()
    for path in (volume, volume / "workspace", *(volume / "workspace").iterdir()):
        os.chown(path, AGENT_USER, AGENT_USER)
    assert [one["container"] for one in run["shells"]] == ["jnlp", "maven", "kaniko"]
    (request,) = run["requests"]
    with builder(site, yaml.safe_load(run["pods"][0]), volume) as name:
        pod = Pod(site, name, volume)
        clone, jar, image = run["shells"]
        pod.here(clone["script"], as_agent=True)
        pod.here(jar["script"], as_agent=False)
        before = tree(pod.workspace)
        (file,) = (Path(line.partition("=")[2]) for line in image["variables"]
                   if line.startswith("PYBUILD_REQUEST="))  # fmt: skip
        place = volume / file.relative_to(HOME)
        pod.as_agent("mkdir", "-p", str(place.parent))
        place.write_text(json.dumps(request))
        os.chown(place, AGENT_USER, AGENT_USER)
        status, log = pod.in_builder(image["script"], image["variables"])
        assert status == 0, log
        check(site, request, json.loads(place.with_name("result.json").read_text()), log)
        assert tree(pod.workspace) == before
        # The agent archives the reports and removes what the step has made.
        reports = volume / Path(request["reports"]).relative_to(HOME)
        assert {path.stat().st_uid for path in (reports, *reports.rglob("*"))} == {AGENT_USER}
        pod.as_agent("rm", "-r", str(place.parent), str(reports))


def check(site: Site, request: dict[str, Any], result: dict[str, Any], log: str) -> None:
    repository = request["image"]
    assert result["imageRef"] == f"{repository}@{site.digest_of(f'{repository}:7')}"
    assert result["tags"] == request["tags"]
    assert result["labels"]["org.opencontainers.image.revision"]
    assert PASSWORD not in log and PASSWORD not in json.dumps(result)
    assert "isolation namespace" in log


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and time of everything that the builder must not change."""
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (stat.st_mode, stat.st_uid, stat.st_mtime_ns)
    return found
