"""COPY and ADD on the index: which entries a layer gets, straight from their sources.

Nothing is written here. Paths are resolved in the tree that the layer goes on, never on disk. The
rules are BuildKit's: a folder gives its content, a named link is followed, an existing folder at
the destination keeps its own owner and mode while those below it take the source's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from pybuild.dockerfile.errors import nearest
from pybuild.dockerfile.patterns import Patterns, match
from pybuild.executor.errors import BadDestination, SourceMissing
from pybuild.executor.mode import change_mode
from pybuild.layer.changes import Change
from pybuild.plan.steps import CopyAction, CopyOrigin, FromImage, FromStage, Plan
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree

_NEW_DIRECTORY_MODE = 0o755
_WILDCARDS = frozenset("*?[\\")


class SourceTree(Protocol):
    """Where COPY takes from: a context, a stage, an image. Paths as in `rootfs.entry`."""

    def lookup(self, path: str) -> Entry | None: ...

    def children(self, path: str) -> Iterator[Entry]: ...

    def resolve(self, path: str, *, follow_last: bool) -> str: ...

    def identity(self, path: str) -> object | None:
        """The same for all names of one regular file; None where it has this name only."""


class Picked(Struct, frozen=True):
    """One source after globs and links: `named` is how it was written (its last part names the
    copy), `entry` what it leads to, `prefix` the folders that --parents keeps."""

    named: str
    entry: Entry
    prefix: str = ""


class Owner(Struct, frozen=True):
    uid: int
    gid: int


_CONTEXT = "the build context"


def pick(action: CopyAction, tree: SourceTree, where: str = _CONTEXT) -> list[Picked]:
    """The sources in the order they are named. Raises SourceMissing for one that names nothing;
    `where` is what its message calls the tree."""
    return [found for source in action.sources for found in _pick_one(action, tree, source, where)]


def place_name(plan: Plan, origin: CopyOrigin) -> str:
    """What an error calls the place that COPY takes from."""
    match origin:
        case FromStage(stage):
            return f"stage {plan.stage(stage).name}"
        case FromImage(request):
            return f"image {request.name}"
        case _:
            return _CONTEXT


def _pick_one(action: CopyAction, tree: SourceTree, source: str, where: str) -> list[Picked]:
    before, pivot, after = source.partition("/./") if action.parents else ("", "", source)
    base = clean(before) if pivot else ""
    wanted = clean(after if pivot else source)
    if not _WILDCARDS.intersection(wanted) or not wanted:
        named = [_join(base, wanted)]
    else:
        named = list(_glob(tree, base, wanted.split("/")))
    found: list[Picked] = []
    for path in named:
        entry = tree.lookup(tree.resolve(path, follow_last=True))
        if entry is not None:
            kept = path[len(base) :].lstrip("/").rpartition("/")[0] if action.parents else ""
            found.append(Picked(path, entry, kept))
    if not found:
        is_pattern = bool(_WILDCARDS.intersection(wanted))
        what = "matches nothing" if is_pattern else "does not exist"
        near = "" if is_pattern else _near(tree, named[0])
        ignored = ", and .dockerignore" if where == _CONTEXT else ""
        raise SourceMissing(
            f"{'ADD' if action.is_add else 'COPY'} {source}: this {what} in {where}",
            hint=(f"did you mean {near}? Otherwise " if near else "") + f"check the path{ignored}",
        )
    return found


def _near(tree: SourceTree, path: str) -> str:
    """What may be meant by a path that does not exist, or ""."""
    done = ""
    parts = path.split("/")
    for number, part in enumerate(parts):
        folder, path = tree.resolve(done, follow_last=True), _join(done, part)
        if tree.lookup(tree.resolve(path, follow_last=True)) is None:
            names = {_name(child.path) for child in tree.children(folder)} - {part}
            meant = nearest(part, sorted(names))
            return "/".join([*parts[:number], meant]) if meant else ""
        done = path
    return ""


def clean(path: str) -> str:
    """Relative to the root without slashes at its ends; `..` stops at the root."""
    return posixpath.normpath("/" + path).lstrip("/")


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent and name else parent or name


def _glob(tree: SourceTree, base: str, parts: list[str]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _glob_deep(tree, base, rest)
        return
    if not _WILDCARDS.intersection(part):
        names = [part]
    else:
        folder = tree.resolve(base, follow_last=True)
        names = [name for child in tree.children(folder) if match(part, name := _name(child.path))]
    for name in names:
        path = _join(base, name)
        if rest:
            yield from _glob(tree, path, rest)
        elif tree.lookup(tree.resolve(path, follow_last=False)) is not None:
            yield path


def _glob_deep(tree: SourceTree, base: str, rest: list[str]) -> Iterator[str]:
    if rest:
        yield from _glob(tree, base, rest)
    for child in tree.children(tree.resolve(base, follow_last=True)):
        path = _join(base, _name(child.path))
        if not rest:
            yield path
        elif child.kind is Kind.DIRECTORY:
            yield from _glob_deep(tree, path, rest)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


class Content(Struct, frozen=True):
    """Where an entry of the new layer gets its bytes: from a path of the source, or inline."""

    path: str = ""
    data: bytes | None = None


class LayerDraft:
    """The entries of the layer that is being made, over the tree below it (empty for --link)."""

    def __init__(self, below: Tree, owner: Owner | None, chmod: str = "") -> None:
        self.below = below
        self.owner = owner  # of --chown; None: as the source has it
        # Folders that have to be made take an octal --chmod too, less its special bits.
        self.directory_mode = int(chmod, 8) & 0o777 if chmod.isdecimal() else _NEW_DIRECTORY_MODE
        self.entries: dict[str, tuple[Entry, Content | None]] = {}
        self._names: dict[object, list[str]] = {}  # of files with several names

    def lookup(self, path: str) -> Entry | None:
        made = self.entries.get(path)
        return made[0] if made else self.below.lookup(path)

    def resolve(self, path: str) -> str:
        return self.below.resolve(clean(path), follow_last=True)

    def put(self, entry: Entry, content: Content | None = None) -> None:
        self.entries[entry.path] = (entry, content)

    def put_name(self, identity: object, entry: Entry, content: Content | None) -> None:
        """One of several names of one file: which of them is the file shows at the end."""
        self._names.setdefault(identity, []).append(entry.path)
        self.put(entry, content)

    def make_directories(self, path: str, owner: Owner | None = None) -> None:
        """Makes what is missing of `path` (resolved); an existing folder stays as it is."""
        owner = owner or self.owner or Owner(0, 0)
        done = ""
        for part in path.split("/") if path else []:
            done = _join(done, part)
            there = self.lookup(done)
            if there is None:
                made = Entry(done, Kind.DIRECTORY, self.directory_mode, owner.uid, owner.gid)
                self.put(made)
            elif there.kind is not Kind.DIRECTORY:
                raise BadDestination(f"/{done} is there already and is no folder")

    def changes(
        self, content_of: Callable[[Content], str | bytes], now_ns: int
    ) -> Iterator[Change]:
        """Parents first, sorted by path; folders on the way that the layer does not touch are
        named too, as they are, since some tools unpack a layer without those below it."""
        for path in list(self.entries):
            self._name_parents(path)
        self.link_names()
        for path in sorted(self.entries):
            entry, content = self.entries[path]
            if entry.mtime_ns == 0 and entry.kind is Kind.DIRECTORY and not self.below.lookup(path):
                entry = replace(entry, mtime_ns=now_ns)
            yield Change(entry, None if content is None else content_of(content))

    def link_names(self) -> None:
        """The first of several names, in the order of the layer, is the file. Idempotent."""
        for names in self._names.values():
            first, *others = sorted(set(names))
            for path in others:
                entry = self.entries[path][0]
                link = replace(entry, kind=Kind.HARDLINK, link=first, size=0, xattrs=())
                self.entries[path] = (link, None)

    def _name_parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        while parent and parent not in self.entries:
            there = self.below.lookup(parent)
            if there is not None:
                self.put(replace(there, opaque=False))
            parent = parent.rpartition("/")[0]


def draft_copy(
    action: CopyAction, picked: list[Picked], tree: SourceTree, draft: LayerDraft
) -> None:
    """Adds what the picked sources put at the destination. Raises BadDestination."""
    exclude = Patterns(action.exclude) if action.exclude else None
    copier = _Copier(action, tree, draft, exclude)
    for source in picked:
        copier.copy(source)


def draft_files(action: CopyAction, files: list[tuple[Entry, Content]], draft: LayerDraft) -> None:
    """Adds single files that come from no tree: here-documents and downloads. An entry's path is
    the file's name, used where the destination is a folder."""
    for entry, content in files:
        target = _target_of_file(action.destination, entry.path, draft)
        mode = (
            change_mode(action.chmod, entry.mode, is_directory=False)
            if action.chmod
            else entry.mode
        )
        owner = draft.owner or Owner(entry.uid, entry.gid)
        draft.put(replace(entry, path=target, mode=mode, uid=owner.uid, gid=owner.gid), content)


def _target_of_file(destination: str, name: str, draft: LayerDraft) -> str:
    """Where a single file goes: into a folder under its own name, else to the very path."""
    resolved = draft.resolve(destination)
    there = draft.lookup(resolved)
    if destination.endswith("/"):
        draft.make_directories(resolved)
        there = draft.lookup(resolved)
    if there is not None and there.kind is Kind.DIRECTORY:
        resolved = _join(resolved, name)
        if (inner := draft.lookup(resolved)) is not None and inner.kind is Kind.DIRECTORY:
            raise BadDestination(f"/{resolved} is a folder and can't be replaced by a file")
    draft.make_directories(resolved.rpartition("/")[0])
    return resolved


class _Copier:
    def __init__(
        self, action: CopyAction, tree: SourceTree, draft: LayerDraft, exclude: Patterns | None
    ) -> None:
        self.action = action
        self.tree = tree
        self.draft = draft
        self.exclude = exclude
        self.names = 0  # number of the folder whose hard links are kept; 0: not in a folder

    def copy(self, source: Picked) -> None:
        if self.action.parents:
            self._copy_with_parents(source)
            return
        if source.entry.kind is not Kind.DIRECTORY:
            name = _name(source.named)
            if self.exclude and self.exclude.excludes(name):
                return
            target = _target_of_file(self.action.destination, name, self.draft)
            names, self.names = self.names, 0
            self._put(source.entry, target)
            self.names = names
            return
        target = self.draft.resolve(self.action.destination)
        self.draft.make_directories(target)  # not the source's own owner and mode, as in BuildKit
        self.names += 1
        self._copy_below(source.entry.path, target, "")

    def _copy_with_parents(self, source: Picked) -> None:
        """--parents: the folders between the pivot and the source come along as they are."""
        target = self.draft.resolve(self.action.destination)
        self.draft.make_directories(target)
        base = source.named[: len(source.named) - len(_join(source.prefix, _name(source.named)))]
        done, origin = target, base.rstrip("/")
        for part in source.prefix.split("/") if source.prefix else []:
            done, origin = _join(done, part), _join(origin, part)
            entry = self.tree.lookup(self.tree.resolve(origin, follow_last=True))
            if entry is not None and self.draft.lookup(done) is None:
                self._put(entry, done)
        relative = _join(source.prefix, _name(source.named))
        if self.exclude and self.exclude.excludes(relative):
            return
        final = _join(done, _name(source.named))
        self._put(source.entry, final)
        if source.entry.kind is Kind.DIRECTORY:
            self._copy_below(source.entry.path, final, relative)

    def _copy_below(self, folder: str, target: str, relative: str) -> None:
        """Everything in `folder` of the source, with `relative` as its path for --exclude."""
        exclude = self.exclude
        for entry in self.tree.children(folder):
            name = entry.path.rpartition("/")[2]
            inner = f"{relative}/{name}" if relative else name
            into = f"{target}/{name}" if target else name
            if entry.kind is Kind.DIRECTORY:
                if exclude and exclude.excludes(inner):
                    self._copy_excluded(entry, into, inner, exclude)
                    continue
                self._put(entry, into)
                self._copy_below(entry.path, into, inner)
            elif not (exclude and exclude.excludes(inner)):
                self._put(entry, into)

    def _copy_excluded(self, entry: Entry, into: str, inner: str, exclude: Patterns) -> None:
        """An excluded folder is there only for what an exception brings back below it."""
        if exclude.may_include_below(inner):
            before = len(self.draft.entries)
            self._copy_below(entry.path, into, inner)
            if len(self.draft.entries) > before:
                self._put(entry, into)

    def _put(self, entry: Entry, target: str) -> None:
        there = self.draft.lookup(target)
        is_directory = entry.kind is Kind.DIRECTORY
        if there is not None and (there.kind is Kind.DIRECTORY) != is_directory:
            what = "is no folder" if is_directory else "is a folder and can't be replaced by a file"
            raise BadDestination(f"/{target} is there already and {what}")
        owner = self.draft.owner
        mode = entry.mode
        if self.action.chmod and entry.kind is not Kind.SYMLINK:
            mode = change_mode(self.action.chmod, mode, is_directory=is_directory)
        made = Entry(
            target,
            entry.kind,
            mode,
            entry.uid if owner is None else owner.uid,
            entry.gid if owner is None else owner.gid,
            entry.size,
            entry.mtime_ns,
            entry.link,
            entry.major,
            entry.minor,
            entry.xattrs,
        )
        content = Content(entry.path) if entry.kind is Kind.FILE and entry.size else None
        identity = (
            self.tree.identity(entry.path) if self.names and entry.kind is Kind.FILE else None
        )
        if identity is None:
            self.draft.put(made, content)
        else:
            self.draft.put_name((self.names, identity), made, content)
