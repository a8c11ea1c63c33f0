"""`warmer` with the real command line and a real registry, and builds that use what it keeps."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bases import push_bases
from tests.support.fake_registry import FakeRegistry, running
from tests.support.images import ARCHITECTURE, add_image
from tests.support.project import Finished, Project
from tests.support.proxy import Instead, RegistryProxy, running_proxy
from tests.support.registry import RealRegistry, is_available, running_registry

pytestmark = [
    pytest.mark.xdist_group("warmer"),
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root here"),
    pytest.mark.skipif(not is_available(), reason="not installed: docker-registry"),
]
WARMER = Path(sys.executable).with_name("warmer")
KINDS = {"busybox": "latest", "tools": "latest"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as found:
        push_bases(found.host, list(KINDS))
        yield found


@pytest.fixture(scope="module")
def shared_proxy(registry: RealRegistry) -> Iterator[RegistryProxy]:
    with running_proxy(registry.host) as found:
        yield found


@pytest.fixture
def proxy(shared_proxy: RegistryProxy) -> Iterator[RegistryProxy]:
    shared_proxy.rule = None
    shared_proxy.forget()
    yield shared_proxy
    shared_proxy.rule = None


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with running() as found:
        yield found


@dataclass(frozen=True)
class Bench:
    project: Project
    folder: Path

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["env", "--default-signal=HUP,INT,TERM", str(WARMER), f"--cache-dir={self.folder}",
             "--log-format=plain", *flags],
            cwd=self.project.context, env=self.project.environment({}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def warm(self, *flags: str) -> Finished:
        started = time.monotonic()
        process = self.start(*flags)
        out, err = process.communicate(timeout=60)
        return Finished(process.returncode, out, err, time.monotonic() - started)

    def build(self, dockerfile: str, *flags: str, destination: str = "") -> Finished:
        self.project.write("Dockerfile", dockerfile)
        place = [f"--destination={destination}"] if destination else ["--no-push"]
        where = ["--context=dir://.", f"--cache-dir={self.folder}"]
        return self.project.executor(*where, *place, *flags)

    def names(self) -> list[str]:
        index = json.loads((self.folder / "index.json").read_bytes())
        return [one["annotations"]["org.opencontainers.image.ref.name"]
                for one in index["manifests"]]  # fmt: skip

    def check(self) -> None:
        """Everything that has a digest for a name has that digest, and nothing is half done."""
        blobs = list((self.folder / "blobs/sha256").iterdir())
        assert not [path for path in blobs if path.name.startswith(".")]
        for path in blobs:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        index = json.loads((self.folder / "index.json").read_bytes())
        for one in index["manifests"]:
            manifest = json.loads(self.blob(one["digest"]))
            for blob in (manifest["config"], *manifest["layers"]):
                assert len(self.blob(blob["digest"])) == blob["size"]

    def blob(self, digest: str) -> bytes:
        return (self.folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Project(tmp_path), tmp_path / "cache")


def layer(seed: str, size: int) -> bytes:
    """A tar of one file that does not compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(f"file-{seed}")
        content = b"".join(
            hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(size // 32)
        )
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# What is kept


def test_an_image_is_kept_whole_and_builds_fetch_no_blob_of_it(
    bench: Bench, proxy: RegistryProxy
) -> None:
    image = f"{proxy.host}/base/busybox:latest"
    done = bench.warm("-i", image)
    assert done.status == 0 and f"{image} sha256:" in done.err and "kept in" in done.err
    assert bench.names() == [image]
    bench.check()
    proxy.forget()
    built = bench.build(f"FROM {image}\nRUN echo x > /x\nCOPY Dockerfile /etc/\n")
    assert built.status == 0, built.err
    assert proxy.count("GET", "/blobs/") == 0, "not even the config"
    assert proxy.count("GET", "/manifests/") == 1, "what the tag names is always asked"
    again = bench.warm(f"--image={image}")
    assert again.status == 0 and "is already in" in again.err


def test_a_build_that_only_copies_reads_no_layer_of_a_warmed_base(
    bench: Bench, proxy: RegistryProxy
) -> None:
    image = f"{proxy.host}/base/busybox"
    assert bench.warm("-i", image).status == 0
    layers = [blob for blob in (bench.folder / "blobs/sha256").iterdir()
              if blob.stat().st_size > 1 << 16]  # fmt: skip
    assert len(layers) == 1
    layers[0].write_bytes(b"x" * layers[0].stat().st_size)  # whoever reads it will fail
    proxy.forget()
    target = f"{proxy.host}/copies/app:1"
    built = bench.build(f"FROM {image}\nCOPY Dockerfile /etc/\n", "--cache", destination=target)
    assert built.status == 0 and "damaged" not in built.err, built.err
    assert proxy.count("GET", "/blobs/") == 0 and proxy.count("POST", "mount=") > 0


def test_all_bases_of_a_dockerfile(bench: Bench, proxy: RegistryProxy) -> None:
    host = proxy.host
    bench.project.write(
        "Dockerfile.ci",
        f"ARG NAME=busybox\nFROM {host}/base/$NAME AS a\nFROM scratch AS b\nCOPY --from=a / /\n"
        f"FROM b\nCOPY --from={host}/base/tools /bin/busybox /x\n",
    )
    done = bench.warm("-d", "Dockerfile.ci")
    assert done.status == 0, done.err
    assert sorted(bench.names()) == [f"{host}/base/busybox:latest", f"{host}/base/tools:latest"]
    other = bench.warm("--dockerfile=Dockerfile.ci", "--build-arg=NAME=nothing")
    assert other.status == 0 and "base/nothing is not warmed" in other.err


def test_a_base_of_another_platform(bench: Bench, fake: FakeRegistry) -> None:
    mine, other = ARCHITECTURE, {"amd64": "arm64", "arm64": "amd64"}[ARCHITECTURE]
    for name in (mine, other):
        add_image(fake, "app", [layer(name, 64)], tag=name, config={"architecture": name})
    entries = []
    for name in (mine, other):
        kind, raw = fake.manifests["app"][name]
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        entries.append({"mediaType": kind, "digest": digest, "size": len(raw),
                        "platform": {"os": "linux", "architecture": name}})  # fmt: skip
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    fake.add_manifest("app", "1", index, kind)
    image = f"{fake.host}/app:1"
    assert bench.warm("-i", image).status == 0
    assert bench.warm("-i", image, f"--customPlatform=linux/{other}").status == 0
    assert bench.names() == [image, image]
    bench.check()
    fake.requests.clear()
    named = hashlib.sha256(index).hexdigest()
    for name in (mine, other):
        flags = ["--custom-platform", f"linux/{name}", f"--tar-path={bench.project.out}/{name}.tar"]
        pinned = bench.build(f"FROM {image}@sha256:{named}\nCOPY Dockerfile /\n", *flags)
        assert pinned.status == 0, pinned.err
        with tarfile.open(bench.project.out / f"{name}.tar") as tar:
            manifest = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            config = json.load(tar.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        assert config["architecture"] == name
    assert not fake.requests, "an image named by digest needs no registry at all"


# Tags move, registries are down


def test_a_tag_that_moved_is_noticed(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "moving", [layer("old", 64)])
    assert bench.warm("-i", image).status == 0
    add_image(fake, "moving", [layer("new", 64)])
    built = bench.build(f"FROM {image}\nCOPY --from={image} /file-new /copy\n")
    assert built.status == 0, built.err
    assert bench.warm("-i", image).status == 0
    assert len(bench.names()) == 1
    bench.check()


def test_a_registry_that_is_down(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "app", [layer("a", 64)])
    assert bench.warm("-i", image).status == 0
    fake.fail("GET /v2/app/manifests", 503, times=1000)
    text = f"FROM {image}\nCOPY --from={image} /file-a /copy\n"
    built = bench.build(text)
    assert built.status == 0 and "when" in built.err and "was last warmed" in built.err, built.err
    time.sleep(1.1)
    stale = bench.build(text, "--cache-ttl=1s")
    assert (stale.status, stale.codes) == (1, ["registry-broken"])


def test_a_damaged_blob_is_fetched_from_the_registry(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "app", [layer("a", 1 << 17)])
    assert bench.warm("-i", image).status == 0
    blob = max((bench.folder / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(blob.read_bytes())
    damaged[1000] ^= 1
    blob.write_bytes(damaged)
    tar = bench.project.out / "image.tar"
    built = bench.build(f"FROM {image}\nCOPY --from={image} /file-a /copy\n", f"--tar-path={tar}")
    assert built.status == 0 and "begins again" in built.err, built.err
    with tarfile.open(tar) as archive:
        names = json.load(archive.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
        top = gzip.decompress(archive.extractfile(names[-1]).read())  # type: ignore[union-attr]
    with tarfile.open(fileobj=io.BytesIO(top)) as packed:
        copy = packed.extractfile("copy")
        assert copy is not None
        with tarfile.open(fileobj=io.BytesIO(layer("a", 1 << 17))) as source:
            assert copy.read() == source.extractfile("file-a").read()  # type: ignore[union-attr]
    time.sleep(1.1)
    assert bench.warm("-i", image).status == 0
    assert blob.read_bytes() == damaged, "it is not read while it is young"
    mended = bench.warm("-i", image, "--cache-ttl=1s")
    assert mended.status == 0 and "kept in" in mended.err
    bench.check()


def test_a_folder_that_can_not_be_read_is_told_of_once(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "app", [layer("a", 1 << 17)])
    assert bench.warm("-i", image).status == 0
    blob = max((bench.folder / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:1000])
    dockerfile = f"FROM {image}\nCOPY --from={image} /file-a /copy\n"
    tar = bench.project.out / "image.tar"
    cut = bench.build(dockerfile, f"--tar-path={tar}")
    told = f"warning: the cache folder has a damaged copy of sha256:{blob.name}"
    assert cut.status == 0 and cut.err.count(told) == 1, cut.err
    (bench.folder / "index.json").write_text("{")
    broken = bench.build(dockerfile, f"--tar-path={tar}")
    told = f"warning: no base comes from the cache folder: {bench.folder}/index.json"
    assert broken.status == 0 and broken.err.count(told) == 1, broken.err


def test_force_fetches_again(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "app", [layer("a", 1 << 17)])
    assert bench.warm("-i", image).status == 0
    fake.requests.clear()
    assert bench.warm("-i", image).status == 0
    assert [one for one in fake.requests if "/blobs/" in one.path and one.method == "GET"] == [
        one for one in fake.requests if "blobs" in one.path
    ]
    before = sum("/blobs/" in one.path for one in fake.requests)
    assert bench.warm("-i", image, "--force").status == 0
    assert sum("/blobs/" in one.path for one in fake.requests) >= 2 * before + 1
    bench.check()


# Several at once


def test_what_a_killed_warmer_has_is_gone_on_with(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "app", [layer("big", 3 << 20)])
    size = len(max(fake.blobs["app"].values(), key=len))
    process = slow_start(bench, fake, image)
    process.kill()
    process.communicate()
    partial = next((bench.folder / "blobs/sha256").glob(".*.partial"))
    had = partial.stat().st_size
    assert 0 < had < size
    assert not (bench.folder / "index.json").exists()
    fake.requests.clear()
    assert bench.warm("-i", image).status == 0
    ranges = [one.range for one in fake.requests if one.range]
    assert ranges == [f"bytes={had}-"]
    bench.check()


def slow_start(bench: Bench, fake: FakeRegistry, image: str) -> subprocess.Popen[str]:
    """A warmer whose largest blob has come half."""
    digest, content = max(fake.blobs["app"].items(), key=lambda item: len(item[1]))
    half = len(content) // 2
    config = json.loads(fake.manifests["app"]["1"][1])["config"]["digest"]
    fake.cut_after = [len(fake.blobs["app"][config]), half]
    process = bench.start("-i", image)
    partial = bench.folder / "blobs/sha256" / f".{digest.removeprefix('sha256:')}.partial"
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size >= half):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    return process


def test_warmers_and_builds_at_once_and_one_of_them_killed(
    bench: Bench, proxy: RegistryProxy, tmp_path: Path
) -> None:
    """Two warmers and three builds in one folder; a third warmer is killed in the middle."""
    images = [f"{proxy.host}/base/{name}:{tag}" for name, tag in KINDS.items()]
    flags = [flag for image in images for flag in ("-i", image)]
    killed = bench.start(*flags)
    warmers = [bench.start(*flags) for _ in range(2)]
    builds = []
    for number in range(3):
        (tmp_path / f"build-{number}").mkdir()
        project = Project(tmp_path / f"build-{number}")
        project.write("Dockerfile", f"FROM {images[number % 2]}\nRUN echo {number} > /n\n")
        repository = f"--cache-repo={proxy.host}/at-once/cache"
        destination = f"--destination={proxy.host}/at-once/app:{number}"
        where = f"--cache-dir={bench.folder}"
        builds.append(project.start("--context=dir://.", where, destination, "--cache", repository))
    deadline = time.monotonic() + 20
    while not list((bench.folder / "blobs").rglob("*.partial")) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for warmer in warmers:
        _, err = warmer.communicate(timeout=60)
        assert warmer.returncode == 0, err
    for build in builds:
        finished = build.finish()
        assert finished.status == 0, finished.err
    assert bench.warm(*flags).status == 0
    bench.check()
    assert sorted(bench.names()) == sorted(images)


def test_a_blob_is_fetched_by_one_warmer_while_the_other_waits(
    bench: Bench, fake: FakeRegistry
) -> None:
    image = add_image(fake, "app", [layer("big", 2 << 20)])
    warmers = [bench.start("-i", image) for _ in range(3)]
    for warmer in warmers:
        _, err = warmer.communicate(timeout=60)
        assert warmer.returncode == 0, err
    digest = max(fake.blobs["app"].items(), key=lambda item: len(item[1]))[0]
    assert sum(one.path.endswith(f"/blobs/{digest}") for one in fake.requests) == 1
    bench.check()


def test_a_warmer_that_is_told_to_stop(bench: Bench, fake: FakeRegistry) -> None:
    image = add_image(fake, "app", [layer("big", 1 << 20)])
    digest = max(fake.blobs["app"].items(), key=lambda item: len(item[1]))[0]
    fake.stalls = [digest]
    process = bench.start("-i", image)
    assert fake.stalled.wait(20)
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143 and "error[interrupted]" in err


# Mistakes


def test_only_if_every_image_failed_the_warmer_fails(bench: Bench, proxy: RegistryProxy) -> None:
    good, bad = f"{proxy.host}/base/busybox", f"{proxy.host}/base/nothing:1"
    some = bench.warm("-i", bad, "-i", good)
    assert some.status == 0 and f"{bad} is not warmed: " in some.err
    none = bench.warm("-i", bad, "-i", f"{proxy.host}/Upper:1")
    assert (none.status, none.codes) == (1, ["nothing-warmed"])
    assert "failed to warm any of the given images" in none.err
    assert "a repository is lower case" in none.err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], "nothing-to-warm", "you must select at least one image to cache"),
        (["-d", "nowhere"], "dockerfile-missing", "nowhere"),
        (["-i", "x", "-c", "/dev/null/x"], "output-not-writable", "/dev/null/x"),
        (["-i", "x", "--cache-ttl=5"], "bad-option", "unit"),
    ],
)
def test_mistakes(bench: Bench, flags: list[str], code: str, words: str) -> None:
    done = bench.warm(*flags)
    assert (done.status, done.codes) == (1, [code]) and words in done.err


def test_a_dockerfile_without_a_base(bench: Bench) -> None:
    bench.project.write("Dockerfile", "FROM scratch\nCOPY x /\n")
    assert bench.warm("-d", "Dockerfile").codes == ["nothing-to-warm"]


def test_a_layer_that_is_not_what_the_config_says_is_not_kept(
    bench: Bench, fake: FakeRegistry
) -> None:
    image = add_image(fake, "lies", [layer("a", 64)], diff_ids=["sha256:" + "0" * 64])
    done = bench.warm("-i", image)
    assert (done.status, done.codes) == (1, ["nothing-warmed"]) and "its config says" in done.err


def test_a_folder_that_can_only_be_read(bench: Bench, proxy: RegistryProxy) -> None:
    image = f"{proxy.host}/base/busybox:latest"
    assert bench.warm("-i", image).status == 0
    proxy.forget()
    mounted = f"mount --bind {bench.folder} {bench.folder} && "
    mounted += f'mount -o remount,ro,bind {bench.folder} && exec "$@"'
    bench.project.write("Dockerfile", f"FROM {image}\nRUN echo x > /x\n")
    built = bench.project.executor(
        "--context=dir://.", f"--cache-dir={bench.folder}", "--no-push", "--cache",
        f"--cache-repo={proxy.host}/read-only/cache",
        before=["unshare", "-m", "sh", "-c", mounted, "sh"],
    )  # fmt: skip
    assert built.status == 0, built.err
    assert proxy.count("GET", "base/busybox/blobs/") == 0


def test_the_registry_may_refuse_to_be_asked(bench: Bench, proxy: RegistryProxy) -> None:
    """A refusal is no failure of the network: the image may not be used any more."""
    image = f"{proxy.host}/base/busybox:latest"
    assert bench.warm("-i", image).status == 0
    proxy.rule = lambda method, path: Instead(403, b"{}") if "/manifests/" in path else None
    built = bench.build(f"FROM {image}\nCOPY Dockerfile /\n")
    assert (built.status, built.codes) == (1, ["pull-denied"])
