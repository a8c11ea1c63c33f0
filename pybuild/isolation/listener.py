"""Answers the calls that a RUN's filter asks about, in the kernel's place.

One process for each RUN, an ancestor of all that the RUN starts. Who a process is must survive fork
and exec and be known without a race: RLIMIT_LOCKS, which nothing uses since Linux 2.4, is inherited
by the kernel, and anybody may read and set it in processes of the same user. Its soft value is a
number in our table of identities. It is one a process, not one a thread; the C library changes all
threads of a process anyway.

Loaded by the small process that starts RUN commands: imports only what is cheap.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import struct

from pybuild.isolation import identity
from pybuild.isolation.faked_files import Files
from pybuild.isolation.faked_making import Making
from pybuild.isolation.faked_xattrs import Attributes
from pybuild.isolation.identity import Identity, Refused
from pybuild.isolation.owners import Owners, RecordTuple
from pybuild.isolation.tracee import (
    CONTINUE,
    KEPT,
    X32_BIT,
    Failed,
    Gone,
    Kernel,
    Notification,
    Passed,
    signed,
)

TYPE_CHECKING = False  # `typing` is too much to load here
if TYPE_CHECKING:
    from collections.abc import Callable

RLIMIT_LOCKS = 10
IDENTITY_LIMIT = 1 << 20
OVERFLOW_ID = 65534
REAP_EVERY_MS = 500
HUNG_UP = select.POLLHUP | select.POLLERR
CAPABILITY_VERSIONS = {0x19980330: 1, 0x20071026: 2, 0x20080522: 2}  # → struct __user_cap_data
CAPABILITY_VERSION = 0x20080522
# linux/prctl.h
PR_GET_KEEPCAPS, PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP = 7, 8, 23, 24
PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 27, 28, 47
AMBIENT_IS_SET, AMBIENT_RAISE, AMBIENT_LOWER, AMBIENT_CLEAR_ALL = 1, 2, 3, 4


class Identities:
    """Numbers for identities, kept in the processes' limits."""

    def __init__(self, first: Identity) -> None:
        self._known = [first]
        self._numbers = {first: 0}

    def of(self, pid: int) -> Identity:
        """Raises Gone."""
        try:
            number = resource.prlimit(pid, RLIMIT_LOCKS)[0]
        except ProcessLookupError as error:
            raise Gone from error
        except PermissionError:
            number = 0  # in a user namespace of its own
        return self._known[number if 0 <= number < len(self._known) else 0]

    def change(self, pid: int, to: Identity) -> None:
        number = self._numbers.get(to)
        if number is None:
            if len(self._known) == IDENTITY_LIMIT:
                raise Failed(errno.EAGAIN)
            number = self._numbers[to] = len(self._known)
            self._known.append(to)
        try:
            hard = resource.prlimit(pid, RLIMIT_LOCKS)[1]
            resource.prlimit(pid, RLIMIT_LOCKS, (number, hard))
        except ProcessLookupError as error:
            raise Gone from error


class Listener:
    """`table` is filter.asked(); `known` and `absent` are those of ownership.Faked, as tuples."""

    def __init__(
        self,
        fd: int,
        table: dict[int, dict[int, str]],
        first: Identity,
        known: list[RecordTuple],
        absent: list[bytes],
    ) -> None:
        self.kernel = Kernel(fd)
        self._who = Identities(first)
        self.owners = Owners(self.kernel, known, absent)
        self._parts = (
            self,
            Files(self.kernel, self._who, self.owners),
            Making(self.kernel, self._who, self.owners),
            Attributes(self.kernel, self._who, self.owners),
        )
        self._calls = {
            abi: {number: self._handler(name) for number, name in calls.items()}
            for abi, calls in table.items()
        }

    def _handler(self, name: str) -> tuple[Callable[[Notification], int | None], int]:
        width = int(name[-2:]) if name[-2:] in ("16", "32", "64") else 0
        name = name[:-2] if width else name
        found = (getattr(part, name, None) for part in self._parts)
        return next(filter(None, found), _pass), width

    def answer_one(self) -> None:
        """Takes one notification and answers it. Problems that a call may have are its answer; a
        process that is gone needs none."""
        received = self.kernel.receive()
        if received is None:
            return
        id, pid, _flags, number, abi, _pointer, *args = received
        handler, width = self._calls[abi].get(number & ~X32_BIT, (_pass, 0))
        try:
            value = handler(Notification(id, pid, abi, tuple(args), width))
        except (Failed, Refused) as problem:
            number = problem.number
            if number == errno.ENOENT and self.kernel.was_not_open():
                number = errno.EBADF
            self.kernel.answer(id, 0, number, 0)
        except Passed:
            self.kernel.answer(id, 0, 0, CONTINUE)
        except Gone:
            return
        else:
            if value is not None:
                self.kernel.answer(id, value, 0, 0)

    # --- who a process is: the ids ---

    def getuid(self, call: Notification) -> int:
        return _shown(self._who.of(call.pid).uids[0], call)

    def geteuid(self, call: Notification) -> int:
        return _shown(self._who.of(call.pid).uids[1], call)

    def getgid(self, call: Notification) -> int:
        return _shown(self._who.of(call.pid).gids[0], call)

    def getegid(self, call: Notification) -> int:
        return _shown(self._who.of(call.pid).gids[1], call)

    def getresuid(self, call: Notification) -> int:
        return self._write_ids(call, self._who.of(call.pid).uids)

    def getresgid(self, call: Notification) -> int:
        return self._write_ids(call, self._who.of(call.pid).gids)

    def _write_ids(self, call: Notification, ids: tuple[int, int, int, int]) -> int:
        form = "=H" if call.width == 16 else "=I"
        for address, value in zip(call.args, ids[:3], strict=False):
            self.kernel.write(call, address, struct.pack(form, _shown(value, call)))
        return 0

    def getgroups(self, call: Notification) -> int:
        groups = self._who.of(call.pid).groups
        size = signed(call.args[0])
        if size < 0 or 0 < size < len(groups):
            raise Failed(errno.EINVAL)
        if size and groups:
            values = [_shown(group, call) for group in groups]
            form = f"={len(values)}{'H' if call.width == 16 else 'I'}"
            self.kernel.write(call, call.args[1], struct.pack(form, *values))
        return len(groups)

    def _change(self, call: Notification, to: Identity) -> int:
        self.kernel.check(call)
        self._who.change(call.pid, to)
        return 0

    def setuid(self, call: Notification) -> int:
        uid = _wanted(call, 0)
        return self._change(call, identity.set_uid(self._who.of(call.pid), uid))

    def setgid(self, call: Notification) -> int:
        gid = _wanted(call, 0)
        return self._change(call, identity.set_gid(self._who.of(call.pid), gid))

    def setreuid(self, call: Notification) -> int:
        ids = (call.id_at(0), call.id_at(1))
        return self._change(call, identity.set_reuid(self._who.of(call.pid), *ids))

    def setregid(self, call: Notification) -> int:
        ids = (call.id_at(0), call.id_at(1))
        return self._change(call, identity.set_regid(self._who.of(call.pid), *ids))

    def setresuid(self, call: Notification) -> int:
        ids = (call.id_at(0), call.id_at(1), call.id_at(2))
        return self._change(call, identity.set_resuid(self._who.of(call.pid), *ids))

    def setresgid(self, call: Notification) -> int:
        ids = (call.id_at(0), call.id_at(1), call.id_at(2))
        return self._change(call, identity.set_resgid(self._who.of(call.pid), *ids))

    def setfsuid(self, call: Notification) -> int:
        who, wanted = self._who.of(call.pid), call.id_at(0)
        if wanted != KEPT:
            self._change(call, identity.set_fsuid(who, wanted))
        return _shown(who.uids[3], call)

    def setfsgid(self, call: Notification) -> int:
        who, wanted = self._who.of(call.pid), call.id_at(0)
        if wanted != KEPT:
            self._change(call, identity.set_fsgid(who, wanted))
        return _shown(who.gids[3], call)

    def setgroups(self, call: Notification) -> int:
        who = self._who.of(call.pid)
        identity.set_groups(who, ())
        count = call.args[0] & 0xFFFFFFFF
        if count > identity.GROUPS_LIMIT:
            raise Failed(errno.EINVAL)
        width = 2 if call.width == 16 else 4
        data = b""
        while len(data) < count * width:
            size = min(count * width - len(data), 4096)
            part = self.kernel.read(call.pid, call.args[1] + len(data), size)
            if not part:
                raise Failed(errno.EFAULT)
            data += part
        groups = struct.unpack(f"={count}{'H' if call.width == 16 else 'I'}", data)
        return self._change(call, identity.set_groups(who, groups))

    # --- capabilities ---

    def _capability_header(self, call: Notification) -> tuple[int, int]:
        """How many structs of data, and the pid: capget(2). A version that is not known is
        answered by the one that is."""
        data = self.kernel.read(call.pid, call.args[0], 8)
        if len(data) < 8:
            raise Failed(errno.EFAULT)
        version, pid = struct.unpack("=Ii", data)
        if version not in CAPABILITY_VERSIONS:
            self.kernel.write(call, call.args[0], struct.pack("=I", CAPABILITY_VERSION))
            raise Failed(errno.EINVAL)
        return CAPABILITY_VERSIONS[version], pid

    def capget(self, call: Notification) -> int:
        try:
            structs, pid = self._capability_header(call)
        except Failed as problem:
            if problem.number == errno.EINVAL and not call.args[1]:
                return 0  # somebody asks for the version
            raise
        if pid < 0:
            raise Failed(errno.EINVAL)
        try:
            who = self._who.of(call.pid if pid == 0 else pid)
        except Gone as error:
            raise Failed(errno.ESRCH) from error
        sets = (who.effective, who.permitted, who.inheritable)
        words = [value >> 32 * index & 0xFFFFFFFF for index in range(structs) for value in sets]
        if call.args[1]:
            self.kernel.write(call, call.args[1], struct.pack(f"={len(words)}I", *words))
        return 0

    def capset(self, call: Notification) -> int:
        structs, pid = self._capability_header(call)
        if pid not in (0, call.pid):
            raise Failed(errno.EPERM)
        data = self.kernel.read(call.pid, call.args[1], 12 * structs)
        if len(data) < 12 * structs:
            raise Failed(errno.EFAULT)
        words = struct.unpack(f"={3 * structs}I", data)
        effective, permitted, inheritable = (
            sum(words[3 * index + column] << 32 * index for index in range(structs))
            & (1 << identity.CAP_LAST + 1) - 1
            for column in range(3)
        )
        who = self._who.of(call.pid)
        new = identity.set_capabilities(who, effective, permitted, inheritable)
        return self._change(call, new)

    def prctl(self, call: Notification) -> int:
        who = self._who.of(call.pid)
        option, value = call.args[0] & 0xFFFFFFFF, call.args[1]
        if option == PR_GET_KEEPCAPS:
            return int(bool(who.securebits & identity.KEEP_CAPS))
        if option == PR_SET_KEEPCAPS:
            return self._change(call, identity.keep_capabilities(who, value))
        if option == PR_CAPBSET_READ:
            if value > identity.CAP_LAST:
                raise Failed(errno.EINVAL)
            return who.bounding >> value & 1
        if option == PR_CAPBSET_DROP:
            return self._change(call, identity.drop_bounding(who, value))
        if option == PR_GET_SECUREBITS:
            return who.securebits
        if option == PR_SET_SECUREBITS:
            return self._change(call, identity.set_securebits(who, value))
        if option == PR_CAP_AMBIENT:
            return self._ambient(call, who, value, call.args[2])
        raise Passed

    def _ambient(self, call: Notification, who: Identity, action: int, capability: int) -> int:
        if action == AMBIENT_CLEAR_ALL:
            return self._change(call, identity.lower_ambient(who, who.ambient))
        if capability > identity.CAP_LAST:
            raise Failed(errno.EINVAL)
        if action == AMBIENT_IS_SET:
            return who.ambient >> capability & 1
        if action == AMBIENT_RAISE:
            return self._change(call, identity.raise_ambient(who, capability))
        if action == AMBIENT_LOWER:
            return self._change(call, identity.lower_ambient(who, 1 << capability))
        raise Failed(errno.EINVAL)


def _pass(_call: Notification) -> int:
    raise Passed


def _wanted(call: Notification, index: int) -> int:
    value = call.id_at(index)
    if value == KEPT:
        raise Failed(errno.EINVAL)
    return value


def _shown(id: int, call: Notification) -> int:
    return OVERFLOW_ID if call.width == 16 and id > 0xFFFF else id


def listen(listener: Listener, command: int) -> int:
    """Answers until the process `command` has ended, and gives its wait status. What it leaves
    running is the caller's to end. Orphans of it are our children and are buried now and then."""
    poll = select.poll()
    fd = listener.kernel.fd
    pidfd = os.pidfd_open(command)
    poll.register(fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    wait, answer_one = poll.poll, listener.answer_one
    answered = 0
    while True:
        ready = wait(REAP_EVERY_MS)
        for found, event in ready:
            if found == fd and event & select.POLLIN:
                answer_one()
                answered += 1
            elif found == fd and event & HUNG_UP:
                poll.unregister(fd)  # nobody with the filter is left
        if not ready or answered % 1024 == 0 or any(found == pidfd for found, _ in ready):
            status = _bury(command)
            if status is not None:
                return status


def _bury(command: int) -> int | None:
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == command:
                return status
            if pid == 0:
                return None
    except ChildProcessError:
        return None
