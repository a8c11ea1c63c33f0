"""OCI image layouts (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import BadManifest, Descriptor
from pybuild.image.image import Image
from pybuild.image.layer import Layer
from pybuild.image.manifest import Index, Manifest, make_index, parse_manifest
from pybuild.image.media_type import OCI_INDEX, Family, is_foreign
from pybuild.image.platform import Platform, choose
from pybuild.store.blobs import BlobStore, beside
from pybuild.store.errors import ImageMissing, LayoutBroken, writing
from pybuild.store.locks import locked
from pybuild.store.owner import make_folders

REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX_LIMIT = 16 << 20
_NESTED_INDEXES = 3
_NO_FOLDER_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP)


class Layout:
    """A folder with oci-layout, index.json and blobs/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = BlobStore(path / "blobs")

    def add(self, image: Image, name: str = "") -> Descriptor:
        """Adds an image under a name, in place of the one that had it; blobs first, index.json
        last. Raises OutputNotWritable, or what opening a layer raises."""
        with writing(self.path):
            make_folders(self.path)
            for layer in image.layers:
                if not is_foreign(layer.descriptor.media_type):
                    self._add_layer(layer)
            self.blobs.write([image.raw_config], image.manifest.config)
            self.blobs.write([image.manifest.raw], image.descriptor)
            pairs = ((REF_NAME, name),) if name else ()
            entry = replace(image.descriptor, annotations=pairs, platform=image.config.platform)
            self.update(lambda others: _with_entry(others, entry))
        return entry

    def entries(self) -> tuple[Descriptor, ...]:
        """What index.json names; nothing where there is none yet. Raises LayoutBroken, OSError."""
        return self._index().manifests if (self.path / "index.json").exists() else ()

    def update(self, change: Callable[[Sequence[Descriptor]], Sequence[Descriptor]]) -> None:
        """Puts other entries into index.json, which is read and written as one step. The blobs of
        new ones have to be there already. Raises LayoutBroken, OSError."""
        make_folders(self.path)
        with self._locked():
            if not (self.path / "oci-layout").exists():
                self._write_file("oci-layout", LAYOUT_FILE)
            index = make_index(change(self.entries()), Family.OCI)
            self._write_file("index.json", index.raw)

    def image(self, name: str = "", platform: Platform | None = None) -> Image:
        """The image of that name; without a name the only one that is there.

        Raises LayoutBroken, ImageMissing; ContentMismatch where a blob is damaged.
        """
        index = self._index()
        found: Manifest | Index = index
        descriptor = self._named(index, name)
        for _ in range(_NESTED_INDEXES):
            raw = self._whole(descriptor)
            found = parse_manifest(raw, descriptor.media_type)
            if isinstance(found, Manifest):
                break
            descriptor = self._of_platform(found, platform, name)
        if not isinstance(found, Manifest):
            raise LayoutBroken(f"{self.path}: {name or 'the image'} is an index of indexes")
        raw_config = self._whole(found.config)
        config = ImageConfig.from_json(raw_config)
        if len(config.diff_ids) != len(found.layers):
            raise BadManifest(
                f"{self.path}: the manifest has {len(found.layers)} layers, "
                f"the config {len(config.diff_ids)}"
            )
        layers = tuple(
            Layer(blob, diff_id, partial(self.blobs.open, blob))
            for blob, diff_id in zip(found.layers, config.diff_ids, strict=True)
        )
        return Image(config, raw_config, found, layers)

    def names(self) -> tuple[str, ...]:
        """The names of all images that have one, in the order of index.json."""
        names = (dict(entry.annotations).get(REF_NAME, "") for entry in self._index().manifests)
        return tuple(name for name in names if name)

    def _add_layer(self, layer: Layer) -> None:
        if not self.blobs.has(layer.descriptor):
            self.blobs.write(layer.open(), layer.descriptor)

    def _index(self) -> Index:
        path = self.path / "index.json"
        try:
            with path.open("rb") as file:
                raw = file.read(_INDEX_LIMIT)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise LayoutBroken(
                f"{self.path} is no OCI image layout: it has no index.json"
            ) from None
        try:
            found = parse_manifest(raw, OCI_INDEX)
        except BadManifest as error:
            raise LayoutBroken(f"{path}: {error.message}") from error
        if not isinstance(found, Index):
            raise LayoutBroken(f"{path} is no index")
        return found

    def _named(self, index: Index, name: str) -> Descriptor:
        if not name and len(index.manifests) == 1:
            return index.manifests[0]
        for entry in index.manifests:
            if name and name in (dict(entry.annotations).get(REF_NAME), entry.digest):
                return entry
        known = ", ".join(self.names()) or f"{len(index.manifests)} images without a name"
        asked = f"no image {name}" if name else "not just one image"
        raise ImageMissing(f"{self.path} has {asked}; it has {known}")

    def _of_platform(self, index: Index, platform: Platform | None, name: str) -> Descriptor:
        if platform is None and len(index.manifests) == 1:
            return index.manifests[0]
        offered = [entry.platform for entry in index.manifests]
        position = choose(offered, platform) if platform is not None else None
        if position is None:
            known = ", ".join(str(one) for one in offered if one) or "none"
            raise ImageMissing(
                f"{self.path}: {name or 'the image'} has nothing for "
                f"{platform or 'no platform in particular'}; it has {known}"
            )
        return index.manifests[position]

    def _whole(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > _INDEX_LIMIT:
            raise LayoutBroken(f"{self.path}: {descriptor.digest} is too big to be read as JSON")
        try:
            return b"".join(self.blobs.open(descriptor))
        except FileNotFoundError:
            raise LayoutBroken(f"{self.path}: blob {descriptor.digest} is missing") from None

    def _write_file(self, name: str, content: bytes) -> None:
        with beside(self.path / name) as (_, file):
            file.write(content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """index.json is read and written as one step, whoever else adds an image. The lock is on
        the folder itself, since a layout has no place for a lock file; where a network volume locks
        only files that are open for writing, there has to be one."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with ExitStack() as stack:
            stack.callback(os.close, folder)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_FOLDER_LOCKS:
                    raise
                stack.enter_context(locked(self.path / ".lock"))
            yield


def _with_entry(others: Sequence[Descriptor], entry: Descriptor) -> list[Descriptor]:
    """What others wrote stays; an entry of the same name or content is replaced."""
    name = dict(entry.annotations).get(REF_NAME, "")
    kept = []
    for other in others:
        same = dict(other.annotations).get(REF_NAME, "") == name
        if not (same and (name or other.digest == entry.digest)):
            kept.append(other)
    return [*kept, entry]


def layout_index(entries: list[Descriptor]) -> bytes:
    """An index.json as compact JSON, for an archive."""
    body = json.loads(make_index(entries, Family.OCI).raw)
    return json.dumps(body, separators=(",", ":")).encode()
