"""Runs commands through an isolation and tells what came of it: as a library for tests on this
machine, as a program (request on stdin, answer on stdout, both JSON) inside a container.

Its image is one layer: a static busybox with its applets, /etc/passwd, a setuid copy of `id`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pybuild.image.digest import Digest, digest_of
from pybuild.isolation.command import Isolation, Network, Root, RunCommand, RunMount, StackedLayer
from pybuild.isolation.removal import mount_points
from pybuild.isolation.select import Wishes, choose
from pybuild.layer.apply import read_layer
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.ids import Ids
from pybuild.rootfs.index import Tree

APPLETS = (
    *(
        "sh",
        "cat",
        "chmod",
        "chown",
        "echo",
        "env",
        "false",
        "grep",
        "head",
        "hostname",
        "id",
        "ip",
    ),
    *("kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "ps", "pwd", "readlink", "rm", "rmdir"),
    *("sed", "setsid", "sleep", "sort", "stat", "tail", "test", "touch", "true", "wc", "umount"),
)
BUSYBOX = ("/bin/busybox", "/busybox/busybox")
ROOT = Ids(0, 0, (), "/root")
EPOCH = 1_600_000_000


@dataclass(slots=True)
class Ran:
    status: int | None = None
    out: str = ""
    err: str = ""
    error: str = ""  # the code of the error that was raised instead
    message: str = ""
    changes: list[str] = field(default_factory=list)  # "kind path", sorted
    owners: dict[str, str] = field(default_factory=dict)  # of what changed: "uid:gid mode", more


def layer_tar(members: dict[str, tuple[int, int, bytes | str]]) -> bytes:
    """path → (tar type 0 file, 2 link, 5 directory; mode; content or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (kind, mode, content) in members.items():
            member = tarfile.TarInfo(path)
            member.type, member.mode, member.mtime = str(kind).encode(), mode, EPOCH
            if kind == 2:
                assert isinstance(content, str)
                member.linkname = content
            data = content if isinstance(content, bytes) else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def busybox_tar() -> bytes:
    program = next(Path(path) for path in BUSYBOX if Path(path).exists()).read_bytes()
    members: dict[str, tuple[int, int, bytes | str]] = {
        "bin": (5, 0o755, b""),
        "bin/busybox": (0, 0o755, program),
        "bin/suid-id": (0, 0o4755, program),
        "etc": (5, 0o755, b""),
        "etc/passwd": (
            0,
            0o644,
            b"root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n",
        ),
        "etc/kept": (0, 0o600, b"kept\n"),
        "tmp": (5, 0o1777, b""),
        "var": (5, 0o755, b""),
        "var/data": (5, 0o750, b""),
        "var/data/one": (0, 0o644, b"one\n"),
        "run": (5, 0o755, b""),
    }
    members |= {f"bin/{applet}": (2, 0o777, "busybox") for applet in APPLETS}
    return layer_tar(members)


class Image:
    """A stack of layers, to be applied to roots."""

    def __init__(self, *tars: bytes) -> None:
        self.layers: list[StackedLayer] = []
        self.tree = Tree(())
        names = b""
        for tar in tars:
            names += tar
            below = self.tree
            self.layers.append(StackedLayer(digest_of(names), lambda tar=tar: iter([tar]), below))
            self.tree = below.with_layer(read_layer([tar], below))


def run(
    root: Root,
    script: str | Sequence[str],
    *,
    below: Tree | None = None,
    ids: Ids = ROOT,
    cwd: str = "/",
    mounts: tuple[RunMount, ...] = (),
    network: Network = Network.HOST,
    hostname: str = "",
    cancelled: threading.Event | None = None,
    on_output: Any = None,
) -> Ran:
    """A script for the image's shell, or the words of exec form. With `below`, changes too."""
    from pybuild.errors import PybuildError

    argv = ("/bin/sh", "-c", script) if isinstance(script, str) else tuple(script)
    env = (("PATH", "/bin"), ("HOME", "/root"), ("GREETING", "hello"))
    command = RunCommand(argv, env, cwd, ids, mounts, network, hostname)
    streams: dict[int, list[bytes]] = {1: [], 2: []}

    def output(stream: int, data: bytes) -> None:
        streams[stream].append(data)
        if on_output is not None:
            on_output(stream, data)

    ran = Ran()
    try:
        ran.status = root.run(command, output, cancelled or threading.Event())
    except PybuildError as error:
        ran.error, ran.message = error.code, error.message
    ran.out = b"".join(streams[1]).decode(errors="replace")
    ran.err = b"".join(streams[2]).decode(errors="replace")
    if below is not None and not ran.error:
        found = list(root.changes(below))
        ran.owners = {change.entry.path: told_owner(change.entry) for change in found}
        ran.changes = sorted(
            f"{change.entry.kind.name.lower()} {change.entry.path}" for change in found
        )
    return ran


def told_owner(entry: Entry) -> str:
    words = [f"{entry.uid}:{entry.gid} {entry.mode:o}"]
    words += [f"{name}={value.hex()}" for name, value in entry.xattrs]
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        words.append(f"{entry.kind.name} {entry.major}:{entry.minor}")
    return " ".join(words)


@contextlib.contextmanager
def isolation(name: str, workdir: Path, wishes: Wishes | None = None) -> Iterator[Isolation]:
    chosen = choose(name, workdir, wishes or Wishes())
    try:
        yield chosen
    finally:
        chosen.close()


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """`stages`: for each a list of scripts, each on top of what the one before left."""
    before = listing()
    answer: dict[str, Any] = {"stages": [], "before": len(before)}
    workdir = Path(request["workdir"])
    workdir.mkdir(parents=True, exist_ok=True)
    with isolation(request["isolation"], workdir) as chosen:
        answer |= {"name": chosen.name, "reason": chosen.reason}
        for number, scripts in enumerate(request["stages"]):
            image = Image(busybox_tar())
            root = chosen.open_root()
            root.apply(image.layers)
            answers = []
            for place, script in enumerate(scripts):
                ran = run(root, script, below=image.tree, mounts=_mounts(request))
                root.settle(Digest(digest_of(f"{number} {place}".encode())))
                answers.append(
                    {name: getattr(ran, name) for name in Ran.__slots__}  # type: ignore[attr-defined]
                )
            answer["stages"].append(answers)
            content = root.content("etc/kept")
            answer.setdefault("content", []).append(content.read_text() if content else None)
            if number % 2:  # the other roots are still open when the isolation is closed
                root.close()
    after = listing()
    both = before.keys() | after.keys()
    answer["differences"] = [
        f"{path}: {before.get(path)} → {after.get(path)}"
        for path in sorted(both)
        if before.get(path) != after.get(path)
    ]
    return answer


def listing(*left_out: str) -> dict[str, tuple[object, ...]]:
    """Everything of the container's `/` but what is mounted: attributes, times and contents."""
    found: dict[str, tuple[object, ...]] = {}
    mounts = {*mount_points(), *left_out} - {"/"}
    pending = [Path("/")]
    while pending:
        path = pending.pop()
        info = path.lstat()
        content: object = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_dir():
            pending += [child for child in path.iterdir() if str(child) not in mounts]
        elif path.is_file() and info.st_size < 1 << 16:
            content = path.read_bytes()
        # the size and the links of a directory are its filesystem's business; the runtime's files
        # have other names in the developer's cache
        named = not path.is_dir() and not path.is_relative_to(sys.prefix)
        links = info.st_nlink if named else 0
        found[str(path)] = (
            *(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, links, info.st_rdev),
            content,
        )
    return found


def _mounts(request: dict[str, Any]) -> tuple[RunMount, ...]:
    return tuple(
        RunMount(kind, target, Path(source) if source else None)
        for kind, target, source in request.get("mounts", ())
    )


if __name__ == "__main__":
    json.dump(serve(json.load(sys.stdin)), sys.stdout)
