"""Who owns what, where the builder is an ordinary user: what its RUNs asked for. Pure.

The files on disk all belong to the builder's own user. What a RUN set by chown, mknod or setcap
is kept as records beside them; the RUN sees it back by stat(2) and getxattr(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from pybuild.rootfs.ids import Ids

NEVER = -1


class Record(Struct, frozen=True):
    """What is to be true of one file and can't be so on disk.

    `device`, `inode` and `birth_ns` identify it: an inode number is used again when a file is
    gone, its time of birth (statx(2), stx_btime) is not; 0 where the filesystem has none.
    `capability` is what the file has as security.capability, b"" for nothing. A device node is an
    empty regular file on disk, and `kind` (stat.S_IFCHR or S_IFBLK) and `rdev` tell what it is.
    Root can read and write what its mode closes to it, and our user can't: such a file has
    `mode`, and on disk the bits for its owner in addition (rw, of a directory rwx)."""

    device: int
    inode: int
    birth_ns: int
    uid: int = NEVER
    gid: int = NEVER
    capability: bytes = b""
    rdev: int = 0
    kind: int = 0
    mode: int = NEVER


class Faked(Struct, frozen=True):
    """In a Request: the command is to see another world than the kernel would show it.

    `ids` is who the command believes to be when it starts. `records` are those known from earlier
    RUNs, and of the base each file that has another owner than 0:0, a capability, or is a device:
    a file without a record is shown as root's. `absent` names directories (absolute paths) that
    are on disk only because nobody can make them there: an empty one is shown as missing, and
    mkdir(2) of it succeeds. `links` has names in `/` that can't be made or removed, and where each
    leads: a call that would not follow the link means what is there. `owned` are paths, as the
    command sees them, of what is mounted for it, with uid and gid."""

    ids: Ids
    records: tuple[Record, ...] = ()
    absent: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    owned: tuple[tuple[str, int, int], ...] = ()
