"""Contexts from archives on disk, standard input and web servers, by the real command line and
with servers that fail in every way."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
import tarfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pybuild.context.errors import (
    ContextDenied,
    ContextDiffers,
    ContextInsecure,
    ContextMissing,
    ContextNotFound,
    ContextRefused,
    ContextUnreachable,
    NoArchive,
)
from pybuild.context.open import ContextOptions, open_context
from pybuild.errors import PybuildError
from pybuild.events import Event, Notice
from pybuild.layer.errors import BadArchive
from pybuild.registry.options import RegistryOptions
from pybuild.registry.retry import RetryPolicy
from tests.support.archives import COMPRESSIONS, entry, tar_of
from tests.support.project import EXECUTOR, Project
from tests.support.proxy import Instead, RegistryProxy, Spoil, running_proxy
from tests.support.registry import make_certificates
from tests.support.web_server import Site, digest_header, web_site

FILES = {"Dockerfile": "FROM scratch\nCOPY . /\n", "a/b": "content", "large": os.urandom(900_000)}
TAR = tar_of(FILES)
QUICK = RegistryOptions(
    retry=RetryPolicy(tries=4, first_wait_seconds=0.01, total_seconds=3.0), timeout_seconds=1.0
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site() as site:
        site.files["/c.tar"] = TAR
        yield site


def files_of(image: Path) -> dict[str, bytes]:
    """The files of an image with one layer, written by --tar-path."""
    with tarfile.open(image) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        [layer] = json.load(manifest)[0]["Layers"]
        with tarfile.open(fileobj=archive.extractfile(layer)) as content:
            return {
                member.name: file.read()
                for member in content
                if member.isreg() and (file := content.extractfile(member))
            }


def expected(files: Mapping[str, bytes | str]) -> dict[str, bytes]:
    return {
        name: data if isinstance(data, bytes) else data.encode() for name, data in files.items()
    }


def build(project: Project, *flags: str, stdin: bytes | int = b"", **more: str) -> tuple[int, str]:
    """The exit status and the log."""
    image = project.folder / "image.tar"
    given = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    run = subprocess.run(
        [EXECUTOR, *flags, "--no-push", f"--tar-path={image}"],
        cwd=project.context,
        env=project.environment(more),
        capture_output=True,
        timeout=60,
        **given,  # type: ignore[call-overload]
    )
    return run.returncode, run.stderr.decode()


class TestArchive:
    @pytest.mark.parametrize("compression", COMPRESSIONS)
    def test_the_content_says_what_it_is(self, tmp_path: Path, compression: str) -> None:
        """The name says gzip each time."""
        (tmp_path / "c.tar.gz").write_bytes(COMPRESSIONS[compression](TAR))
        assert fetch(f"tar://{tmp_path}/c.tar.gz", tmp_path)[0] == expected(FILES)

    def test_a_folder_of_it(self, project: Project) -> None:
        tar = tar_of({"top/Dockerfile": "FROM scratch\nCOPY x /\n", "top/x": "x", "y": "y"})
        (project.context / "c.tar").write_bytes(tar)
        status, log = build(project, "--context=tar://c.tar", "--context-sub-path=top")
        assert status == 0, log
        assert files_of(project.folder / "image.tar") == {"x": b"x"}

    @pytest.mark.parametrize("folder", ["..", "../..", "top/../../top"])
    def test_a_folder_outside_of_it(self, project: Project, folder: str) -> None:
        tar = tar_of({"top/Dockerfile": "FROM scratch\nCOPY x /\n", "top/x": "x"})
        (project.context / "c.tar").write_bytes(tar)
        status, log = build(project, "--context=tar://c.tar", f"--context-sub-path={folder}")
        assert status == 1
        assert f"error[context-missing]: --context-sub-path={folder} leads out of" in log

    def test_what_is_none_is_told(self, project: Project) -> None:
        (project.context / "c.tar.gz").write_text("<!DOCTYPE html><html>log in first</html>" * 30)
        status, log = build(project, "--context=tar://c.tar.gz")
        assert status == 1 and "error[no-archive]: c.tar.gz is no tar archive" in log
        assert "<!DOCTYPE html>" in log

    def test_by_an_ordinary_user(self, project: Project) -> None:
        """Who can give no file away, make no device, and write to no folder of mode 0555."""
        if os.geteuid() != 0:
            pytest.skip("only root can become somebody else")
        device = entry("null", tarfile.CHRTYPE)
        device.devmajor, device.devminor = 1, 3
        folder = [entry("d", tarfile.DIRTYPE, mode=0o555), entry("d/f", mode=0o444), device]
        (project.context / "c.tar").write_bytes(tar_of(FILES, folder))
        os.chown(project.work, 1000, 1000)
        # The tests' own files may lie where only root can read.
        capabilities = "-all,+dac_read_search"
        user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
                f"--inh-caps={capabilities}", f"--bounding-set={capabilities}",
                "--ambient-caps=+dac_read_search"]  # fmt: skip
        run = project.executor("--context=tar://c.tar", "--no-push", before=user)
        assert run.status == 0, run.err
        assert "devices are left out" in run.err and ": null" in run.err
        assert list(project.work.iterdir()) == []

    def test_a_bomb_fills_only_what_it_is_given(self, project: Project) -> None:
        """100 MB out of a few kilobytes, onto a volume of 16 MB."""
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small volume")
        bomb = COMPRESSIONS["zstd"](tar_of({"zeros": bytes(100_000_000)}))
        assert len(bomb) < 100_000
        (project.context / "c.tar.zst").write_bytes(bomb)
        mount = 'mount -t tmpfs -o size=16m none "$0" && "$@"; code=$?; ls -A "$0"; exit $code'
        run = project.executor(
            "--context=tar://c.tar.zst",
            "--no-push",
            before=["unshare", "-m", "sh", "-c", mount, str(project.work)],
        )
        assert (run.status, run.codes, run.out) == (1, ["disk-full"], "")


class TestStandardInput:
    @pytest.mark.parametrize(
        ("context", "compression"),
        [("tar://stdin", "plain"), *(("-", compression) for compression in COMPRESSIONS)],
    )
    def test_an_archive(self, project: Project, compression: str, context: str) -> None:
        data = COMPRESSIONS[compression](TAR)
        status, log = build(project, f"--context={context}", stdin=data)
        assert status == 0, log
        assert files_of(project.folder / "image.tar") == expected(FILES)

    def test_only_a_dockerfile(self, project: Project) -> None:
        """As `docker build -` takes it; nothing of the working folder is in it."""
        project.write("x", "x")
        text = b"FROM scratch\nCOPY . /\n"
        status, log = build(project, "--context=-", stdin=text)
        assert status == 0, log
        assert files_of(project.folder / "image.tar") == {"Dockerfile": text}

    def test_the_dockerfile_alone_from_there(self, project: Project) -> None:
        project.write("x", "x")
        status, log = build(project, "--context=.", "-f", "-", stdin=b"FROM scratch\nCOPY x /\n")
        assert status == 0, log
        assert files_of(project.folder / "image.tar") == {"x": b"x"}

    def test_nothing(self, project: Project) -> None:
        status, log = build(project, "--context=tar://stdin")
        assert status == 1 and "error[stdin-empty]: no data" in log and "--interactive" in log

    def test_a_terminal(self, project: Project) -> None:
        master, slave = pty.openpty()
        try:
            status, log = build(project, "--context=tar://stdin", stdin=slave)
        finally:
            os.close(master)
            os.close(slave)
        assert status == 1 and "error[stdin-empty]: " in log and "terminal" in log

    def test_a_signal_while_waiting(self, project: Project) -> None:
        process = subprocess.Popen(
            ["env", "--default-signal=TERM", EXECUTOR, "--context=tar://stdin", "--no-push"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=project.environment({}),
        )  # fmt: skip
        try:
            while not list(project.work.glob("*/context/*")):
                assert process.poll() is None
                time.sleep(0.02)
            process.terminate()
            assert process.wait(10) == 143
        finally:
            process.kill()
            process.communicate()
        assert list(project.work.iterdir()) == []


class TestCommandLine:
    def test_https_with_an_authority_of_its_own(self, project: Project) -> None:
        made = make_certificates(project.folder / "tls", "127.0.0.1")
        folder = project.folder / "authorities"
        folder.mkdir()
        (folder / "ours.pem").write_bytes(made.authority.read_bytes())
        with web_site((made.certificate, made.key)) as site:
            site.files["/c.tar"] = TAR
            status, log = build(project, f"--context={site.url}/c.tar")
            assert status == 1 and "error[certificate-not-trusted]: " in log
            status, log = build(project, f"--context={site.url}/c.tar", SSL_CERT_DIR=str(folder))
            assert status == 0, log
            flag = f"--registry-certificate={site.host}={made.authority}"
            assert build(project, f"--context={site.url}/c.tar", flag)[0] == 0
        assert files_of(project.folder / "image.tar") == expected(FILES)

    def test_a_dockerfile_at_an_address(self, project: Project, site: Site) -> None:
        for name in ("x", "y", "z"):
            project.write(name, name)
        project.write(".dockerignore", "z\n")
        site.files["/d/App?v=1".partition("?")[0]] = b"FROM scratch\nCOPY . /\n"
        status, log = build(project, "--context=.", f"-f={site.url}/d/App?v=1")
        assert status == 0, log
        assert set(files_of(project.folder / "image.tar")) == {"x", "y", ".dockerignore"}
        site.files["/d/App.dockerignore"] = b"*\n!x\n"
        assert build(project, "--context=.", f"-f={site.url}/d/App?v=1")[0] == 0
        assert set(files_of(project.folder / "image.tar")) == {"x"}
        status, log = build(project, "--context=.", f"-f={site.url}/none")
        assert status == 1 and "error[context-not-found]: " in log

    def test_a_signal_while_a_server_hangs(self, project: Project, site: Site) -> None:
        with running_proxy(site.host) as proxy:
            proxy.rule = lambda *_: Spoil(hangs=True)
            running = project.start(f"--context=http://{proxy.host}/c.tar", "--no-push")
            while not list(project.work.glob("*/context/*")):
                time.sleep(0.02)
            time.sleep(0.3)
            running.signal(15)
            assert running.finish(10).status == 143
        assert not project.leftovers()


# -- in process ------------------------------------------------------------------------------


def fetch(
    url: str, folder: Path, *, web: RegistryOptions = QUICK
) -> tuple[dict[str, bytes], list[Event]]:
    events: list[Event] = []
    options = ContextOptions(folder / "work", environment={}, web=web)
    try:
        with open_context(url, options, events.append) as root:
            found = {
                str(path.relative_to(root)): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            }
    finally:
        assert list((folder / "work").iterdir()) == []
    return found, events


def codes(events: list[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice) and event.code]


HALF = len(TAR) // 2
FAULTS = {
    "cut at once": [Spoil(cut_after=0)],
    "cut in the middle": [Spoil(cut_after=HALF)],
    "cut again and again": [Spoil(cut_after=300_000)] * 2 + [Spoil(cut_after=1000)],
    "closed": [Instead(0)],
    "429": [Instead(429, headers=(("Retry-After", "1"),))],
    "500": [Instead(500)],
    "503": [Instead(503)] * 3,
    "shorter than announced": [Spoil(length=HALF)],
    "hangs": [Spoil(hangs=True)],
}


@pytest.mark.parametrize("server", ["ranges", "no ranges", "no tag"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes(site: Site, tmp_path: Path, fault: str, server: str) -> None:
    site.ranges = server != "no ranges"
    if server == "no tag":
        site.tag = ""
    with running_proxy(site.host) as proxy:
        faults = list(FAULTS[fault])
        proxy.rule = lambda *_: faults.pop(0) if faults else None
        found, events = fetch(f"http://{proxy.host}/c.tar", tmp_path)
    assert found == expected(FILES)
    assert codes(events) == ["context-retry"] * len(FAULTS[fault])
    asked = [wanted for _, wanted in site.asked if wanted]
    resumes = server != "no tag" and fault.startswith("cut in the middle")
    assert not resumes or asked == [f"bytes={HALF}-"]
    assert server != "no tag" or not asked


@pytest.mark.parametrize("length", [512, 1024, 2048, HALF])
def test_an_archive_of_which_less_is_announced(site: Site, tmp_path: Path, length: int) -> None:
    """Also where it ends between two files."""
    with running_proxy(site.host) as proxy:
        proxy.rule = lambda *_: Spoil(length=length - len(TAR))
        with pytest.raises(BadArchive) as caught:
            fetch(f"http://{proxy.host}/c.tar", tmp_path)
    assert proxy.host in caught.value.message


@pytest.mark.parametrize(
    "fault",
    [Spoil(cut_after=1000), Instead(503), Instead(0), Spoil(hangs=True)],
    ids=["cut", "busy", "closed", "hangs"],
)
def test_a_fault_that_stays(site: Site, tmp_path: Path, fault: Instead | Spoil) -> None:
    with running_proxy(site.host) as proxy:
        proxy.rule = lambda *_: fault
        with pytest.raises(ContextUnreachable) as caught:
            fetch(f"http://{proxy.host}/c.tar", tmp_path)
    assert proxy.host in caught.value.message and "attempt 4 of 4" in caught.value.message


def test_asked_to_wait_too_long(site: Site, tmp_path: Path) -> None:
    with running_proxy(site.host) as proxy:
        proxy.rule = lambda *_: Instead(429, headers=(("Retry-After", "3600"),))
        with pytest.raises(ContextUnreachable) as caught:
            fetch(f"http://{proxy.host}/c.tar", tmp_path)
    assert "3600 s" in caught.value.message


PROMISES = {
    "Repr-Digest": digest_header(TAR)["Repr-Digest"],
    "Content-Digest": digest_header(TAR)["Repr-Digest"],
    "Digest": f"sha-256={b64encode(hashlib.sha256(TAR).digest()).decode()}",
    "Content-MD5": b64encode(hashlib.md5(TAR).digest()).decode(),
    "X-Checksum-Sha1": hashlib.sha1(TAR).hexdigest(),
}


@pytest.mark.parametrize("header", PROMISES)
def test_what_a_server_promises_is_checked(site: Site, tmp_path: Path, header: str) -> None:
    site.headers[header] = PROMISES[header]
    assert fetch(f"{site.url}/c.tar", tmp_path)[0] == expected(FILES)
    with running_proxy(site.host) as proxy:
        proxy.rule = lambda *_: Spoil(flip=True)
        with pytest.raises(PybuildError) as caught:
            fetch(f"http://{proxy.host}/c.tar", tmp_path)
    # The flipped byte may break the archive before its end is reached.
    assert caught.value.code in ("context-differs", "bad-archive", "no-archive")
    site.files["/c.tar"] = tar_of({**FILES, "a/b": "other"})
    with pytest.raises(ContextDiffers) as differs:
        fetch(f"{site.url}/c.tar", tmp_path)
    assert header.lower() in differs.value.message


def test_what_the_address_promises_is_checked(site: Site, tmp_path: Path) -> None:
    found = hashlib.sha256(TAR).hexdigest()
    assert fetch(f"{site.url}/c.tar#sha256={found}", tmp_path)[0] == expected(FILES)
    with pytest.raises(ContextDiffers) as caught:
        fetch(f"{site.url}/c.tar#sha256={'0' * 64}", tmp_path)
    assert found in caught.value.message


@pytest.mark.parametrize("tag", ['"1"', ""])
def test_a_file_that_changes_meanwhile(site: Site, tmp_path: Path, tag: str) -> None:
    """It has another tag; or none, and only its bytes tell."""
    site.tag = tag
    with running_proxy(site.host) as proxy:

        def rule(*_: str) -> Spoil | None:
            if len(site.asked) == 0:
                return Spoil(cut_after=HALF)
            site.tag = '"2"' if tag else ""
            site.files["/c.tar"] = tar_of({**FILES, "Dockerfile": "FROM other\nCOPY . /\n"})
            return None

        proxy.rule = rule
        with pytest.raises(ContextDiffers) as caught:
            fetch(f"http://{proxy.host}/c.tar", tmp_path)
    assert "changed while" in caught.value.message


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, ContextDenied), (403, ContextDenied), (404, ContextNotFound), (204, ContextRefused),
     (203, ContextRefused), (418, ContextRefused)],
)  # fmt: skip
def test_any_other_status_is_named(
    site: Site, tmp_path: Path, status: int, error: type[PybuildError]
) -> None:
    site.status["/c.tar"] = status
    with pytest.raises(error) as caught:
        fetch(f"{site.url}/c.tar?token=secret", tmp_path)
    assert str(status) in caught.value.message and "secret" not in caught.value.message


def test_a_user_in_the_address(site: Site, tmp_path: Path) -> None:
    site.password = "me:pa/ss"
    url = site.url.replace("http://", "http://me:pa%2Fss@")
    found, events = fetch(f"{url}/c.tar", tmp_path)
    assert found == expected(FILES) and "pa/ss" not in repr(events) + url.partition("@")[2]
    with pytest.raises(ContextDenied) as caught:
        fetch(f"{site.url.replace('http://', 'http://me:wrong@')}/c.tar", tmp_path)
    assert "wrong" not in caught.value.message


def test_a_password_stays_with_its_host(site: Site, tmp_path: Path) -> None:
    site.redirects["/moved.tar"] = f"{site.url.replace('127.0.0.1', 'localhost')}/c.tar"
    assert fetch(f"{site.url}/moved.tar", tmp_path)[0] == expected(FILES)
    site.password = "me:password"
    with pytest.raises(ContextDenied):
        fetch(f"{site.url.replace('http://', 'http://me:password@')}/moved.tar", tmp_path)


def test_plain_http(site: Site, tmp_path: Path) -> None:
    """Only with a checksum, from this machine, or where a flag says so."""
    with pytest.raises(ContextInsecure) as caught:
        fetch("http://files.example/c.tar", tmp_path)
    assert "#sha256=" in caught.value.hint
    named = RegistryOptions(insecure=frozenset({"files.invalid"}), retry=QUICK.retry)
    for url, web in (
        ("http://files.invalid/c.tar", named),
        (f"http://files.invalid/c.tar#sha256={'0' * 64}", QUICK),
    ):
        with pytest.raises(ContextUnreachable):  # it is asked, and there is no such host
            fetch(url, tmp_path, web=web)


def test_from_https_to_http_no_redirect_leads(site: Site, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls", "127.0.0.1")
    with web_site((made.certificate, made.key)) as safe:
        safe.redirects["/c.tar"] = f"{site.url}/c.tar"
        web = RegistryOptions(certificates={safe.host: made.authority})
        with pytest.raises(ContextRefused) as caught:
            fetch(f"{safe.url}/c.tar", tmp_path, web=web)
    assert "http://127.0.0.1" in caught.value.message


def test_a_page_in_place_of_an_archive(site: Site, tmp_path: Path) -> None:
    site.files["/c.tar"] = b"<html><body>Please log in</body></html>" * 40
    with pytest.raises(NoArchive):
        fetch(f"{site.url}/c.tar", tmp_path)


def test_nothing_is_held_in_memory_or_beside_the_context(site: Site, tmp_path: Path) -> None:
    """200 MB arrive in a folder while the memory stays as it is."""
    large = tar_of({"zeros": bytes(200_000_000)})
    site.files["/c.tar"] = COMPRESSIONS["zstd"](large)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from pybuild.context.open import *\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_context(sys.argv[1], ContextOptions(Path(sys.argv[2])), lambda _: None) as f:\n"
        "    assert (f / 'zeros').stat().st_size == 200_000_000\n"
        "    assert len(list(Path(sys.argv[2]).rglob('*'))) == 2\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run([sys.executable, "-c", script, f"{site.url}/c.tar", tmp_path / "w"],
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert int(run.stdout) < 60_000, "more than 60 MB"


def test_a_context_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(ContextMissing):
        fetch(f"tar://{tmp_path}/none.tar", tmp_path)


def test_only_the_proxy_was_asked(site: Site, tmp_path: Path) -> None:
    proxy: RegistryProxy
    with running_proxy(site.host) as proxy:
        fetch(f"http://{proxy.host}/c.tar", tmp_path)
        assert proxy.count("GET", "/c.tar") == 1
