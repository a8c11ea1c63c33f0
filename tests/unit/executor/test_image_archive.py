"""Image archives of Docker, podman, kaniko and our own, read for `executor push`."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from pybuild.errors import PybuildError
from pybuild.executor.image_archive import ArchiveUnreadable, read_archive
from pybuild.image.digest import digest_of
from pybuild.image.image import Image
from pybuild.image.media_type import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER_ZSTD,
    Family,
)
from pybuild.image.reference import parse_reference
from pybuild.image.verify import DigestMismatch
from pybuild.store.archive import write_archive
from tests.support.layers import archive, member

LAYER = archive(member("etc/x", data=b"x" * 3000))
OTHER = archive(member("etc/y", data=b"y"))


def config_of(*tars: bytes) -> bytes:
    diff_ids = [f"sha256:{sha256(tar).hexdigest()}" for tar in tars]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()


def entry(config: str, *layers: str, tags: tuple[str, ...] = ("a:1",)) -> dict[str, object]:
    return {"Config": config, "RepoTags": list(tags), "Layers": list(layers)}


def write(folder: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """An archive of these files, and symbolic links by name."""
    path = folder / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def docker_save(folder: Path, *layers: bytes, tars: tuple[bytes, ...] = ()) -> Path:
    """As Docker before 25 wrote it; `tars` are what the layers unpack to."""
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    files = {"c.json": config_of(*(tars or layers)), **dict(zip(names, layers, strict=True))}
    manifest = json.dumps([entry("c.json", *names)]).encode()
    return write(folder, {**files, "manifest.json": manifest})


def blobs(image: Image) -> list[bytes]:
    return [b"".join(layer.open()) for layer in image.layers]


def test_uncompressed_layers_are_compressed(tmp_path: Path) -> None:
    image = read_archive(docker_save(tmp_path, LAYER, OTHER), tmp_path)
    assert [gzip.decompress(blob) for blob in blobs(image)] == [LAYER, OTHER]
    assert [layer.descriptor.media_type for layer in image.layers] == [DOCKER_LAYER_GZIP] * 2
    assert image.manifest.family is Family.DOCKER
    assert image.manifest.config.media_type == DOCKER_CONFIG
    assert image.raw_config == config_of(LAYER, OTHER)
    assert [layer.diff_id for layer in image.layers] == [digest_of(LAYER), digest_of(OTHER)]


def test_compressed_layers_stay_as_they_are(tmp_path: Path) -> None:
    packed = gzip.compress(LAYER, 9)
    image = read_archive(docker_save(tmp_path, packed, tars=(LAYER,)), tmp_path)
    assert blobs(image) == [packed]
    assert image.layers[0].descriptor.digest == digest_of(packed)


def test_zstd_makes_an_oci_image(tmp_path: Path) -> None:
    packed = zstandard.compress(LAYER)
    image = read_archive(docker_save(tmp_path, packed, OTHER, tars=(LAYER, OTHER)), tmp_path)
    assert image.layers[0].descriptor.media_type == OCI_LAYER_ZSTD
    assert image.manifest.config.media_type == OCI_CONFIG and blobs(image)[0] == packed


def test_what_was_written_has_the_digest_that_it_had(tmp_path: Path) -> None:
    image = read_archive(docker_save(tmp_path, LAYER), tmp_path)
    again = tmp_path / "again.tar"
    write_archive(image, [parse_reference("a:1"), parse_reference("a:2")], again)
    found = read_archive(again, tmp_path / "not-needed")
    assert found.manifest.raw == image.manifest.raw and blobs(found) == blobs(image)


def test_a_layer_that_is_a_link(tmp_path: Path) -> None:
    files = {
        "c.json": config_of(LAYER, LAYER),
        "one/layer.tar": LAYER,
        "manifest.json": json.dumps([entry("c.json", "one/layer.tar", "two/layer.tar")]).encode(),
    }
    path = write(tmp_path, files, {"two/layer.tar": "../one/layer.tar"})
    assert len(read_archive(path, tmp_path).layers) == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x": b""}, "it has no manifest.json"),
        ({"manifest.json": b"{"}, "is no JSON"),
        ({"manifest.json": b"{}"}, "no list of images"),
        ({"manifest.json": b"[]"}, "holds 0 images (none)"),
        (
            {"manifest.json": json.dumps([entry("c"), entry("c", tags=("b:2",))]).encode()},
            "holds 2 images (a:1, b:2)",
        ),
        ({"manifest.json": json.dumps([entry("c.json")]).encode()}, "it has no c.json"),
        (
            {"manifest.json": json.dumps([entry("c.json", "l")]).encode(),
             "c.json": config_of(LAYER)},
            "the layer l is missing",
        ),
        (
            {"manifest.json": json.dumps([entry("c.json")]).encode(), "c.json": config_of(LAYER)},
            "has 0 layers, its config names 1",
        ),
    ],
)  # fmt: skip
def test_what_is_no_image(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(PybuildError) as caught:
        read_archive(write(tmp_path, files), tmp_path)
    assert words in caught.value.message and "image.tar" in caught.value.message


def test_a_layer_that_is_another_one(tmp_path: Path) -> None:
    for layer in (OTHER, gzip.compress(OTHER)):
        with pytest.raises(DigestMismatch):
            read_archive(docker_save(tmp_path, layer, tars=(LAYER,)), tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "is no image archive"),
        (gzip.compress(LAYER), "is compressed with gzip"),
        (zstandard.compress(LAYER), "is compressed with zstd"),
        (LAYER[:700], "is no image archive"),
    ],
    ids=["text", "gzip", "zstd", "cut off"],
)
def test_what_is_no_archive(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ArchiveUnreadable, match=words) as caught:
        read_archive(path, tmp_path)
    assert caught.value.hint
    with pytest.raises(ArchiveUnreadable, match="can't be read"):
        read_archive(tmp_path / "none", tmp_path)
