"""The agent image: what is in it, that it works as kaniko's and Jenkins' do, and builds itself."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support import agent
from tests.support.agent import EPOCH, AgentImage, storage_folder
from tests.support.bases import push_bases
from tests.support.bundle import Pod
from tests.support.git_servers import ssh_server
from tests.support.registry import make_certificates, running_registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman"),
    pytest.mark.skipif(bool(agent.missing_commands()), reason="needs podman, runc, a registry"),
    pytest.mark.xdist_group("agent-image"),
]
REFERENCE = "agent/pybuild"
MOST_BYTES = 60_000_000
PODS = [Pod.DEFAULT, Pod.RUNTIME_DEFAULT]  # namespace and takeover
EPOCH_ONLY = {"SOURCE_DATE_EPOCH": str(EPOCH)}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        push_bases(registry.host, ("busybox",))
        yield registry.host


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent") / "context"
    agent.fetch_context(folder)
    return folder


@pytest.fixture(scope="module")
def image(
    host: str, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentImage]:
    made = AgentImage(f"{host}/{REFERENCE}:debug", storage_folder())
    agent.build(context, "debug", f"--destination={made.reference}", *cached(host))
    made.pull()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def rootless(host: str, context: Path, image: AgentImage) -> AgentImage:
    made = AgentImage(f"{host}/{REFERENCE}:rootless", image.storage)
    agent.build(context, "rootless", f"--destination={made.reference}", *cached(host))
    made.pull()
    return made


def cached(host: str) -> list[str]:
    """For the second target; an image that builds itself does it without."""
    return ["--cache=true", f"--cache-repo={host}/cache"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


# --- what is in it ----------------------------------------------------------------------------


def test_it_is_small_and_starts_as_kanikos_does(image: AgentImage, host: str) -> None:
    _, manifest = agent.manifest(host, REFERENCE, "debug")
    assert sum(layer["size"] for layer in manifest["layers"]) <= MOST_BYTES
    inspected = subprocess.check_output(image.podman("image", "inspect", image.reference))
    config = json.loads(inspected)[0]["Config"]
    assert config["Entrypoint"] == ["/kaniko/executor"]
    assert config["WorkingDir"] == "/workspace"
    assert {
        "PATH=/usr/local/bin:/kaniko:/busybox",
        "HOME=/root",
        "DOCKER_CONFIG=/kaniko/.docker/",
        "SSL_CERT_DIR=/kaniko/ssl/certs",
    } <= set(config["Env"])


COMMANDS = "sh nohup cp touch sleep mv kill grep cut cat mkdir ps id"
PATHS = f"""
cd /; ls -d bin/* etc/passwd kaniko/.docker root tmp workspace usr 2>/dev/null
ls -d /kaniko/executor /kaniko/warmer /kaniko/pybuild /kaniko/ssl/certs/*
which {COMMANDS} git pybuild executor warmer
echo applets
busybox --list | while read name; do test -x "/busybox/$name" || echo "no $name"; done
grep -c BEGIN /kaniko/ssl/certs/ca-certificates.crt
"""


def test_paths_and_commands(image: AgentImage) -> None:
    found, _, applets = ok(image.run(PATHS, shell=True)).partition("applets\n")
    assert sorted(found.split()) == sorted(
        [
            *("bin/sh", "etc/passwd", "kaniko/.docker", "root", "tmp", "workspace"),
            *2 * ("/kaniko/executor", "/kaniko/pybuild", "/kaniko/warmer"),
            *("/kaniko/ssl/certs/ca-certificates.crt", "/kaniko/git"),
            *(f"/busybox/{name}" for name in COMMANDS.split()),
        ]
    )
    *missing, authorities = applets.split()
    assert missing == [] and int(authorities) > 100


NOHUP = """
cd /tmp
nohup sh -c 'grep SigIgn /proc/self/status; exit 7' >out; echo $?; cat out
nohup missing-command; echo $?
nohup; echo $?
"""


def test_nohup(image: AgentImage) -> None:
    words = ok(image.run(NOHUP, shell=True)).split()
    assert words[0] == "7" and words[1] == "SigIgn:" and int(words[2], 16) & 1  # bit 0 is HUP
    assert words[3:] == ["127", "125"]


# What a base image on `/` may bring: a library to be preloaded, others of the same names, settings.
SHADOWS = {
    "etc/ld.so.preload": "/usr/lib/x86_64-linux-gnu/libz.so.1\n",
    "etc/nsswitch.conf": "passwd: systemd\nhosts: resolve\n",
    "etc/gitconfig": "[broken\n",
    "usr/lib/ssl/openssl.cnf": "openssl_conf = broken\n[broken]\nproviders = none\n",
    "usr/lib/python3.11/os.py": "raise SystemExit('shadowed')\n",
    "usr/local/lib/python3.11/dist-packages/a.pth": "import sys; sys.exit('shadowed')\n",
    "usr/lib/x86_64-linux-gnu/libz.so.1": "no library",
    "usr/lib/x86_64-linux-gnu/libcrypto.so.3": "no library",
    "lib/x86_64-linux-gnu/libc.so.6": "no library",
    "lib64/ld-linux-x86-64.so.2": "no loader",
}
EVERYTHING = """
import ssl, socket, lzma, bz2, hashlib, ctypes, pwd, re
import git, isal.isal_zlib, msgspec, requests, rich.console, zstandard
pwd.getpwnam("root"), socket.getaddrinfo("localhost", 80), ssl.create_default_context()
maps = open("/proc/self/maps").read()
print(*{path for path in re.findall(r"(/\\S+)$", maps, re.M) if not path.startswith("/kaniko/")})
"""


def test_nothing_of_a_base_shadows_it(image: AgentImage, tmp_path: Path) -> None:
    for name, text in SHADOWS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    volumes = {str(tmp_path / name): f"/{name}" for name in ("usr", "lib", "lib64")}
    volumes |= {str(tmp_path / name): f"/{name}" for name in SHADOWS if name.startswith("etc/")}
    script = (
        f"/kaniko/bin/python3 -I -c '{EVERYTHING}'; executor version; git --version; git init -q"
    )
    done = image.run(script, shell=True, volumes=volumes)
    assert re.fullmatch(r"\nKaniko version :.*\ngit version .*\n", ok(done)), done.stdout
    # git's advice on branch names is no complaint
    assert [line for line in done.stderr.splitlines() if not line.startswith("hint:")] == []


def test_both_machines_have_one_name(image: AgentImage, host: str, tmp_path: Path) -> None:
    """arm64 is made on any machine; what can be known without running it."""
    own = f"{host}/agent/both"
    agent.make(
        ["--target=debug", "--architecture=amd64", "--architecture=arm64"], own, cached(host)
    )
    _, index = agent.manifest(host, "agent/both", "debug")
    named = {entry["platform"]["architecture"]: entry["digest"] for entry in index["manifests"]}
    assert named == {
        name: agent.manifest(host, "agent/both", f"debug-{name}")[0] for name in ("amd64", "arm64")
    }
    archive = tmp_path / "image.tar"
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{own}:debug-arm64"]
    subprocess.run([*copy, f"docker-archive:{archive}"], check=True)
    files = files_of(archive)
    programs = {name: data for name, data in files.items() if data[:4] == b"\x7fELF"}
    assert {data[18:20] for data in programs.values()} == {b"\xb7\0"}  # EM_AARCH64, elf(5)
    checked = 0
    for name, data in programs.items():
        (tmp_path / "program").write_bytes(data)
        ask = ["patchelf", "--print-needed", str(tmp_path / "program")]
        needed = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split()
        checked += len(needed)
        assert [library for library in needed if f"kaniko/lib/{library}" not in programs] == [], (
            name
        )
    assert checked > 50
    assert b"/kaniko/lib/ld-linux-aarch64.so.1\0" in programs["kaniko/bin/python3.11"]
    assert "busybox/sh" in files and "busybox/cat" in files and "busybox/nohup" in files


def files_of(archive: Path) -> dict[str, bytes]:
    """Files and links (as empty) of a Docker archive's layers."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as outer:
        names = json.load(outer.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
        for name in names:
            layer = outer.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=io.BytesIO(layer.read())) as files:
                for member in files:
                    content = files.extractfile(member) if member.isreg() else None
                    found[member.name] = content.read() if content else b""
    return found


def test_it_starts_fast(image: AgentImage) -> None:
    script = "import subprocess, time\nfor _ in range(12):\n start = time.monotonic()\n "
    script += (
        "subprocess.run(['/kaniko/executor', '--help'], stdout=-3); print(time.monotonic()-start)"
    )
    done = image.run(f'/kaniko/bin/python3 -I -c "{script}"', shell=True)
    assert min(map(float, ok(done).split())) < 0.1


# --- as kaniko --------------------------------------------------------------------------------

# All but the times of the two folders that the builder works in.
LIST = """
list() {
    find / \\( -path /proc -o -path /sys -o -path /dev -o -path /workspace \\) -prune -o \\
        -exec stat -c '%n %f %u:%g %s %Y' {} + | sed -r 's#^(/kaniko|/tmp) (.*) .*#\\1 \\2#' |
        sort >/workspace/$1
    find /kaniko /busybox /bin /etc -type f -exec md5sum {} + | sort >>/workspace/$1
}
"""
# Two stages, a RUN in each that writes where the builder's own files are.
DOCKERFILE = """
FROM {host}/base/busybox AS first
COPY file /file
RUN mkdir -p /kaniko /busybox /out && echo made >/out/made && rm -f /bin/wget && cat /file
FROM {host}/base/busybox
COPY --from=first /out/made /made
RUN test "$(cat /made)" = made && id -u >/uid
"""


def project(folder: Path, host: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(DOCKERFILE.format(host=host))
    (folder / "file").write_text("content\n")
    os.utime(folder / "file", (EPOCH, EPOCH))
    return folder


def test_the_kaniko_way(image: AgentImage, host: str, tmp_path: Path) -> None:
    """The entry point with kaniko's flags; both ways of RUN give one image."""
    volumes = {str(project(tmp_path / "context", host)): "/workspace"}
    digests = set()
    for number, pod in enumerate(PODS):
        flags = ["--context=dir:///workspace", f"--destination={host}/app:{number}"]
        done = image.run(*flags, pod=pod, volumes=volumes, env=EPOCH_ONLY)
        ok(done)
        assert f"isolation {'takeover' if number else 'namespace'}" in done.stderr
        digests.add(agent.manifest(host, "app", str(number))[0])
    assert len(digests) == 1


def test_takeover_leaves_its_own_files_alone(image: AgentImage, host: str, tmp_path: Path) -> None:
    volumes = {str(project(tmp_path / "workspace", host)): "/workspace"}
    build = f"executor --context=dir:///workspace --destination={host}/app:2"
    script = f"{LIST} list before; {build} || exit 1; list after; pybuild version"
    done = image.run(
        script,
        shell=True,
        pod=Pod.RUNTIME_DEFAULT,
        volumes=volumes,
    )
    assert "pybuild" in ok(done)
    before, after = (
        (tmp_path / "workspace" / name).read_text().splitlines() for name in ("before", "after")
    )
    assert len(before) > 2000
    assert sorted(set(before) ^ set(after)) == []


# --- as Jenkins uses it -----------------------------------------------------------------------

# The shape that Jenkins' durable task gives a `sh` step: a heartbeat on the log, the script's own
# interpreter, the result moved into place.
STEP = """nohup sh -c '{ while [ -d "$D" -a ! -f "$D/result.txt" ]; do touch "$D/log.txt"; sleep 1
done } & sh -xe "$D/script.sh" >"$D/log.txt" 2>&1; echo $? >"$D/result.txt.tmp"
mv "$D/result.txt.tmp" "$D/result.txt"; wait' >/dev/null 2>&1 &"""


@contextmanager
def started(
    image: AgentImage, command: list[str], pod: Pod, workspace: Path, *more: str
) -> Iterator[str]:
    """A container with that main process; gives its name."""
    name = f"agent-{os.getpid()}-{workspace.name}"
    options = ["--detach", "--tty", f"--name={name}", f"--entrypoint={json.dumps(command)}"]
    options += more
    volumes = {str(workspace): "/home/jenkins/agent"}
    subprocess.run(image.command([], pod=pod, volumes=volumes, options=options), check=True,
                   capture_output=True)  # fmt: skip
    try:
        yield name
    finally:
        subprocess.run(image.podman("rm", "--force", "--time=0", name), capture_output=True)


@pytest.mark.parametrize(
    ("command", "pod"),
    [
        pytest.param(["/busybox/cat"], Pod.DEFAULT, id="cat, default"),
        pytest.param(["pybuild", "idle"], Pod.RUNTIME_DEFAULT, id="idle, runtime default"),
    ],
)
def test_the_jenkins_way(
    image: AgentImage, host: str, tmp_path: Path, command: list[str], pod: Pod
) -> None:
    workspace = project(tmp_path, host)
    control = workspace / "@tmp"
    control.mkdir()
    (control / "script.sh").write_text(
        f"cd /home/jenkins/agent\nexecutor --context=. --destination={host}/app:3 --force\n"
        "git --version\nps >/dev/null\nid -u\n"
    )
    with started(image, command, pod, workspace) as name:
        step = ["exec", "--env=D=/home/jenkins/agent/@tmp", name, "sh", "-c", STEP]
        subprocess.run(image.podman(*step), check=True)
        deadline = time.monotonic() + 60
        while not (control / "result.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        log = (control / "log.txt").read_text()
        assert (control / "result.txt").read_text() == "0\n", log
        assert log.rstrip().endswith("\n0") and "git version" in log
        if command[0] == "pybuild":  # cat takes no note of what ended, and none of TERM
            wait_until_no_zombie(image, name)
            begun = time.monotonic()
            subprocess.run(image.podman("stop", "--time=30", name), check=True, capture_output=True)
            assert time.monotonic() - begun < 5


def wait_until_no_zombie(image: AgentImage, name: str) -> None:
    count = image.podman("exec", name, "sh", "-c", "ps -o stat | grep -c Z")
    deadline = time.monotonic() + 10
    while subprocess.run(count, capture_output=True, text=True).stdout != "0\n":
        assert time.monotonic() < deadline


# --- git and TLS ------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, host: str) -> Path:
    """A bare repository, `project.git`."""
    source = project(tmp_path / "source", host)
    own = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*own, *words], cwd=source, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", source, tmp_path / "project.git"], check=True)
    return tmp_path / "project.git"


def test_a_context_by_gits_own_protocol(image: AgentImage, host: str, repository: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--reuseaddr",
         f"--base-path={repository.parent}"], start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        flags = [f"--context=git://127.0.0.1:{port}/project.git", f"--destination={host}/app:4"]
        ok(image.run(*flags, env={"GIT_PULL_METHOD": "git"}))
    finally:
        os.killpg(daemon.pid, 15)
        daemon.wait(10)


def test_a_context_over_ssh(image: AgentImage, host: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as server:
        flags = [f"--context={server.url(repository)}#main", f"--destination={host}/app:ssh"]
        ok(image.run(*flags, volumes={str(server.home / ".ssh"): "/root/.ssh"}))


def test_rpm_s_database_can_be_read(image: AgentImage) -> None:
    script = "/kaniko/bin/python3 -I -S -c 'import sqlite3; print(sqlite3.sqlite_version)'"
    assert ok(image.run(script, shell=True)).startswith("3.")


class _Backend(http.server.BaseHTTPRequestHandler):
    """git's smart HTTP protocol, by `git http-backend`."""

    root: ClassVar[Path]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ, "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment,
                              capture_output=True, check=False)  # fmt: skip
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("place", ["beside ours", "elsewhere"])
def test_an_authority_of_the_users(
    image: AgentImage, host: str, repository: Path, tmp_path: Path, place: str
) -> None:
    """git by https and a registry with TLS, both trusted through SSL_CERT_DIR only."""
    certificates = make_certificates(tmp_path / "certificates")
    authorities = tmp_path / "authorities"
    authorities.mkdir()
    shutil.copy(certificates.authority, authorities / "own.crt")
    env: dict[str, str] = {}
    volumes = {str(certificates.authority): "/kaniko/ssl/certs/own.crt"}
    if place == "elsewhere":
        volumes = {str(authorities): "/authorities"}
        env = {"SSL_CERT_DIR": "/authorities", "GIT_SSL_CAPATH": "/authorities"}
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Backend", (_Backend,), {"root": repository.parent})
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.certificate, certificates.key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with running_registry(tmp_path / "registry", certificates=certificates) as registry:
            address = f"https://127.0.0.1:{server.server_address[1]}/project.git"
            flags = [f"--context={address}", f"--destination={registry.host}/app:5"]
            refused = image.run(*flags)
            assert refused.returncode == 1
            assert "certificate" in refused.stderr
            ok(image.run(*flags, volumes=volumes, env=env))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- by itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_it_builds_itself(image: AgentImage, host: str, context: Path, pod: Pod) -> None:
    made = f"{host}/{REFERENCE}:by-itself"
    flags = agent.build_flags("/workspace", "debug", f"--destination={made}")
    # read-only: what is built from must not change
    volumes = {str(context): "/workspace:ro"}
    ok(image.run(*flags, pod=pod, volumes=volumes, env=EPOCH_ONLY, timeout_seconds=400))
    first = agent.manifest(host, REFERENCE, "debug")
    assert agent.manifest(host, REFERENCE, "by-itself") == first


def test_it_builds_itself_rootless(rootless: AgentImage, host: str, context: Path) -> None:
    """Under Pod Security "restricted"."""
    made = f"{host}/{REFERENCE}:by-itself"
    flags = agent.build_flags("/workspace", "rootless", f"--destination={made}")
    volumes = {str(context): "/workspace:ro"}
    done = rootless.run(
        *flags, pod=Pod.RESTRICTED, volumes=volumes, env=EPOCH_ONLY, timeout_seconds=400
    )
    ok(done)
    assert "isolation rootless: as uid 1000" in done.stderr
    first = agent.manifest(host, REFERENCE, "rootless")
    assert agent.manifest(host, REFERENCE, "by-itself") == first


# --- for ordinary users -----------------------------------------------------------------------

WHO = """
set -e; cd /tmp
/kaniko/bin/python3 -IS -c 'import os, pwd; print(pwd.getpwuid(os.getuid()).pw_dir)'; echo $HOME
git init -q repository; cd repository; echo x >file; git add file
git -c user.name=n -c user.email=e commit -qm one
for name in app etc home opt root srv tmp usr var var/run; do : >/$name/try; rm /$name/try; done
: >/entrypoint.sh; mkdir /.root/lib; : >/lib/try; rm -r /.root/entrypoint.sh /.root/lib
touch /kaniko/try 2>/dev/null || touch /try 2>/dev/null || touch /busybox/x 2>/dev/null || echo done
"""


@pytest.mark.parametrize("pod", [Pod.RESTRICTED, Pod.RANDOM_USER], ids=lambda pod: pod.name)
def test_any_user_has_a_name_and_what_an_image_needs(
    rootless: AgentImage, tmp_path: Path, pod: Pod
) -> None:
    # podman would give the user a line in passwd itself
    with started(rootless, ["/kaniko/pybuild", "idle"], pod, tmp_path, "--passwd=false") as name:
        deadline = time.monotonic() + 20
        while subprocess.run(rootless.podman("exec", name, "id", "-un")).returncode != 0:
            assert time.monotonic() < deadline
        done = subprocess.run(
            rootless.podman("exec", name, "/busybox/sh", "-c", WHO),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.splitlines() == ["/kaniko/home", "/kaniko/home", "done"], done.stderr


def test_without_a_shell(image: AgentImage, host: str, context: Path, tmp_path: Path) -> None:
    slim = AgentImage(f"{host}/{REFERENCE}:slim", image.storage)
    agent.build(context, "slim", f"--destination={slim.reference}", *cached(host))
    slim.pull()
    volumes = {str(project(tmp_path / "context", host)): "/workspace"}
    ok(slim.run("--context=dir:///workspace", f"--destination={host}/app:6", volumes=volumes))
    listed = slim.run("--help", options=["--entrypoint=/busybox/sh"])
    assert listed.returncode != 0
