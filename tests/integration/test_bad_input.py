"""What goes wrong is told once, clearly, and leaves nothing behind: the real command line, given
what people, registries, disks and attackers give it.

A `Case` is one row: what to build, what stands in the way, and what has to be told. `refused`
holds what is true of every row: the exit status, one error with its code and a hint, the place
with its text where an instruction is to blame; no traceback, no usage, no secret; nothing tagged,
nothing left on disk, no mount, no process.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.fake_registry import FakeRegistry
from tests.support.images import ARCHITECTURE, OCI, add_base, add_image, add_packed_image, digest_of
from tests.support.layers import archive, member
from tests.support.project import Finished, Project, Running, end_processes, processes
from tests.support.registry import is_available, make_certificates, running_registry

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"
)

SECRET = "s3cret-w0rd"
ENCODED = b64encode(f"me:{SECRET}".encode()).decode()
SECRETS = (SECRET, ENCODED)
ZEROS = "sha256:" + "0" * 64
BASE = "FROM REG/base/busybox\n"
BAD = "FROM REG/bad:1\n"
L1, L2, L3, L5 = (f"Dockerfile:{number}" for number in (1, 2, 3, 5))
DEAD = "127.0.0.1:9"  # discard(9): nothing listens there


class Site:
    """A project and a registry of its own that holds the busybox base."""

    def __init__(self, project: Project, registry: FakeRegistry) -> None:
        self.project = project
        self.registry = registry
        self.environment: dict[str, str | None] = {}

    def docker_config(self, text: str | bytes) -> None:
        folder = self.project.home / ".docker"
        folder.mkdir()
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "config.json").write_bytes(data)

    def log_in(self, password: str = SECRET) -> None:
        """The registry wants a password, and config.json has the one of `SECRET`."""
        self.registry.users["me"] = password
        self.docker_config(json.dumps({"auths": {self.registry.host: {"auth": ENCODED}}}))

    def big_blob(self) -> str:
        """The digest of the base's layer."""
        held = self.registry.blobs["base/busybox"]
        return max(held, key=lambda digest: len(held[digest]))

    def change_blob(self, change: Callable[[bytes], bytes]) -> None:
        digest = self.big_blob()
        self.registry.blobs["base/busybox"][digest] = change(
            self.registry.blobs["base/busybox"][digest]
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    project = Project(tmp_path)
    with FakeRegistry() as registry:
        add_base(registry, "busybox")
        yield Site(project, registry)
    end_processes([project.mark])


@dataclass(frozen=True)
class Case:
    """`dockerfile` None: there is none; REG stands for the registry, OUT for the folder of
    outputs. `says` is in the error's text; `place` is file:line."""

    code: str
    dockerfile: str | bytes | None = BASE
    place: str = ""
    says: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    context: str = ""
    destination: str = "out/app:1"
    prepare: Callable[[Site], object] | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    status: int = 1
    words: tuple[str, ...] = ()  # on the command lines of processes that have to end


def case(name: str, code: str, *rest: object, **more: object) -> object:
    return pytest.param(Case(code, *rest, **more), id=name)  # type: ignore[arg-type]


def command(site: Site, row: Case) -> list[str]:
    """Writes the context; the flags of the executor."""
    project, registry = site.project, site.registry

    def filled_in(text: str) -> str:
        return text.replace("REG", registry.host).replace("OUT", str(project.out))

    for name, content in row.files.items():
        project.write(name, content)
    if row.dockerfile is not None:
        text = row.dockerfile
        project.write("Dockerfile", text if isinstance(text, bytes) else filled_in(text))
    site.environment.update(row.environment)
    if row.prepare is not None:
        row.prepare(site)
    flags = [f"--context={filled_in(row.context) or project.context}"]
    if row.destination:
        flags.append(f"--destination={registry.host}/{row.destination}")
    return flags + [filled_in(flag) for flag in row.flags]


def build(site: Site, row: Case) -> Finished:
    flags = command(site, row)
    return site.project.executor(*flags, environment=site.environment, before=row.before)


def refused(site: Site, row: Case, run: Finished) -> None:
    """All that has to be true of a build that failed."""
    assert run.codes == [row.code], run.text
    assert run.status == row.status, run.text
    clean(site, run, row.words)
    if row.code != "interrupted":
        error = run.error.replace(site.registry.host, "REG").replace(str(site.project.out), "OUT")
        for text in row.says:
            assert text in error, run.text
        assert run.hint or row.code in ("run-failed",), f"no hint:\n{run.text}"
    assert run.place == row.place, run.text
    if row.place and row.place.startswith("Dockerfile:") and isinstance(row.dockerfile, str):
        number = int(row.place.rpartition(":")[2])
        line = row.dockerfile.splitlines()[number - 1].replace("REG", site.registry.host)
        assert re.search(rf"^  +{number} \| {re.escape(line)}$", run.error, re.M), run.text


def clean(site: Site, run: Finished, words: tuple[str, ...] = ()) -> None:
    """Nothing is told that should not be, nothing tagged, nothing left."""
    assert "Traceback" not in run.text and "usage:" not in run.text.lower(), run.text
    assert not any(secret in run.text for secret in SECRETS), run.text
    tags = {name for name in site.registry.tags if not name.startswith(("base/", "bad"))}
    assert not tags, f"tagged: {tags}\n{run.text}"
    left = site.project.leftovers(words)
    assert not left, f"left: {left}\n{run.text}"


def check(site: Site, row: Case) -> None:
    refused(site, row, build(site, row))


# The Dockerfile

DOCKERFILES = [
    case("missing", "dockerfile-missing", None, "", ("no Dockerfile Dockerfile in",)),
    case("empty", "dockerfile-empty", ""),
    case("only comments", "dockerfile-empty", "# FROM x\n\n"),
    case("a folder", "dockerfile-missing", None, "", ("is a folder",), {"Dockerfile/x": ""}),
    case("syntax", "wrong-arguments", BASE + "ENV a=b\nCOPY\n", L3, ("two arguments",)),
    case("flag of RUN", "bad-mount", BASE + "RUN --mount=type=foo x\n", L2, ("'foo'",)),
    case("open quote", "bad-substitution", BASE + "ENV A=${B\n", L2, ("${B",)),
    case("open here-document", "bad-heredoc", BASE + "RUN <<EOT\nx\n", L2, ("EOT",)),
    case("unknown instruction", "unknown-instruction", BASE + "RUNN x\n", L2, ("RUN?",)),
    case("no FROM", "no-stage", "RUN x\n", L1, ("FROM",)),
    case("NUL", "dockerfile-syntax", b"FROM scratch\nCOPY a\0b /\n", L2, ("NUL",)),
    case("UTF-16", "dockerfile-syntax", "FROM scratch\n".encode("utf-16"), L1),
    case("no text", "unknown-instruction", b"\xff\xfe\x80\x81" * 4000, L1, ("\\xfe",)),
    case("unset ARG in FROM", "bad-reference", "ARG V\nFROM REG/base/busybox:$V\n", L2,
         ("--build-arg", "'REG/base/busybox:'")),
    case("unset ARG as FROM", "bad-reference", "ARG V\nFROM $V\n", L2, ("empty",)),
    case("required variable", "bad-substitution", BASE + "COPY ${V:?give_V} /\n", L2,
         ("give_V",)),
    case("unknown target", "unknown-target", BASE + "FROM scratch AS tests\n", "", ("tests?",),
         flags=("--target=test",)),
    case("unknown user", "unknown-user", BASE + "USER me\nRUN x\n", L3, ("'me'",)),
    case("WORKDIR on a file", "bad-destination", BASE + "WORKDIR /etc/passwd\n", L2,
         ("/etc/passwd",)),
]  # fmt: skip


@pytest.mark.parametrize("row", DOCKERFILES)
def test_dockerfile(site: Site, row: Case) -> None:
    check(site, row)


# What COPY and ADD name, and the context it comes from


def link(name: str, target: str) -> Callable[[Site], None]:
    return lambda site: (site.project.context / name).symlink_to(target)


def no_mode(name: str) -> Callable[[Site], None]:
    return lambda site: (site.project.context / name).chmod(0)


def context_archive(data: bytes) -> Callable[[Site], object]:
    return lambda site: site.project.write("a.tar", data)


# root without the capabilities that make modes meaningless
PLAIN_ROOT = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
    "--",
)
COPY_A = "FROM scratch\nCOPY a /a\n"
ADD_TAR = "FROM scratch\nADD a.tar /x/\n"
SOURCES = [
    case("missing", "copy-source-missing", BASE + "COPY none /x\n", L2, ("none",)),
    case("ignored", "copy-source-missing", COPY_A, L2, (".dockerignore",),
         {"a": "", ".dockerignore": "a\n"}),
    case("glob", "copy-source-missing", "FROM scratch\nCOPY *.jar /\n", L2,
         ("*.jar: this matches nothing",), {"a": ""}),
    case("above the context", "copy-source-missing", "FROM scratch\nCOPY ../../etc/passwd /\n",
         L2, ("../../etc/passwd",)),
    case("link out", "copy-source-missing", COPY_A, L2, prepare=link("a", "/etc/fstab")),
    case("link loop", "symlink-loop", COPY_A, L2, ("/a",), prepare=link("a", "a")),
    case("link into /proc", "copy-source-missing", COPY_A, L2,
         prepare=link("a", "/proc/self/environ")),
    case("not in a stage", "copy-source-missing", BASE + "FROM scratch\nCOPY --from=0 /no /\n",
         L3, ("/no",)),
    case("not in an image", "copy-source-missing",
         "FROM scratch\nCOPY --from=REG/base/busybox /n* /\n",
         L2, ("/n*",)),
    case("onto a file", "bad-destination", BASE + "COPY a /etc/passwd/\n", L2,
         ("/etc/passwd",), {"a": ""}),
    case("unreadable file", "file-unreadable", COPY_A, L2, ("/a",), {"a": "x"},
         prepare=no_mode("a"), before=PLAIN_ROOT),
    case("unreadable folder", "context-unreadable", "FROM scratch\nCOPY . /\n", L2,
         ("can't read d",), {"d/a": "x"}, prepare=no_mode("d"), before=PLAIN_ROOT),
    case("unreadable Dockerfile", "context-unreadable", COPY_A, "", ("Dockerfile",), {"a": ""},
         prepare=no_mode("Dockerfile"), before=PLAIN_ROOT),
    case("name of a whiteout", "reserved-name", "FROM scratch\nCOPY . /\n", L2,
         (".wh.a",), {".wh.a": ""}),
    case("ignore file with a bad pattern", "bad-pattern", COPY_A, ".dockerignore:3", ("[a-",),
         {"a": "", ".dockerignore": "*.log\n\n[a-\n"}),
    case("archive with ..", "outside-root", ADD_TAR, L2, ("../../evil",),
         prepare=context_archive(archive(member("../../evil", data=b"x")))),
    case("archive with a hard link out", "link-target-missing", ADD_TAR, L2,
         ("/etc/passwd",),
         prepare=context_archive(archive(member("h", "link", link="/etc/passwd")))),
    case("archive cut off", "bad-archive", ADD_TAR, L2, ("cut off",),
         prepare=context_archive(archive(member("a", data=bytes(5000)))[:1500])),
    case("archive with a wrong sum", "bad-archive", ADD_TAR, L2, ("gzip",),
         prepare=context_archive(gzip.compress(archive(member("a")))[:-8] + bytes(8))),
    case("download refused", "download-failed", "FROM scratch\nADD http://REG/v2/x /x\n",
         L2, ("403",), prepare=lambda site: site.registry.fail("GET /v2/x", 403)),
    case("download with a wrong sum", "checksum-mismatch",
         f"FROM scratch\nADD --checksum={ZEROS} http://REG/v2/ /x\n", L2, (ZEROS,)),
]  # fmt: skip


@pytest.mark.parametrize("row", SOURCES)
def test_source(site: Site, row: Case) -> None:
    check(site, row)
    assert not Path("/tmp/evil").exists() and not Path("/evil").exists()


def git_repository(site: Site) -> None:
    """A bare repository beside the context, `main` with a Dockerfile."""
    source = site.project.folder / "source"
    source.mkdir()
    (source / "Dockerfile").write_text("FROM scratch\n")
    names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*names, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=source, check=True)


GIT_URL = f"http://me:{SECRET}@REG/team/app.git"
CONTEXTS = [
    case("missing", "context-missing", None, "", ("/none/such",), context="/none/such"),
    case("a file", "context-missing", None, "", ("not a folder",), context="/etc/hostname"),
    case("dir:// that is missing", "context-missing", None, context="dir:///none/such"),
    case("of an unknown kind", "context-unknown", None, "", ("ftp://",), context="ftp://h/x"),
    case("no archive", "context-missing", None, "", ("/x.tar",), context="tar:///x.tar"),
    case("without the folder", "context-missing", None, "", ("sub",),
         flags=("--context-sub-path=sub",)),
    case("git ref missing", "git-ref-missing", None, "", ("commit none",),
         context="file://OUT/../source#none",
         prepare=git_repository),
    case("git repository missing", "git-repository-missing", None, context="file://OUT/../none"),
    case("git credentials refused", "git-denied", None, context=GIT_URL,
         prepare=lambda site: site.log_in("another")),
    case("git token refused", "git-denied", None, context="http://REG/team/app.git",
         prepare=lambda site: site.log_in("another"), environment={"GIT_TOKEN": SECRET}),
    case("git host down", "git-unreachable", None,
         context=f"http://me:{SECRET}@{DEAD}/team/app.git"),
]  # fmt: skip


@pytest.mark.parametrize("row", CONTEXTS)
def test_context(site: Site, row: Case) -> None:
    check(site, row)


# Flags, and files that a build should write

FLAGS = [
    case("build arg without value", "bad-option", BASE, "", ("--build-arg=V",),
         flags=("--build-arg=V",)),
    case("unknown flag", "unknown-option", BASE, "", ("--nonsense",), flags=("--nonsense=1",)),
    case("no destination", "no-destination", destination=""),
    case("destination with a digest", "bad-option", destination=f"out/app@{ZEROS}"),
    case("destination in capitals", "bad-reference", destination="out/App:1"),
    case("tar-path without its folder", "output-failed", BASE, "", ("OUT/none",),
         flags=("--tar-path=OUT/none/x.tar",)),
    case("tar-path is a folder", "output-failed", flags=("--tar-path=/tmp",)),
    case("layout is a file", "output-failed", flags=("--oci-layout-path=/etc/hostname",)),
    case("digest file is a folder", "output-failed", flags=("--digest-file=/tmp",)),
    case("digest file can't be made", "output-not-writable", flags=("--digest-file=/proc/x",)),
    case("digest file in a folder of others", "output-failed", flags=("--digest-file=OUT/x/y",),
         prepare=lambda site: site.project.out.chmod(0o500), before=PLAIN_ROOT),
    case("work folder is a file", "work-folder-unusable", flags=("--kaniko-dir=/etc/hostname",)),
    case("work folder can't be made", "work-folder-unusable", environment={"TMPDIR": "/proc/x"}),
    case("no certificate file", "bad-option", flags=("--registry-certificate=REG=/none",)),
]  # fmt: skip


@pytest.mark.parametrize("row", FLAGS)
def test_flags_and_outputs(site: Site, row: Case) -> None:
    check(site, row)


# Registries


def fail(what: str, status: int, **more: object) -> Callable[[Site], None]:
    return lambda site: site.registry.fail(what, status, 99, **more)


def switch(**settings: object) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        for name, value in settings.items():
            setattr(site.registry, name, value)

    return prepare


def logged_in_and(then: Callable[[Site], object]) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        site.log_in()
        then(site)

    return prepare


def helper(script: str) -> Callable[[Site], None]:
    """A credential helper, "" for one that is named but not there."""

    def prepare(site: Site) -> None:
        site.registry.users["me"] = SECRET
        site.docker_config(json.dumps({"credsStore": "odd"}))
        program = site.project.home / "docker-credential-odd"
        if script:
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        site.environment["PATH"] = f"{site.project.home}:{os.environ['PATH']}"

    return prepare


HOME_CONFIG = "home/.docker"
PULL = "GET /v2/base/busybox/manifests"
REGISTRIES = [
    case("tag missing", "manifest-unknown", "FROM REG/base/busybox:no\n", L1, ("404",)),
    case("repository missing", "repository-unknown", "FROM REG/none\n", L1, ("REG/none",)),
    case("digest missing", "manifest-unknown", f"FROM REG/base/busybox@{ZEROS}\n", L1,
         (ZEROS,)),
    case("host unknown", "registry-unreachable", "FROM no.such.host.invalid/x\n", L1,
         ("no.such.host.invalid",)),
    case("image of COPY --from missing", "repository-unknown",
         "FROM scratch\nCOPY --from=REG/none /x /\n", L2, ("REG/none",)),
    case("401 without credentials", "unauthorized", BASE, L1,
         ("REG answered 401", HOME_CONFIG, "not there"),
         prepare=lambda s: s.registry.users.update(me="x")),
    case("401 with wrong ones", "unauthorized", BASE, L1,
         ("REG answered 401", "the credentials are from", "config.json"),
         prepare=lambda site: site.log_in("another")),
    case("401 with another registry's", "unauthorized", BASE, L1,
         ("has ghcr.io, not REG",), prepare=lambda site: (
             site.registry.users.update(me="x"),
             site.docker_config(json.dumps({"auths": {"ghcr.io": {"auth": ENCODED}}})))),
    case("401 without HOME", "unauthorized", BASE, L1, ("looked into: KANIKO_",),
         prepare=lambda s: s.registry.users.update(me="x"), environment={"HOME": None}),
    case("DOCKER_CONFIG missing", "unauthorized", BASE, L1, ("/none (not there)",),
         prepare=lambda s: s.registry.users.update(me="x"), environment={"DOCKER_CONFIG": "/none"}),
    case("403 of a pull", "pull-denied", BASE, L1, ("403",),
         prepare=logged_in_and(lambda site: site.registry.deny("pull"))),
    case("403 of a push", "push-denied", BASE, "", ("403", "config.json"),
         prepare=logged_in_and(lambda site: site.registry.deny("push"))),
    case("429 with a long wait", "rate-limited", BASE, L1, ("429", "3600 s"),
         prepare=fail(PULL, 429, headers={"Retry-After": "3600"})),
    case("501", "registry-broken", BASE, L1, ("501",), prepare=fail(PULL, 501)),
    case("a strange answer", "request-refused", BASE, L1, ("418",), prepare=fail(PULL, 418)),
    case("manifest changed on its way", "digest-mismatch", BASE, L1, ("arrived as",),
         prepare=switch(wrong_bytes=True)),
    case("layer with other bytes", "digest-mismatch", BASE + "RUN true\n", L2,
         ("base/busybox",), prepare=lambda site: site.change_blob(lambda data: data[:-1] + b"x")),
    case("layer cut off", "digest-mismatch", BASE + "WORKDIR /x\n", L2, ("ended after",),
         prepare=lambda site: site.change_blob(lambda data: data[:-100])),
    case("layer missing", "blob-unknown", BASE + "WORKDIR /x\n", L2, ("404",),
         flags=("--no-push",),
         prepare=lambda site: site.registry.blobs["base/busybox"].pop(site.big_blob())),
    case("push denied at the manifest", "push-denied", BASE, "", ("REG/out/app:1",),
         prepare=fail("PUT /v2/out/app/manifests", 403)),
    case("second push denied", "push-denied", BASE, "", ("REG/two",),
         flags=("--destination=REG/two:1",),
         prepare=fail("/v2/two/", 403)),
    case("tag can't be moved", "tag-immutable", BASE, "", ("immutable", "another tag"),
         prepare=fail("PUT /v2/out/app/manifests", 400, code="TAG_INVALID", message="immutable")),
    case("push denied while RUN runs", "push-denied", BASE + "RUN sleep 4321.5\n", "", ("403",),
         prepare=lambda site: (site.registry.deny("push"), setattr(site.registry, "seconds", 0.1)),
         words=("4321.5",)),
    case("config.json is no JSON", "docker-config-broken", BASE, "", ("config.json, line 3",),
         prepare=lambda site: site.docker_config(f'{{"auths": {{\n"a": {{"auth": "{ENCODED}"\n}}')),
    case("config.json without base64", "docker-config-broken", BASE, "", ("entry for a",),
         prepare=lambda s: s.docker_config(f'{{"auths": {{"a": {{"auth": "{SECRET}%%"}}}}}}')),
    case("config.json is a list", "docker-config-broken", BASE, "", ("config.json",),
         prepare=lambda site: site.docker_config(f'["{SECRET}"]')),
    case("config.json is no text", "docker-config-broken", BASE, "", ("UTF-8",),
         prepare=lambda site: site.docker_config(b"\xff\xfe\0" + SECRET.encode())),
    case("helper missing", "unauthorized", BASE, L1, ("docker-credential-odd",),
         prepare=helper("")),
    case("helper prints nonsense", "unauthorized", BASE, L1, ("no JSON",),
         prepare=helper(f"echo '{SECRET} <<'")),
    case("helper fails", "unauthorized", BASE, L1, ("status 3",),
         prepare=helper(f"echo password: {SECRET} >&2; exit 3")),
]  # fmt: skip


@pytest.mark.parametrize("row", REGISTRIES)
def test_registry(site: Site, row: Case) -> None:
    check(site, row)


# These wait between their tries, as they should.
PATIENT = [
    case("down", "registry-unreachable", f"FROM {DEAD}/x\n", L1, ("tried 5 times", DEAD)),
    case("second destination down", "registry-unreachable", BASE, "", (DEAD,),
         flags=(f"--destination={DEAD}/x:1",)),
    case("429", "rate-limited", BASE, L1, ("429", "tried 5 times"),
         prepare=fail(PULL, 429)),
    case("503", "registry-broken", BASE, L1, ("503", "tried 5 times"),
         prepare=fail(PULL, 503)),
    case("manifest refused with 500", "registry-broken", BASE, "", ("500",),
         prepare=fail("PUT /v2/out/app/manifests", 500)),
    case("layer cut off each time", "registry-unreachable", BASE + "WORKDIR /x\n", L2,
         ("broke off",), prepare=switch(cut_after=[10**9] + [100] * 99)),
    case("dies in the middle of a push", "registry-unreachable", BASE + "COPY a /\n", "", ("REG",),
         {"a": "x" * 100_000}, prepare=switch(dies_at="PUT /v2/out/app/blobs")),
    case("download from a dead host", "download-failed",
         f"FROM scratch\nADD http://{DEAD}/x?token=1 /x\n", L2, ("connection refused",)),
]  # fmt: skip


@pytest.mark.parametrize("row", PATIENT)
def test_registry_that_is_given_time(site: Site, row: Case) -> None:
    check(site, row)


@pytest.mark.skipif(not is_available(), reason="docker-registry is not installed")
def test_a_certificate_that_nobody_vouches_for(site: Site, tmp_path: Path) -> None:
    """distribution itself, with a password and a certificate of an unknown authority."""
    certificates = make_certificates(tmp_path / "ca")
    users = {"me": SECRET}
    with running_registry(tmp_path / "r", users=users, certificates=certificates) as real:
        port = real.host.rpartition(":")[2]
        text = f"FROM localhost:{port}/x\n"
        row = Case("certificate-not-trusted", text, L1, (f"localhost:{port}",))
        check(site, row)
        trusted = (f"--registry-certificate=localhost:{port}={certificates.authority}",)
        shutil.rmtree(site.project.work)
        site.project.work.mkdir()
        check(site, Case("unauthorized", text, L1, ("401",), flags=trusted))


# Images that are not what they say


def image(*layers: bytes, **lies: object) -> Callable[[Site], object]:
    return lambda site: add_image(site.registry, "bad", layers or [LAYER], **lies)  # type: ignore[arg-type]


def manifest(text: bytes, media_type: str = f"{OCI}manifest.v1+json") -> Callable[[Site], object]:
    return lambda site: site.registry.add_manifest("bad", "1", text, media_type)


def index(platform: str) -> Callable[[Site], object]:
    entry = {
        "mediaType": f"{OCI}manifest.v1+json",
        "digest": ZEROS,
        "size": 5,
        "platform": {"os": "linux", "architecture": platform},
    }
    kind = f"{OCI}index.v1+json"
    body = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
    return manifest(json.dumps(body).encode(), kind)


LAYER = archive(member("a", data=b"x"))

SCHEMA_1 = json.dumps({"schemaVersion": 1, "name": "bad", "tag": "1", "fsLayers": []}).encode()
IMAGES = [
    case("diff ID of something else", "digest-mismatch", BAD + "WORKDIR /x\n", L2,
         (ZEROS, "REG/bad"), prepare=image(diff_ids=[ZEROS])),
    case("more diff IDs than layers", "bad-manifest", BAD, L1, ("1 layers", "2 in"),
         prepare=image(diff_ids=[digest_of(LAYER)] * 2)),
    case("no diff IDs", "bad-manifest", BAD, L1, ("0 in",),
         prepare=image(config={"rootfs": {"type": "layers"}})),
    case("diff ID is no digest", "bad-manifest", BAD, L1, ("REG/bad:1", "'hello'"),
         prepare=image(diff_ids=["hello"])),
    case("config of another kind", "bad-manifest", BAD, L1, ("REG/bad:1",),
         prepare=image(config={"config": [1]})),
    case("schema 1", "bad-manifest", BAD, L1, ("schema 1",),
         prepare=manifest(SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+prettyjws")),
    case("a proxy's page", "bad-manifest", BAD, L1, ("proxy",),
         prepare=manifest(b"<html>log in</html>", "text/html")),
    case("manifest without end", "bad-manifest", BAD, L1, prepare=manifest(b"[" * 99_999)),
    case("huge manifest", "request-refused", BAD, L1, ("longer than",),
         prepare=manifest(b'{"a":"' + b"a" * (5 << 20) + b'"}')),
    case("index of other platforms", "platform-unknown", BAD, L1, ("linux/s390x",),
         prepare=index("s390x")),
    case("index of what is not there", "manifest-unknown", BAD, L1, (ZEROS,),
         prepare=index(ARCHITECTURE)),
    case("layer is no archive", "bad-archive", BAD + "WORKDIR /x\n", L2, ("REG/bad",),
         prepare=image(b"hello" * 999)),
    case("layer ends in a file", "bad-archive", BAD + "RUN x\n", L2, ("cut off", "REG/bad"),
         prepare=image(archive(member("a", data=bytes(5000)))[:1500])),
    case("layer with numbers out of range", "bad-archive", BAD + "WORKDIR /x\n", L2,
         ("REG/bad",), prepare=image(archive(member("a", uid=1 << 40)))),
]  # fmt: skip


@pytest.mark.parametrize("row", IMAGES)
def test_image(site: Site, row: Case) -> None:
    check(site, row)


EVIL = "pybuild-evil-of-a-test"
HOSTILE = {
    "..": ("outside-root", [member(f"../../{EVIL}", data=b"x")]),
    "hard link by ..": ("outside-root", [member("h", "link", link="../../../etc/passwd")]),
    "hard link to the machine's": (
        "link-target-missing",
        [member("h", "link", link="/etc/hostname")],
    ),
    "hard link through a link": (
        "link-target-missing",
        [member("l", "symlink", link="/etc"), member("h", "link", link="l/hostname")],
    ),
    "whiteout of ..": ("bad-whiteout", [member(".wh...")]),
    "file as a folder": ("not-a-directory", [member("f", data=b"x"), member("f/g", data=b"x")]),
}


@pytest.mark.parametrize("step", ["RUN true", "WORKDIR /x", "COPY --from=REG/bad:1 . /"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layer(site: Site, name: str, step: str) -> None:
    """Told by name, in each of the three ways in which layers are read."""
    code, members = HOSTILE[name]
    first = "FROM scratch\n" if "--from" in step else BAD
    row = Case(code, f"{first}{step}\n", L2, ("REG/bad",), prepare=image(archive(*members)))
    check(site, row)
    assert not evil_files(site)


def evil_files(site: Site) -> list[Path]:
    folders = [Path("/"), Path("/tmp"), site.project.folder, *site.project.folder.parents]
    return [folder / EVIL for folder in folders if (folder / EVIL).exists()]


TRICKS = {
    "absolute names": [member(f"/{EVIL}", data=b"x"), member(f"/tmp/{EVIL}", data=b"x")],
    "link to /, then below it": [
        member("l", "symlink", link="/"),
        member(f"l/tmp/{EVIL}", data=b"x"),
    ],
    "link by .., then below it": [
        member("l", "symlink", link="../../../../.."),
        member(f"l/tmp/{EVIL}", data=b"x"),
    ],
    "folder in the place of a link": [
        member("d", "symlink", link="/tmp"),
        member("d", "dir"),
        member(f"d/{EVIL}", data=b"x"),
    ],
    "devices": [
        member("disk", "block", device=(8, 0), mode=0o666),
        member("mem", "char", device=(1, 1), mode=0o666),
        member("gone", "char", device=(0, 0)),
    ],
    "attributes of overlay": [
        member("o", "dir", pax={"SCHILY.xattr.trusted.overlay.redirect": "/../../.."})
    ],
}


@pytest.mark.parametrize("step", ['RUN ["/none"]', "COPY --from=REG/bad:1 . /\nRUN x"])
@pytest.mark.parametrize("name", TRICKS)
def test_tricks_stay_inside(site: Site, name: str, step: str) -> None:
    """What other builders' images may hold is unpacked, inside the root: no such program there."""
    first = "FROM scratch\n" if "--from" in step else BAD
    code, place = ("program-missing", f"Dockerfile:{step.count(chr(10)) + 2}")
    row = Case(code, f"{first}{step}\n", place, prepare=image(archive(*TRICKS[name])), status=127)
    check(site, row)
    assert not evil_files(site)


def bomb(size: int) -> bytes:
    """A gzip of an archive with one file of zeros."""
    squeezer = zlib.compressobj(1, zlib.DEFLATED, 31)
    out = io.BytesIO()
    info = member("zeros")[0]
    info.size = size
    out.write(squeezer.compress(info.tobuf(tarfile.PAX_FORMAT)))
    for _ in range(size >> 20):
        out.write(squeezer.compress(bytes(1 << 20)))
    out.write(squeezer.compress(bytes(1024)) + squeezer.flush())
    return out.getvalue()


# Full disks: the folder is a tiny volume of its own, in a mount namespace of its own


def tiny(size: str) -> tuple[str, ...]:
    """Runs the command with $PYBUILD_TINY on a volume of that size; tells what is left there."""
    script = f"""mount -t tmpfs -o size={size} tmpfs "$PYBUILD_TINY" || exit 99
"$@"
status=$?
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -z "$(ls -A "$PYBUILD_TINY")" ] && break
    sleep 0.1
done
find "$PYBUILD_TINY" -mindepth 1 | sed 's/^/LEFT BEHIND /' >&2
exit $status
"""
    return ("unshare", "-m", "--propagation=private", "sh", "-c", script, "sh")


def volume(name: str, then: Callable[[Site], object] | None = None) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        site.environment["PYBUILD_TINY"] = str(getattr(site.project, name))
        if then is not None:
            then(site)

    return prepare


def big_file(name: str, mebibytes: int = 6) -> Callable[[Site], object]:
    return lambda site: site.project.write(name, os.urandom(mebibytes << 20))


def big_archive(site: Site) -> None:
    site.project.write("a.tar", archive(member("a", data=os.urandom(6 << 20))))


def bomb_image(site: Site) -> None:
    add_packed_image(site.registry, "bad", bomb(256 << 20))


def full(
    name: str,
    dockerfile: str,
    place: str,
    before: tuple[str, ...],
    prepare: Callable[[Site], None],
    says: str,
    *flags: str,
    status: int = 1,
) -> object:
    """A full disk is told with the folder and with how much there was."""
    return case(name, "disk-full", dockerfile, place, ("no space", " MB", says), flags=flags,
                prepare=prepare, before=before, status=status)  # fmt: skip


RUN_DD = "RUN dd if=/dev/urandom of=/big bs=1M count={}"
FULL_DISKS = [
    full("pull", BASE + "RUN true\n", L2, tiny("1m"), volume("work"), "1.0 MB"),
    full("RUN", BASE + RUN_DD.format(30) + "\n", L2, tiny("12m"), volume("work"),
         "ended with status 1"),
    full("RUN that keeps its status", BASE + RUN_DD.format(30) + " || exit 7\n", L2,
         tiny("12m"), volume("work"), "ended with status 7", status=7),
    full("layer of a RUN", BASE + RUN_DD.format(6) + "\n", L2, tiny("12m"), volume("work"),
         "blobs"),
    full("layer of a COPY", "FROM scratch\nCOPY a /\n", L2, tiny("4m"),
         volume("work", big_file("a")), "blobs"),
    full("unpacking an archive", "FROM scratch\nADD a.tar /\n", L2, tiny("4m"),
         volume("work", big_archive), "spool"),
    full("files of another image", "FROM scratch\nCOPY --from=REG/base/busybox / /\n", L2,
         tiny("1m"), volume("work"), "spool"),
    full("archive of the image", "FROM scratch\nCOPY a /\n", "", tiny("1m"),
         volume("out", big_file("a", 2)), "below OUT", "--tar-path=OUT/a.tar"),
    full("layout of the image", "FROM scratch\nCOPY a /\n", "", tiny("1m"),
         volume("out", big_file("a", 2)), "below OUT", "--oci-layout-path=OUT/layout"),
    full("bomb, unpacked", BAD + "RUN true\n", L2, tiny("8m"), volume("work", bomb_image),
         "roots"),
    full("bomb, added", "FROM scratch\nADD a.tar /\n", L2, tiny("8m"),
         volume("work", lambda site: site.project.write("a.tar", bomb(256 << 20))), "spool"),
]  # fmt: skip


@pytest.mark.parametrize("row", FULL_DISKS)
def test_full_disk(site: Site, row: Case) -> None:
    run = build(site, row)
    refused(site, row, run)
    assert "LEFT BEHIND" not in run.err, run.err


def test_a_bomb_costs_no_memory(site: Site) -> None:
    """An index of it is all that a WORKDIR needs: it is read as a stream and thrown away."""
    add_packed_image(site.registry, "bad", bomb(512 << 20))
    row = Case("", BAD + "WORKDIR /x\n", flags=("--no-push",))
    limit = ("prlimit", f"--data={400 << 20}")
    run = site.project.executor(*command(site, row), environment=site.environment, before=limit)
    assert run.status == 0, run.text
    clean(site, run)


# RUN


@pytest.mark.parametrize(
    ("line", "code", "status", "says"),
    [
        pytest.param("RUN echo a; echo b >&2; exit 7", "run-failed", 7, "status 7", id="status"),
        pytest.param("RUN no-such-program", "run-failed", 127, "127", id="not found"),
        pytest.param('RUN ["/none"]', "program-missing", 127, "/none", id="exec form"),
        pytest.param('RUN ["/etc/passwd"]', "program-not-executable", 126, "", id="no program"),
        pytest.param("RUN sh -c 'kill -9 $$'; exit $?", "run-failed", 137, "signal 9", id="killed"),
        pytest.param("RUN sh -c 'kill -SEGV $$'; exit $?", "run-failed", 139, "11", id="crashed"),
    ],
)
def test_a_run_keeps_its_status(site: Site, line: str, code: str, status: int, says: str) -> None:
    row = Case(code, f"{BASE}{line}\n", L2, (says,), status=status)
    check(site, row)


def test_the_last_lines_of_a_run_stand_near_its_error(site: Site) -> None:
    lines = (
        "RUN i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; done; printf no-end; exit 3"
    )
    row = Case("run-failed", f"{BASE}{lines}\n", L2, status=3)
    run = build(site, row)
    refused(site, row, run)
    before = run.text[: run.text.find("error[")].splitlines()[-12:]
    assert any(line.endswith("| line 200") for line in before), run.text
    assert any(line.endswith("| no-end") for line in before), run.text


def test_a_run_that_the_kernel_kills(site: Site) -> None:
    """As when memory runs out: the command itself is killed from outside."""
    word = f"9{os.getpid()}.125"
    row = Case("run-failed", f"{BASE}RUN echo started; exec sleep {word}\n", L2,
               ("signal 9", "memory"), status=137, words=(word,))  # fmt: skip
    running = site.project.start(*command(site, row))
    running.wait_for("| started")
    wait_until(lambda: bool(sleeping(word)), "the command did not start")
    end_processes([f"sleep\0{word}"])
    refused(site, row, running.finish())


def sleeping(word: str) -> list[str]:
    return [line for line in processes([word]) if f" sleep {word}" in line]


def wait_until(is_so: Callable[[], bool], otherwise: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.002)


def test_a_failure_ends_the_other_stages(site: Site) -> None:
    word = f"8{os.getpid()}.125"
    text = (
        f"{BASE}RUN sleep {word}\nRUN touch /a\n"
        "FROM REG/base/busybox\nRUN sleep 0.3; exit 5\n"
        "FROM scratch\nCOPY --from=0 /a /\nCOPY --from=1 /etc/passwd /\n"
    )
    row = Case("run-failed", text, L5, ("status 5",), status=5, words=(word,))
    run = build(site, row)
    refused(site, row, run)
    assert run.seconds < 15


# Files that change under the builder


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        pytest.param(lambda path: path.unlink(), {"file-changed"}, id="vanishes"),
        pytest.param(lambda path: os.truncate(path, 5), {"file-changed"}, id="shrinks"),
        pytest.param(lambda path: path.open("ab").write(b"x"), {"file-changed"}, id="grows"),
        pytest.param(
            lambda path: (path.unlink(), path.mkdir()),
            {"file-changed"},
            id="becomes a folder",
        ),
        pytest.param(
            lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
            {"file-changed", "file-unreadable"},
            id="becomes a link",
        ),
    ],
)
def test_a_file_that_changes_while_it_is_copied(
    site: Site, change: Callable[[Path], object], codes: set[str]
) -> None:
    """`a` is a large file before it: while it is read, all files are known and `z` is not read."""
    site.project.write("d/a", os.urandom(96 << 20))
    path = site.project.write("d/z", b"z" * 1000)
    row = Case("", "FROM scratch\nCOPY d /\n", flags=("--no-push",))
    running = site.project.start(*command(site, row))
    wait_until(lambda: reads(running, "d/a"), "the large file is never read")
    change(path)
    run = running.finish()
    assert run.status == 1 and set(run.codes) <= codes and len(run.codes) == 1, run.text
    assert "/z" in run.error and run.place == L2 and run.hint, run.text
    clean(site, run)


def reads(running: Running, name: str) -> bool:
    for link in Path(f"/proc/{running.process.pid}/fd").iterdir():
        try:
            if str(link.readlink()).endswith(name):
                return True
        except FileNotFoundError:
            continue
    return False


# Signals


@dataclass(frozen=True)
class Phase:
    """What a build is doing when it is stopped: `stalls` is the request that gets no answer,
    `told` what the log says then."""

    dockerfile: str
    stalls: str = ""
    told: str = ""
    context: str = ""
    words: tuple[str, ...] = ()


WORD = f"7{os.getpid()}.125"
DAEMONS = (
    f"(setsid sleep {WORD} </dev/null >/dev/null 2>&1 &); "
    f"(trap '' TERM INT HUP; sleep {WORD}) & trap '' TERM INT; "
    f"echo started; while true; do sleep {WORD}; done"
)
PHASES = {
    "look-up": Phase(BASE, stalls="GET /v2/base/busybox/manifests"),
    "pull": Phase(BASE + "RUN true\n", stalls="GET /v2/base/busybox/blobs/BIG"),
    "waiting to try again": Phase(f"FROM {DEAD}/x\n", told="trying again"),
    "RUN": Phase(f"{BASE}RUN echo started; sleep {WORD}\n", told="| started", words=(WORD,)),
    "RUN with daemons": Phase(f"{BASE}RUN {DAEMONS}\n", told="| started", words=(WORD,)),
    "two RUNs": Phase(
        f"{BASE}RUN echo started; sleep {WORD}\nRUN touch /a\n{BASE}RUN sleep {WORD}\n"
        "COPY --from=0 /a /a\n",
        told="| started",
        words=(WORD,),
    ),
    "download": Phase("FROM scratch\nADD http://REG/v2/file /x\n", stalls="GET /v2/file"),
    "git": Phase("", stalls="GET /app.git", context="http://REG/app.git"),
    "push of a layer": Phase("FROM scratch\nCOPY a /\n", stalls="PUT /v2/out/app/blobs"),
    "push of the manifest": Phase("FROM scratch\nCOPY a /\n", stalls="PUT /v2/out/app/manifests"),
}


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
@pytest.mark.parametrize("name", PHASES)
def test_a_signal_ends_everything(site: Site, name: str, number: int, status: int) -> None:
    phase = PHASES[name]
    row = Case("interrupted", phase.dockerfile, status=status, files={"a": "a"},
               context=phase.context, words=phase.words)  # fmt: skip
    stop(site, row, phase, number)


def stop(site: Site, row: Case, phase: Phase, number: int) -> Finished:
    if phase.stalls:
        site.registry.stalls.append(phase.stalls.replace("BIG", site.big_blob()))
    running = site.project.start(*command(site, row), environment=site.environment)
    if phase.stalls:
        assert site.registry.stalled.wait(20), running.err
    else:
        running.wait_for(phase.told)
    sent = time.monotonic()
    running.signal(number)
    run = running.finish()
    assert time.monotonic() - sent < 4, run.text
    refused(site, row, run)
    return run


def test_a_signal_ends_packing(site: Site) -> None:
    """A large layer is not finished first."""
    for number in range(24):
        site.project.write(f"d/{number}", os.urandom(8 << 20))
    phase = Phase("FROM scratch\nCOPY d /\n", told="] COPY d /")
    run = stop(site, Case("interrupted", phase.dockerfile, status=129), phase, signal.SIGHUP)
    assert "done in" not in run.err, run.err


def test_a_signal_between_steps_of_a_slow_registry(site: Site) -> None:
    """Each answer takes its time; whichever request it meets, the build ends and tags nothing."""
    site.registry.seconds = 0.2
    text = f"{BASE}RUN true\nCOPY a /\nRUN true\n"
    for tenths in range(1, 9, 2):
        row = Case("interrupted", text, status=143, files={"a": str(tenths)})
        running = site.project.start(*command(site, row), environment=site.environment)
        time.sleep(tenths / 10)
        running.signal(signal.SIGTERM)
        run = running.finish()
        if run.status == -signal.SIGTERM and not run.text:
            continue  # before the program had begun
        refused(site, row, run)
