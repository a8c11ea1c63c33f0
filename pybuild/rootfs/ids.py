"""Users and groups as an image names them (passwd(5), group(5)). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from pybuild.rootfs.errors import UnknownGroup, UnknownUser

_ID_LIMIT = (1 << 31) - 1  # as runc's


class Ids(Struct, frozen=True):
    """Who a process runs as; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _User(Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def lookup_user(spec: str, passwd: bytes | None, group: bytes | None) -> Ids:
    """Whom USER names: `user`, `user:group`, names or numbers; empty is uid 0.

    As runc reads it: a number is never a name; a number without an entry has group 0 and home
    "/"; supplementary groups come only where no group is named. `passwd` and `group` are the
    files' contents, None where the image has none. Raises UnknownUser, UnknownGroup.
    """
    name, _, group_name = spec.partition(":")
    number = _number(name) if name else 0
    user = _find_user(name, number, passwd)
    if user is None and number is None:
        if name != "root":
            raise UnknownUser(name)
        number = 0
    uid = user.uid if user else number or 0
    gid = user.gid if user else 0
    home = (user.home if user else "") or "/"
    if group_name:
        return Ids(uid, _lookup_group(group_name, group), (), home)
    if user is None:
        return Ids(uid, gid, (), home)
    groups = tuple(g.gid for g in _groups(group) if user.name in g.members)
    return Ids(uid, gid, groups, home)


def lookup_owner(spec: str, passwd: bytes | None, group: bytes | None) -> tuple[int, int]:
    """Whom --chown names. As BuildKit: a user's name gives the user's group too, a number alone
    is the group as well. Unlike BuildKit, which takes 0 for a name that it does not find, this
    raises UnknownUser and UnknownGroup; `root` needs no entry."""
    name, _, group_name = spec.partition(":")
    uid = gid = 0
    if name:
        number = _number(name)
        if number is not None:
            uid = gid = number
        else:
            user = _find_user(name, None, passwd)
            if user is not None:
                uid, gid = user.uid, user.gid
            elif name != "root":
                raise UnknownUser(name)
    if group_name:
        gid = _lookup_group(group_name, group)
    return uid, gid


def _lookup_group(name: str, group: bytes | None) -> int:
    number = _number(name)
    if number is not None:
        return number
    for found in _groups(group):
        if found.name == name:
            return found.gid
    if name == "root":
        return 0
    raise UnknownGroup(name)


def _find_user(name: str, number: int | None, passwd: bytes | None) -> _User | None:
    for user in _users(passwd):
        if user.uid == number if number is not None else user.name == name:
            return user
    return None


def _number(text: str) -> int | None:
    """None for what is a name. Raises UnknownUser for a number that can't be an id."""
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text)
    if value > _ID_LIMIT:
        raise UnknownUser(text)
    return value


def _fields(data: bytes | None, count: int) -> Iterator[list[str]]:
    for line in (data or b"").decode("utf-8", "surrogateescape").split("\n"):
        line = line.strip()
        if line and not line.startswith("#"):
            fields = line.split(":")
            yield fields + [""] * (count - len(fields))


def _users(data: bytes | None) -> Iterator[_User]:
    for fields in _fields(data, 7):
        uid, gid = _plain_number(fields[2]), _plain_number(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, fields[5])


def _groups(data: bytes | None) -> Iterator[_Group]:
    for fields in _fields(data, 4):
        gid = _plain_number(fields[2])
        if gid is not None:
            members = tuple(member for member in fields[3].split(",") if member)
            yield _Group(fields[0], gid, members)


def _plain_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
