"""The program that RUN commands are started by: one small process with a single thread.

The builder has threads and much memory, so it must not fork; this process is started once, early,
with a handful of modules, and forks cheaply. For each RUN the builder sends one socket and the
write ends of two pipes; a supervisor process of its own then

* clones the command into its namespaces, writes the id maps, and waits;
* kills everything that the command started, when it ends or when the builder closes the socket
  (on cancel, and by the kernel when the builder dies);
* answers with the exit status.

Requests are made by `pybuild.isolation.process` and `mounts`; all paths in them are bytes.
Nothing of pybuild is imported here, and only modules that are cheap to load.
"""

from __future__ import annotations

# pathlib, contextlib and enum are too much to load here
import _signal  # type: ignore[import-not-found]  # the module `signal` loads enum
import _socket
import ctypes
import errno
import marshal
import os
import select
import stat
import struct
import sys
import time

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC = 1024, 2048, 4096, 8192, 16384
MS_PRIVATE, MS_RELATIME, MS_STRICTATIME = 1 << 18, 1 << 21, 1 << 24
MNT_DETACH = 2
SYS_MOUNT_SETATTR = 442  # the same on every architecture
SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120}
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203}
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SECCOMP_SET_MODE_FILTER, NEW_LISTENER, WAIT_KILLABLE = 1, 8, 32
RLIMIT_LOCKS, CAP_SYS_CHROOT = 10, 18
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
MSG_CMSG_CLOEXEC = 0x40000000
ST_RELATIME = 4096  # statvfs(3) has its own number for this one flag
SYMLINK_LIMIT = 40  # path_resolution(7)

# by us: the builder tells us when to end, by its socket; XFSZ is ignored by the interpreter
IGNORED = (
    *(_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT),
    *(_signal.SIGPIPE, _signal.SIGXFSZ),
)

# PyDLL: the interpreter lock stays held, so that nothing waits for it in a cloned child
LIBC = ctypes.PyDLL(None, use_errno=True)


class StepFailed(Exception):
    """`step` is a stable word that the builder knows; `detail` names the path or option."""

    def __init__(self, step: str, number: int, detail: bytes = b"") -> None:
        super().__init__(step)
        self.step = step
        self.number = number
        self.detail = detail


def checked(step: str, detail: bytes, result: int) -> int:
    if result < 0:
        raise StepFailed(step, ctypes.get_errno(), detail)
    return result


def syscall(step: str, number: int | None, *arguments: object) -> int:
    if number is None:
        raise StepFailed(step, errno.ENOSYS, os.uname().machine.encode())
    return checked(step, b"", LIBC.syscall(ctypes.c_long(number), *arguments))


def mount(
    step: str, source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None
) -> None:
    result = LIBC.mount(source, target, kind, ctypes.c_ulong(flags), data)
    checked(step, target if kind is None else kind + b" on " + target, result)


# --- messages ----------------------------------------------------------------------------------


def write_message(fd: int, message: object) -> None:
    body = marshal.dumps(message)  # type: ignore[arg-type]
    data = memoryview(struct.pack("=I", len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]


def read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_message(fd: int) -> object:
    (size,) = struct.unpack("=I", read_exactly(fd, 4))
    return marshal.loads(read_exactly(fd, size))


# --- in the command's own namespaces, before it is executed -------------------------------------


class Root:
    """Builds the mounts below `path`. Nothing else runs in it yet, so names stay what they are
    between looking and mounting; links are followed inside the root only. A RUN may have CAP_MKNOD
    and no device cgroup holds it back: so everything is mounted `nodev`, save a few devices."""

    def __init__(self) -> None:
        self.path = b""
        self.stubs: list[bytes] = []  # made only to be mounted on, relative to the root

    def target(self, path: bytes, *, directory: bool) -> bytes:
        """The real path below the root; what is missing is made and noted as a stub."""
        pending = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
        done: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                del done[-1:]
                continue
            here = b"/".join([self.path, *done, name])
            try:
                mode = os.lstat(here).st_mode
            except FileNotFoundError:
                self._make(done, name, directory=directory or bool(pending))
                mode = 0
            if stat.S_ISLNK(mode):
                links += 1
                if links > SYMLINK_LIMIT:
                    raise StepFailed("mount-target", errno.ELOOP, path)
                link = os.readlink(here)
                if link.startswith(b"/"):
                    done = []
                pending += [part for part in reversed(link.split(b"/")) if part not in (b"", b".")]
            else:
                done.append(name)
        return b"/".join([self.path, *done])

    def _make(self, parents: list[bytes], name: bytes, *, directory: bool) -> None:
        parent = b"/".join([self.path, *parents])
        before = os.lstat(parent)
        path = parent + b"/" + name
        if directory:
            os.mkdir(path, 0o755)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.stubs.append(b"/".join([*parents, name]))

    def _inside(self, path: bytes) -> bytes:
        """For paths below what we mounted ourselves: only the first name can be the image's."""
        first, _, rest = path.partition(b"/")
        return self.target(first, directory=True) + b"/" + rest

    # Each of the following is an operation of a request: by its name.

    def private(self) -> None:
        mount("propagation", b"none", b"/", None, MS_REC | MS_PRIVATE, None)

    def overlay(self, directory: bytes, mount_point: bytes, options: bytes) -> None:
        os.chdir(directory)  # the names in `options` are relative to it
        mount("overlay", b"overlay", mount_point, b"overlay", MS_NODEV, options)
        self.path = os.path.abspath(mount_point)

    def plain(self, directory: bytes) -> None:
        mount("bind-root", directory, directory, None, MS_BIND | MS_REC, None)
        restrict(directory, MS_NODEV)
        self.path = directory

    def in_place(self) -> None:
        self.path = b""

    def filesystem(self, kind: bytes, path: bytes, flags: int, data: bytes) -> None:
        step = "mount-" + kind.decode()
        mount(step, kind, self.target(path, directory=True), kind, flags, data)

    def optional(self, name: str, *arguments: object) -> None:
        try:
            self.carry_out(name, *arguments)
        except StepFailed:
            pass  # this part is a nicety, as /dev/mqueue is
        except OSError:
            pass

    def bind(self, source: bytes, path: bytes, read_only: bool) -> None:
        try:
            directory = stat.S_ISDIR(os.stat(source).st_mode)
        except OSError as error:
            raise StepFailed("mount-source", error.errno or 0, source) from error
        target = self.target(path, directory=directory)
        mount("bind", source, target, None, MS_BIND | MS_REC, None)
        restrict(target, MS_NODEV | (MS_RDONLY if read_only else 0))

    def temporary(self, path: bytes, flags: int, data: bytes, mode: int) -> None:
        """A tmpfs; `mode` -1 takes that of the directory it hides, as runc does."""
        known = len(self.stubs)
        target = self.target(path, directory=True)
        if mode < 0:
            mode = 0o1777 if len(self.stubs) > known else stat.S_IMODE(os.lstat(target).st_mode)
        mount("mount-tmpfs", b"tmpfs", target, b"tmpfs", flags, data + b",mode=%o" % mode)

    def secret(
        self, staging: bytes, path: bytes, value: bytes, uid: int, gid: int, mode: int
    ) -> None:
        """A file in memory; `staging` is a directory beside the root that hides it until then."""
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        mount("mount-tmpfs", b"tmpfs", staging, b"tmpfs", flags, b"mode=700")
        source = staging + b"/value"
        fd = os.open(source, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            data = memoryview(value)
            while data:
                data = data[os.write(fd, data) :]
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        target = self.target(path, directory=False)
        mount("bind", source, target, None, MS_BIND, None)
        restrict(target, MS_RDONLY | flags)
        checked("detach-secret", staging, LIBC.umount2(staging, MNT_DETACH))

    def other_root(
        self,
        directory: bytes,
        mount_point: bytes,
        options: bytes,
        inside: bytes,
        path: bytes,
        read_only: bool,
    ) -> None:
        """What another root has at `inside`, a path without links, with an upper directory of its
        own."""
        os.chdir(directory)
        mount("overlay", b"overlay", mount_point, b"overlay", MS_NODEV, options)
        self.bind(mount_point + (b"/" + inside if inside else b""), path, read_only)

    def device(self, name: bytes) -> None:
        """The container's own node. Read-only keeps its mode and owner from being changed; what
        is written to it arrives all the same."""
        path = self._inside(b"dev/" + name)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        mount("bind", b"/dev/" + name, path, None, MS_BIND, None)
        restrict(path, MS_RDONLY)

    def link(self, content: bytes, path: bytes) -> None:
        os.symlink(content, self._inside(path))

    def directory(self, path: bytes) -> None:
        os.mkdir(self._inside(path), 0o755)

    def mask(self, path: bytes) -> None:
        """Hides what is at `path`, if anything: paths of /proc and /sys, no links among them."""
        target = self._inside(path)
        try:
            mode = os.lstat(target).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            mount("mask", b"tmpfs", target, b"tmpfs", MS_RDONLY, b"size=0k")
        else:
            mount("mask", self._inside(b"dev/null"), target, None, MS_BIND, None)

    def read_only(self, path: bytes) -> None:
        target = self._inside(path)
        if os.path.lexists(target):
            mount("read-only", target, target, None, MS_BIND | MS_REC, None)
            restrict(target, MS_RDONLY)

    def pivot(self) -> None:
        """The old root ends up stacked on the new one and is detached: pivot_root(2), NOTES."""
        os.chdir(self.path)
        number = SYS_PIVOT_ROOT.get(os.uname().machine)
        syscall("pivot-root", number, b".", b".")
        checked("detach-old-root", b"", LIBC.umount2(b".", MNT_DETACH))
        os.chdir("/")
        self.path = b""

    def move(self) -> None:
        """Where seccomp refuses pivot_root. The old root stays mounted, wholly covered: even out
        of the chroot, every way up ends at the mount on top."""
        os.chdir(self.path)
        mount("move-root", b".", b"/", None, MS_MOVE, None)
        os.chroot(".")
        os.chdir("/")
        self.path = b""

    def carry_out(self, name: str, *arguments: object) -> None:
        getattr(self, name)(*arguments)


def restrict(target: bytes, flags: int) -> None:
    """Adds flags to a bind mount and all below it. MOUNT_ATTR_* have the numbers of MS_* here."""
    attributes = struct.pack("=QQQQ", flags, 0, 0, 0)  # struct mount_attr
    result = LIBC.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        target,
        ctypes.c_uint(AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    if result == 0:
        return
    # before Linux 5.12, or refused by a seccomp profile that doesn't know the call
    for path in mounts_at_and_below(target):
        now = os.statvfs(path).f_flag
        kept = now & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
        kept |= MS_RELATIME if now & ST_RELATIME else 0
        mount("restrict", b"none", path, None, kept | flags | MS_BIND | MS_REMOUNT, None)


def mounts_at_and_below(target: bytes) -> list[bytes]:
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            path = line.split(b" ")[4]
            for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
                path = path.replace(code, bytes([int(code[1:], 8)]))
            if path == target or path.startswith(target + b"/"):
                found.append(path)
    return found


def raise_loopback() -> None:
    import fcntl

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)  # closed by exec
    request = struct.pack("=16sH22x", b"lo", 0)  # struct ifreq
    (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, request), 16)
    fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, struct.pack("=16sH22x", b"lo", flags | IFF_UP))


def take_credentials(request: dict[str, object]) -> None:
    """Bounding set first, while CAP_SETPCAP is there; then the ids, unless other ones are only
    believed in; then what is left."""
    keep = request["capabilities"]
    assert isinstance(keep, int)
    faked = request["faked"] is not None
    if request["groups"] is not None and not faked:
        os.setgroups(request["groups"])  # type: ignore[arg-type]
    for capability in range(64):
        if not keep >> capability & 1 and LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            number = ctypes.get_errno()
            if number == errno.EINVAL:
                break  # past the last one this kernel knows
            if number != errno.EPERM or not request["weak-bounding"]:
                raise StepFailed("capabilities", number)
            break
    gid, uid = request["gid"], request["uid"]
    assert isinstance(gid, int) and isinstance(uid, int)
    if not faked:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    permitted = own_capabilities() & keep
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    checked("capabilities", b"", LIBC.capset(header, data))


def own_capabilities() -> int:
    """The permitted set; read through the thread's own file, as /proc may be another's."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    if LIBC.capget(header, data) < 0:
        raise StepFailed("capabilities", ctypes.get_errno())
    words = struct.unpack("=6I", data.raw[:24])
    return int(words[1] | words[4] << 32)


def execute(argv: list[bytes], env: dict[bytes, bytes], search_path: bytes) -> None:
    """Never returns; raises StepFailed "program-missing" or "program-not-executable"."""
    program = argv[0]
    if b"/" in program:
        candidates = [program]
    else:
        candidates = [(part or b".") + b"/" + program for part in search_path.split(b":")]
    refused = 0
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except OSError as error:
            number = error.errno or 0
            if number in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(candidate):
                continue
            if number == errno.EACCES and b"/" not in program:
                refused = number  # execvp(3): look on, and remember
                continue
            raise StepFailed("program-not-executable", number, candidate) from error
    if refused:
        raise StepFailed("program-not-executable", refused, program)
    raise StepFailed("program-missing", errno.ENOENT, program)


def enter_and_execute(request: dict, report: int, out: int, err: int) -> None:  # type: ignore[type-arg]
    """In the child. Never returns; raises StepFailed or OSError."""
    LIBC.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
    os.setsid()
    os.umask(0o022)
    if request["faked"] is not None:
        import pybuild.isolation.listener  # noqa: F401  # it is out of sight in the new root
    root = Root()
    try:
        if request["hostname"]:
            name = request["hostname"]
            checked("hostname", name, LIBC.sethostname(name, ctypes.c_size_t(len(name))))
        if request["loopback"]:
            raise_loopback()
        for name, *arguments in request["operations"]:
            root.carry_out(name, *arguments)
    finally:
        write_message(report, ("stubs", root.stubs))
    null = os.open("/dev/null", os.O_RDWR)
    if request["faked"] is None:
        for fd in (out, err):  # so that /dev/stdout can be opened by the user of the image
            try:
                os.fchown(fd, request["uid"], request["gid"])
            except OSError:
                continue
    try:
        os.chdir(request["cwd"])
    except OSError as error:
        number = error.errno or 0
        raise StepFailed("working-directory", number, request["cwd"]) from error
    if request["faked"] is not None:
        ours, theirs = _socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            for fd in (null, out, err):
                os.close(fd)
            answer_for(pid, ours, request, report)
        LIBC.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
        os.setsid()  # a kill of its own group must not reach the listener
    take_credentials(request)
    if request["faked"] is not None:
        install_filter(theirs, request["faked"])
    LIBC.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)  # a change of ids cleared it
    for number in IGNORED:  # exec resets handlers, but keeps what is ignored
        _signal.signal(number, _signal.SIG_DFL)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    execute(request["argv"], dict(request["env"]), request["search-path"])


# --- a command that is to see another world than the kernel's -----------------------------------


def install_filter(sock: _socket.socket, faked: dict) -> None:  # type: ignore[type-arg]
    """Sends the listener's end through `sock`; from then on this process is answered by it."""
    import resource

    hard = resource.getrlimit(RLIMIT_LOCKS)[1]
    resource.setrlimit(RLIMIT_LOCKS, (0, hard))  # the number of the identity it starts with
    checked("no-new-privs", b"", LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    code = ctypes.create_string_buffer(faked["program"])
    count = len(faked["program"]) // 8
    # struct sock_fprog
    program = ctypes.create_string_buffer(struct.pack("=H6xQ", count, ctypes.addressof(code)))
    number = SYS_SECCOMP.get(os.uname().machine)
    mode = ctypes.c_long(SECCOMP_SET_MODE_FILTER)
    try:
        # a signal that does not kill must not make a call be asked about, and done, twice
        flags = ctypes.c_long(NEW_LISTENER | WAIT_KILLABLE)
        fd = syscall("filter", number, mode, flags, program)
    except StepFailed as problem:
        if problem.number != errno.EINVAL:  # before Linux 5.19
            raise
        fd = syscall("filter", number, mode, ctypes.c_long(NEW_LISTENER), program)
    sock.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", fd))])
    os.close(fd)
    sock.close()


def answer_for(pid: int, sock: _socket.socket, request: dict, report: int) -> None:  # type: ignore[type-arg]
    """Answers the filter's questions until the command ends, reports what is known of files then,
    and ends with the command's status. Never returns; raises StepFailed.

    An ancestor of the command and of what it leaves behind: where the kernel asks that of whoever
    looks into a process (Yama), nobody else may."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    from pybuild.isolation.identity import initial
    from pybuild.isolation.listener import Listener, listen

    faked = request["faked"]
    _, ancillary, _, _ = sock.recvmsg(1, 256, MSG_CMSG_CLOEXEC)
    if not ancillary:  # the command has reported why
        os.waitpid(pid, 0)
        os._exit(1)
    (fd,) = struct.unpack("=i", ancillary[0][2][:4])
    first = initial(*faked["ids"])
    listener = Listener(fd, faked["asked"], first, faked["records"], faked["absent"])
    listener.kernel.links = faked["links"]
    for path, uid, gid in faked["owned"]:
        listener.owners.give(path, uid, gid)
    listener.owners.may_chroot = bool(own_capabilities() >> CAP_SYS_CHROOT & 1)
    code = os.waitstatus_to_exitcode(listen(listener, pid))
    write_message(report, ("records", listener.owners.records()))
    write_message(report, ("refused", listener.owners.refused()))
    os._exit(128 - code if code < 0 else code)


# --- the supervisor of one command --------------------------------------------------------------


def clone(flags: int) -> int:
    if not flags:
        return os.fork()
    number = SYS_CLONE.get(os.uname().machine)
    zero = ctypes.c_long(0)
    return syscall("clone", number, ctypes.c_long(flags | _signal.SIGCHLD), zero, zero, zero, zero)


def write_maps(pid: int, maps: list[tuple[str, bytes]]) -> None:
    for name, content in maps:
        try:
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
            try:
                os.write(fd, content)
            finally:
                os.close(fd)
        except OSError as error:
            raise StepFailed("id-map", error.errno or 0, name.encode()) from error


def start_command(request: dict, out: int, err: int) -> tuple[int, int]:  # type: ignore[type-arg]
    """Gives the child's pid and the read end of its reports."""
    go_read, go_write = os.pipe()
    report_read, report_write = os.pipe()
    pid = clone(request["flags"])
    if pid == 0:
        failed = ("failed", "runner", 0, b"")
        try:
            os.close(go_write)
            if os.read(go_read, 1) != b"1":
                os._exit(1)
            enter_and_execute(request, report_write, out, err)
        except StepFailed as error:
            failed = ("failed", error.step, error.number, error.detail)
        except OSError as error:
            detail = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
            failed = ("failed", "system-call", error.errno or 0, detail)
        finally:
            # whatever happened, this process must never go on as a supervisor
            problem = sys.exc_info()[1]
            if problem is not None:
                failed = ("failed", "runner", 0, repr(problem).encode())
            try:
                write_message(report_write, failed)
            finally:
                os._exit(1)
    for fd in (go_read, report_write, out, err):
        os.close(fd)
    try:
        write_maps(pid, request["maps"])
    except StepFailed:
        os.close(go_write)
        os.waitpid(pid, 0)
        raise
    os.write(go_write, b"1")
    os.close(go_write)
    return pid, report_read


def supervise(sock: int, out: int, err: int) -> None:
    """Reads the request from `sock` and answers ("stubs", …), then ("failed", …) or
    ("status", n). The builder says nothing more: whatever comes means the end."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    request = read_message(sock)
    assert isinstance(request, dict)
    try:
        pid, report = start_command(request, out, err)
    except StepFailed as error:
        write_message(sock, ("failed", error.step, error.number, error.detail))
        return
    told = Reports(report, sock)
    try:
        status = wait_for(pid, sock, told)
    finally:
        end_descendants()
    if "failed" in told.kinds:
        return
    if request["faked"] is not None and "refused" not in told.kinds and not told.hung_up:
        write_message(sock, ("failed", "listener", errno.ESRCH, b"whoever answers for the kernel"))
        return
    write_message(sock, ("status", status))


class Reports:
    """What the command's own side tells before it is executed, and its listener afterwards: all
    is passed on to the builder at once."""

    def __init__(self, fd: int, sock: int) -> None:
        self.fd = fd
        self.kinds: set[object] = set()
        self.hung_up = False
        self._sock = sock

    def pass_on(self) -> bool:
        """False at the end: who could tell more is executed or ended."""
        message = next_report(self.fd)
        if message is not None:
            self.kinds.add(message[0])
            write_message(self._sock, message)
        return message is not None


def next_report(fd: int) -> tuple[object, ...] | None:
    """None once the command is executed: that closed the last write end."""
    try:
        message = read_message(fd)
    except EOFError:
        return None
    assert isinstance(message, tuple)
    return message


def wait_for(pid: int, sock: int, reports: Reports) -> int:
    """The exit status, or 128 + n; kills `pid` when the builder hangs up."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP)
    poll.register(reports.fd, select.POLLIN)
    try:
        poll.register(os.pidfd_open(pid), select.POLLIN)
        pause = None
    except OSError:
        pause = 10  # no pidfd_open before Linux 5.3: look every 10 ms
    while True:
        ready = {fd for fd, _ in poll.poll(pause)}
        if sock in ready:
            os.kill(pid, _signal.SIGKILL)
            reports.hung_up = True
            poll.unregister(sock)
        if reports.fd in ready and not reports.pass_on():
            poll.unregister(reports.fd)
            continue
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            while reports.pass_on():
                pass
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def end_descendants() -> None:
    """Kills what the command left running. Orphans become our children (we are their subreaper),
    so the loop ends when we have none. With a pid namespace there is nothing left to do."""
    me = os.getpid()
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in descendants(me):
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)


def descendants(ancestor: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # the name in parentheses may hold anything; state and ppid follow the last one
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = {ancestor}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found - {ancestor})


def main(control_fd: int) -> None:
    """Serves until the builder closes its end of the control socket."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != control_fd:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listdir itself had open
    os.chdir("/")
    for number in IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # supervisors need no burial
    control = _socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    while True:
        data, ancillary, _, _ = control.recvmsg(1, 256, MSG_CMSG_CLOEXEC)
        if not data:
            return
        sock, out, err = struct.unpack("=3i", ancillary[0][2][:12])
        if os.fork() == 0:
            control.close()
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            try:
                supervise(sock, out, err)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                pass  # the builder is gone
            finally:
                sys.stderr.flush()
                os._exit(0)
        for fd in (sock, out, err):
            os.close(fd)
