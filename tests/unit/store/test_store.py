from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from pybuild.errors import ContentMismatch
from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import BadManifest, Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.image import Image
from pybuild.image.layer import Layer
from pybuild.image.manifest import make_index, make_manifest
from pybuild.image.media_type import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    Family,
)
from pybuild.image.platform import Platform, parse_platform
from pybuild.image.reference import parse_reference
from pybuild.store.archive import _header, write_archive
from pybuild.store.blobs import BlobStore
from pybuild.store.errors import ImageMissing, LayoutBroken, OutputNotWritable
from pybuild.store.layout import Layout

AMD64 = parse_platform("linux/amd64")


def descriptor_of(content: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


def a_layer(files: dict[str, bytes]) -> bytes:
    """A plain tar, so that other tools can read the image too."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_image(*contents: bytes, family: Family = Family.OCI, platform: Platform = AMD64) -> Image:
    blobs = contents or (a_layer({"a": b"1"}), a_layer({"b": b"2" * 3000}))
    oci = family is Family.OCI
    layers = tuple(
        Layer(
            descriptor_of(blob, OCI_LAYER if oci else DOCKER_LAYER_GZIP),
            digest_of(blob),
            lambda blob=blob: iter([blob[:100], blob[100:]]),  # type: ignore[misc]
        )
        for blob in blobs
    )
    config = ImageConfig(platform, diff_ids=tuple(layer.diff_id for layer in layers))
    raw = config.to_json()
    described = descriptor_of(raw, OCI_CONFIG if oci else DOCKER_CONFIG)
    manifest = make_manifest(described, [layer.descriptor for layer in layers], family)
    return Image(config, raw, manifest, layers)


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Blobs


@pytest.mark.parametrize("linked", [True, False])
def test_a_file_becomes_a_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    if not linked:

        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "another filesystem")

        monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "file"
    source.write_bytes(b"hello")
    store = BlobStore(tmp_path / "blobs")
    path = store.add(source, descriptor_of(b"hello"))
    assert path == store.path(digest_of(b"hello"))
    assert path.name == hashlib.sha256(b"hello").hexdigest()
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o644
    assert b"".join(store.open(descriptor_of(b"hello"))) == b"hello"
    assert len(names_below(tmp_path / "blobs")) == 1


def test_a_stream_that_is_not_what_was_named_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    for chunks in ([b"hell"], [b"hello!"], [b"hellO"]):
        with pytest.raises(ContentMismatch):
            store.write(chunks, descriptor_of(b"hello"))
    assert names_below(tmp_path) == set()
    assert not store.has(descriptor_of(b"hello"))


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hell")
    with pytest.raises(ContentMismatch):
        BlobStore(tmp_path / "blobs").add(tmp_path / "file", descriptor_of(b"hello"))


def test_a_truncated_blob_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    path = store.write([b"hello"], descriptor_of(b"hello"))
    path.write_bytes(b"hel")
    assert not store.has(descriptor_of(b"hello"))
    store.write([b"hello"], descriptor_of(b"hello"))
    assert path.read_bytes() == b"hello"


def test_a_damaged_blob_is_noticed_on_reading(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.write([b"hello"], descriptor_of(b"hello")).write_bytes(b"hellO")
    with pytest.raises(ContentMismatch):
        b"".join(store.open(descriptor_of(b"hello")))


# Layout


@pytest.mark.parametrize("family", list(Family))
def test_an_image_comes_back_from_a_layout(tmp_path: Path, family: Family) -> None:
    image = make_image(family=family)
    layout = Layout(tmp_path / "deep" / "layout")
    layout.add(image, "app:1")
    found = layout.image("app:1")
    assert (found.config, found.raw_config, found.manifest) == (
        image.config,
        image.raw_config,
        image.manifest,
    )
    for here, there in zip(found.layers, image.layers, strict=True):
        assert (here.descriptor, here.diff_id) == (there.descriptor, there.diff_id)
        assert b"".join(here.open()) == b"".join(there.open())
    for name in ("", image.manifest.digest):
        assert layout.image(name).manifest == image.manifest
    assert json.loads((layout.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_a_name_moves_and_others_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    one, two = make_image(a_layer({"1": b"1"})), make_image(a_layer({"2": b"2"}))
    layout.add(one, "a")
    layout.add(one, "b")
    layout.add(two, "a")
    layout.add(two)
    layout.add(two)
    assert layout.names() == ("b", "a")
    assert layout.image("a").manifest.digest == two.manifest.digest
    assert layout.image("b").manifest.digest == one.manifest.digest
    assert len(json.loads((tmp_path / "index.json").read_bytes())["manifests"]) == 3


def test_many_add_at_once(tmp_path: Path) -> None:
    image = make_image()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: Layout(tmp_path).add(image, f"app:{number}"), range(12)))
    assert sorted(Layout(tmp_path).names()) == sorted(f"app:{number}" for number in range(12))
    assert {name for name in names_below(tmp_path) if "/." in name or name[0] == "."} == set()


def test_a_layer_that_fails_adds_no_image(tmp_path: Path) -> None:
    image = make_image()

    def broken() -> Iterator[bytes]:
        yield b"wrong"

    last = replace(image.layers[1], open=broken)
    with pytest.raises(ContentMismatch):
        Layout(tmp_path).add(replace(image, layers=(image.layers[0], last)), "app")
    assert not (tmp_path / "index.json").exists()


def test_a_platform_is_chosen_from_an_index(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    arm = make_image(a_layer({"arm": b""}), platform=parse_platform("linux/arm64"))
    amd = make_image(a_layer({"amd": b""}))
    entries = [layout.add(image, "") for image in (arm, amd)]
    index = make_index(entries, Family.OCI)
    layout.blobs.write([index.raw], index.descriptor)
    outer = make_index([index.descriptor], Family.OCI)
    (tmp_path / "index.json").write_bytes(outer.raw)
    assert layout.image("", AMD64).manifest == amd.manifest
    with pytest.raises(ImageMissing, match="linux/arm64, linux/amd64"):
        layout.image("", parse_platform("linux/s390x"))
    with pytest.raises(ImageMissing):
        layout.image()


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(LayoutBroken, match=r"index\.json"):
        Layout(tmp_path / "none").image()
    layout = Layout(tmp_path / "layout")
    image = make_image()
    layout.add(image, "app:1")
    with pytest.raises(ImageMissing, match="it has app:1"):
        layout.image("app:2")
    layout.blobs.remove(image.manifest.config.digest)
    with pytest.raises(LayoutBroken, match="is missing"):
        layout.image("app:1")
    (layout.path / "index.json").write_text("{")
    with pytest.raises(LayoutBroken, match="no JSON"):
        layout.image()


def test_layers_and_config_have_to_agree(tmp_path: Path) -> None:
    image = make_image()
    short = replace(image, layers=image.layers[:1])
    manifest = make_manifest(image.manifest.config, [short.layers[0].descriptor], Family.OCI)
    layout = Layout(tmp_path)
    layout.add(replace(short, manifest=manifest), "app")
    with pytest.raises(BadManifest, match="1 layers"):
        layout.image("app")


def test_a_place_that_can_t_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="file/layout"):
        Layout(tmp_path / "file" / "layout").add(make_image())
    with pytest.raises(OutputNotWritable, match="file/out"):
        write_archive(make_image(), [], tmp_path / "file" / "out.tar")


# Archive


def read_archive(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        files = [member for member in archive if member.isfile()]
        return {member.name: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def test_an_archive_holds_both_forms(tmp_path: Path) -> None:
    image = make_image()
    tags = [parse_reference(text) for text in ("app:1", "reg.example:5000/team/app:2")]
    write_archive(image, tags, tmp_path / "image.tar")
    files = read_archive(tmp_path / "image.tar")
    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == ["docker.io/library/app:1", "reg.example:5000/team/app:2"]
    assert files[entry["Config"]] == image.raw_config
    assert [files[name] for name in entry["Layers"]] == [
        b"".join(layer.open()) for layer in image.layers
    ]
    index = json.loads(files["index.json"])
    assert [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]] == (
        entry["RepoTags"]
    )
    assert {one["digest"] for one in index["manifests"]} == {image.manifest.digest}
    assert files[f"blobs/sha256/{image.manifest.digest.hex}"] == image.manifest.raw


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar"):
        write_archive(make_image(), [parse_reference("app:1")], tmp_path / name)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_a_layer_that_comes_twice_is_stored_once(tmp_path: Path) -> None:
    layer = a_layer({"a": b"x"})
    write_archive(make_image(layer, layer), [], tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    (entry,) = json.loads(read_archive(tmp_path / "image.tar")["manifest.json"])
    assert len(entry["Layers"]) == 2


def test_an_archive_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "image.tar"
    out.write_text("old")
    image = make_image()
    broken = replace(image.layers[0], open=lambda: iter([b"wrong"]))
    with pytest.raises(ContentMismatch):
        write_archive(replace(image, layers=(broken,)), [], out)
    assert out.read_text() == "old"
    assert names_below(tmp_path) == {"image.tar"}


def test_an_archive_into_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_archive(make_image(), [], pipe)
    reader.join(10)
    with tarfile.open(fileobj=io.BytesIO(read[0])) as archive:
        assert "manifest.json" in archive.getnames()


@pytest.mark.parametrize("size", [0, 1, 8 << 30, 1 << 40, (8 << 30) - 1])
def test_a_header_is_what_tar_reads(size: int) -> None:
    info = tarfile.TarInfo.frombuf(
        _header("blobs/sha256/x", size, kind=b"0", mode=0o644), "utf-8", "strict"
    )
    assert (info.name, info.size, info.mode, info.mtime) == ("blobs/sha256/x", size, 0o644, 0)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("form", ["docker-archive", "oci"])
def test_another_tool_reads_it(tmp_path: Path, form: str) -> None:
    image = make_image(family=Family.OCI)
    if form == "oci":
        Layout(tmp_path / "out").add(image, "1")
        source = f"oci:{tmp_path / 'out'}:1"
    else:
        write_archive(image, [parse_reference("app:1")], tmp_path / "out.tar")
        source = f"docker-archive:{tmp_path / 'out.tar'}"
    done = subprocess.run(
        ["skopeo", "copy", "--insecure-policy", source, f"dir:{tmp_path / 'copy'}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == list(image.config.diff_ids)
