"""Where the entries of a layer's tar belong, told from the index alone.

A tar is a list of names that are applied one after the other (OCI image-spec, layer.md, "Applying
Changesets"). Here each name gets the path it means: parents that are symbolic links, of the layers
below or planted by this one, are resolved inside the root; whiteouts remove only what is below;
a later entry replaces an earlier one. What would lead out of the root is refused.
"""

from __future__ import annotations

from enum import Enum

from msgspec.structs import replace

from pybuild.layer.errors import BadArchive, BadWhiteout, LinkTargetMissing, OutsideRoot
from pybuild.layer.tar import Member, tidy_name
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.errors import NotADirectory, SymlinkLoop
from pybuild.rootfs.index import SYMLINK_LIMIT, IndexBuilder, LayerIndex, Tree
from pybuild.rootfs.packed import IN_LOWER_LAYER, decode
from pybuild.rootfs.xattrs import portable

_OPAQUE_NAME = ".wh..wh..opq"
_AUFS_PREFIX = ".wh..wh."
_PREFIX = ".wh."
_PATH_LIMIT = 4096
_DEPTH_LIMIT = 255  # directories in each other; keeps removal and open descriptors bounded
_ENTRY_LIMIT = 1_000_000  # of one layer; about 300 bytes of memory each while it is read
_REPLACED_LIMIT = 1000  # directories replaced by files; each costs a pass over all entries


class Verb(Enum):
    WRITE = "write"
    REMOVE = "remove"
    EMPTY = "empty"  # a directory's content in lower layers is hidden


class LayerState:
    """What a layer's tar has said so far, above the tree of the layers below."""

    def __init__(self, below: Tree) -> None:
        self.below = below
        self.builder = IndexBuilder()
        self._has_below = bool(below.layers)
        self._hiding = False  # whether any whiteout or opaque directory has come
        self._parents: set[str] = set()  # directories that this layer has something in
        self._directories: dict[str, str] = {}  # as named → resolved
        self._real: set[str] = {""}  # resolved paths that are, or will be, directories
        self._links_seen: set[str] = set()  # resolved paths that were symbolic links on the way
        self._hardlinks: dict[str, list[str]] = {}  # file of this layer → its other names
        self._replaced = 0

    # -- what is there now

    def is_own(self, path: str) -> bool:
        """Whether this layer itself has something at or below `path`."""
        kind = self.builder.kind(path)
        return (kind is not None and kind != Kind.WHITEOUT) or path in self._parents

    def is_own_directory(self, path: str) -> bool:
        return self.builder.kind(path) == Kind.DIRECTORY or path in self._parents

    def lookup(self, path: str) -> Entry | None:
        """What stands at exactly `path`; hard links come back as what they are names of."""
        entry = self.builder.get(path)
        if entry is not None:
            if entry.kind == Kind.WHITEOUT:
                return None
            if entry.kind == Kind.HARDLINK:
                own = entry.offset != IN_LOWER_LAYER
                target = self.builder.get(entry.link) if own else self.below.lookup(entry.link)
                return None if target is None else replace(target, path=path)
            return entry
        if self._has_below and not (self._hiding and self._is_hidden(path)):
            entry = self.below.lookup(path)
        if entry is None and path in self._parents:
            return Entry(path, Kind.DIRECTORY)
        return entry

    def _is_hidden(self, path: str) -> bool:
        while path:
            path = path.rpartition("/")[0]
            if self.builder.hides_below(path):
                return True
        return False

    # -- where a name leads

    def place(self, member: Member) -> tuple[Verb, Entry] | None:
        """The entry that a member of the tar means, under the path it belongs at; None for what
        has no meaning in a layer (the root itself, marks of AUFS)."""
        name = tidy_name(member.name)
        if name is None:
            raise OutsideRoot(decode(member.name))
        if not name:
            if member.kind != Kind.DIRECTORY:
                raise OutsideRoot(decode(member.name) or "/")
            return None
        named, _, base = name.rpartition("/")
        if named.startswith(_AUFS_PREFIX):
            return None
        parent = self._directories.get(named)
        if parent is None:
            parent = self._resolve(named)
        path = f"{parent}/{base}" if parent else base
        if len(path) > _PATH_LIMIT or path.count("/") > _DEPTH_LIMIT:
            raise BadArchive(f"the path {path[:60]!r}… is too deep")
        if base.startswith(_PREFIX):
            return self._whiteout(member, parent, base)
        if member.kind == Kind.CHAR and not (member.major or member.minor):
            return Verb.REMOVE, Entry(path, Kind.WHITEOUT, 0)  # how overlay stores a removal
        return Verb.WRITE, self._entry(member, path)

    def _whiteout(self, member: Member, parent: str, base: str) -> tuple[Verb, Entry] | None:
        if base == _OPAQUE_NAME:
            return Verb.EMPTY, Entry(parent, Kind.DIRECTORY, opaque=True)
        if base.startswith(_AUFS_PREFIX):
            return None
        name = base[len(_PREFIX) :]
        if name in ("", ".", ".."):
            raise BadWhiteout(decode(member.name))
        return Verb.REMOVE, Entry(f"{parent}/{name}" if parent else name, Kind.WHITEOUT, 0)

    def _entry(self, member: Member, path: str) -> Entry:
        kind = member.kind
        link = ""
        mode = member.mode
        offset = member.offset if kind == Kind.FILE else -1
        if kind == Kind.SYMLINK:
            link = decode(member.link)
            mode = 0o777
            if not link or len(link) > _PATH_LIMIT or "\0" in link:
                raise BadArchive(f"the symbolic link {path!r} has a target that can't be created")
        elif kind == Kind.HARDLINK:
            link, offset = self._link_target(path, member)
        return Entry(
            path,
            kind,
            mode,
            member.uid,
            member.gid,
            member.size,
            member.mtime_ns,
            link,
            member.major,
            member.minor,
            () if not member.xattrs or kind == Kind.HARDLINK else portable(member.xattrs),
            False,
            offset,
        )

    def _link_target(self, path: str, member: Member) -> tuple[str, int]:
        """The first name of the file that a hard link names, and the link's `offset`."""
        name = tidy_name(member.link)
        if name is None:
            raise OutsideRoot(decode(member.link))
        named, _, base = name.rpartition("/")
        parent = self._resolve(named)
        target = f"{parent}/{base}" if parent else base
        if target == path or not base or target.startswith(f"{path}/"):
            raise LinkTargetMissing(path, target)
        entry = self.builder.get(target)
        if entry is not None and entry.kind == Kind.HARDLINK and entry.link == path:
            self._before_replacing(path)  # `path` was the first name, and becomes another one
            entry = self.builder.get(target)
        if entry is not None and entry.kind == Kind.HARDLINK:
            return entry.link, entry.offset
        found = self.lookup(target)
        if found is None or found.kind == Kind.DIRECTORY:
            raise LinkTargetMissing(path, target)
        return target, IN_LOWER_LAYER if entry is None else -1

    def _resolve(self, named: str) -> str:
        """The directory that a parent as named in the tar is, symbolic links resolved inside the
        root. Parents that are missing are taken as directories to be made."""
        known = self._directories.get(named)
        if known is not None:
            return known
        todo = named.split("/")[::-1] if named else []
        done = ""
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            candidate = f"{done}/{part}" if done else part
            if candidate in self._real:
                done = candidate
                continue
            entry = self.lookup(candidate)
            if entry is not None and entry.kind == Kind.SYMLINK:
                self._links_seen.add(candidate)
                links += 1
                if links > SYMLINK_LIMIT:
                    raise SymlinkLoop(named)
                if entry.link.startswith("/"):
                    done = ""
                todo.extend(reversed(entry.link.split("/")))
                continue
            if entry is not None and entry.kind != Kind.DIRECTORY:
                raise NotADirectory(candidate)
            if entry is None and self.builder.kind(candidate) == Kind.WHITEOUT:
                self.builder.add(Entry(candidate, Kind.DIRECTORY, opaque=True))
            self._real.add(candidate)
            done = candidate
        self._directories[named] = done
        return done

    def _forget_directories(self) -> None:
        self._directories.clear()
        self._links_seen.clear()
        self._real = {""}

    # -- taking an entry in

    def add(self, entry: Entry, digest: bytes = b"") -> None:
        """Verb.WRITE: `entry` replaces what stood at its path."""
        path = entry.path
        before = self.builder.kind(path)
        if entry.kind == Kind.DIRECTORY:
            if before == Kind.DIRECTORY:
                if self.builder.hides_below(path):
                    entry = replace(entry, opaque=True)
            elif before is not None:
                self._before_replacing(path)
                self._hiding = True
                entry = replace(entry, opaque=True)
        elif before == Kind.DIRECTORY or path in self._parents:
            self._replace_directory(path)
        elif before is not None:
            self._before_replacing(path)
        if path in self._links_seen or (path in self._real and entry.kind != Kind.DIRECTORY):
            self._forget_directories()
        if entry.kind == Kind.HARDLINK and entry.offset != IN_LOWER_LAYER:
            self._hardlinks.setdefault(entry.link, []).append(path)
        self.builder.add(entry, digest)
        self._note_parents(path)
        if len(self.builder) > _ENTRY_LIMIT:
            raise BadArchive(f"a layer of more than {_ENTRY_LIMIT} entries")

    def remove(self, path: str) -> None:
        """Verb.REMOVE: what lower layers have at `path` is gone; what this layer has stays."""
        kind = self.builder.kind(path)
        if self.is_own_directory(path):
            entry = self.builder.get(path) or Entry(path, Kind.DIRECTORY)
            self.builder.add(replace(entry, opaque=True))
        elif kind is None:
            self.builder.add(Entry(path, Kind.WHITEOUT, 0))
            self._note_parents(path)
        else:
            return
        self._hiding = True
        self._forget_directories()

    def empty(self, directory: str) -> None:
        """Verb.EMPTY: what lower layers have in a directory is gone."""
        entry = self.builder.get(directory)
        if entry is None or entry.kind == Kind.WHITEOUT:
            found = self.lookup(directory) if directory else self.below.lookup("")
            entry = found or Entry(directory, Kind.DIRECTORY)
            entry = replace(entry, offset=-1)
        if not entry.opaque:
            self.builder.add(replace(entry, opaque=True))
        self._note_parents(directory)
        self._hiding = True
        self._forget_directories()

    def _note_parents(self, path: str) -> None:
        parents = self._parents
        path = path.rpartition("/")[0]
        while path and path not in parents:
            parents.add(path)
            path = path.rpartition("/")[0]

    def _replace_directory(self, path: str) -> None:
        """A file takes the place of a directory of this layer."""
        self._replaced += 1
        if self._replaced > _REPLACED_LIMIT:
            raise BadArchive(f"more than {_REPLACED_LIMIT} directories are replaced by files")
        prefix = f"{path}/"
        for target in [t for t in self._hardlinks if t.startswith(prefix)]:
            self._before_replacing(target, outside=prefix)
        self.builder.remove_below(path)
        self._parents = {p for p in self._parents if p != path and not p.startswith(prefix)}
        self._forget_directories()

    def _before_replacing(self, path: str, *, outside: str = "/") -> None:
        """A file goes that has other names: the first of these becomes the file."""
        self.builder.kept.pop(path, None)
        names = self._hardlinks.pop(path, None)
        if names is None:
            return
        first = ""
        entry, digest = self.builder.get(path), self.builder.digest(path)
        for name in names:
            link = self.builder.get(name)
            if link is None or link.kind != Kind.HARDLINK or link.link != path or entry is None:
                continue  # was replaced in between
            if name.startswith(outside):
                continue
            if not first:
                first = name
                self.builder.add(replace(entry, path=name), digest)
            else:
                self.builder.add(replace(link, link=first))
                self._hardlinks.setdefault(first, []).append(name)

    def finish(self) -> LayerIndex:
        return self.builder.finish()
