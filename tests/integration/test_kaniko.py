"""What kaniko's users rely on, by the command line that they use: flags that do what they say,
mistakes that are told better, images pushed from files."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pybuild.executor.image_archive import read_archive
from pybuild.layer.compress import decompress
from tests.support.fake_registry import FakeRegistry
from tests.support.images import add_base
from tests.support.layers import archive, member
from tests.support.project import Finished, Project, end_processes

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"
)
DEAD = "127.0.0.1:9"  # discard(9): nothing listens there


class Site:
    """A project and a registry of its own that holds the busybox base."""

    def __init__(self, project: Project, registry: FakeRegistry) -> None:
        self.project = project
        self.registry = registry

    def write(self, *lines: str) -> None:
        text = "\n".join(lines) + "\n"
        self.project.write("Dockerfile", self.filled_in(text))

    def filled_in(self, text: str) -> str:
        return text.replace("REG", self.registry.host).replace("OUT", str(self.project.out))

    def run(self, *flags: str, environment: dict[str, str | None] | None = None) -> Finished:
        given = [self.filled_in(flag) for flag in flags]
        context = () if any(f.startswith(("-c", "--context")) for f in flags) else ("--context=.",)
        return self.project.executor(*context, *given, environment=environment)

    def build(self, *flags: str, environment: dict[str, str | None] | None = None) -> Finished:
        run = self.run(*flags, environment=environment)
        assert run.status == 0, run.text
        return run

    def layers(self) -> list[list[str]]:
        """The names in each layer of the archive that --tar-path=OUT/image.tar left."""
        image = read_archive(self.project.out / "image.tar", self.project.out)
        tars = [io.BytesIO(b"".join(decompress(layer.open()))) for layer in image.layers]
        return [tarfile.open(fileobj=tar).getnames() for tar in tars]

    def config(self) -> dict[str, object]:
        image = read_archive(self.project.out / "image.tar", self.project.out)
        found: dict[str, object] = json.loads(image.raw_config)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    project = Project(tmp_path)
    with FakeRegistry() as registry:
        add_base(registry, "busybox")
        yield Site(project, registry)
    end_processes([project.mark])


TAR = ("--no-push", "--tar-path=OUT/image.tar")
BASE = "FROM REG/base/busybox"


# --- flags that do what they say --------------------------------------------------------------


def test_several_targets_are_built_and_the_first_is_the_image(site: Site) -> None:
    site.write(
        *(f"{BASE} AS build", "RUN echo b > /built"),
        *(f"{BASE} AS test", "RUN echo tested"),
        *("FROM build AS app", "RUN echo a > /app"),
        *(f"{BASE} AS never", "RUN exit 3"),
    )
    flags = ("--target=APP,test", "--target=test", "--label=a=b", *TAR)
    run = site.build(*flags)
    assert "| tested" in run.err and "never" not in run.err
    assert site.layers()[1:] == [["built"], ["app"]]
    config = site.config()["config"]
    assert isinstance(config, dict) and config["Labels"] == {"a": "b"}
    cached = site.build("--cache", "--cache-repo=REG/cache", *flags)
    assert "| tested" in cached.err
    assert "| tested" not in site.build("--cache", "--cache-repo=REG/cache", *flags).err


@pytest.mark.parametrize("more", [(), ("--single-snapshot",)], ids=["layers", "one layer"])
def test_ignored_paths_are_there_for_the_build_and_not_in_the_image(
    site: Site, more: tuple[str, ...]
) -> None:
    site.project.write("src/a", "a")
    site.write(
        f"{BASE} AS one",
        "RUN mkdir -p /m2/repo /var/run && echo x > /m2/repo/x && ln /m2/repo/x /linked",
        "RUN echo p > /var/run/pid",
        "COPY src /m2/src",
        "RUN cat /m2/repo/x /m2/src/a > /seen",
        "FROM one",
        "COPY --from=one /m2 /kept",
    )
    site.build("--ignore-path=/m2/*", *TAR, *more)
    names = sorted({name for layer in site.layers()[1:] for name in layer})
    kept = ["kept", "kept/repo", "kept/repo/x", "kept/src", "kept/src/a"]
    assert names == sorted([*kept, "linked", "m2", "seen", "var", "var/run", "var/run/pid"])
    site.build("--ignore-path=m2", "--ignore-path=/kept", "--whitelist-var-run", *TAR, *more)
    names = sorted({name for layer in site.layers()[1:] for name in layer})
    assert [name for name in names if name != "var"] == ["linked", "seen"]


def test_ignored_paths_change_no_key(site: Site) -> None:
    site.write(BASE, "RUN mkdir /c && echo x > /c/x && echo y > /y && echo ran")
    cache = ("--cache", "--cache-repo=REG/cache")
    assert "| ran" in site.build("--ignore-path=/c", *cache, *TAR).err
    assert site.layers()[1:] == [["y"]]
    assert "| ran" not in site.build(*cache, *TAR).err
    assert site.layers()[1:] == [["c", "c/x", "y"]]


def test_a_layer_of_which_nothing_is_left_is_none(site: Site) -> None:
    site.write(BASE, "RUN mkdir /c && echo x > /c/x", "RUN rm -r /c && echo y > /y")
    site.build("--ignore-path=/c", "-d=REG/app:1", "--tar-path=OUT/image.tar")
    assert site.layers()[1:] == [["y"]]
    history = site.config()["history"]
    assert isinstance(history, list)
    assert [line.get("empty_layer", False) for line in history[-2:]] == [True, False]


def test_a_dry_run_prints_the_plan_and_does_nothing(site: Site) -> None:
    site.write(BASE, "ENV A=1", "RUN exit 9")
    run = site.build("--dryrun", "-d=REG/app:1", "--tar-path=OUT/image.tar")
    assert "[2/2] line 3: RUN exit 9" in run.out and "app" not in run.err
    assert "app" not in site.registry.manifests and list(site.project.out.iterdir()) == []
    as_json = json.loads(site.build("--dryrun", "--no-push", "--log-format=json").out)
    assert [step["state"] for step in as_json["stages"][0]["steps"]] == ["config", "runs"]
    without = site.run("--dryrun")
    assert (without.status, without.codes) == (1, ["no-destination"])


def test_the_plan_can_be_printed_before_the_build(site: Site) -> None:
    site.write(BASE, "RUN echo ran")
    run = site.build("--no-push", environment={"KANIKO_PRINT_PLAN": "true"})
    assert "[2/2] line 2: RUN echo ran" in run.out and "[stage-0 2/2] | ran" in run.err


def test_materialize_unpacks_what_is_cached(site: Site) -> None:
    site.write(BASE, "RUN head -c 50000 /dev/urandom > /noise")
    flags = ("--cache", "--cache-repo=REG/cache", "--no-push")
    site.build(*flags)
    site.registry.requests.clear()
    site.build(*flags)
    assert not pulled(site.registry)
    site.build(*flags, "--materialize")
    assert pulled(site.registry)


def test_dir_is_looked_for_where_kaniko_stands(site: Site) -> None:
    """kaniko steps to / first; its tutorial has --context=dir://workspace."""
    site.project.write("here", "")
    site.write("FROM scratch", "COPY here /")
    context = str(site.project.context).removeprefix("/")
    dockerfile = f"--dockerfile={site.project.context}/Dockerfile"
    flags = (f"--context=dir://{context}", dockerfile, "--no-push")
    run = site.project.executor(*flags, folder=site.project.out)
    assert run.status == 0, run.text
    for other in (context, f"dir://{context}/none"):
        missing = site.project.executor(f"--context={other}", *flags[1:], folder=site.project.out)
        assert (missing.status, missing.codes) == (1, ["context-missing"]), missing.text


def pulled(registry: FakeRegistry) -> list[str]:
    """The layers of the cache and the base that were fetched."""
    big = {digest for held in registry.blobs.values() for digest, data in held.items()
           if len(data) > 20_000}  # fmt: skip
    asked = [one.path for one in registry.requests if one.method == "GET"]
    return [path for path in asked if path.rpartition("/")[2] in big]


def test_the_time_for_a_snapshot(site: Site) -> None:
    site.write(BASE, "RUN touch /a /b")
    run = site.run("--no-push", environment={"SNAPSHOT_TIMEOUT_DURATION": "1ns"})
    assert (run.status, run.codes) == (1, ["snapshot-too-slow"]), run.text
    assert run.place == "Dockerfile:2" and "SNAPSHOT_TIMEOUT_DURATION" in run.hint
    site.build("--no-push", environment={"SNAPSHOT_TIMEOUT_DURATION": "90m"})


IDLE = {
    "--cleanup": "everything is always put back",
    "--pre-cleanup": "never sees the container's own files",
    "--preserve-context": "everything is always put back",
    "--snapshot-mode=redo": "always found exactly",
    "--use-new-run": "always found exactly",
    "--force-build-metadata": "in the image's history",
    "--compressed-caching": "never kept in memory",
    "--skip-unused-stages=false": "are never built",
}


def test_flags_without_work_say_so_in_one_line_each(site: Site) -> None:
    site.write(BASE, "LABEL a=b")
    run = site.build("--no-push", *IDLE, environment={"FF_KANIKO_COPY_AS_ROOT": "0"})
    told = [line for line in run.err.splitlines() if "changes nothing here" in line]
    assert len(told) == len(IDLE) + 1
    for flag, why in IDLE.items():
        assert sum(f" {flag} " in line and why in line for line in told) == 1, told


def test_log_formats_that_parsers_know(site: Site) -> None:
    site.write(BASE, "RUN echo hello")
    for line in site.build("--no-push", "--log-format=json").err.splitlines():
        entry = json.loads(line)
        assert entry["level"] in ("info", "warning", "debug") and entry["msg"]
        assert re.match(r"\d{4}-\d\d-\d\dT", entry["time"])
    for line in site.build("--no-push", "--log-format=text").err.splitlines():
        assert re.fullmatch(r'time="[-\dT:Z]+" level=info msg=".+"', line), line
    coloured = site.build("--no-push", "--log-format=color", "-v=debug").err
    assert re.search(r"^\x1b\[36mINFO\x1b\[0m\[\d{4}\] .*\| hello$", coloured, re.M)
    quiet = site.build("--no-push", "-v", "ERROR")
    assert quiet.text == ""


def test_a_password_in_an_address_is_never_shown(site: Site) -> None:
    with file_server() as address:
        url = f"http://me:hunter2@{address}"
        site.write(BASE, f"ADD {url}/file /f", f"ENV A={url}", f"RUN echo {url} > /dev/null")
        run = site.build(*TAR, "-v=trace")
        assert "http://me:xxxxx@" in run.err
        history = json.dumps([line["created_by"] for line in site.config()["history"]])  # type: ignore[attr-defined]
        assert f"ADD http://me:xxxxx@{address}/file" in history
        plan = site.build("--dryrun", "--no-push").out
        site.write(BASE, f"ADD {url}/missing /f")
        failed = site.run("--no-push")
        as_json = site.run("--no-push", "--log-format=json")
        assert failed.codes == ["download-failed"] and failed.place == "Dockerfile:2"
    for text in (run.text, plan, failed.text, as_json.text):
        assert "hunter2" not in text


class file_server:
    """Serves /file to everybody, on loopback."""

    def __enter__(self) -> str:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/file"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "2" if found else "0")
        self.end_headers()
        self.wfile.write(b"hi" if found else b"")

    def log_message(self, *_: object) -> None:
        return


# --- images pushed from files -----------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--tar-path", "--oci-layout-path"])
def test_what_a_build_left_is_pushed_as_it_is(site: Site, flag: str) -> None:
    site.write(BASE, "RUN echo x > /x")
    kept = "--annotation=kept=yes"  # a manifest that was made anew would not have it
    site.build("--no-push", f"{flag}=OUT/image", "--digest-file=OUT/digest", kept)
    digest = (site.project.out / "digest").read_text()
    run = site.project.executor("push", str(site.project.out / "image"), "-d",
                                f"{site.registry.host}/one:1", "--destination",
                                f"{site.registry.host}/two:2")  # fmt: skip
    assert run.status == 0, run.text
    for repository, tag in (("one", "1"), ("two", "2")):
        held = site.registry.manifests[repository]
        assert held[tag] == held[digest]
    assert f"pushed {site.registry.host}/two:2 {digest}" in run.err
    assert not [left for left in site.project.leftovers() if str(site.project.out) not in left]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["push"], "unexpected-argument", "needs the image"),
        (["push", "OUT/x"], "no-destination", "at least one --destination is required"),
        (["push", "OUT/none", "-d=REG/a:1"], "archive-unreadable", "no such file"),
        (["push", "OUT", "-d=REG/a:1"], "layout-broken", "no OCI image layout"),
        (["push", "OUT/x", "-d=UPPER/Bad"], "bad-reference", "UPPER/Bad"),
        (["push", "OUT/x", "-d=REG/a:1", "--label=a=b"], "unknown-option", "--label"),
    ],
)
def test_mistakes_of_a_push(site: Site, argv: list[str], code: str, words: str) -> None:
    run = site.project.executor(*map(site.filled_in, argv))
    assert (run.status, run.codes) == (1, [code]), run.text
    assert words in run.error and len(run.error.splitlines()) <= 3


def test_a_push_that_is_refused(site: Site) -> None:
    (site.project.out / "image.tar").write_bytes(small_image())
    site.registry.deny("push")
    run = site.project.executor("push", str(site.project.out / "image.tar"),
                                f"-d={site.registry.host}/a:1")  # fmt: skip
    assert (run.status, run.codes) == (1, ["push-denied"]), run.text


def small_image() -> bytes:
    """What `docker save` writes of an image without layers."""
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    manifest: list[dict[str, object]] = [{"Config": "c.json", "RepoTags": None, "Layers": []}]
    files: dict[str, object] = {"c.json": config, "manifest.json": manifest}
    return archive(*(member(name, data=json.dumps(body).encode()) for name, body in files.items()))


# --- mistakes, told better --------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """What a user did, and what kaniko ended with; `code` and `says` are ours, "" where Docker
    makes no mistake of it."""

    dockerfile: tuple[str, ...] | None
    status: int
    code: str
    says: tuple[str, ...]
    flags: tuple[str, ...] = ("--no-push",)
    place: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    denied: bool = False


PLAIN = (BASE, "LABEL a=b")
XZ = lzma.compress(archive(member("in-xz", data=b"x")))
# fmt: off
MISTAKES = {
    "no destination": Mistake(PLAIN, 1, "no-destination", ("--destination", "--no-push"), ()),
    "cache without a place": Mistake(
        PLAIN, 1, "flags-contradict", ("--cache-repo",), ("--no-push", "--cache")),
    "no Dockerfile": Mistake(None, 1, "dockerfile-missing", ("Dockerfile", "hint: ")),
    "unknown flag": Mistake(PLAIN, 1, "unknown-option", ("--destnation", "--destination?"),
                            ("--destnation=x",)),
    "bad value": Mistake(PLAIN, 1, "bad-option", ("--compression", "'lz4'", "gzip, zstd"),
                         ("--no-push", "--compression=lz4")),
    "value apart from a boolean": Mistake(PLAIN, 1, "unexpected-argument", ("--cache=true",),
                                          ("--no-push", "--cache", "true")),
    "one argument with a blank": Mistake(
        PLAIN, 1, "unknown-option", ("holds a blank", "--registry-certificate=r.io=/ca.crt"),
        ("--no-push", "--registry-certificate r.io=/ca.crt")),
    "log format": Mistake(PLAIN, 1, "bad-option", ("'xml'", "text", "json", "color"),
                          ("--no-push", "--log-format=xml")),
    "log level": Mistake(PLAIN, 1, "bad-option", ("'bad'", "info"), ("--no-push", "-v=bad")),
    "duration without a unit": Mistake(PLAIN, 1, "bad-option", ("'5'", "336h"),
                                       ("--no-push", "--cache-ttl=5")),
    "registry down": Mistake(PLAIN, 1, "registry-unreachable", (DEAD,), (f"-d={DEAD}/a:1",)),
    "bad reference": Mistake(PLAIN, 1, "bad-reference", ("UPPER/Bad",), ("-d=UPPER/Bad",)),
    "no credentials": Mistake(PLAIN, 1, "unauthorized", ("REG", "config.json"), denied=True,
                              place="Dockerfile:1"),
    "base missing": Mistake((f"{BASE}:none",), 1, "manifest-unknown", (":none",),
                            place="Dockerfile:1"),
    "unknown instruction": Mistake((BASE, "BOGUS"), 1, "unknown-instruction", ("BOGUS",),
                                   place="Dockerfile:2"),
    "empty Dockerfile": Mistake(("",), 1, "dockerfile-empty", ()),
    "no FROM": Mistake(("RUN true",), 1, "no-stage", ("FROM",), place="Dockerfile:1"),
    "COPY of nothing": Mistake((BASE, "COPY missing /x"), 1, "copy-source-missing", ("missing",),
                               place="Dockerfile:2"),
    # kaniko copies nothing and ends with 0; Docker fails.
    "COPY of a glob": Mistake((BASE, "COPY *.none /x/"), 1, "copy-source-missing", ("*.none",),
                              place="Dockerfile:2"),
    "COPY of an ignored file": Mistake(
        (BASE, "COPY ignored /x"), 1, "copy-source-missing", ("ignored", ".dockerignore"),
        place="Dockerfile:2", files={"ignored": b"", ".dockerignore": b"ignored\n"}),
    "several sources": Mistake((BASE, "COPY a b /x"), 1, "bad-destination", ("/x/",),
                               place="Dockerfile:2", files={"a": b"", "b": b""}),
    "RUN fails": Mistake((BASE, "RUN true \\", "  && exit 7"), 7, "run-failed",
                         ("status 7", "2 | RUN true", "3 |   && exit 7"), place="Dockerfile:2"),
    "RUN of no program": Mistake((BASE, "RUN no-such-thing"), 127, "run-failed",
                                 ("status 127", "PATH"), place="Dockerfile:2"),
    # kaniko ends with 1 here, and with 127 in the line before.
    "exec form of no program": Mistake((BASE, 'RUN ["/no/such"]'), 127, "program-missing",
                                       ("/no/such",), place="Dockerfile:2"),
    "unknown user": Mistake((BASE, "USER nouser", "RUN true"), 1, "unknown-user", ("nouser",),
                            place="Dockerfile:3"),
    "unknown target": Mistake((f"{BASE} AS build",), 1, "unknown-target", ("biuld", "build?"),
                              ("--no-push", "--target=biuld")),
    "label without a value": Mistake(PLAIN, 1, "bad-option", ("'foo'", "KEY=VALUE"),
                                     ("--no-push", "--label=foo")),
    "secret missing": Mistake(
        (BASE, "RUN --mount=type=secret,id=s,required=true true"), 1, "secret-missing", ("s",),
        place="Dockerfile:2"),
    # kaniko fails; Docker copies what is no archive, and unpacks xz.
    "ADD of a gzip that is no tar": Mistake((BASE, "ADD f.gz /x/"), 1, "", ("x/f.gz",),
                                            files={"f.gz": gzip.compress(b"text")}),
    "ADD of a tar.xz": Mistake((BASE, "ADD f.tar.xz /x/"), 1, "", ("x/in-xz",),
                               files={"f.tar.xz": XZ}),
}
# fmt: on


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(site: Site, name: str) -> None:
    row = MISTAKES[name]
    for file, content in row.files.items():
        site.project.write(file, content)
    if row.dockerfile is not None:
        site.write(*row.dockerfile)
    if row.denied:
        site.registry.users["me"] = "secret"
    tar = () if row.code else ("--tar-path=OUT/image.tar",)
    run = site.run(*row.flags, *tar)
    if not row.code:
        assert run.status == 0, run.text
        assert row.says[0] in site.layers()[-1]
        return
    assert (run.status, run.codes) == (row.status, [row.code]), run.text
    for text in row.says:
        assert site.filled_in(text) in run.error, run.text
    assert run.place == row.place, run.text
    assert "usage:" not in run.text.lower() and len(run.error.splitlines()) <= 8, run.text
    assert run.hint or row.code == "run-failed", run.text
