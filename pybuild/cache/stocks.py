"""The places that `pybuild cache` lists and prunes: a repository, a layout of layers, the folder of
--cache-dir."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, date, datetime, time
from pathlib import Path

from pybuild.cache.entry import ARTIFACT_TYPE, INDEX_TYPE, created_of
from pybuild.cache.folder import INDEXES
from pybuild.cache.images import ImageFolder, blobs_of
from pybuild.cache.inventory import Item, Kind
from pybuild.cache.layers import burst
from pybuild.cache.uses import PREFIX, parse_uses
from pybuild.errors import ContentMismatch
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, parse_digest
from pybuild.image.manifest import Index, Manifest, parse_manifest
from pybuild.image.reference import Reference
from pybuild.isolation.removal import remove_tree
from pybuild.registry.client import Client
from pybuild.store.layout import REF_NAME, Layout
from pybuild.store.locks import Hold

MOUNTS = "mounts"
_KEY_LENGTH = 64


class RepositoryStock:
    """Entries of a repository; other tags in it are nobody's business."""

    def __init__(self, client: Client, repository: Reference) -> None:
        self.name = repository.name
        self._client = client
        self._repository = repository

    def items(self) -> Sequence[Item]:
        tags = list(self._client.tags(self._repository))
        records = [tag for tag in tags if tag.startswith(PREFIX)]
        uses: dict[str, date] = {}
        for record in burst(self._manifest, records):
            for tag, day in parse_uses(record).items():
                uses[tag] = max(day, uses.get(tag, day))
        keys = [tag for tag in tags if _is_key(tag)]
        by_digest: dict[Digest, tuple[Manifest, list[str]]] = {}
        for tag, manifest in zip(keys, burst(self._manifest, keys), strict=True):
            if isinstance(manifest, Manifest) and manifest.artifact_type == ARTIFACT_TYPE:
                by_digest.setdefault(manifest.digest, (manifest, []))[1].append(tag)
        return [
            _entry(manifest, names, _last_use(names, uses))
            for manifest, names in by_digest.values()
        ]

    def remove(self, items: Sequence[Item]) -> Sequence[Item]:
        """By digest, with all tags. Raises DeleteRefused at the first that the registry keeps."""
        for item in items:
            untagged = self._repository.with_digest(parse_digest(item.id))
            self._client.delete_manifest(untagged)
        return items

    def _manifest(self, tag: str) -> Manifest | Index | None:
        return self._client.try_manifest(self._repository.with_tag(tag))


class LayoutStock:
    """Entries of `oci:FOLDER`."""

    def __init__(self, path: Path, waits: Callable[[], None] = lambda: None) -> None:
        self.name = f"oci:{path}"
        self._layout = Layout(path)
        self._hold = Hold(path)
        self._waits = waits

    def items(self) -> Sequence[Item]:
        by_digest: dict[Digest, tuple[Descriptor, list[str]]] = {}
        for entry in self._layout.entries():
            if _is_key(_name(entry)):
                by_digest.setdefault(entry.digest, (entry, []))[1].append(_name(entry))
        found = []
        for entry, names in by_digest.values():
            with suppress(OSError, ContentMismatch):  # half gone: nothing to tell of it
                path = self._layout.blobs.path(entry.digest)
                manifest = parse_manifest(path.read_bytes(), entry.media_type)
                if isinstance(manifest, Manifest):
                    found.append(_entry(manifest, names, _modified(path)))
        return found

    def remove(self, items: Sequence[Item]) -> Sequence[Item]:
        gone = {item.id for item in items}
        self._layout.update(
            lambda entries: [
                one for one in entries if not (_is_key(_name(one)) and one.digest in gone)
            ]
        )
        sweep(self._layout, self._hold, self._waits)
        return items


class FolderStock:
    """Images, indexes and cache mounts of --cache-dir."""

    def __init__(self, path: Path, waits: Callable[[], None] = lambda: None) -> None:
        self.name = str(path)
        self._path = path
        self._folder = ImageFolder(path)
        self._waits = waits

    def items(self) -> Sequence[Item]:
        return [*self._images(), *self._indexes(), *self._mounts()]

    def remove(self, items: Sequence[Item]) -> Sequence[Item]:
        gone = [item for item in items if item.kind is not Kind.MOUNT or self._remove_mount(item)]
        for item in gone:
            if item.kind is Kind.INDEX:
                (self._path / item.id).unlink(missing_ok=True)
        images = {item.id for item in gone if item.kind is Kind.IMAGE}
        layout = self._folder.layout
        if images:
            layout.update(lambda entries: [one for one in entries if _image_id(one) not in images])
        if layout.path.joinpath("blobs").is_dir():
            sweep(layout, self._folder.hold, self._waits)
        return gone

    def _images(self) -> Iterator[Item]:
        for image in self._folder.images():
            path = self._folder.layout.blobs.path(image.descriptor.digest)
            try:
                manifest = self._folder.manifest(image.descriptor)
                blobs = [image.descriptor, *blobs_of(manifest)]
                used = _modified(path)
            except (OSError, ContentMismatch):
                blobs, used = [], None
            yield Item(
                Kind.IMAGE,
                f"{image.name} {image.descriptor.platform} {image.descriptor.digest}",
                f"{image.name} ({image.descriptor.platform})",
                tuple((str(blob.digest), blob.size) for blob in blobs),
                image.at,
                used,
            )

    def _indexes(self) -> Iterator[Item]:
        for path in sorted((self._path / INDEXES).glob("*/[!.]*")):
            name = str(path.relative_to(self._path))
            with suppress(FileNotFoundError):
                blobs = ((name, path.stat().st_size),)
                yield Item(Kind.INDEX, name, path.name[:12], blobs, None, _modified(path))

    def _mounts(self) -> Iterator[Item]:
        for path in sorted((self._path / MOUNTS).glob("*/*")):
            lock = path / "lock"
            if lock.exists():
                name = str(path.relative_to(self._path))
                blobs = ((name, _tree_size(path)),)
                yield Item(Kind.MOUNT, name, name, blobs, None, _modified(lock))

    def _remove_mount(self, item: Item) -> bool:
        """Not while a RUN has it."""
        path = self._path / item.id
        with ExitStack() as stack:
            try:
                handle = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):
                return False
            # Who waits for the lock finds no content then, and fills a new one.
            remove_tree(path / "content")
            return True


def sweep(layout: Layout, hold: Hold, waits: Callable[[], None]) -> None:
    """Removes blobs that nothing in index.json names, while nobody adds any."""
    with hold.alone(waits):
        named: set[str] = set()
        for entry in layout.entries():
            named |= _reachable(layout, entry)
        for path in layout.blobs.directory.glob("*/*"):
            if f"{path.parent.name}:{path.name}" not in named:
                path.unlink(missing_ok=True)


def _reachable(layout: Layout, entry: Descriptor) -> set[str]:
    found = {str(entry.digest)}
    try:
        manifest = parse_manifest(layout.blobs.path(entry.digest).read_bytes(), entry.media_type)
    except (OSError, ContentMismatch):
        return found
    if isinstance(manifest, Index):
        return found.union(*(_reachable(layout, one) for one in manifest.manifests))
    return found | {str(blob.digest) for blob in (manifest.config, *manifest.layers)}


def _entry(manifest: Manifest, names: Sequence[str], used: datetime | None) -> Item:
    indexes = all(blob.media_type == INDEX_TYPE for blob in manifest.layers)
    blobs = [manifest.descriptor, *manifest.layers]
    return Item(
        Kind.INDEX if indexes else Kind.LAYER,
        str(manifest.digest),
        " ".join(name[:12] for name in names),
        tuple((str(blob.digest), blob.size) for blob in blobs),
        created_of(manifest),
        used,
    )


def _last_use(names: Sequence[str], uses: Mapping[str, date]) -> datetime | None:
    """The end of the day, since no more is known."""
    days = [uses[name] for name in names if name in uses]
    return datetime.combine(max(days), time.max, UTC) if days else None


def _is_key(tag: str) -> bool:
    return len(tag) == _KEY_LENGTH and all(char in "0123456789abcdef" for char in tag)


def _name(entry: Descriptor) -> str:
    return dict(entry.annotations).get(REF_NAME, "")


def _image_id(entry: Descriptor) -> str:
    return f"{_name(entry)} {entry.platform} {entry.digest}"


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _tree_size(path: Path) -> int:
    found = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                found += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - many files
    return found
