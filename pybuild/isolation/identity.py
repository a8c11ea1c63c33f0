"""Who a process is, and the kernel's rules for changing it: credentials(7), capabilities(7). Pure.

The listener plays the kernel's part with these for processes that are really an ordinary user's.
It is loaded by the small process that starts RUN commands, so it imports nothing that is not there
already."""

from __future__ import annotations

from errno import EINVAL, EPERM

from pybuild.isolation.tracee import KEPT

# linux/capability.h; DOCKER are the fourteen that a RUN has as root
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID = 0, 1, 2, 3, 4
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_LINUX_IMMUTABLE, CAP_MKNOD = 6, 7, 8, 9, 27
CAP_SETFCAP, CAP_MAC_OVERRIDE = 31, 32
CAP_LAST = 40
DOCKER = 0xA80425FB
FILE_CAPABILITIES = sum(
    1 << number
    for number in (
        *(CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID),
        *(CAP_LINUX_IMMUTABLE, CAP_MKNOD, CAP_MAC_OVERRIDE),
    )
)
NOROOT, NO_SETUID_FIXUP, KEEP_CAPS, NO_AMBIENT_RAISE = 1, 4, 16, 64  # linux/securebits.h
GROUPS_LIMIT = 65536


class Refused(Exception):
    """`number` is the errno that the kernel would give."""

    def __init__(self, number: int = EPERM) -> None:
        super().__init__(number)
        self.number = number


class Identity:
    """A value: every change gives a new one. `uids` and `gids` are real, effective, saved and that
    for files; capability sets are bit masks."""

    __slots__ = (
        "ambient",
        "bounding",
        "effective",
        "gids",
        "groups",
        "inheritable",
        "permitted",
        "securebits",
        "uids",
    )

    def __init__(
        self,
        uids: tuple[int, int, int, int],
        gids: tuple[int, int, int, int],
        groups: tuple[int, ...],
        permitted: int = 0,
        effective: int = 0,
        inheritable: int = 0,
        bounding: int = DOCKER,
        ambient: int = 0,
        securebits: int = 0,
    ) -> None:
        self.uids = uids
        self.gids = gids
        self.groups = groups
        self.permitted = permitted
        self.effective = effective
        self.inheritable = inheritable
        self.bounding = bounding
        self.ambient = ambient
        self.securebits = securebits

    def key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    def __repr__(self) -> str:
        return f"Identity({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"

    def can(self, capability: int) -> bool:
        return bool(self.effective >> capability & 1)

    def _with(self, **changes: object) -> Identity:
        found = {name: getattr(self, name) for name in self.__slots__}
        return Identity(**(found | changes))


def initial(uid: int, gid: int, groups: tuple[int, ...]) -> Identity:
    """As a container engine starts a command: root has its capabilities, others have none."""
    found = DOCKER if uid == 0 else 0
    return Identity((uid,) * 4, (gid,) * 4, groups, permitted=found, effective=found)


# --- ids: kernel/sys.c; KEPT where an argument is -1 ---------------------------------------------


def set_uid(who: Identity, uid: int) -> Identity:
    real, _effective, saved, _files = who.uids
    if who.can(CAP_SETUID):
        return _new_uids(who, (uid, uid, uid, uid))
    if uid not in (real, saved):
        raise Refused
    return _new_uids(who, (real, uid, saved, uid))


def set_reuid(who: Identity, real: int, effective: int) -> Identity:
    found = _reset(who.uids, real, effective, privileged=who.can(CAP_SETUID))
    return _new_uids(who, found)


def set_resuid(who: Identity, real: int, effective: int, saved: int) -> Identity:
    wanted = (real, effective, saved)
    return _new_uids(who, _each(who.uids, wanted, privileged=who.can(CAP_SETUID)))


def set_fsuid(who: Identity, uid: int) -> Identity:
    """Gives no error: the identity stays the same where the change is refused."""
    if uid not in who.uids and not who.can(CAP_SETUID):
        return who
    old, new = who.uids[3], uid
    changed = who._with(uids=(*who.uids[:3], uid))
    if who.securebits & NO_SETUID_FIXUP:
        return changed
    if old == 0 and new != 0:
        return changed._with(effective=who.effective & ~FILE_CAPABILITIES)
    if old != 0 and new == 0:
        return changed._with(effective=who.effective | who.permitted & FILE_CAPABILITIES)
    return changed


def set_gid(who: Identity, gid: int) -> Identity:
    real, _effective, saved, _files = who.gids
    if who.can(CAP_SETGID):
        return who._with(gids=(gid, gid, gid, gid))
    if gid not in (real, saved):
        raise Refused
    return who._with(gids=(real, gid, saved, gid))


def set_regid(who: Identity, real: int, effective: int) -> Identity:
    return who._with(gids=_reset(who.gids, real, effective, privileged=who.can(CAP_SETGID)))


def set_resgid(who: Identity, real: int, effective: int, saved: int) -> Identity:
    wanted = (real, effective, saved)
    return who._with(gids=_each(who.gids, wanted, privileged=who.can(CAP_SETGID)))


def set_fsgid(who: Identity, gid: int) -> Identity:
    if gid not in who.gids and not who.can(CAP_SETGID):
        return who
    return who._with(gids=(*who.gids[:3], gid))


def set_groups(who: Identity, groups: tuple[int, ...]) -> Identity:
    if not who.can(CAP_SETGID):
        raise Refused
    return who._with(groups=tuple(sorted(groups)))  # groups_sort() in kernel/groups.c


_Four = tuple[int, int, int, int]


def _reset(old: _Four, real: int, effective: int, *, privileged: bool) -> _Four:
    """setreuid(2): the saved id follows when the real one is set, or the effective one becomes
    something other than the real one was."""
    if not privileged:
        if real != KEPT and real not in old[:2]:
            raise Refused
        if effective != KEPT and effective not in old[:3]:
            raise Refused
    new_real = old[0] if real == KEPT else real
    new_effective = old[1] if effective == KEPT else effective
    follows = real != KEPT or (effective != KEPT and effective != old[0])
    return new_real, new_effective, new_effective if follows else old[2], new_effective


def _each(old: _Four, wanted: tuple[int, int, int], *, privileged: bool) -> _Four:
    if not privileged and any(new != KEPT and new not in old[:3] for new in wanted):
        raise Refused
    real, effective, saved = (
        now if new == KEPT else new for now, new in zip(old[:3], wanted, strict=True)
    )
    return real, effective, saved, effective


def _new_uids(who: Identity, uids: _Four) -> Identity:
    """cap_task_fix_setuid() in security/commoncap.c."""
    changed = who._with(uids=uids)
    if who.securebits & NO_SETUID_FIXUP:
        return changed
    permitted, effective, ambient = who.permitted, who.effective, who.ambient
    if 0 in who.uids[:3] and 0 not in uids[:3]:
        if not who.securebits & KEEP_CAPS:
            permitted = effective = 0
        ambient = 0
    if who.uids[1] == 0 and uids[1] != 0:
        effective = 0
    if who.uids[1] != 0 and uids[1] == 0:
        effective = permitted
    return changed._with(permitted=permitted, effective=effective, ambient=ambient)


# --- capabilities: kernel/capability.c, security/commoncap.c -------------------------------------


def set_capabilities(who: Identity, effective: int, permitted: int, inheritable: int) -> Identity:
    if not who.can(CAP_SETPCAP) and inheritable & ~(who.inheritable | who.permitted):
        raise Refused
    if inheritable & ~(who.inheritable | who.bounding):
        raise Refused
    if permitted & ~who.permitted or effective & ~permitted:
        raise Refused
    return who._with(
        effective=effective,
        permitted=permitted,
        inheritable=inheritable,
        ambient=who.ambient & permitted & inheritable,
    )


def drop_bounding(who: Identity, capability: int) -> Identity:
    if not who.can(CAP_SETPCAP):
        raise Refused
    if capability > CAP_LAST:
        raise Refused(EINVAL)
    return who._with(bounding=who.bounding & ~(1 << capability))


def set_securebits(who: Identity, bits: int) -> Identity:
    """Each bit has a lock beside it, one place higher; six pairs since Linux 6.14, four before."""
    locked = who.securebits >> 1 & 0x555
    if (
        (locked & (who.securebits ^ bits))
        or (who.securebits & 0xAAA & ~bits)
        or bits & ~0xFFF
        or not who.can(CAP_SETPCAP)
    ):
        raise Refused
    return who._with(securebits=bits)


def keep_capabilities(who: Identity, on: int) -> Identity:
    if on > 1:
        raise Refused(EINVAL)
    if who.securebits & KEEP_CAPS << 1:
        raise Refused
    bits = who.securebits | KEEP_CAPS if on else who.securebits & ~KEEP_CAPS
    return who._with(securebits=bits)


def raise_ambient(who: Identity, capability: int) -> Identity:
    mask = 1 << capability
    if not who.permitted & who.inheritable & mask or who.securebits & NO_AMBIENT_RAISE:
        raise Refused
    return who._with(ambient=who.ambient | mask)


def lower_ambient(who: Identity, mask: int) -> Identity:
    return who._with(ambient=who.ambient & ~mask)


def execute(
    who: Identity, *, owner: int | None = None, group: int | None = None, capability: bytes = b""
) -> Identity:
    """What execve(2) makes of it; `owner` and `group` are those of a program with the setuid or
    setgid bit, `capability` its security.capability."""
    uids, gids = list(who.uids), list(who.gids)
    if owner is not None:
        uids[1] = owner
    if group is not None:
        gids[1] = group
    changed_ids = uids[1] != who.uids[1] or gids[1] != who.gids[1]
    file_permitted, file_inheritable, file_effective = _file_capabilities(capability)
    from_file = bool(capability)
    # a program with capabilities that makes its user root by the setuid bit gives only those
    only_its_own = from_file and uids[1] == 0 and uids[0] != 0
    if not who.securebits & NOROOT and 0 in uids[:2] and not only_its_own:
        file_permitted = file_inheritable = -1
        file_effective = uids[1] == 0
    permitted = file_permitted & who.bounding | file_inheritable & who.inheritable
    ambient = 0 if from_file or changed_ids else who.ambient
    permitted |= ambient
    uids[2] = uids[3] = uids[1]
    gids[2] = gids[3] = gids[1]
    return who._with(
        uids=tuple(uids),
        gids=tuple(gids),
        permitted=permitted,
        effective=permitted if file_effective else ambient,
        ambient=ambient,
        securebits=who.securebits & ~KEEP_CAPS,
    )


def _file_capabilities(value: bytes) -> tuple[int, int, bool]:
    """Permitted, inheritable, effective of struct vfs_cap_data, linux/capability.h."""
    if len(value) < 20:
        return 0, 0, False
    words = [int.from_bytes(value[at : at + 4], "little") for at in range(0, 20, 4)]
    return words[1] | words[3] << 32, words[2] | words[4] << 32, bool(words[0] & 1)
