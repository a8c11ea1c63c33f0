"""COPY, ADD and WORKDIR carried out: owners by name, here-documents, downloads, archives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.context.directory import DirectoryContext
from pybuild.executor.copy import (
    Content,
    LayerDraft,
    Owner,
    Picked,
    draft_copy,
    draft_files,
    pick,
    place_name,
)
from pybuild.executor.inputs import may_be_archive
from pybuild.executor.mode import check_mode
from pybuild.executor.repository import is_repository
from pybuild.executor.state import ContextSource
from pybuild.layer.changes import Change
from pybuild.layer.errors import ContextChanged
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree

if TYPE_CHECKING:
    from pybuild.executor.inputs import Taken
    from pybuild.executor.stage import StageServices
    from pybuild.executor.state import StageSource, StageState
    from pybuild.image.digest import Digest
    from pybuild.layer.pack import PackOptions
    from pybuild.plan.steps import CopyAction, MakeDirectory

_PASSWD, _GROUP = "etc/passwd", "etc/group"


def directory_changes(action: MakeDirectory, state: StageState, now_ns: int) -> Iterator[Change]:
    """WORKDIR: what is missing of the path is made, for the stage's USER."""
    draft = LayerDraft(state.tree(), None)
    path = draft.resolve(action.path)
    owner = Owner(0, 0)
    if action.user:
        from pybuild.rootfs.ids import lookup_user

        ids = lookup_user(action.user, state.read_file(_PASSWD), state.read_file(_GROUP))
        owner = Owner(ids.uid, ids.gid)
    draft.make_directories(path, owner)
    return draft.changes(lambda _: b"", now_ns)


class Copying:
    """One COPY or ADD on its way from the sources to the changes of a layer."""

    def __init__(
        self,
        action: CopyAction,
        source: ContextSource | StageSource,
        state: StageState,
        services: StageServices,
    ) -> None:
        if action.chmod:
            check_mode(action.chmod)
        self.action = action
        self.source = source
        self.state = state
        self.services = services
        below = Tree(()) if action.link else state.tree()
        self.draft = LayerDraft(below, self._owner(), action.chmod)

    def changes(
        self, picked: list[Picked] | None, taken: Taken | None
    ) -> tuple[Iterator[Change], PackOptions]:
        """The changes, and options that make packing check what was `taken` into the key."""
        action = self.action
        if picked is None:
            picked = pick(action, self.source, place_name(self.services.plan, action.origin))
        plain = []
        for one in picked:
            if not (may_be_archive(action, one) and self._unpack(one, taken)):
                plain.append(one)
        draft_copy(action, plain, self.source, self.draft)
        self.draft.link_names()
        options = self.services.pack_options
        if taken is not None:
            options = replace(options, expected=self._expected(taken, plain, picked))
        draft_files(action, self._inline(), self.draft)
        draft_files(action, self._downloads(taken), self.draft)
        for url in filter(is_repository, action.urls):
            self._add_repository(url)
        places = self._places()
        now_ns = self.services.now_ns
        return self.draft.changes(lambda content: _bytes_of(content, places), now_ns), options

    def _expected(
        self, taken: Taken, plain: list[Picked], picked: list[Picked]
    ) -> dict[str, Digest]:
        """The digests that files have to have, by path in the layer. Raises ContextChanged when
        there are others than those that the key knows."""
        expected: dict[str, Digest] = {}
        used = {one.entry.path for one in picked if one not in plain}
        for entry, content in self.draft.entries.values():
            if content is None or content.path.startswith("/"):
                continue
            if content.path not in taken.files:
                raise ContextChanged(content.path)
            used.add(content.path)
            expected[entry.path] = taken.files[content.path]
        for path in taken.files:
            if path not in used:
                raise ContextChanged(path)
        return expected

    def _owner(self) -> Owner | None:
        if not self.action.chown:
            return None
        from pybuild.rootfs.ids import lookup_owner

        passwd, group = self.state.read_file(_PASSWD), self.state.read_file(_GROUP)
        return Owner(*lookup_owner(self.action.chown, passwd, group))

    def _places(self) -> Mapping[str, Path]:
        paths = [
            content.path
            for _, content in self.draft.entries.values()
            if content is not None and content.data is None and not content.path.startswith("/")
        ]
        return self.source.files(paths)

    def _inline(self) -> list[tuple[Entry, Content]]:
        files = []
        for file in self.action.inline:
            data = file.content.encode("utf-8", "surrogateescape")
            entry = Entry(file.name, Kind.FILE, 0o644, 0, 0, len(data), self.services.now_ns)
            files.append((entry, Content(data=data)))
        return files

    def _downloads(self, taken: Taken | None) -> list[tuple[Entry, Content]]:
        """Files from the network: mode 0600, as Docker has it."""
        files: list[tuple[Entry, Content]] = []
        services = self.services
        downloads = taken.downloads if taken is not None else ()
        if self.action.urls and not downloads:
            from pybuild.executor.download import download_all

            downloads = download_all(
                self.action, services.workspace, services.sink, cancelled=services.cancelled
            )
        for fetched in downloads:
            if self.action.unpack and self._unpack_file(fetched.path):
                continue
            size = fetched.path.stat().st_size
            entry = Entry(fetched.name, Kind.FILE, 0o600, 0, 0, size, fetched.mtime_ns)
            files.append((entry, Content(os.fspath(fetched.path))))
        return files

    def _add_repository(self, url: str) -> None:
        """The files of a git repository, as those of a folder; they belong to root."""
        folder = self.services.repositories.folder(url, self.action)
        tree = DirectoryContext(folder)
        root = tree.lookup("")
        assert root is not None
        before = dict(self.draft.entries)
        draft_copy(self.action, [Picked("", root)], ContextSource(tree), self.draft)
        for path, made in self.draft.entries.items():
            entry, content = made
            if content is not None and before.get(path) is not made:
                self.draft.entries[path] = (entry, Content(f"{folder}/{content.path}"))

    def _unpack(self, one: Picked, taken: Taken | None) -> bool:
        path = one.entry.path
        place = self.source.files([path])[path]
        if not self._unpack_file(place):
            return False
        if taken is not None:
            from pybuild.context.directory import file_digest

            if file_digest(place) != taken.files.get(path):
                raise ContextChanged(path)
        return True

    def _unpack_file(self, file: Path) -> bool:
        """Puts an archive's content at the destination; False if the file is no archive."""
        from pybuild.executor.archive import unpack_archive

        unpacked = unpack_archive(file, self.services.workspace)
        if unpacked is None:
            return False
        folder, index = unpacked
        target = self.draft.resolve(self.action.destination)
        self.draft.make_directories(target)
        tree = Tree((index,))
        for entry in index.entries():
            real = tree.lookup(entry.path)
            if entry.path and real is not None:
                path = f"{target}/{entry.path}" if target else entry.path
                self.draft.make_directories(path.rpartition("/")[0], Owner(0, 0))
                self._put_unpacked(
                    replace(real, path=path),
                    tree.locate(entry.path),
                    folder,
                )
        return True

    def _put_unpacked(self, entry: Entry, located: tuple[int, Entry] | None, folder: Path) -> None:
        """`located` says which name in the archive holds the bytes: hard links share it."""
        owner = self.draft.owner
        if owner is not None:
            entry = replace(entry, uid=owner.uid, gid=owner.gid)
        if entry.kind is Kind.FILE and located is not None:
            name = located[1].path
            content = Content(f"{folder}/{name}") if entry.size else None
            self.draft.put_name((str(folder), name), entry, content)
        else:
            self.draft.put(entry)


def _bytes_of(content: Content, places: Mapping[str, Path]) -> str | bytes:
    if content.data is not None:
        return content.data
    return content.path if content.path.startswith("/") else os.fspath(places[content.path])
