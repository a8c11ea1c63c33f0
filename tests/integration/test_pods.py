"""The same twelve builds in every kind of Pod, and the images compared: whole trees and configs.

A kind is a Pod's YAML, run by the translator in tests/support/pods.py with the agent image of this
checkout; one container builds all cases one after the other, as Jenkins does it. The image that the
default Pod makes is what the others have to make too; that it is the right one is shown elsewhere,
by comparison with BuildKit. Where a Pod can't build a case, the case is refused by name.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import agent, pods
from tests.support.agent_images import AgentImages, agent_images
from tests.support.bases import BASES, push_bases
from tests.support.oracle.case import Case, lay_out, load_case
from tests.support.oracle.flatten import Flattener
from tests.support.oracle.record import Record, differences, make_record
from tests.support.oracle.registry import get, running_registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman"),
    pytest.mark.skipif(bool(agent.missing_commands()), reason="needs podman, runc, a registry"),
    pytest.mark.xdist_group("pods"),
]
FOLDER = Path(__file__).parents[1] / "pods"
CASES = {
    path.name: load_case(path)
    for path in sorted(FOLDER.iterdir())
    if (path / "Dockerfile").exists()
}
WITHOUT_RUN = ("added", "maven-jar")
USED_BASES = ("busybox", "debian", "tools", "jre", "compiler")
EXECUTOR = Path(sys.executable).with_name("executor")
ROW_SECONDS = 900  # of one kind, on a busy machine
BIG_CASE, MIB = "deletions-and-big", 1 << 20
UNSUPPORTED = "isolation-unsupported"


@dataclass(frozen=True)
class Kind:
    """A kind of Pod. `pod` and `container` are YAML of its securityContexts; `refused` are the
    error codes of the cases that it can't build, and words that the error has to have."""

    isolation: str
    pod: str = "{}"
    container: str = "{}"
    target: str = "slim"
    random_user: int = 0
    memory: str = ""
    megabytes: int = 64
    network: bool = True
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    cases: tuple[str, ...] = tuple(CASES)


RUNTIME_DEFAULT = "{seccompProfile: {type: RuntimeDefault}}"
FIVE = "{capabilities: {drop: [ALL], add: [CHOWN, DAC_OVERRIDE, FOWNER, SETUID, SETGID]}}"
UNPRIVILEGED = "{allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"
REFERENCE = "default"
KINDS = {
    REFERENCE: Kind("namespace"),
    "runtime-default": Kind("takeover", RUNTIME_DEFAULT),
    "five-capabilities": Kind("rootless", RUNTIME_DEFAULT, FIVE),  # setcap is recorded
    "restricted": Kind(
        "rootless",
        "{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, "
        "seccompProfile: {type: RuntimeDefault}}",
        UNPRIVILEGED, target="rootless",
    ),
    "random-user": Kind(
        "rootless", "{runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}",
        UNPRIVILEGED, target="rootless", random_user=1_000_650_000,
    ),
    "read-only-root": Kind(
        "none", RUNTIME_DEFAULT, "{readOnlyRootFilesystem: true}",
        refused={name: (UNSUPPORTED, "read-only") for name in CASES if name not in WITHOUT_RUN},
    ),
    "small-memory": Kind("namespace", memory="256Mi", megabytes=1024),
    "small-memory-runtime-default": Kind(
        "takeover", RUNTIME_DEFAULT, memory="256Mi", megabytes=1024, cases=(BIG_CASE,)
    ),
    "no-network": Kind("namespace", network=False),
    "no-network-runtime-default": Kind(
        "takeover", RUNTIME_DEFAULT, network=False, cases=("real-bin",),
        refused={"real-bin": ("run-flag-unsupported", "--network=none")},
    ),
}  # fmt: skip

# Reads a request a line (the executor's words), answers a line: exit status, output, peak memory of
# all that ended so far, in bytes. What it needs is imported before the first build.
LOOP = """
import json, resource, subprocess, sys
for line in sys.stdin:
    done = subprocess.run(["/kaniko/executor", *json.loads(line)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    output = done.stdout.decode("utf-8", "replace")
    print(json.dumps({"status": done.returncode, "output": output, "peak": peak}), flush=True)
"""


def manifest(kind: Kind) -> dict[str, Any]:
    """The Pod in which all cases are built."""
    container: dict[str, Any] = {
        "name": "kaniko",
        "image": kind.target,
        "command": ["/kaniko/bin/python3", "-I", "-c", LOOP.replace("$", "$$")],
        "stdin": True,
        "env": [{"name": "KANIKO_DIR", "value": "/kaniko/work"}],
        "securityContext": yaml.safe_load(kind.container),
        "volumeMounts": [
            {"name": "workspace", "mountPath": "/workspace"},
            {"name": "work", "mountPath": "/kaniko/work"},
        ],
    }
    if kind.memory:
        container["resources"] = {"limits": {"memory": kind.memory}}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "activeDeadlineSeconds": ROW_SECONDS,
        "securityContext": yaml.safe_load(kind.pod),
        "containers": [container],
        "volumes": [{"name": "workspace", "emptyDir": {}}, {"name": "work", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pods"}, "spec": spec}


@dataclass(frozen=True)
class Built:
    """What a build in a Pod came to; `peak` in bytes, of the container's largest process so far."""

    status: int
    output: str
    peak: int

    @property
    def error(self) -> str:
        found = re.findall(r"error\[([a-z0-9-]+)\]", self.output)
        return found[-1] if found else ""


@dataclass
class Site:
    """The registry, the images, and what every kind of Pod built."""

    host: str
    images: AgentImages
    folder: Path
    jar: Path
    pool: ThreadPoolExecutor
    flattener: Flattener
    futures: dict[str, Future[dict[str, Built]]] = field(default_factory=dict)

    def start(self, names: list[str]) -> None:
        for name in names:
            self.futures[name] = self.pool.submit(self._build_all, name)

    def built(self, kind: str) -> dict[str, Built]:
        return self.futures[kind].result()

    def record(self, kind: str, case: str) -> Record:
        """The whole tree, and the config."""
        image = self.flattener.flatten(f"pods/{kind}/{case}", "latest")
        return make_record(image, {}, {}, ("srv/l/sub/old",))

    def _build_all(self, name: str) -> dict[str, Built]:
        kind = KINDS[name]
        cluster = pods.Cluster(random_user=kind.random_user)
        with pods.pod_folder(self.folder) as folder:
            (run,) = pods.translate(manifest(kind), folder, self.images.by_target, cluster)
            contexts = folder / "volume-workspace"
            for case in kind.cases:
                self._lay_out(CASES[case], contexts / case, kind)
            log = folder / "podman.log"
            with log.open("w") as errors:
                container = subprocess.Popen(
                    run.command(self.images.podman), stdin=subprocess.PIPE, text=True,
                    stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
            try:
                return {case: self._build(container, name, CASES[case], log) for case in kind.cases}
            finally:
                assert container.stdin is not None
                container.stdin.close()
                container.wait(60)

    def _lay_out(self, case: Case, context: Path, kind: Kind) -> None:
        lay_out(case, context)
        if case.name == "maven-jar":
            (context / "target").mkdir()
            shutil.copy2(self.jar, context / "target/app.jar")
        if not kind.network:  # beside the context, which has to be the same
            text = (context / "Dockerfile").read_text()
            text = re.sub(r"(?m)^RUN ", "RUN --network=none ", text)
            context.with_name(f"{case.name}-Dockerfile").write_text(text)
        for name, value in (case.secrets or {}).items():
            (context.parent / f"{case.name}-{name}").write_text(value)

    def _build(self, container: subprocess.Popen[str], name: str, case: Case, log: Path) -> Built:
        flags = [f"--context=/workspace/{case.name}", f"--build-arg=REG={self.host}"]
        flags += [f"--destination={self.host}/pods/{name}/{case.name}:latest"]
        flags += [f"--build-arg=MEGABYTES={KINDS[name].megabytes}"] if case.name == BIG_CASE else []
        if not KINDS[name].network:
            flags.append(f"--dockerfile=/workspace/{case.name}-Dockerfile")
        for secret in case.secrets or {}:
            flags.append(f"--secret=id={secret},src=/workspace/{case.name}-{secret}")
        assert container.stdin and container.stdout
        container.stdin.write(f"{json.dumps(flags)}\n")
        container.stdin.flush()
        line = container.stdout.readline()
        if not line:
            return Built(-1, f"error[container-ended]\n{log.read_text()[-2000:]}", 0)
        answer = json.loads(line)
        return Built(answer["status"], answer["output"], answer["peak"])


def make_jar(folder: Path) -> Path:
    """The example's server, compiled here; Maven makes the same of it."""
    sources = Path(__file__).parents[2] / "examples/hello-maven/src/main/java"
    classes = folder / "classes"
    files = sorted(str(path) for path in sources.rglob("*.java"))
    subprocess.run(["javac", "-d", str(classes), *files], check=True)
    command = ["jar", "--create", f"--file={folder / 'app.jar'}", "--main-class=hello.Server"]
    subprocess.run([*command, "-C", str(classes), "."], check=True)
    return folder / "app.jar"


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pods")
    wanted = {
        item.callspec.params["kind"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        and item.path == request.path and "kind" in item.callspec.params
    } | {REFERENCE}  # fmt: skip
    with ExitStack() as stack:
        host = stack.enter_context(running_registry(folder / "registry"))
        push_bases(host, USED_BASES)
        base = folder / "base"
        base.mkdir()
        shutil.copy(FOLDER / "base-capabilities/base.Dockerfile", base / "Dockerfile")
        command = [str(EXECUTOR), f"--context={base}", f"--build-arg=REG={host}"]
        command.append(f"--destination={host}/pods/base-capabilities:latest")
        made_base = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made_base.returncode == 0, made_base.stderr[-2000:]
        targets = sorted({KINDS[name].target for name in wanted})
        images = stack.enter_context(agent_images(targets))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        made = Site(host, images, folder, make_jar(folder), pool, Flattener(host))
        made.start([name for name in KINDS if name in wanted])
        yield made


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, about in KINDS.items() for case in about.cases]
)
def test_every_pod_makes_the_same_image(site: Site, kind: str, case: str) -> None:
    about, built = KINDS[kind], site.built(kind)[case]
    if case in about.refused:
        code, word = about.refused[case]
        assert (built.status != 0, built.error) == (True, code), built.output[-3000:]
        assert word in built.output[built.output.rindex("error[") :]
        return
    assert built.status == 0, built.output[-3000:]
    if case not in WITHOUT_RUN:
        assert f"isolation {about.isolation}" in built.output
    if about.megabytes != KINDS[REFERENCE].megabytes and case == BIG_CASE:
        assert digest_of_big_file(site.host, f"pods/{kind}/{case}") == big_digest(about.megabytes)
        return
    assert differences(site.record(REFERENCE, case), site.record(kind, case)) == {}


def test_there_are_twelve() -> None:
    assert len(CASES) == 12


@pytest.mark.parametrize("kind", ["small-memory", "small-memory-runtime-default"])
def test_a_layer_of_any_size_is_made_in_little_memory(site: Site, kind: str) -> None:
    """Of the builder and all that it ran; the container's limit would have ended it at 256 MB."""
    assert max(built.peak for built in site.built(kind).values()) < 150 * MIB


def big_digest(megabytes: int) -> str:
    """Of the file that the case makes: its first half is the seed again and again."""
    seed = next((FOLDER / BIG_CASE).glob("prepare.sh"))
    command = ["sh", "-c", f"cd $(mktemp -d) && sh {seed} && cat seed"]
    data = subprocess.check_output(command)
    digest, written = hashlib.sha256(), 0
    for _ in range(0, megabytes // 8, 2):
        digest.update(data)
        written += len(data)
    for _ in range(megabytes - written // MIB):
        digest.update(bytes(MIB))
    return digest.hexdigest()


def digest_of_big_file(host: str, repository: str) -> str:
    """Of /srv/big, read as a stream from the layer that has it."""
    layers = json.loads(get(host, f"/v2/{repository}/manifests/latest"))["layers"]
    biggest = max(layers, key=lambda layer: int(layer["size"]))
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", f"/v2/{repository}/blobs/{biggest['digest']}")
    with tarfile.open(fileobj=connection.getresponse(), mode="r|gz") as tar:
        for member in tar:
            if member.name == "srv/big":
                content, digest = tar.extractfile(member), hashlib.sha256()
                assert content is not None
                while chunk := content.read(MIB):
                    digest.update(chunk)
                return digest.hexdigest()
    raise AssertionError("no big file in the largest layer")


def test_bases_are_what_the_cases_name() -> None:
    named = {
        name
        for case in CASES.values()
        for file in case.directory.glob("*Dockerfile")
        for name in re.findall(r"\$\{REG\}/base/([a-z]+)", file.read_text())
    }
    assert named == set(USED_BASES) and named <= set(BASES)
