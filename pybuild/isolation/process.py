"""The builder's side of the runner: starts it, hands it requests, and follows one command."""

from __future__ import annotations

import errno
import marshal
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import astuple

from pybuild.isolation.command import Output
from pybuild.isolation.errors import (
    IsolationFailed,
    ProgramMissing,
    ProgramNotExecutable,
    RunnerLost,
    WorkingDirectoryMissing,
)
from pybuild.isolation.ownership import Faked, Record

CONTROL_FD = 3
CANCEL_POLL_SECONDS = 0.05
END_DEADLINE_SECONDS = 10.0  # for the kernel to end a tree that was killed
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Docker's fourteen: chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service
# net_raw sys_chroot mknod audit_write setfcap; numbers are capabilities(7)'s, linux/capability.h
DOCKER_CAPABILITIES = sum(
    1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
)


class Request(Struct, frozen=True):
    """What the runner is asked: see runner.py. `operations` build the root, in order: each a name
    of a method of runner.Root and its arguments, bytes and ints."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...] | None  # None: setgroups is denied in this user namespace
    flags: int  # of clone(2): the namespaces
    operations: tuple[tuple[object, ...], ...]
    maps: tuple[tuple[str, bytes], ...] = ()  # of the new user namespace
    hostname: str = ""  # only with CLONE_NEWUTS
    loopback: bool = False  # only with CLONE_NEWNET
    capabilities: int = DOCKER_CAPABILITIES
    weak_bounding: bool = False  # go on where the bounding set can't be cut (no CAP_SETPCAP)
    faked: Faked | None = None  # uid, gid and groups count for nothing then

    def packed(self) -> bytes:
        path = next((value for name, value in self.env if name == "PATH"), DEFAULT_PATH)
        message = {
            "argv": [os.fsencode(word) for word in self.argv],
            "env": [(os.fsencode(name), os.fsencode(value)) for name, value in self.env],
            "search-path": os.fsencode(path),
            "cwd": os.fsencode(self.cwd),
            "uid": self.uid,
            "gid": self.gid,
            "groups": None if self.groups is None else list(self.groups),
            "flags": self.flags,
            "operations": list(self.operations),
            "maps": list(self.maps),
            "hostname": os.fsencode(self.hostname),
            "loopback": self.loopback,
            "capabilities": self.capabilities,
            "weak-bounding": self.weak_bounding,
            "faked": None if self.faked is None else _faked(self.faked),
        }
        body = marshal.dumps(message)
        return struct.pack("=I", len(body)) + body


def _faked(faked: Faked) -> dict[str, object]:
    from pybuild.isolation.filter import asked, packed, program

    machine = os.uname().machine
    return {
        "program": packed(program(machine)),
        "asked": asked(machine),
        "ids": (faked.ids.uid, faked.ids.gid, faked.ids.groups),
        "records": [astuple(record) for record in faked.records],
        "absent": [os.fsencode(path) for path in faked.absent],
        "owned": [(os.fsencode(path), uid, gid) for path, uid, gid in faked.owned],
        "links": {os.fsencode(name): os.fsencode(place) for name, place in faked.links},
    }


class Outcome(Struct):
    """`stubs`: paths that were made in the root only to be mounted on, parents first. `records`:
    with `Request.faked`, all that are known after the run. `refused`: what the command asked for
    and was not given because it can't be here, as `chroot /x`."""

    status: int | None = None
    stubs: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: tuple[str, int, str] | None = None  # step, errno, detail


class Runner:
    """One runner process. Thread-safe: each `run` has its own socket and supervisor.

    Start it before `/` is replaced, and before there is much to inherit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid, self._control = start_runner()

    def run(self, request: Request, output: Output, cancelled: threading.Event) -> Outcome:
        """Blocks until the command and all its descendants have ended. Raises RunnerLost."""
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            try:
                self._send([theirs.fileno(), out_write, err_write])
            finally:
                theirs.close()
                os.close(out_write)
                os.close(err_write)
            return _Conversation(ours, {out_read: 1, err_read: 2}, output, cancelled).hold(request)
        finally:
            ours.close()
            os.close(out_read)
            os.close(err_read)

    def _send(self, fds: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=3i", *fds))]
        with self._lock:
            if self._pid == 0:
                raise RunnerLost("it was closed")
            try:
                self._control.sendmsg([b"+"], ancillary)
            except OSError as error:
                raise RunnerLost(str(error)) from error

    @property
    def pid(self) -> int:
        """Also the session of all that it starts commands by; 0 once it is closed."""
        return self._pid

    def close(self) -> None:
        """Ends the process; commands that still run end when their `run` is left. Idempotent."""
        with self._lock:
            pid, self._pid = self._pid, 0
        if pid:
            self._control.close()
            os.waitpid(pid, 0)


def start_runner() -> tuple[int, socket.socket]:
    """The pid and the control socket. The process gets nothing of our environment, where
    credentials may be, but what its own start may need."""
    ours, theirs = socket.socketpair()
    package_root = str(Path(__file__).resolve().parents[2])
    code = (
        f"import sys; sys.path.append({package_root!r}); "
        f"from pybuild.isolation.runner import main; main({CONTROL_FD})"
    )
    argv = [sys.executable, "-I", "-S", "-X", "utf8", "-c", code]
    env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGTERM, signal.SIGINT],
        )
    finally:
        os.close(null)
        theirs.close()
    return pid, ours


class _Conversation:
    """One command: its request, what it writes, the answers of its supervisor."""

    def __init__(
        self,
        sock: socket.socket,
        streams: dict[int, int],
        output: Output,
        cancelled: threading.Event,
    ) -> None:
        self._sock = sock
        self._streams = streams
        self._output = output
        self._cancelled = cancelled
        self._buffer = b""
        self._outcome = Outcome()
        self._ended_at = 0.0  # when the tree was told to end, or had ended
        self._poll = select.poll()

    def hold(self, request: Request) -> Outcome:
        try:
            self._sock.sendall(request.packed())
        except OSError as error:
            raise RunnerLost(f"it took no request: {error}") from error
        waiting = set(self._streams)
        for fd in (self._sock.fileno(), *self._streams):
            self._poll.register(fd, select.POLLIN)
        answered = False
        while waiting or not answered:
            for fd, _ in self._poll.poll(CANCEL_POLL_SECONDS * 1000):
                if fd == self._sock.fileno():
                    answered = self._read_answers()
                elif not self._forward(fd):
                    waiting.discard(fd)
            if self._past_deadline(answered=answered):
                break
        if self._outcome.status is None and self._outcome.failed is None:
            if not self._ended_at:
                raise RunnerLost("a command's supervisor ended without an answer")
            self._outcome.status = 128 + signal.SIGKILL
        return self._outcome

    def _past_deadline(self, *, answered: bool) -> bool:
        now = time.monotonic()
        if not self._ended_at:
            if self._cancelled.is_set():
                self._sock.shutdown(socket.SHUT_WR)  # the supervisor kills the tree
            if self._cancelled.is_set() or answered:
                self._ended_at = now
        return bool(self._ended_at) and now - self._ended_at > END_DEADLINE_SECONDS

    def _forward(self, fd: int) -> bool:
        data = os.read(fd, 1 << 16)
        if not data:
            self._poll.unregister(fd)
            return False
        self._output(self._streams[fd], data)
        return True

    def _read_answers(self) -> bool:
        """True once there is nothing more to come."""
        try:
            data = self._sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self._poll.unregister(self._sock.fileno())
            return True
        self._buffer += data
        while len(self._buffer) >= 4:
            (size,) = struct.unpack_from("=I", self._buffer)
            if len(self._buffer) < 4 + size:
                break
            self._take(marshal.loads(self._buffer[4 : 4 + size]))
            self._buffer = self._buffer[4 + size :]
        return False

    def _take(self, message: tuple[object, ...]) -> None:
        match message:
            case ("status", int(status)):
                self._outcome.status = status
            case ("stubs", list(paths)):
                self._outcome.stubs = [os.fsdecode(path) for path in paths]
            case ("records", list(records)):
                self._outcome.records = [Record(*record) for record in records]
            case ("refused", list(refused)):
                self._outcome.refused = [os.fsdecode(what) for what in refused]
            case ("failed", str(step), int(number), bytes(detail)):
                self._outcome.failed = (step, number, os.fsdecode(detail))


def status_of(outcome: Outcome, request: Request) -> int:
    """The exit status; raises what the runner reported instead of one."""
    if outcome.failed is None:
        assert outcome.status is not None
        return outcome.status
    step, number, detail = outcome.failed
    if step == "program-missing":
        path = next((value for name, value in request.env if name == "PATH"), DEFAULT_PATH)
        raise ProgramMissing(request.argv[0], path)
    if step == "program-not-executable":
        raise ProgramNotExecutable(detail, number)
    if step == "working-directory":
        raise WorkingDirectoryMissing(request.cwd, number)
    if step == "system-call" and number == errno.E2BIG:
        raise ProgramNotExecutable(request.argv[0], number)
    raise IsolationFailed(step, number, detail)
