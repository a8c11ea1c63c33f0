"""RUN --mount and ADD of repositories with the real command line and a real registry: what enters
the cache keys, what outlives a build, and that secrets are nowhere. What images get is compared
with BuildKit's in the build cases."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bases import push_bases
from tests.support.project import Finished, Project, Running
from tests.support.registry import RealRegistry, is_available, running_registry

pytestmark = [
    pytest.mark.xdist_group("run-mounts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root here"),
    pytest.mark.skipif(not is_available(), reason="not installed: docker-registry"),
]
SECRET = "s3cret-never-to-be-found"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as found:
        push_bases(found.host, ["busybox", "tools"])
        yield found


class Site:
    """A project, the registry, and the flags that every build of a test has."""

    def __init__(self, folder: Path, registry: RealRegistry) -> None:
        self.project = Project(folder)
        self.host = registry.host
        self.repository = re.sub("[^a-z0-9]+", "-", folder.name.lower()).strip("-")

    def dockerfile(self, *lines: str) -> None:
        text = "\n".join(lines).replace("busybox", f"{self.host}/base/busybox")
        self.project.write("Dockerfile", text.replace("tools/", f"{self.host}/base/tools") + "\n")

    def flags(self, *more: str) -> tuple[str, ...]:
        return (
            f"--context={self.project.context}",
            f"--destination={self.host}/{self.repository}:1",
            f"--digest-file={self.project.out}/digest",
            *more,
        )

    def build(self, *more: str, **environment: str) -> Finished:
        done = self.project.executor(*self.flags(*more), environment=environment)
        assert done.status == 0, done.text
        return done

    def fails(self, *more: str) -> Finished:
        done = self.project.executor(*self.flags(*more))
        assert done.status != 0, done.text
        return done

    def start(self, *more: str) -> Running:
        return self.project.start(*self.flags(*more))

    def ask(self, path: str, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(
            f"http://{self.host}/v2/{path}", headers={"Accept": accept}
        )
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())

    def layers(self, repository: str, tag: str) -> tuple[list[bytes], bytes]:
        """The layers, unpacked, and manifest and config."""
        kinds = "application/vnd.docker.distribution.manifest.v2+json,"
        kinds += "application/vnd.oci.image.manifest.v1+json"
        raw = self.ask(f"{repository}/manifests/{tag}", kinds)
        manifest = json.loads(raw)
        config, *layers = (
            self.ask(f"{repository}/blobs/{blob['digest']}")
            for blob in (manifest["config"], *manifest["layers"])
        )
        unpacked = [zlib.decompress(one, 31) if one[:2] == b"\x1f\x8b" else one for one in layers]
        return unpacked, raw + config

    def stored(self) -> bytes:
        """Everything the registry has of the image and of the cache."""
        found = []
        for name in (self.repository, f"{self.repository}/cache"):
            for tag in json.loads(self.ask(f"{name}/tags/list"))["tags"]:
                layers, about = self.layers(name, tag)
                found += [tag.encode(), about, *layers]
        return b"\n".join(found)

    def file(self, path: str) -> str:
        """A file of the image, as the topmost layer has it."""
        for layer in reversed(self.layers(self.repository, "1")[0]):
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                if path in archive.getnames():
                    found = archive.extractfile(path)
                    assert found is not None
                    return found.read().decode()
        raise AssertionError(f"the image has no {path}")


@pytest.fixture
def site(tmp_path: Path, registry: RealRegistry) -> Site:
    return Site(tmp_path, registry)


def ran(done: Finished) -> bool:
    """Whether a command of the Dockerfile ran: all of them say so."""
    return "| ran" in done.err


# Secrets


def test_a_secret_is_nowhere_but_where_it_is_wanted(site: Site) -> None:
    site.dockerfile(
        "FROM busybox",
        "RUN --mount=type=secret,id=token --mount=type=secret,id=other,env=OTHER \\",
        "    cat /run/secrets/token | md5sum > /sum; echo $OTHER | md5sum >> /sum; touch /tmp/go; "
        "sleep 1",
        "RUN cat /run/secrets/token || env > /env",
    )
    given = site.project.folder / "token"
    given.write_text(SECRET)
    started = site.start("--cache", f"--secret=id=token,src={given}", "--secret=id=other,env=GIVEN")
    assert started.finish().codes == ["bad-option"]
    running = site.project.start(
        *site.flags("--cache", f"--secret=id=token,src={given}", "--secret=id=other,env=GIVEN"),
        environment={"GIVEN": SECRET},
    )
    running.wait_for("RUN --mount")
    time.sleep(0.5)
    on_disk = [path for path in site.project.work.rglob("*") if path.is_file()]
    held = [path for path in on_disk if SECRET.encode() in path.read_bytes()]
    done = running.finish()
    assert done.status == 0, done.text
    assert on_disk, "looked too late"
    assert held == []
    assert SECRET not in done.text
    assert SECRET.encode() not in site.stored()


def test_the_value_of_a_secret_is_in_no_key_and_its_id_is(site: Site) -> None:
    def build(mount: str, value: str) -> Finished:
        site.dockerfile("FROM busybox", f"RUN --mount=type=secret,{mount} echo ran > /x; echo ran")
        (site.project.folder / "value").write_text(value)
        file = f"src={site.project.folder / 'value'}"
        return site.build("--cache", f"--secret=id=a,{file}", f"--secret=id=b,{file}")

    assert ran(build("id=a", "one"))
    assert not ran(build("id=a", "two"))
    assert ran(build("id=b", "one"))
    assert ran(build("id=a,mode=0444", "one"))
    assert not ran(build("id=b", "two"))


def test_a_secret_that_is_needed_and_missing_is_named_with_its_place(site: Site) -> None:
    site.dockerfile("FROM busybox", "RUN --mount=type=secret,id=token,required true")
    done = site.fails()
    assert done.codes == ["secret-missing"]
    assert done.place.endswith("Dockerfile:2")
    assert "--secret=id=token" in done.hint


# What binds show


def test_what_is_mounted_of_the_context_is_in_the_key(site: Site) -> None:
    site.dockerfile(
        "FROM busybox",
        "RUN --mount=target=/ctx,source=src --mount=source=one,target=/one \\",
        "    echo ran; cat /ctx/f /one",
    )
    site.project.write("src/f", "f")
    site.project.write("src/ignored.log", "1")
    site.project.write("one", "1")
    site.project.write(".dockerignore", "**/*.log")
    assert ran(site.build("--cache"))
    site.project.write("src/ignored.log", "2")
    site.project.write("beside", "2")
    os.utime(site.project.context / "src/f", (1, 1))
    assert not ran(site.build("--cache"))
    site.project.write("src/f", "g")
    assert ran(site.build("--cache"))
    site.project.write("one", "2")
    assert ran(site.build("--cache"))
    (site.project.context / "src/f").chmod(0o700)
    assert ran(site.build("--cache"))
    site.project.write("src/f", "f")
    (site.project.context / "src/f").chmod(0o644)
    site.project.write("one", "1")
    assert not ran(site.build("--cache"))


def test_what_is_written_to_a_bind_does_not_come_back(site: Site) -> None:
    site.dockerfile(
        "FROM busybox AS other",
        "RUN echo stage > /f",
        "FROM busybox",
        "RUN --mount=target=/c,rw --mount=from=other,target=/o,rw rm /c/f /o/f; echo x > /c/new",
        "RUN --mount=target=/c,rw --mount=from=other,target=/o cat /c/f /o/f > /read; ls /c > /ls",
        "COPY --from=other /f /copied/",
    )
    site.project.write("f", "context\n")
    before = sorted(path.name for path in site.project.context.iterdir())
    site.build()
    assert sorted(path.name for path in site.project.context.iterdir()) == before
    assert (site.project.context / "f").read_text() == "context\n"
    assert site.file("read") == "context\nstage\n"
    assert site.file("ls") == "Dockerfile\nf\n"


def test_a_stage_that_is_mounted_decides_with_the_chain_rule(site: Site) -> None:
    def build(word: str) -> Finished:
        site.dockerfile(
            "FROM busybox AS one",
            f"RUN echo {word} > /f",
            "FROM busybox AS two",
            "RUN echo two > /f",
            "FROM busybox",
            "RUN --mount=from=one,target=/1 --mount=from=two,source=/f,target=/2 \\",
            "    cat /1/f /2 > /read && echo ran",
        )
        return site.build("--cache")

    assert ran(build("first"))
    again = build("first")
    assert not ran(again)
    assert "[one 2/2]" not in again.err
    assert ran(build("second"))
    assert site.file("read") == "second\ntwo\n"
    assert not ran(build("first"))


def test_stages_that_mount_one_another_run_side_by_side(site: Site) -> None:
    reader = "RUN --mount=from=base,target=/b cat /b/f > /read"
    site.dockerfile(
        "FROM busybox AS base",
        "RUN echo base > /f",
        *(line for name in "abcd" for line in (f"FROM busybox AS {name}", reader)),
        "FROM busybox",
        *(f"COPY --from={name} /read /{name}" for name in "abcd"),
    )
    site.build("--parallel=4")
    assert site.file("d") == "base\n"


@pytest.mark.parametrize(
    ("mount", "code", "words"),
    [
        ("source=nowhere,target=/x", "copy-source-missing", "source=nowhere"),
        ("from=busybox,source=/nowhere,target=/x", "copy-source-missing", "source=nowhere"),
        ("source=Dockerfile,target=/etc", "bad-destination", "target=/etc"),
        ("target=/etc/passwd", "bad-destination", "target=/etc/passwd"),
        ("type=tmpfs,target=/", "bad-mount", "whole root"),
        ("type=ssh", "not-carried-out", "type=ssh"),
        ("from=later,target=/x", "bad-stage-reference", "later"),
        ("from=itself,target=/x", "bad-stage-reference", "itself"),
        ("type=cache,source=/x,target=/x", "copy-source-missing", "source=x"),
    ],
)
def test_what_can_not_be_mounted_is_told_with_its_place(
    site: Site, mount: str, code: str, words: str
) -> None:
    site.dockerfile(
        "FROM busybox AS itself",
        f"RUN --mount={mount} true",
        "FROM itself AS later",
    )
    target = "--target=itself" if code != "bad-stage-reference" else "--target=later"
    done = site.fails(target)
    assert done.codes == [code], done.text
    assert words in done.error
    assert done.place.endswith("Dockerfile:2") or "later" in mount


# Caches


@pytest.mark.parametrize("folder", [None, "volume"])
def test_a_cache_outlives_the_build(site: Site, folder: str | None) -> None:
    flags = [] if folder is None else [f"--cache-dir={site.project.folder / folder}"]
    site.dockerfile(
        "FROM busybox",
        "RUN --mount=type=cache,target=/c,id=${X:-a} cat /c/n > /seen || true; echo x >> /c/n",
    )
    for expected in ("", "x\n", "x\nx\n"):
        site.build(*flags)
        assert site.file("seen") == expected
    place = (
        site.project.folder / folder / "mounts" if folder else site.project.work / "pybuild-mounts"
    )
    assert place.stat().st_mode & 0o7777 == 0o711
    assert [path.read_text() for path in place.rglob("n")] == ["x\nx\nx\n"]


def test_a_folder_of_caches_that_others_may_write_to_is_refused(site: Site) -> None:
    place = site.project.work / "pybuild-mounts"
    place.mkdir()
    place.chmod(0o777)
    site.dockerfile("FROM busybox", "RUN --mount=type=cache,target=/c true")
    assert site.fails().codes == ["cache-mount-unusable"]


@pytest.mark.parametrize(
    ("sharing", "first", "second"),
    [
        # what the second of two builds at once finds, and what is left of both in the first cache
        pytest.param("shared", "in\n", "", id="shared"),
        pytest.param("private", "", "", id="private"),
        pytest.param("locked", "in\nout\n", "waiting", id="locked"),
    ],
)
def test_two_builds_share_a_cache_as_told(
    site: Site, sharing: str, first: str, second: str
) -> None:
    mount = f"RUN --mount=type=cache,target=/c,sharing={sharing}"
    site.dockerfile(
        "FROM busybox", f"{mount} echo in > /c/n; echo ready; sleep 5; echo out >> /c/n"
    )
    running = site.start()
    running.wait_for("| ready")
    site.project.write(
        "Other", f"FROM {site.host}/base/busybox\n{mount} cat /c/n > /seen || true\n"
    )
    started = time.monotonic()
    other = site.build(f"--dockerfile={site.project.context}/Other")
    took = time.monotonic() - started
    assert site.file("seen") == first
    assert ("waiting for the cache" in other.err) == (second == "waiting")
    assert (took > 3) == (second == "waiting"), took
    assert running.finish().status == 0


def test_a_stopped_build_lets_go_of_its_cache(site: Site) -> None:
    mount = "RUN --mount=type=cache,target=/c,sharing=locked"
    site.dockerfile("FROM busybox", f"{mount} echo ready; sleep 100")
    running = site.start()
    running.wait_for("| ready")
    running.signal(9)
    running.process.wait()
    site.dockerfile("FROM busybox", f"{mount} true")
    assert "waiting" not in site.build().err


def test_caches_of_several_runs_are_taken_in_one_order(site: Site) -> None:
    """Else two stages that want the same two caches could wait for each other for ever."""
    one, two = (f"--mount=type=cache,sharing=locked,id={name},target=/{name}" for name in "ab")
    site.dockerfile(
        "FROM busybox AS x",
        *(f"RUN {one} {two} true {number}" for number in range(8)),
        "FROM busybox AS y",
        *(f"RUN {two} {one} true {number}" for number in range(8)),
        "FROM busybox",
        "COPY --from=x /etc/passwd /x",
        "COPY --from=y /etc/passwd /y",
    )
    site.build("--parallel=2")


# Repositories


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A repository, and its address with git's own protocol."""
    folder = tmp_path / "git/source"
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "one")
    git(folder, "tag", "-a", "v1", "-m", "v1")
    with running_daemon(folder.parent) as port:
        yield folder, f"git://127.0.0.1:{port}/source/.git"


def git(folder: Path, *arguments: str) -> str:
    about = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    done = subprocess.run(
        ["git", *about, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "f").write_text(text + "\n")
    (folder / "sub/g").write_text(f"sub {text}\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", text)
    return git(folder, "rev-parse", "HEAD")


def running_daemon(folder: Path):  # type: ignore[no-untyped-def]
    from tests.integration.test_git_context import git_daemon

    return git_daemon(folder)


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="not installed: git")


@needs_git
def test_the_commit_is_in_the_key(site: Site, repository: tuple[Path, str]) -> None:
    folder, url = repository
    site.dockerfile("FROM busybox", f"ADD {url} /main", f"ADD {url}#v1:sub /tagged/")
    first = site.build("--cache")
    assert site.file("main/f") == "one\n"
    assert site.file("tagged/g") == "sub one\n"
    assert first.err.count("downloaded") == 2
    again = site.build("--cache")
    assert "downloaded" not in again.err
    commit(folder, "two")
    moved = site.build("--cache")
    assert moved.err.count("downloaded") >= 1
    assert "[stage-0 2/3] ADD" in moved.err
    assert site.file("main/f") in ("one\n", "two\n")


@needs_git
@pytest.mark.parametrize("flags", [(), ("--cache",)])
def test_a_commit_is_checked(
    site: Site, repository: tuple[Path, str], flags: tuple[str, ...]
) -> None:
    folder, url = repository
    known = git(folder, "rev-parse", "HEAD")
    site.dockerfile("FROM busybox", f"ADD --checksum={known} {url}#main /x")
    site.build(*flags)
    commit(folder, "two")
    site.dockerfile("FROM busybox", f"ADD --checksum={known} {url}#main /y")
    done = site.fails(*flags)
    assert done.codes == ["checksum-mismatch"]
    assert done.place.endswith("Dockerfile:2")


@needs_git
def test_a_ref_that_is_not_there_is_named(site: Site, repository: tuple[Path, str]) -> None:
    site.dockerfile("FROM busybox", f"ADD {repository[1]}#nowhere /x")
    for flags in ((), ("--cache",)):
        done = site.fails(*flags)
        assert done.codes == ["git-ref-missing"]
        assert done.place.endswith("Dockerfile:2")
