"""Writing a layer's entries below a directory, which nothing of the layer can leave.

Every directory on the way is opened from its parent's descriptor without following a link, so that
containment does not depend on the index being right.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from pathlib import Path

from pybuild.layer.errors import AttributeRefused, LinkTargetMissing
from pybuild.layer.place import LayerState
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.packed import IN_LOWER_LAYER
from pybuild.rootfs.tops import LINKS, Tops
from pybuild.rootfs.xattrs import clear_xattrs, write_xattrs

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LIMIT = 48  # descriptors kept; a build may unpack several layers with 1024 allowed
_NO_DIRECTORY = (errno.ENOTDIR, errno.ELOOP)
_CHUNK = 1 << 20


class UnpackStyle(Enum):
    """How removals are written: as overlay's marks (in `trusted.` or `user.` attributes), or by
    removing what is there. UNOWNED is in place by an ordinary user: every file is this user's, who
    can read and write it; a device is an empty file, and what else the kernel refuses is left out.
    Indexes keep what is true."""

    OVERLAY_TRUSTED = "overlay-trusted"
    OVERLAY_USER = "overlay-user"
    IN_PLACE = "in-place"
    UNOWNED = "unowned"

    @property
    def opaque_attribute(self) -> str:
        return f"{'user' if self is UnpackStyle.OVERLAY_USER else 'trusted'}.overlay.opaque"


def open_mode(mode: int, *, directory: bool) -> int:
    """The mode that a file has on disk where its owner is an ordinary user: root could read and
    write it whatever its mode says, and so has that user to."""
    return mode | (0o700 if directory else 0o600)


class Disk:
    """One layer being written. `skip` names paths that are left alone (IN_PLACE); with `tops`, the
    names at the top of the root are these and no others."""

    def __init__(
        self,
        directory: Path,
        state: LayerState,
        *,
        style: UnpackStyle,
        lower_path: Callable[[str], Path | None],
        skip: Callable[[str], bool] | None,
        tops: Tops | None = None,
        partial: bool = False,
    ) -> None:
        self._partial = partial  # only some entries are written: a link's file may be missing
        self._state = state
        self._style = style
        self._unowned = style is UnpackStyle.UNOWNED
        self._in_place = self._unowned or style is UnpackStyle.IN_PLACE
        self._lower_path = lower_path
        self._skip = skip
        self._tops = tops or Tops(frozenset(), frozenset())
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._links = os.open(LINKS, _DIRECTORY_FLAGS, dir_fd=self._root) if tops else self._root
        self._open: OrderedDict[str, int] = OrderedDict()
        self._touched: set[str] = set()  # directories whose times are set at the end
        self._copies: dict[str, str] = {}  # file of a lower layer → where it was copied to
        self._emptied_root = False
        self._replaced: set[str] = set()  # directories that lost what they had from below
        self._owner = (os.geteuid(), os.getegid())
        self._set_group_id: set[int] = set()  # open directories that give their group away
        self._umask = _umask()

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        if self._links != self._root:
            os.close(self._links)
        os.close(self._root)

    # -- directories

    def _top(self, name: str) -> int:
        """The directory that has this name of the root's."""
        return self._links if name in self._tops.links else self._root

    def _parent(self, path: str) -> tuple[int, str]:
        """A descriptor of the directory that `path` is in, as `_directory` gives it, and the name
        there."""
        above, _, name = path.rpartition("/")
        return (self._directory(above) if above else self._top(name)), name

    def _directory(self, path: str) -> int:
        """A descriptor of a directory that is there, or is made now. Valid until the next call."""
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        start = path
        todo = []
        descriptor = self._root
        while start:
            start, _, name = start.rpartition("/")
            todo.append(name)
            if start in self._open:
                descriptor = self._open[start]
                self._open.move_to_end(start)
                break
        while todo:
            name = todo.pop()
            descriptor = descriptor if start else self._top(name)
            start = f"{start}/{name}" if start else name
            descriptor = self._enter(descriptor, name, start)
            self._remember(start, descriptor)
        return descriptor

    def _remember(self, path: str, descriptor: int) -> None:
        self._open[path] = descriptor
        self._touched.add(path)
        if os.fstat(descriptor).st_mode & stat.S_ISGID:
            self._set_group_id.add(descriptor)
        while len(self._open) > _OPEN_LIMIT:
            _, oldest = self._open.popitem(last=False)
            self._set_group_id.discard(oldest)
            os.close(oldest)

    def _enter(self, parent: int, name: str, path: str) -> int:
        try:
            return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                raise
            os.unlink(name, dir_fd=parent)
        entry = self._state.lookup(path) or Entry(path, Kind.DIRECTORY)
        return self._make_directory(parent, name, entry)

    def _make_directory(self, parent: int, name: str, entry: Entry) -> int:
        os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        self._dress(descriptor, entry, fresh=parent not in self._set_group_id)
        if entry.opaque and not self._in_place:
            self._mark_opaque(descriptor, entry.path)
        return descriptor

    def _forget(self, path: str) -> None:
        prefix = f"{path}/"
        for name in [n for n in self._open if n == path or n.startswith(prefix)]:
            descriptor = self._open.pop(name)
            self._set_group_id.discard(descriptor)
            os.close(descriptor)

    def _mark_opaque(self, descriptor: int, path: str) -> None:
        name = self._style.opaque_attribute
        try:
            os.setxattr(descriptor, name, b"y")
        except OSError as error:
            raise AttributeRefused(path, name, error.strerror or "refused") from error

    # -- what the layer says

    def skips(self, path: str) -> bool:
        return self._skip is not None and self._skip(path)

    def write(self, entry: Entry, content: Iterable[memoryview]) -> None:
        """Puts one entry in the place of whatever is there."""
        if self.skips(entry.path):
            return
        parent, name = self._parent(entry.path)
        if entry.kind == Kind.DIRECTORY:
            self._write_directory(parent, name, entry)
            return
        try:
            self._create(parent, name, entry, content)
        except FileExistsError:
            if self._remove(parent, name, entry.path):
                self._create(self._parent(entry.path)[0], name, entry, content)

    def _create(self, parent: int, name: str, entry: Entry, content: Iterable[memoryview]) -> None:
        kind = entry.kind
        if kind == Kind.FILE:
            self._write_file(parent, name, entry, content)
        elif kind == Kind.HARDLINK:
            self._write_link(parent, name, entry)
        elif kind == Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            self._dress_name(parent, name, entry)
        else:
            self._write_node(parent, name, entry)

    def _write_file(
        self, parent: int, name: str, entry: Entry, content: Iterable[memoryview]
    ) -> None:
        descriptor = os.open(name, _CREATE_FLAGS, self._mode(entry) & 0o777, dir_fd=parent)
        try:
            for piece in content:
                written = os.write(descriptor, piece)
                while written < len(piece):
                    written += os.write(descriptor, piece[written:])
            self._dress(descriptor, entry, fresh=parent not in self._set_group_id)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _dress(self, descriptor: int, entry: Entry, *, fresh: bool) -> None:
        """Owner, mode and attributes, in this order: a new owner clears the later ones. `fresh`:
        the file was made by us, with mode and owner as the kernel gives them."""
        if not fresh or (entry.uid, entry.gid) != self._owner:
            self._own(lambda: os.fchown(descriptor, entry.uid, entry.gid))
        directory = entry.kind == Kind.DIRECTORY
        mode = self._mode(entry)
        if directory or not fresh or mode & (0o7000 | self._umask):
            self._as_allowed(lambda: os.fchmod(descriptor, mode))
        if entry.xattrs:
            self._attributes(descriptor, entry)

    def _mode(self, entry: Entry) -> int:
        if not self._unowned:
            return entry.mode
        return open_mode(entry.mode, directory=entry.kind == Kind.DIRECTORY)

    def _as_allowed(self, change: Callable[[], None]) -> None:
        """A folder of the container's own may be another user's, who alone can change it."""
        try:
            change()
        except PermissionError:
            if not self._unowned:
                raise

    def _own(self, change: Callable[[], None]) -> None:
        if self._unowned:
            return
        try:
            change()
        except OSError as error:
            # A user namespace with one user in it knows no other; the index keeps the owner
            if self._style is not UnpackStyle.OVERLAY_USER or error.errno not in (
                errno.EINVAL,
                errno.EPERM,
            ):
                raise

    def _attributes(self, place: str | int, entry: Entry) -> None:
        refused = write_xattrs(place, entry.xattrs)
        if refused is not None and not self._unowned:
            name, error = refused
            raise AttributeRefused(entry.path, name, error.strerror or "refused") from error

    def _dress_name(self, parent: int, name: str, entry: Entry) -> None:
        """The same for what can't be opened: links, devices, FIFOs."""
        if parent in self._set_group_id or (entry.uid, entry.gid) != self._owner:
            self._own(
                lambda: os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            )
        if entry.kind != Kind.SYMLINK:
            os.chmod(name, self._mode(entry), dir_fd=parent)
        if entry.xattrs:
            self._attributes(f"/proc/self/fd/{parent}/{name}", entry)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _write_node(self, parent: int, name: str, entry: Entry) -> None:
        types = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}
        try:
            if entry.kind == Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=parent)
            else:
                device = os.makedev(entry.major, entry.minor)
                os.mknod(name, types[entry.kind] | 0o600, device, dir_fd=parent)
        except PermissionError:
            if not self._unowned:
                return  # no CAP_MKNOD: the image keeps its device, a RUN has the container's /dev
            os.close(os.open(name, _CREATE_FLAGS, 0o600, dir_fd=parent))
        self._dress_name(parent, name, entry)

    def _write_directory(self, parent: int, name: str, entry: Entry) -> None:
        path = entry.path
        try:
            descriptor = self._make_directory(parent, name, entry)
        except FileExistsError:
            try:
                descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
            except OSError as error:
                if error.errno not in _NO_DIRECTORY:
                    raise
                if not self._remove(parent, name, path):
                    return
                was_own = self._state.builder.kind(path) is not None
                parent, _ = self._parent(path)
                descriptor = self._make_directory(parent, name, entry)
                if was_own and not self._in_place:
                    self._mark_opaque(descriptor, path)  # what was here has hidden what is below
            else:
                self._dress(descriptor, entry, fresh=False)
                if self._in_place:
                    self._as_allowed(lambda: clear_xattrs(descriptor, entry.xattrs))
        if path in self._open:
            os.close(descriptor)
        else:
            self._remember(path, descriptor)

    # -- hard links

    def _write_link(self, parent: int, name: str, entry: Entry) -> None:
        target = entry.link
        if entry.offset == IN_LOWER_LAYER and not self._in_place:
            copied = self._copies.get(target)
            if copied is None:
                self._copy_lower(parent, name, entry)
                self._copies[target] = entry.path
                return
            target = copied
        if self.skips(target):
            return
        keep = os.dup(parent)
        try:
            source, target_name = self._parent(target)
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=keep, follow_symlinks=False)
        except FileNotFoundError as error:
            if not self._partial:
                raise LinkTargetMissing(entry.path, target) from error
        finally:
            os.close(keep)

    def _copy_lower(self, parent: int, name: str, entry: Entry) -> None:
        found = self._state.below.lookup(entry.link)
        if found is None:
            raise LinkTargetMissing(entry.path, entry.link)
        if found.kind != Kind.FILE:
            self._create(parent, name, found, ())
            return
        source = self._lower_path(entry.link)
        if source is None:
            raise LinkTargetMissing(entry.path, entry.link)
        descriptor = os.open(source, _READ_FLAGS)
        try:
            pieces = iter(lambda: memoryview(os.read(descriptor, _CHUNK)), memoryview(b""))
            self._write_file(parent, name, found, pieces)
        finally:
            os.close(descriptor)

    # -- removals

    def remove(self, path: str) -> None:
        """A whiteout: what lower layers have at `path` goes, what this layer has stays."""
        if self.skips(path):
            return
        own = self._state.is_own(path)
        if own and not self._state.is_own_directory(path):
            return
        if own:
            self.empty(path)
            self._replaced.add(path)
            return
        parent, name = self._parent(path)  # is made if it is missing, as Docker does
        if self._state.lookup(path) is None:
            return
        if self._in_place:
            self._remove(parent, name, path)
        else:
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=parent)

    def empty(self, path: str) -> None:
        """An opaque whiteout: what lower layers have in a directory goes."""
        if self.skips(path):
            return
        descriptor = self._directory(path)
        if self._in_place:
            self._empty_in_place(path, descriptor)
        elif path:
            self._mark_opaque(descriptor, path)
        else:
            self._emptied_root = True

    def _empty_in_place(self, path: str, descriptor: int) -> None:
        names = os.listdir(descriptor)
        keep = os.dup(descriptor)
        try:
            for name in names:
                child = f"{path}/{name}" if path else name
                if self._state.is_own_directory(child):
                    self._empty_in_place(child, self._directory(child))
                elif not self._state.is_own(child):
                    self._remove(keep if path else self._top(name), name, child)
        finally:
            os.close(keep)

    def _remove(self, parent: int, name: str, path: str) -> bool:
        """Removes a file or a whole directory; False where something of it has to stay."""
        if self.skips(path):
            return False
        try:
            os.unlink(name, dir_fd=parent)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in self._not_unlinked(path):
                raise
            if error.errno == errno.EBUSY:
                return False  # something is mounted here
        self._forget(path)
        keep = os.dup(parent)
        try:
            descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=keep)
            try:
                gone = [
                    self._remove(descriptor, child, f"{path}/{child}")
                    for child in os.listdir(descriptor)  # noqa: PTH208 (a descriptor)
                ]
            finally:
                os.close(descriptor)
            if not all(gone) or path in self._tops.folders:
                return False
            os.rmdir(name, dir_fd=keep)
            return True
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise
        finally:
            os.close(keep)

    def _not_unlinked(self, path: str) -> tuple[int, ...]:
        """What unlink(2) says of a directory, and of what something is mounted on."""
        denied = (errno.EACCES,) if path in self._tops.folders else ()
        return errno.EISDIR, errno.EPERM, errno.EBUSY, *denied

    # -- the end

    def finish(self) -> None:
        """What has to wait until nothing else is written: times of directories, deepest too."""
        if self._emptied_root:
            self._hide_all_in_root()
        for path in self._touched:
            entry = self._state.lookup(path)
            if entry is None or entry.kind != Kind.DIRECTORY:
                continue
            above, _, name = path.rpartition("/")
            try:
                parent = self._directory_that_is(above) if above else self._top(name)
                if path in self._replaced:
                    self._dress_again(parent, name, entry)
                self._as_allowed(partial(_set_time, parent, name, entry.mtime_ns))
            except FileNotFoundError:
                continue  # was replaced later on

    def _dress_again(self, parent: int, name: str, entry: Entry) -> None:
        descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        try:
            self._dress(descriptor, entry, fresh=False)
            self._as_allowed(lambda: clear_xattrs(descriptor, entry.xattrs))
        finally:
            os.close(descriptor)

    def _directory_that_is(self, path: str) -> int:
        known = self._open.get(path)
        if known is not None or not path:
            return self._root if known is None else known
        names = path.split("/")
        descriptor = self._top(names[0])
        opened = -1
        for name in names:
            following = os.open(name, _DIRECTORY_FLAGS, dir_fd=descriptor)
            if opened >= 0:
                os.close(opened)
            descriptor = opened = following
        self._open[path] = descriptor
        while len(self._open) > _OPEN_LIMIT:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _hide_all_in_root(self) -> None:
        """Overlay takes no opaque mark on a layer's root: each name below it gets its own."""
        for entry in self._state.below.children(""):
            path = entry.path
            if self._state.is_own_directory(path):
                self._mark_opaque(self._directory(path), path)
            elif not self._state.is_own(path):
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=self._root)


def _set_time(parent: int, name: str, mtime_ns: int) -> None:
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)


def _umask() -> int:
    """Read without setting it, which other threads would see."""
    with Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o777
