"""What is run, on what, and the two roles of an isolation, as values and Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    import threading

    from pybuild.image.digest import Digest
    from pybuild.layer.changes import Change
    from pybuild.rootfs.ids import Ids
    from pybuild.rootfs.index import LayerIndex, Tree

Output = Callable[[int, bytes], None]


class Network(Enum):
    HOST = "host"  # the container's own
    NONE = "none"  # a new one with nothing but lo


class Mounting(Enum):
    """What a root can do for a RUN's mounts."""

    NONE = "none"  # something stands in for each, and read-only is not enforced
    BINDS = "binds"
    ROOTS = "roots"  # also parts of other roots, whose files stay where they are


class Secret(Struct, frozen=True):
    """Bytes that are never shown."""

    value: bytes

    def __repr__(self) -> str:
        return "Secret(…)"


class RunMount(Struct, frozen=True):
    """One mount that only this RUN sees. `target` is absolute in the image; `source` a path
    outside: a directory for "bind", a regular file for "file", None for "tmpfs" and "secret".
    "root" shows what is at the resolved `path` of another root of the same isolation, which has
    to be able to do so (`Mounting.ROOTS`); what is written there is thrown away."""

    kind: Literal["bind", "tmpfs", "file", "secret", "root"]
    target: str
    source: Path | None = None
    read_only: bool = False
    size: int = 0  # of a tmpfs in bytes; 0: the kernel's default
    uid: int = 0  # uid, gid and mode: of a tmpfs or secret; the former of a cache too
    gid: int = 0
    mode: int | None = None  # of a tmpfs: that of the directory it hides, else 1777
    private: bool = False  # the source is for this RUN alone, and needed by nobody afterwards
    data: Secret | None = None
    root: Root | None = None
    path: str = ""


class RunCommand(Struct, frozen=True):
    """One RUN: `argv` is never empty, `env` is the whole environment, `cwd` is absolute."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    ids: Ids
    mounts: tuple[RunMount, ...] = ()
    network: Network = Network.HOST
    hostname: str = ""  # "": the container's


class StackedLayer(Struct, frozen=True):
    """A layer and its place: `chain` names it together with all below it. `is_base`: no step of
    this build made it."""

    chain: Digest
    open_tar: Callable[[], Iterator[bytes]]  # uncompressed, verified
    below: Tree
    is_base: bool = False


class Root(Protocol):
    """A stage's root filesystem on disk, as far as it has been needed. One thread at a time.
    `folder` is where a RUN's changes are written to, on the volume that may get full."""

    mounting: Mounting

    @property
    def folder(self) -> Path: ...

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        """Puts layers on top of what is there, in order."""

    def index(self, chain: Digest) -> LayerIndex | None:
        """The index of an applied layer, if unpacking it gave one."""

    def run(self, command: RunCommand, output: Output, cancelled: threading.Event) -> int:
        """Gives the exit status, 128 + n where signal n ended it. `output` is called with 1 or 2
        and what was written, as it comes, in the calling thread. A set `cancelled` kills the
        command with all its descendants. Raises ProgramMissing, ProgramNotExecutable,
        WorkingDirectoryMissing, IsolationFailed, RunnerLost."""

    def changes(self, below: Tree) -> Iterator[Change]:
        """What the last run changed; `below` is the tree before it."""

    def settle(self, chain: Digest) -> None:
        """The last run's changes are part of the root from now on, under this chain ID."""

    def content(self, path: str) -> Path | None:
        """Where the bytes of the regular file at this exact (resolved) path of the image can be
        read from outside; None where they are not on disk."""

    def close(self) -> None:
        """Lets go of what only this root needs. Idempotent."""


class Isolation(Protocol):
    """A way to run commands on roots. `parallel`: several roots may run at once. `reason`: one
    line for the log, why this one was taken."""

    name: str
    reason: str
    parallel: bool
    fidelity: str

    def open_root(self) -> Root: ...

    def close(self) -> None:
        """Everything put back, all processes ended. Idempotent."""
