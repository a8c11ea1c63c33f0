"""Base images for tests, demo and benchmarks, made once a machine from Debian packages.

`python -m tests.support.bases` makes them, `python -m tests.support.bases HOST:PORT` makes them
and pushes them as base/busybox:latest, base/debian:bookworm, base/jre:17, base/tools:latest and
base/compiler:bookworm.
Each is an OCI layout below `<cache>/bases/`, with fixed times, so that the same packages give the
same digests; Debian's tree is there as `debian-minbase.tar` too. Only the standard library is used:
what tests build on must not depend on what they test.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUITE = "bookworm"
EPOCH = 1_700_000_000
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED_COMMANDS = {"mmdebstrap": "mmdebstrap", "dpkg-deb": "dpkg", "apt-get": "apt"}
_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."


class BasesMissing(Exception):
    """A base image can't be made here: the message names what is missing in one line."""


@dataclass(frozen=True, slots=True)
class Base:
    """One base image: `packages` on top of the variant, and what its config says."""

    name: str
    tag: str
    packages: tuple[str, ...] = ()
    env: tuple[str, ...] = (PATH,)
    command: tuple[str, ...] = ()
    docker: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    recipe: int = 1
    """Raised whenever what is made changes, so that every machine makes it again."""

    @property
    def made(self) -> str:
        return f"recipe-{self.recipe}"


BUSYBOX = Base("busybox", "latest", ("busybox-static",), command=("sh",), docker=True)
DEBIAN = Base("debian", SUITE, command=("bash",), recipe=2)
JRE = Base(
    "jre",
    "17",
    ("openjdk-17-jre-headless",),
    env=(PATH, "LANG=C.UTF-8", "JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64"),
    command=("java", "-version"),
    recipe=2,
)
TOOLS = Base(
    "tools",
    "latest",
    ("busybox-static", "libc6", "libcap2", "libcap2-bin", "libattr1", "attr"),
    command=("sh",),
    labels={"from": "tools", "kept": "yes"},
)
COMPILER = Base("compiler", SUITE, ("tcc", "libc6-dev", "make"), command=("bash",))
BASES = {base.name: base for base in (BUSYBOX, DEBIAN, JRE, TOOLS, COMPILER)}
SMALL = ("busybox", "debian", "tools")
"""What the build cases need; the others take minutes."""


def directory() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "pybuild-dev" / "bases"


def debian_tar() -> Path:
    """Debian's minbase tree as an uncompressed tar, made where it is not there yet."""
    ensure_bases(("debian",))
    return directory() / "debian-minbase.tar"


def ensure_bases(names: Iterable[str] = BASES) -> dict[str, Path]:
    """Makes the OCI layouts that are missing; returns layout directory by name."""
    root = directory()
    root.mkdir(parents=True, exist_ok=True)
    made = {}
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            made[name] = root / name
            if not (root / name / BASES[name].made).exists():
                _make(BASES[name], root)
    return made


def push_bases(
    registry: str, names: Sequence[str] = tuple(BASES), *, credentials: str = ""
) -> dict[str, str]:
    """Pushes to a registry that speaks plain HTTP; `credentials` is "user:password" or empty.

    Returns the reference of each base with its digest.
    """
    made = ensure_bases(names)
    connection = _Registry(registry, credentials)
    try:
        return {
            name: connection.push_layout(made[name], f"base/{name}", BASES[name].tag)
            for name in names
        }
    finally:
        connection.close()


# --- making trees -----------------------------------------------------------------------------


def _make(base: Base, root: Path) -> None:
    missing = sorted(
        {package for command, package in NEEDED_COMMANDS.items() if not shutil.which(command)}
    )
    if missing:
        raise BasesMissing(f"making base images needs: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        raise BasesMissing("making base images needs root (mmdebstrap and owners in the tar)")
    print(f"making base/{base.name}:{base.tag}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"{base.name}.partial") as work:
        tar = Path(work) / "tree.tar"
        if base in (BUSYBOX, TOOLS):
            _busybox_tar(base, Path(work), tar)
        else:
            _debian_tar(base, tar)
        layout = Path(work) / "layout"
        write_layout(layout, tar, base)
        (layout / base.made).touch()
        shutil.rmtree(root / base.name, ignore_errors=True)
        layout.rename(root / base.name)
        if base is DEBIAN:
            tar.rename(root / "debian-minbase.tar")


def _debian_tar(base: Base, tar: Path) -> None:
    """minbase; the machine's own package sources are used where it is a Debian of that suite."""
    options = [f"--aptopt={line}" for line in _apt_options()]
    if base.packages:
        options.append(f"--include={','.join(base.packages)}")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--skip=output/dev"]
    command += [*options, SUITE, str(tar)]
    _run([*command, *_apt_sources()], environment={"SOURCE_DATE_EPOCH": str(EPOCH)})
    with tarfile.open(tar, "a", format=tarfile.PAX_FORMAT) as archive:
        # without its devices, but there, as every well-known image has it
        device_directory = tarfile.TarInfo("./dev")
        device_directory.type, device_directory.mode = tarfile.DIRTYPE, 0o755
        device_directory.mtime = EPOCH
        archive.addfile(device_directory)


def _apt_sources() -> list[str]:
    for source in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if source.exists() and f" {SUITE}" in source.read_text():
            return [str(source)]
    return []


def _apt_options() -> list[str]:
    """How this machine reaches its mirrors: proxies, and whether it uses a dated snapshot."""
    wanted = re.compile(r"^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date)\b.*;$")
    dump = _run(["apt-config", "dump", "Acquire"])
    return [line for line in dump.splitlines() if wanted.match(line) and '""' not in line]


def _busybox_tar(base: Base, work: Path, tar: Path) -> None:
    """The static busybox under all its names, hard links as in the well-known image; users."""
    tree = work / "tree"
    tree.mkdir()
    debs = work / "debs"
    debs.mkdir()
    _run(["chmod", "777", str(debs)])
    _run(["apt-get", "download", *base.packages], directory=debs)
    for deb in sorted(debs.iterdir()):
        _run(["dpkg-deb", "--extract", str(deb), str(tree)])
    for unneeded in (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/initramfs-tools",
        "usr/share/lintian",
    ):
        shutil.rmtree(tree / unneeded, ignore_errors=True)
    shutil.rmtree(tree / "usr/share/bug", ignore_errors=True)
    _busybox_links(tree)
    for name, text in _ETC.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for name, mode in _DIRECTORIES.items():
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name).chmod(mode)
    (tree / "etc/shadow").chmod(0o640)
    _write_tar(tree, tar)


def _busybox_links(tree: Path) -> None:
    busybox = next(
        path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.exists()
    )
    if busybox.parent != tree / "bin":
        (tree / "bin").mkdir(exist_ok=True)
        busybox = busybox.rename(tree / "bin/busybox")
    for applet in _run([str(busybox), "--list"]).split():
        name = tree / "bin" / applet
        if not name.exists():
            name.hardlink_to(busybox)
    (tree / "usr/bin").mkdir(parents=True, exist_ok=True)
    (tree / "usr/bin/env").hardlink_to(busybox)


_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    "operator:x:37:37:Operator:/var:/bin/false\n"
    "app:x:1000:1000:App:/home/app:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\noperator:x:37:\naudio:x:29:app\n"
    "users:x:100:app\napp:x:1000:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:::::::\napp:!:::::::\nnobody:*:::::::\n",
    "etc/hostname": "",
    "etc/resolv.conf": "",
}
_DIRECTORIES = {
    "": 0o755,
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "home/app": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr/sbin": 0o755,
    "var/spool/mail": 0o755,
    "var/tmp": 0o1777,
    "var/www": 0o755,
}


def _write_tar(tree: Path, target: Path) -> None:
    def fixed(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = EPOCH
        return member

    owners = {"home/app": (1000, 1000), "var/www": (33, 33)}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree.rglob("*")):
            name = str(path.relative_to(tree))
            member = fixed(tar.gettarinfo(str(path), name))
            member.uid, member.gid = owners.get(name, (0, 0))
            if member.isreg():
                with path.open("rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)


def _run(
    command: list[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {}), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if done.returncode != 0:
        raise BasesMissing(f"`{' '.join(command)}` failed: {done.stderr.strip()[-1500:]}")
    return done.stdout


# --- layouts ----------------------------------------------------------------------------------


def write_layout(layout: Path, tar: Path, base: Base) -> None:
    """Writes an image of one gzip layer as an OCI layout; its manifest is OCI's or Docker's."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    diff_id, layer = _compress(tar, blobs)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(
        os.uname().machine, os.uname().machine
    )
    created = "2023-11-14T22:13:20Z"
    config: dict[str, object] = {"Env": list(base.env), "Cmd": list(base.command)}
    if base.labels:
        config["Labels"] = dict(base.labels)
    raw_config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": f"base {base.name}"}],
        }
    )
    kind = f"{_DOCKER}distribution.manifest.v2+json" if base.docker else f"{_OCI}manifest.v1+json"
    layer_kind = (
        f"{_DOCKER}image.rootfs.diff.tar.gzip" if base.docker else f"{_OCI}layer.v1.tar+gzip"
    )
    config_kind = f"{_DOCKER}container.image.v1+json" if base.docker else f"{_OCI}config.v1+json"
    raw_manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": config_kind, **_store(blobs, raw_config)},
            "layers": [{"mediaType": layer_kind, **layer}],
        }
    )
    manifest = {"mediaType": kind, **_store(blobs, raw_manifest)}
    annotations = {"org.opencontainers.image.ref.name": base.tag}
    index = {"schemaVersion": 2, "manifests": [{**manifest, "annotations": annotations}]}
    (layout / "index.json").write_bytes(_json(index))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _compress(tar: Path, blobs: Path) -> tuple[str, dict[str, object]]:
    """gzip level 6 without name and time: returns the diff ID and the blob's digest and size."""
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    squeezer = zlib.compressobj(6, zlib.DEFLATED, 31)
    partial = blobs / "partial"
    with tar.open("rb") as source, partial.open("wb") as target:
        while chunk := source.read(1 << 20):
            plain.update(chunk)
            data = squeezer.compress(chunk)
            packed.update(data)
            size += target.write(data)
        data = squeezer.flush()
        packed.update(data)
        size += target.write(data)
    partial.rename(blobs / packed.hexdigest())
    return f"sha256:{plain.hexdigest()}", {"digest": f"sha256:{packed.hexdigest()}", "size": size}


def _store(blobs: Path, data: bytes) -> dict[str, object]:
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"digest": f"sha256:{name}", "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# --- pushing ----------------------------------------------------------------------------------


class _Registry:
    """Just enough of the distribution API for a plain HTTP registry, with or without password."""

    def __init__(self, host: str, credentials: str) -> None:
        self.host = host
        self._connection = http.client.HTTPConnection(host, timeout=300)
        self._headers = {}
        if credentials:
            encoded = base64.b64encode(credentials.encode()).decode()
            self._headers = {"Authorization": f"Basic {encoded}"}

    def close(self) -> None:
        self._connection.close()

    def push_layout(self, layout: Path, repository: str, tag: str) -> str:
        index = json.loads((layout / "index.json").read_bytes())
        descriptor = index["manifests"][0]
        blobs = layout / "blobs/sha256"
        raw = (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        manifest = json.loads(raw)
        for blob in (*manifest["layers"], manifest["config"]):
            self._push_blob(repository, blob, blobs / blob["digest"].removeprefix("sha256:"))
        headers = {"Content-Type": descriptor["mediaType"]}
        self._ask(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            body=io.BytesIO(raw),
            size=len(raw),
            headers=headers,
        )
        return f"{self.host}/{repository}:{tag}@{descriptor['digest']}"

    def _push_blob(self, repository: str, descriptor: Mapping[str, str], path: Path) -> None:
        digest = descriptor["digest"]
        if self._ask("HEAD", f"/v2/{repository}/blobs/{digest}", allow=404)[0] == 200:
            return
        _, location = self._ask("POST", f"/v2/{repository}/blobs/uploads/", size=0)
        location = location.split(self.host, 1)[-1]
        separator = "&" if "?" in location else "?"
        with path.open("rb") as content:
            self._ask(
                "PUT",
                f"{location}{separator}digest={digest}",
                body=content,
                size=path.stat().st_size,
            )

    def _ask(
        self,
        method: str,
        target: str,
        *,
        body: io.BufferedIOBase | None = None,
        size: int | None = None,
        headers: Mapping[str, str] | None = None,
        allow: int = 0,
    ) -> tuple[int, str]:
        sent = {**self._headers, **(headers or {})}
        if size is not None:
            sent["Content-Length"] = str(size)
        self._connection.request(method, target, body=body, headers=sent)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 300 and response.status != allow:
            raise BasesMissing(
                f"{self.host} answered {response.status} to {method} {target}: {text[:300]!r}"
            )
        return response.status, response.getheader("Location", "")


def main(arguments: Sequence[str]) -> int:
    try:
        made = ensure_bases()
        for name, layout in made.items():
            print(f"{name}: {layout}")
        for host in arguments:
            for reference in push_bases(host).values():
                print(reference)
    except BasesMissing as problem:
        print(f"bases: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
