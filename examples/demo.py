"""The main job with real parts, as a Pod would do it: `make demo`.

A git repository with a Maven project, a registry with a password, a base image, and the secret
`dockercred` as Kubernetes mounts it. Then what the Pod's containers run, which share one workspace:
the repository is cloned into it, Maven leaves its jar there, and the builder builds from the folder
it stands in and pushes. That is how the jar gets into the image without a Maven stage in the
Dockerfile. At the end another program pulls the image, runs it, and a page is fetched from it.

What is kept, below `<cache>/pybuild-dev/`: base images, and the registry's blobs, which hold the
layer cache. A second run takes them and says so.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import bases
from tests.support.registry import running_registry

PROJECT = Path(__file__).parent / "hello-maven"
PYBUILD = Path(sys.executable).with_name("pybuild")
USER = "demo"
COMMANDS = {
    "docker-registry": "docker-registry",
    "git": "git",
    "htpasswd": "apache2-utils",
    "mvn": "maven",
    "javac": "openjdk-17-jdk-headless",
    "podman": "podman",
    "runc": "runc",
    "skopeo": "skopeo",
}
# What podman's defaults ask for is more than a small machine may give.
PODMAN_RUN = ("--net=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000")
PAGE_SECONDS = 60.0
STOP_SECONDS = 10.0


class DemoFailed(Exception):
    """A part did not do what it should; the message says which."""


@dataclass
class Demo:
    """One run: `work` goes at the end, `kept` stays."""

    work: Path
    kept: Path
    times: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        say(f"\n== {name}")
        start = time.monotonic()
        yield
        self.times[name] = time.monotonic() - start

    def run(
        self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> None:
        """Runs a part with its output to the terminal; raises DemoFailed where it fails."""
        self._show(command)
        child = subprocess.Popen(command, cwd=cwd, env=merged(env), stdin=subprocess.DEVNULL)
        self._finish(command, child)

    def logged(self, *command: str, cwd: Path, env: dict[str, str]) -> str:
        """The same for a talkative part: returns its output, shown only where it fails."""
        self._show(command)
        log = self.work / "log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=merged(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            self._finish(command, child)
        except DemoFailed:
            say(log.read_text(errors="replace"))
            raise
        return log.read_text(errors="replace")

    def _show(self, command: Sequence[str]) -> None:
        shown = " ".join((Path(command[0]).name, *command[1:]))
        say(f"$ {shown.replace(str(self.work), '$WORK')}")

    def _finish(self, command: Sequence[str], child: subprocess.Popen[bytes]) -> None:
        """Waits; where we are interrupted, the part gets TERM and time to put things back."""
        try:
            status = child.wait()
        except BaseException:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
        if status:
            raise DemoFailed(f"{Path(command[0]).name} ended with {status}")


def merged(env: dict[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(env or {})}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="The main job with real parts.")
    parser.add_argument("--base", default="", help="base image instead of the JRE made here")
    parser.add_argument("--kept", type=Path, default=bases.directory().parent / "demo")
    options = parser.parse_args()
    # TERM unwinds like any error, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        demonstrate(options.base, options.kept)
    except (DemoFailed, bases.BasesMissing) as failed:
        print(f"demo: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def demonstrate(base: str, kept: Path) -> None:
    missing = sorted({package for name, package in COMMANDS.items() if not shutil.which(name)})
    if missing:
        raise DemoFailed(f"it needs: apt-get install {' '.join(missing)}")
    kept.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context((kept / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(f"another demo is running (it holds {kept / 'lock'})") from None
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=kept, prefix="run-")))
        demo = Demo(work, kept)

        with demo.step("A git repository of examples/hello-maven"):
            repository = make_repository(demo)
        with demo.step("A registry with a password, and the base image in it"):
            password = secrets.token_urlsafe(12)
            registry = stack.enter_context(
                running_registry(kept / "registry", users={USER: password})
            )
            say(f"{registry.host}, blobs in {registry.folder}")
            base = base or push_base(registry.host, password)
            say(f"base {base}")
            credentials = mount_secret(work / "dockercred", registry.host, password)

        workspace = work / "workspace" / "hello"
        with demo.step("Agent: checkout of the repository into the Pod's workspace"):
            demo.run("git", "clone", "--quiet", str(repository), str(workspace))
        with demo.step("Container maven: the jar"):
            log = demo.logged("mvn", "-B", "-ntp", "package", cwd=workspace, env=java())
            say("\n".join(line for line in log.splitlines() if "Tests run:" in line))
            for jar in sorted(workspace.glob("target/*.jar")):
                say(f"{jar.relative_to(workspace)}, {size_of(jar.stat().st_size)}")
        with demo.step("Container kaniko: the image, from the same workspace"):
            result = build(demo, workspace, registry.host, base, credentials)
        with demo.step("Somebody else: pull, run, fetch the page"):
            page = pull_and_run(demo, str(result["imageRef"]), credentials)

        report(demo, result, page, base=base, credentials=credentials)


def make_repository(demo: Demo) -> Path:
    """A bare repository with one commit, always the same one."""
    source = demo.work / "source"
    shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns("target"))
    who = {"NAME": "Demo", "EMAIL": "demo@example.com", "DATE": "2024-01-01T00:00:00Z"}
    env = {f"GIT_{role}_{key}": who[key] for role in ("AUTHOR", "COMMITTER") for key in who}
    for command in ("init --quiet -b main", "add .", "commit --quiet -m Hello"):
        demo.run("git", *command.split(), cwd=source, env=env)
    bare = demo.work / "hello.git"
    demo.run("git", "clone", "--quiet", "--bare", str(source), str(bare))
    return bare


def push_base(host: str, password: str) -> str:
    """The JRE base, made from Debian packages where this machine has not made it before."""
    made = (bases.directory() / "jre").exists()
    say("base image: from the cache" if made else "base image: made once, takes minutes")
    return bases.push_bases(host, ("jre",), credentials=f"{USER}:{password}")["jre"]


def mount_secret(folder: Path, host: str, password: str) -> Path:
    """What a Pod sees of a docker-registry secret with `.dockerconfigjson` as `config.json`: links
    through `..data`, which the kubelet turns to another folder when the secret changes."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    stamp = folder / "..2024_01_01_00_00_00.000000000"
    stamp.mkdir(parents=True)
    (stamp / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    (folder / "..data").symlink_to(stamp.name)
    (folder / "config.json").symlink_to("..data/config.json")
    return folder


def build(
    demo: Demo, workspace: Path, host: str, base: str, credentials: Path
) -> dict[str, object]:
    """What `kanikoBuild()` does in the builder's container: a request, one command, a result."""
    folder = demo.work / "workspace" / "hello@tmp"
    folder.mkdir()
    request = folder / "request.json"
    arguments = {
        "image": f"{host}/team/hello",
        "tags": ["1.0", "latest"],
        "buildArgs": {"BASE": base},
        "cache": {"repo": f"{host}/team/hello/cache"},
    }
    say(f"kanikoBuild({json.dumps(arguments)})")
    request.write_text(json.dumps({"schema": 1, **arguments}))
    demo.run(
        str(PYBUILD),
        "request",
        str(request),
        cwd=workspace,
        env={"DOCKER_CONFIG": str(credentials)},
    )
    result = json.loads((folder / "result.json").read_text())
    if not isinstance(result, dict):
        raise DemoFailed("the builder's result is no JSON object")
    return result


def pull_and_run(demo: Demo, reference: str, credentials: Path) -> str:
    """The page that a container of the image serves. Image and container go afterwards."""
    auth = f"--authfile={credentials / 'config.json'}"
    name = f"pybuild-demo-{os.getpid()}"
    port = free_port()
    try:
        demo.run("podman", "pull", "--quiet", "--tls-verify=false", auth, reference)
        run = ("podman", "--runtime=runc", "run", "--detach", f"--name={name}", *PODMAN_RUN)
        demo.run(*run, f"--env=PORT={port}", reference)
        return fetch(f"http://127.0.0.1:{port}/demo")
    finally:
        quietly("podman", "rm", "--force", "--time=2", name)
        quietly("podman", "rmi", "--force", reference)


def fetch(url: str) -> str:
    deadline = time.monotonic() + PAGE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise DemoFailed(f"no page from {url}: {error}") from error
            time.sleep(0.1)


def report(
    demo: Demo, result: dict[str, object], page: str, *, base: str, credentials: Path
) -> None:
    layers = layers_of(str(result["imageRef"]), credentials)
    below = {digest for digest, _size in layers_of(base, credentials)}
    steps = f"{result['cacheHits']} steps from the cache, {result['cacheMisses']} carried out"
    say("\n== What came of it")
    say(f"page       {page.strip()}")
    say(f"image      {result['imageRef']}")
    tags = result["tags"]
    say(f"tags       {', '.join(tags) if isinstance(tags, list) else tags}")
    say(f"build      {steps}")
    for digest, size in layers:
        origin = "of the base" if digest in below else "of the Dockerfile"
        say(f"layer      {digest[:19]}  {size_of(size):>10}  {origin}")
    say(f"size       {size_of(sum(size for _digest, size in layers))}")
    for name, seconds in demo.times.items():
        say(f"{seconds:7.2f} s  {name}")
    if result["cacheMisses"]:
        say("Run it again to see what the caches save.")
    else:
        say("Every step came from the cache: no layer was made, and none was fetched.")
        say(f"(The cache is in the demo's registry, {demo.kept / 'registry'}.)")


def layers_of(reference: str, credentials: Path) -> list[tuple[str, int]]:
    """(digest, size) of each layer, read by skopeo, not by us; empty where it can't tell."""
    name, at, digest = reference.partition("@")
    if at:  # skopeo takes a tag or a digest, not both
        folder, slash, last = name.rpartition("/")
        reference = f"{folder}{slash}{last.partition(':')[0]}@{digest}"
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false"]
    command.append(f"--authfile={credentials / 'config.json'}")
    done = subprocess.run([*command, f"docker://{reference}"], capture_output=True, text=True)
    manifest = json.loads(done.stdout) if done.returncode == 0 else {}
    return [(layer["digest"], layer["size"]) for layer in manifest.get("layers", ())]


def java() -> dict[str, str]:
    if "JAVA_HOME" in os.environ:
        return {}
    return {"JAVA_HOME": str(Path(shutil.which("javac") or "").resolve().parent.parent)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quietly(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)


def size_of(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count} B"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
