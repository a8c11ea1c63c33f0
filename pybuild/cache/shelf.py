"""Where cache entries lie, manifests by tag and the blobs they name: a repository or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.manifest import Index, Manifest, parse_manifest
from pybuild.image.reference import Reference
from pybuild.registry.client import Client
from pybuild.registry.errors import BlobUnknown
from pybuild.store.layout import REF_NAME, Layout
from pybuild.store.locks import Hold

Opener = Callable[[], Iterator[bytes]]


class Shelf(Protocol):
    """All methods raise RegistryError, ContentMismatch, InputError or OSError. `source` is where
    blobs can be mounted from; `tells_uses` says whether it knows when an entry was last read."""

    name: str
    source: Reference | None
    tells_uses: bool

    def manifest(self, tag: str) -> Manifest | Index | None: ...

    def has_blob(self, blob: Descriptor) -> bool: ...

    def open_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Verified; raises BlobUnknown where it is gone."""

    def put_blob(self, blob: Descriptor, open: Opener, mount_from: Sequence[Reference]) -> None: ...

    def put_manifest(self, tags: Sequence[str], manifest: Manifest) -> None:
        """All blobs have to be there already."""

    def writing(self) -> AbstractContextManager[None]:
        """Held while an entry is written, so that nobody takes its blobs for left ones."""


class RepositoryShelf:
    """`quick` asks whether something is there and gives up soon; `client` moves the layers."""

    tells_uses = False

    def __init__(self, client: Client, quick: Client, repository: Reference) -> None:
        self._client = client
        self._quick = quick
        self.source: Reference | None = repository
        self._repository = repository
        self.name = repository.name

    def manifest(self, tag: str) -> Manifest | Index | None:
        return self._quick.try_manifest(self._repository.with_tag(tag))

    def has_blob(self, blob: Descriptor) -> bool:
        return self._quick.has_blob(self._repository, blob.digest)

    def open_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return self._client.open_blob(self._repository, blob, label="cached layer")

    def put_blob(self, blob: Descriptor, open: Opener, mount_from: Sequence[Reference]) -> None:
        sources = tuple(mount_from)
        self._client.push_blob(self._repository, blob, open, mount_from=sources, label="to cache")

    def put_manifest(self, tags: Sequence[str], manifest: Manifest) -> None:
        for tag in tags:
            self._client.push_manifest(self._repository.with_tag(tag), manifest)

    def writing(self) -> AbstractContextManager[None]:
        return nullcontext()


class FolderShelf:
    """An OCI image layout whose names are the tags. Any number of builds may use it at once."""

    source: Reference | None = None
    tells_uses = True

    def __init__(self, path: Path) -> None:
        self._layout = Layout(path)
        self._hold = Hold(path)
        self._seen: tuple[int, int, int] = (0, 0, 0)
        self._names: dict[str, Descriptor] = {}
        self.name = f"oci:{path}"

    def manifest(self, tag: str) -> Manifest | Index | None:
        found = self._entries().get(tag)
        if found is None:
            return None
        try:
            raw = b"".join(self._layout.blobs.open(found))
        except FileNotFoundError:
            return None
        with suppress(OSError):  # prune goes by this time; a folder may be there to read only
            os.utime(self._layout.blobs.path(found.digest))
        return parse_manifest(raw, found.media_type)

    def has_blob(self, blob: Descriptor) -> bool:
        return self._layout.blobs.has(blob)

    def open_blob(self, blob: Descriptor) -> Iterator[bytes]:
        try:
            yield from self._layout.blobs.open(blob)
        except FileNotFoundError:
            raise BlobUnknown(f"{self.name} does not hold blob {blob.digest}") from None

    def put_blob(self, blob: Descriptor, open: Opener, mount_from: Sequence[Reference]) -> None:
        del mount_from  # nothing is mounted from a registry into a folder
        if not self._layout.blobs.has(blob):
            self._layout.blobs.write(open(), blob)

    def put_manifest(self, tags: Sequence[str], manifest: Manifest) -> None:
        self._layout.blobs.write([manifest.raw], manifest.descriptor)
        names = frozenset(tags)
        new = [replace(manifest.descriptor, annotations=((REF_NAME, tag),)) for tag in tags]
        self._layout.update(
            lambda entries: [*(one for one in entries if _name(one) not in names), *new]
        )

    def writing(self) -> AbstractContextManager[None]:
        return self._hold.shared()

    def _entries(self) -> dict[str, Descriptor]:
        """By name; read again only when the file is another one."""
        try:
            found = (self._layout.path / "index.json").stat()
        except FileNotFoundError:
            return {}
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._seen:
            self._names = {_name(entry): entry for entry in self._layout.entries()}
            self._seen = stamp
        return self._names


def _name(entry: Descriptor) -> str:
    return dict(entry.annotations).get(REF_NAME, "")


def tag_of(key: Digest) -> str:
    return key.hex
