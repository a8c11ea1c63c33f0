"""The builder's own files, where a RUN is root on the container's `/` and can write to them.

Nothing keeps it from that. So a copy of them lies in a file without a name, which no path leads to;
after each RUN what changed is put back from there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from pybuild.isolation.moving import set_owner
from pybuild.isolation.record import Folder, folder_at
from pybuild.isolation.removal import remove_tree

LIMIT = 512 << 20  # bytes of a folder: a container with more of its own is not copied
CHUNK = 1 << 20


class _File(Struct, frozen=True):
    """`known` changes with whatever is done to the file; `link` is a symbolic link's target, or,
    of a file that had another name already, that name."""

    about: Folder  # mode, owner, times and attributes
    kind: int
    known: tuple[int, ...]
    size: int
    offset: int
    link: str


class Guard:
    """Holds a copy of all below `folders`; `left_out` are paths that others write to. Making it
    raises OSError where there is no room."""

    def __init__(self, folders: Iterable[str], left_out: Iterable[str], place: Path) -> None:
        self._left_out = frozenset(left_out)
        self._folders: list[str] = []
        self._files: dict[str, _File] = {}
        self._first_names: dict[tuple[int, int], str] = {}
        self._end = 0
        path = place / "own"
        self._copy = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        path.unlink()
        try:
            for folder in sorted(set(folders)):
                if os.path.isdir(folder) and _size(self._walk(folder)) <= LIMIT:
                    self._folders.append(folder)
                    for name, status in self._walk(folder):
                        self._files[name] = self._taken(name, status)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._copy)

    def _walk(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """The folder first; parents before what is in them."""
        pending = [folder]
        while pending:
            path = pending.pop()
            try:
                status = os.lstat(path)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    names = (f"{path}/{name}" for name in os.listdir(path))
                    pending += [name for name in names if not self._is_left_out(name)]
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _is_left_out(self, path: str) -> bool:
        return path in self._left_out or path.rpartition("/")[2].startswith("pybuild-")

    def _taken(self, path: str, status: os.stat_result) -> _File:
        kind, offset, link = stat.S_IFMT(status.st_mode), self._end, ""
        if stat.S_ISLNK(kind):
            link = os.readlink(path)
        elif status.st_nlink > 1 and not stat.S_ISDIR(kind):
            first = self._first_names.setdefault((status.st_dev, status.st_ino), path)
            link = "" if first == path else first
        if stat.S_ISREG(kind) and not link:
            with open(path, "rb") as file:
                while count := os.sendfile(self._copy, file.fileno(), None, CHUNK):
                    self._end += count
        return _File(folder_at(path), kind, _known(status), self._end - offset, offset, link)

    def put_back(self) -> list[str]:
        """Gives what was not as before, and is now."""
        now = {name: status for folder in self._folders for name, status in self._walk(folder)}
        changed = {
            name
            for name, file in self._files.items()
            if name not in now or not self._is_as_before(name, file, now[name])
        }
        # the other names of a file that is made anew have to be made so too
        changed |= {name for name, file in self._files.items() if file.link in changed}
        added = [name for name in now if name not in self._files]
        for name in added:
            remove_tree(Path(name))
        for name, file in self._files.items():  # parents first, and first names
            if name in changed:
                self._restore(name, file, there=name in now)
        touched = {os.path.dirname(name) for name in (*added, *changed)} | changed
        known = sorted(touched & self._files.keys(), reverse=True)
        for name in known:
            self._dress(name, self._files[name])
        for name in known:  # what was done to one name shows on the others
            self._files[name] = _renewed(self._files[name], os.lstat(name))
        return sorted({*added, *changed})

    def _is_as_before(self, path: str, file: _File, status: os.stat_result) -> bool:
        known = _known(status)
        if known == file.known:
            return True
        # The time of change also changes with the number of names, which may be another's doing in
        # a layer that containers share: then the bytes decide.
        if known[:-1] != file.known[:-1] or not stat.S_ISREG(file.kind) or file.link:
            return known[:-1] == file.known[:-1] and not stat.S_ISREG(file.kind)
        offset = file.offset
        with open(path, "rb") as current:
            while data := current.read(CHUNK):
                if data != os.pread(self._copy, len(data), offset):
                    return False
                offset += len(data)
        self._files[path] = _renewed(file, status)
        return True

    def _restore(self, path: str, file: _File, *, there: bool) -> None:
        there = there and os.path.lexists(path)  # or it went with a folder that was added
        if stat.S_ISDIR(file.kind):
            if there and not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
            if not os.path.isdir(path):
                os.mkdir(path)
            return
        if there:
            remove_tree(Path(path))
        if stat.S_ISLNK(file.kind):
            os.symlink(file.link, path)
        elif file.link:
            os.link(file.link, path)
        elif stat.S_ISREG(file.kind):
            with open(path, "xb") as target:
                done = 0
                while done < file.size:
                    data = os.pread(self._copy, min(CHUNK, file.size - done), file.offset + done)
                    done += target.write(data)
        else:
            os.mknod(path, file.kind | 0o600)

    def _dress(self, path: str, file: _File) -> None:
        about = file.about
        set_owner(path, about.uid, about.gid)
        if not stat.S_ISLNK(file.kind):
            os.chmod(path, about.mode)
        for name, value in about.xattrs:
            os.setxattr(path, name, value, follow_symlinks=False)
        os.utime(path, ns=(about.atime_ns, about.mtime_ns), follow_symlinks=False)


def _known(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):  # what is in it tells of itself
        return status.st_mode, status.st_uid, status.st_gid
    return (
        *(status.st_mode, status.st_uid, status.st_gid, status.st_ino),
        *(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
    )


def _renewed(file: _File, status: os.stat_result) -> _File:
    from msgspec.structs import replace

    return replace(file, known=_known(status))


def _size(walked: Iterator[tuple[str, os.stat_result]]) -> int:
    sizes = {(status.st_dev, status.st_ino): status.st_size for _, status in walked}
    return sum(sizes.values())
