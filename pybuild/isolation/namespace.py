"""RUN in namespaces of its own, on an overlay of unpacked layers.

Works with CAP_SYS_ADMIN, or where a new user namespace may be made and mounted in. Only `probe`
decides which; what it found is a `Setup`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.isolation import runner
from pybuild.isolation.command import Mounting, Network, Output, Root, RunCommand, StackedLayer
from pybuild.isolation.in_place import PlainRoot
from pybuild.isolation.mounts import Aside, OverlayStack, Setup, root_operations
from pybuild.isolation.ownership import Faked
from pybuild.isolation.process import Outcome, Request, Runner, status_of
from pybuild.isolation.removal import remove_stub, remove_tree
from pybuild.isolation.store import LayerStore, copy_attributes

if TYPE_CHECKING:
    from pybuild.image.digest import Digest
    from pybuild.layer.changes import Change
    from pybuild.rootfs.index import LayerIndex, Tree

LAYERS, WORK, MERGED, PLAIN, STAGING = "l", "w", "m", "p", "s"


Enter = Callable[
    [OverlayStack, Mapping[str, OverlayStack], RunCommand, Output, threading.Event], int
]


class Namespace:
    """Owns `directory` (made here, removed by `close`) and `helper`, the runner process.

    `directory` has to lie where overlay takes an upper directory: on a volume, not on the
    container's own root filesystem. A write through a hard link of an earlier layer changes that
    one name only, as in every builder on overlay."""

    name = "namespace"
    parallel = True

    def __init__(
        self,
        directory: Path,
        setup: Setup,
        helper: Runner,
        *,
        reason: str = "",
        discard: Callable[[Path], None] = remove_tree,
    ) -> None:
        self.reason = reason
        self._discard = discard
        self.setup = setup
        # what has to be recorded beside files comes from the same records as in rootless
        self.fidelity = "rootless" if setup.one_id else "full"
        self._directory = directory
        self._helper = helper
        for name in (LAYERS, WORK, MERGED, PLAIN, STAGING):
            (directory / name).mkdir(parents=True, exist_ok=True)
        # Nobody else in the container has business here; RUN's users get in through the mount.
        directory.chmod(0o700)
        self._layers = LayerStore(directory / LAYERS, user_xattrs=setup.user_xattrs)

    def open_root(self) -> Root:
        name = self._layers.new_name()
        if self.setup.overlay:
            mount_point = self._directory / MERGED / name
            mount_point.mkdir()
            return _OverlayRoot(self._layers, mount_point, self._enter_stack, self.setup)
        directory = self._directory / PLAIN / name
        directory.mkdir(mode=0o755)
        if self.setup.one_id:
            from pybuild.isolation.unowned_root import UnownedRoot

            return UnownedRoot(directory, self._enter_as_one)
        return PlainRoot(directory, self._enter, remove_tree)

    def _enter_stack(
        self,
        stack: OverlayStack,
        others: Mapping[str, OverlayStack],
        command: RunCommand,
        output: Output,
        cancelled: threading.Event,
    ) -> int:
        upper = stack.directory / stack.upper
        return self._enter(stack, upper, command, output, cancelled, others)

    def _enter(
        self,
        base: OverlayStack | Path,
        stubs_in: Path,
        command: RunCommand,
        output: Output,
        cancelled: threading.Event,
        others: Mapping[str, OverlayStack] = {},
    ) -> int:
        request = request_for(base, self.setup, command, Aside(self._directory / STAGING, others))
        return status_of(self._ask(request, stubs_in, output, cancelled), request)

    def _ask(
        self, request: Request, stubs_in: Path, output: Output, cancelled: threading.Event
    ) -> Outcome:
        outcome = self._helper.run(request, output, cancelled)
        for stub in reversed(outcome.stubs):
            remove_stub(stubs_in, stub)
        return outcome

    def _enter_as_one(
        self,
        directory: Path,
        command: RunCommand,
        faked: Faked,
        output: Output,
        cancelled: threading.Event,
    ) -> tuple[Request, Outcome]:
        request = request_for(directory, self.setup, command, Aside(self._directory / STAGING))
        request = replace(request, faked=faked)
        return request, self._ask(request, directory, output, cancelled)

    def close(self) -> None:
        self._helper.close()
        if self._directory.exists():
            self._discard(self._directory)


def request_for(
    base: OverlayStack | Path, setup: Setup, command: RunCommand, aside: Aside
) -> Request:
    no_network = command.network is Network.NONE
    return Request(
        argv=command.argv,
        env=command.env,
        cwd=command.cwd,
        uid=command.ids.uid,
        gid=command.ids.gid,
        groups=command.ids.groups,
        flags=setup.clone_flags() | (runner.CLONE_NEWNET if no_network else 0),
        operations=root_operations(base, setup, command.mounts, aside),
        maps=maps_of(setup),
        hostname=command.hostname,
        loopback=no_network,
    )


def maps_of(setup: Setup) -> tuple[tuple[str, bytes], ...]:
    if not setup.user_namespace:
        return ()
    return own_maps() if setup.one_id else identity_maps()


def own_maps() -> tuple[tuple[str, bytes], ...]:
    """This user and group as root: all that anybody may map, once nobody can leave a group that
    a file refuses something to: user_namespaces(7)."""
    return (
        ("setgroups", b"deny"),
        ("uid_map", f"0 {os.geteuid()} 1\n".encode()),
        ("gid_map", f"0 {os.getegid()} 1\n".encode()),
    )


def identity_maps() -> tuple[tuple[str, bytes], ...]:
    """Every id that this container has, as itself: user_namespaces(7). Needs CAP_SETUID and
    CAP_SETGID in the container."""
    return tuple((name, identity_map(Path("/proc/self", name).read_text())) for name in MAPS)


MAPS = ("uid_map", "gid_map")


def identity_map(ours: str) -> bytes:
    """From the container's own map, lines of inside, outside, count."""
    lines = []
    for line in ours.splitlines():
        inside, _, count = line.split()
        lines.append(f"{inside} {inside} {count}\n")
    return "".join(lines).encode()


class _OverlayRoot:
    """A stack of layer directories. Each RUN gets a new upper directory, which is its change set,
    and one more lower directory once that is settled: nothing is copied."""

    mounting = Mounting.ROOTS

    def __init__(
        self,
        layers: LayerStore,
        mount_point: Path,
        enter: Enter,
        setup: Setup,
    ) -> None:
        self._layers = layers
        self._mount_point = mount_point
        self._enter = enter
        self._setup = setup
        self._stack: list[str] = []
        self._upper = ""  # of the last run, until it is settled
        self._known: dict[str, tuple[str, ...]] = {}

    @property
    def folder(self) -> Path:
        return self._layers.directory

    def apply(self, layers: Sequence[StackedLayer]) -> None:
        self._stack += self._layers.ensure(layers, self._stack)
        self._known.clear()

    def index(self, chain: Digest) -> LayerIndex | None:
        return self._layers.index(chain)

    def run(self, command: RunCommand, output: Output, cancelled: threading.Event) -> int:
        self._discard_upper()
        stack = self._new_stack(self._mount_point)
        self._upper = stack.upper
        others: dict[str, OverlayStack] = {}
        try:
            for mount in command.mounts:
                if mount.kind == "root":
                    assert isinstance(mount.root, _OverlayRoot)
                    others[mount.target] = mount.root.beside()
            return self._enter(stack, others, command, output, cancelled)
        finally:
            remove_tree(self._work_of(stack))
            for other in others.values():
                remove_tree(self._work_of(other))
                remove_tree(other.directory / other.upper)
                other.mount_point.rmdir()

    def beside(self) -> OverlayStack:
        """This root as another one's RUN may have it mounted; what is written there goes into a
        directory of its own. The caller removes that, its work directory and the mount point."""
        place = self._mount_point.with_name(f"{self._mount_point.name}-{self._layers.new_name()}")
        place.mkdir()
        return self._new_stack(place)

    def _new_stack(self, mount_point: Path) -> OverlayStack:
        """With a new upper directory, whose attributes are those the root shows."""
        if not self._stack:
            self._stack.append(self._layers.empty())
        name = self._layers.empty()
        copy_attributes(self._layers.path(self._stack[-1]), self._layers.path(name))
        stack = OverlayStack(
            directory=self._layers.directory,
            lowers=tuple(self._stack),
            upper=name,
            work=f"../{WORK}/{name}",
            mount_point=mount_point,
        )
        self._work_of(stack).mkdir()
        return stack

    def _work_of(self, stack: OverlayStack) -> Path:
        return self._layers.directory.parent / WORK / stack.upper

    def changes(self, below: Tree) -> Iterator[Change]:
        from pybuild.layer.snapshot import overlay_changes

        assert self._upper, "changes() before any run()"
        upper = self._layers.path(self._upper)
        marks = self._setup.user_xattrs
        return overlay_changes(upper, below, user_xattrs=marks, ignore=lambda _path: False)

    def settle(self, chain: Digest) -> None:
        assert self._upper, "settle() before any run()"
        self._layers.settle(chain, self._upper)
        self._stack.append(self._upper)
        self._upper = ""
        self._known.clear()

    def content(self, path: str) -> Path | None:
        """Between a run and its settling, the run's changes count already."""
        if self._upper:
            return self._layers.find([*self._stack, self._upper], path, {})
        return self._layers.find(self._stack, path, self._known)

    def _discard_upper(self) -> None:
        if self._upper:
            remove_tree(self._layers.path(self._upper))
            self._upper = ""

    def close(self) -> None:
        """Layers stay for other stages, until the isolation is closed."""
        self._discard_upper()
        if self._mount_point.exists():
            self._mount_point.rmdir()
