"""A project with a destination and a cache of its own in a real registry, behind a proxy that
counts; what was built is read back from the registry.

The fixtures are imported by the tests that use them.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pybuild.image.digest import Digest
from pybuild.image.layer import EMPTY_CHAIN, chain_id
from tests.support.bases import push_bases
from tests.support.project import Finished, Project, Running
from tests.support.proxy import RegistryProxy, running_proxy
from tests.support.registry import RealRegistry, running_registry

PYBUILD = Path(sys.executable).with_name("pybuild")
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as found:
        push_bases(found.host, ["busybox", "tools"])
        yield found


@pytest.fixture(scope="module")
def proxy(registry: RealRegistry) -> Iterator[RegistryProxy]:
    with running_proxy(registry.host) as found:
        yield found


@dataclass(frozen=True)
class Image:
    """What was pushed. `files` reads a file of the topmost layer that has it."""

    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: tuple[tarfile.TarFile, ...]

    @property
    def diff_ids(self) -> list[str]:
        return list(self.config["rootfs"]["diff_ids"])

    def member(self, path: str) -> tuple[tarfile.TarFile, tarfile.TarInfo]:
        for layer in reversed(self.layers):
            if path in layer.getnames():
                return layer, layer.getmember(path)
        raise AssertionError(f"no layer has {path}")

    def read(self, path: str) -> str:
        layer, member = self.member(path)
        file = layer.extractfile(member)
        assert file is not None
        return file.read().decode()


@dataclass(frozen=True)
class Built:
    """One build as its events tell it."""

    finished: Finished
    events: list[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def cached(self) -> list[str]:
        """Instructions, shortened to the first word and the last."""
        return [_short(event["text"]) for event in self.all("step-cached")]

    @property
    def ran(self) -> list[str]:
        return [_short(event["text"]) for event in self.all("step-started")]

    @property
    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.all("step-started")]

    @property
    def skipped(self) -> list[str]:
        return [event["name"] for event in self.all("stage-skipped")]

    def notices(self, code: str) -> list[str]:
        return [event["msg"] for event in self.all("notice") if event["code"] == code]


def _short(text: str) -> str:
    words = text.split()
    return f"{words[0]} {words[-1]}"


def _tar(blob: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob)))


class Bench:
    """A project with a destination and a cache of its own in the shared registry."""

    def __init__(self, project: Project, proxy: RegistryProxy, name: str) -> None:
        self.project, self.proxy, self.name = project, proxy, name
        self.base = f"{proxy.host}/base/busybox"
        self.cache = f"{name}/cache"

    def write(self, text: str) -> None:
        """The Dockerfile; `BASE` stands for busybox."""
        self.project.write("Dockerfile", text.replace("BASE", self.base))
        self.project.write("d", "d")

    def flags(self, tag: str) -> list[str]:
        host = self.proxy.host
        return [
            "--context=dir://.",
            f"--destination={host}/{self.name}/app:{tag}",
            "--cache",
            f"--cache-repo={host}/{self.cache}",
            "--log-format=json",
        ]

    def start(self, *flags: str, tag: str = "1") -> Running:
        return self.project.start(*self.flags(tag), *flags)

    def build(self, *flags: str, tag: str = "1", fails: bool = False, **more: Any) -> Built:
        self.proxy.forget()
        return self.result(self.project.executor(*self.flags(tag), *flags, **more), fails=fails)

    def result(self, finished: Finished, *, fails: bool = False) -> Built:
        events = [json.loads(line) for line in finished.err.splitlines() if line[:1] == "{"]
        assert bool(finished.status) is fails, finished.err
        return Built(finished, events)

    # What is in the registry

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> bytes:
        connection = http.client.HTTPConnection(self.proxy.host, timeout=20)
        headers = {"Accept": MANIFESTS} | ({"Content-Type": kind} if kind else {})
        connection.request(method, path, body or None, headers)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        assert reply.status < 300 or reply.status == 404, (method, path, reply.status, data)
        return data if reply.status < 300 else b""

    def image(self, tag: str = "1") -> Image:
        path = f"/v2/{self.name}/app"
        manifest = json.loads(self.ask("GET", f"{path}/manifests/{tag}"))
        config = json.loads(self.ask("GET", f"{path}/blobs/{manifest['config']['digest']}"))
        blobs = [self.ask("GET", f"{path}/blobs/{it['digest']}") for it in manifest["layers"]]
        layers = tuple(_tar(data) for data in blobs)
        return Image(manifest, config, layers)

    def entries(self) -> dict[str, dict[str, Any]]:
        """The entries by key, each with its annotations under their short names."""
        tags = json.loads(self.ask("GET", f"/v2/{self.cache}/tags/list") or b"{}").get("tags")
        found = {}
        for tag in tags or ():
            raw = self.ask("GET", f"/v2/{self.cache}/manifests/{tag}")
            facts = json.loads(raw).get("annotations") if raw else None
            if facts and any(name.endswith(".diff-id") for name in facts):
                found[tag] = {name.rpartition(".")[2]: value for name, value in facts.items()}
                found[tag]["raw"] = raw
        return found

    def evict(self, diff_id: str) -> None:
        """Removes the entries that hold a layer, under all their keys."""
        gone = [entry["raw"] for entry in self.entries().values() if entry["diff-id"] == diff_id]
        assert gone
        for raw in set(gone):
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            self.ask("DELETE", f"/v2/{self.cache}/manifests/{digest}")

    def first_keys(self) -> list[str]:
        """Of all steps, shortened, as `pybuild plan` tells them."""
        return re.findall(r"^     (?:runs|cached).* ([0-9a-f]{12})$", self.plan(), re.M)

    def plan(self, *flags: str) -> str:
        words = ["plan", "--cache", f"--cache-repo={self.proxy.host}/{self.cache}", *flags, "."]
        done = self.pybuild(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pybuild(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PYBUILD), *words],
            cwd=self.project.context,
            env=self.project.environment({}),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def is_one_chain(self, image: Image) -> bool:
        """Whether each layer above the base was made on the very layers below it."""
        made = {(entry["parent"], entry["diff-id"]) for entry in self.entries().values()}
        chain = EMPTY_CHAIN
        for number, diff_id in enumerate(image.diff_ids):
            if number and (str(chain), diff_id) not in made:
                return False
            chain = chain_id(chain, Digest(diff_id))
        return True


@pytest.fixture
def bench(tmp_path: Path, proxy: RegistryProxy, request: pytest.FixtureRequest) -> Iterator[Bench]:
    proxy.rule = None
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    yield Bench(Project(tmp_path), proxy, name[:60].strip("-"))
    proxy.rule = None
