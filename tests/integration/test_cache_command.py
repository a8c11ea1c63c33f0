"""`pybuild cache ls` and `pybuild cache prune` on a repository, a layout and the cache folder."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cache_bench
from tests.support.cache_bench import Bench
from tests.support.proxy import Instead
from tests.support.registry import is_available

pytestmark = [
    pytest.mark.xdist_group("caches"),
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root here"),
    pytest.mark.skipif(not is_available(), reason="not installed: docker-registry"),
]
registry, proxy, bench = cache_bench.registry, cache_bench.proxy, cache_bench.bench
WARMER = cache_bench.PYBUILD.with_name("warmer")
TEXT = "FROM BASE\nRUN echo {} > /a\nCOPY d /d\n"
OLD = time.time() - 40 * 86400


def cache(bench: Bench, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = bench.pybuild("cache", *words)
    assert done.returncode == status, done.stderr
    return done


def listed(bench: Bench, *flags: str) -> list[dict[str, Any]]:
    done = cache(bench, "ls", "--format=json", *flags)
    return [json.loads(line) for line in done.stdout.splitlines()]


def kinds(items: list[dict[str, Any]]) -> list[str]:
    return sorted(item["kind"] for item in items)


@pytest.fixture
def place(bench: Bench) -> str:
    return f"--cache-repo={bench.proxy.host}/{bench.cache}"


# A repository


def test_what_a_repository_holds(bench: Bench, place: str) -> None:
    bench.write(TEXT.format(1))
    bench.build()
    found = listed(bench, place)
    assert kinds(found) == ["index", "layer", "layer"]
    assert all(item["created"] and item["size"] > 0 for item in found)
    assert all(item["used"] for item in found if item["kind"] == "layer")
    table = cache(bench, "ls", place).stdout.splitlines()
    assert table[0].startswith(f"{bench.proxy.host}/{bench.cache}: 3 entries, ")
    assert table[1].split() == ["KIND", "CREATED", "USED", "SIZE", "NAME"]
    assert len(table) == 2 + 3


def test_an_empty_repository(bench: Bench, place: str) -> None:
    assert cache(bench, "ls", place).stdout.endswith(": 0 entries, 0 B\n")
    cache(bench, "prune", place, "--all")


def test_everything_of_a_repository_goes_and_nothing_else(bench: Bench, place: str) -> None:
    bench.write(TEXT.format(1))
    bench.build(f"--destination={bench.proxy.host}/{bench.cache}:mine")
    dry = cache(bench, "prune", place, "--all", "--dry-run")
    assert ": 3 entries, " in dry.stdout and len(bench.entries()) >= 2
    assert not bench.proxy.matching("DELETE", bench.cache)
    gone = cache(bench, "prune", place, "--all")
    assert ": 3 entries, " in gone.stdout and "when it next collects" in gone.stderr
    assert not bench.entries() and not listed(bench, place)
    assert bench.ask("GET", f"/v2/{bench.cache}/manifests/mine"), "an image, and no entry"
    assert len(bench.build().ran) == 2


def test_what_no_build_uses_goes(bench: Bench, place: str) -> None:
    """The record of uses says that the first build's entries were used long ago."""
    bench.write(TEXT.format(1))
    bench.build()
    old = set(bench.entries())
    bench.write(TEXT.format(2))
    bench.build()
    assert not json_lines(cache(bench, "prune", place, "--unused-for=24h", "--format=json"))
    backdate(bench, old)
    gone = json_lines(cache(bench, "prune", place, "--unused-for=24h", "--format=json"))
    assert kinds(gone) == ["layer", "layer"]
    assert not bench.build().ran
    bench.write(TEXT.format(1))
    assert bench.build().ran[0] == "RUN /a"


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def backdate(bench: Bench, keys: set[str]) -> None:
    """As if these had been made and used 40 days ago."""
    day = time.strftime("%Y-%m-%d", time.gmtime(OLD))
    kind = "application/vnd.oci.image.manifest.v1+json"
    raws: dict[bytes, list[str]] = {}
    for key, entry in bench.entries().items():
        if key in keys:
            raws.setdefault(entry["raw"], []).append(key)
    for raw, names in raws.items():
        body = json.loads(raw)
        body["annotations"]["org.pybuild.cache.created"] = f"{day}T00:00:00Z"
        for name in names:
            path = f"/v2/{bench.cache}/manifests/{name}"
            bench.ask("PUT", path, json.dumps(body).encode(), kind)
    tags = json.loads(bench.ask("GET", f"/v2/{bench.cache}/tags/list"))["tags"]
    for tag in tags:
        if tag.startswith("used-"):
            body = json.loads(bench.ask("GET", f"/v2/{bench.cache}/manifests/{tag}"))
            uses = body["annotations"]["org.pybuild.cache.uses"].split()
            uses = [f"{use[:64]}:{day}" if use[:64] in keys else use for use in uses]
            body["annotations"]["org.pybuild.cache.uses"] = " ".join(uses)
            path = f"/v2/{bench.cache}/manifests/{tag}"
            bench.ask("PUT", path, json.dumps(body).encode(), kind)


def test_what_is_old_and_what_is_too_much(bench: Bench, place: str) -> None:
    bench.write(TEXT.format(1))
    bench.build()
    backdate(bench, set(bench.entries()))
    bench.write(TEXT.format(2) + "RUN head -c 200000 /dev/urandom > /big\n")
    bench.build()
    old = cache(bench, "prune", place, "--older-than=720h", "--dry-run", "--format=json")
    assert kinds(json_lines(old)) == ["layer", "layer"]
    much = cache(bench, "prune", place, "--keep-size=190KB", "--dry-run", "--format=json")
    assert sum(item["size"] > 190_000 for item in json_lines(much)) == 1
    little = cache(bench, "prune", place, "--keep-size=210KB", "--format=json")
    assert all(item["size"] < 190_000 for item in json_lines(little))
    left = listed(bench, place)
    assert 190_000 < sum(item["size"] for item in left) <= 210_000


def test_a_registry_that_deletes_nothing(bench: Bench, place: str) -> None:
    bench.write(TEXT.format(1))
    bench.build()
    answer = b'{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}'
    bench.proxy.rule = lambda method, _: Instead(405, answer) if method == "DELETE" else None
    done = cache(bench, "prune", place, "--all", status=1)
    assert "error[delete-refused]" in done.stderr
    assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in done.stderr
    assert len(bench.proxy.matching("DELETE", bench.cache)) == 1, "one refusal is enough"
    bench.proxy.rule = lambda method, _: Instead(403, b"{}") if method == "DELETE" else None
    denied = cache(bench, "prune", place, "--all", status=1)
    assert "error[delete-refused]" in denied.stderr and "the right to delete" in denied.stderr


# Folders


def test_a_layout_of_layers(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    place = f"--cache-repo=oci:{folder}"
    bench.write(TEXT.format(1))
    bench.build(place)
    before = age(folder)
    bench.write(TEXT.format(2))
    bench.build(place)
    assert kinds(listed(bench, place)) == ["index", *["layer"] * 4]
    gone = json_lines(cache(bench, "prune", place, "--unused-for=24h", "--format=json"))
    # made a moment ago, whatever the files' times say
    assert not gone and len(before) > 0
    for manifest in created_long_ago(folder, before):
        assert manifest
    gone = json_lines(cache(bench, "prune", place, "--unused-for=24h", "--format=json"))
    assert kinds(gone) == ["layer", "layer"]
    assert not bench.build(place).ran
    everything = cache(bench, "prune", place, "--all")
    assert ": 3 entries" in everything.stdout
    assert not list((folder / "blobs/sha256").iterdir())
    assert len(bench.build(place).ran) == 2


def age(folder: Path) -> set[Path]:
    found = set((folder / "blobs/sha256").iterdir())
    for path in found:
        os.utime(path, (OLD, OLD))
    return found


def created_long_ago(folder: Path, blobs: set[Path]) -> Iterator[Path]:
    """Entries among the blobs are replaced by such that say that they were made 40 days ago."""
    import hashlib

    index = json.loads((folder / "index.json").read_bytes())
    for path in blobs:
        data = path.read_bytes()
        if not data.startswith(b"{") or b'"diff-id"' not in data.replace(
            b"org.pybuild.cache.", b""
        ):
            continue
        body = json.loads(data)
        body["annotations"]["org.pybuild.cache.created"] = "2020-01-01T00:00:00Z"
        raw = json.dumps(body).encode()
        name = hashlib.sha256(raw).hexdigest()
        new = path.with_name(name)
        new.write_bytes(raw)
        os.utime(new, (OLD, OLD))
        for entry in index["manifests"]:
            if entry["digest"].endswith(path.name):
                entry |= {"digest": f"sha256:{name}", "size": len(raw)}
        yield new
    (folder / "index.json").write_text(json.dumps(index))


def test_the_cache_folder(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    place = f"--cache-dir={folder}"
    image = f"{bench.proxy.host}/base/busybox:latest"
    subprocess.run([WARMER, "-i", image, place], check=True, capture_output=True,
                   env=bench.project.environment({}))  # fmt: skip
    bench.write("FROM BASE\nRUN --mount=type=cache,target=/c echo kept > /c/kept\n")
    bench.build(place, "--cache=false")
    found = listed(bench, place)
    assert kinds(found) == ["image", "index", "mount"]
    assert {item["name"].split()[0] for item in found if item["kind"] == "image"} == {image}
    assert not json_lines(cache(bench, "prune", place, "--unused-for=24h", "--format=json"))
    lock = next((folder / "mounts").rglob("lock"))
    os.utime(lock, (OLD, OLD))
    assert kinds(json_lines(
        cache(bench, "prune", place, "--unused-for=24h", "--format=json")
    )) == ["mount"]  # fmt: skip
    assert not list((folder / "mounts").rglob("kept"))
    stray = folder / "blobs/sha256" / ("0" * 64)
    stray.write_text("left by somebody who was killed")
    gone = cache(bench, "prune", place, "--all", "--format=json")
    assert {"image", "index"} <= set(kinds(json_lines(gone)))
    assert not list((folder / "blobs/sha256").iterdir()) and not list(
        (folder / "indexes/sha256").iterdir()
    )


def test_a_cache_mount_in_use_stays(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    place = f"--cache-dir={folder}"
    bench.write("FROM BASE\nRUN --mount=type=cache,target=/c touch /c/kept; sleep 2; cat /c/kept\n")
    running = bench.start(place, "--cache=false")
    deadline = time.monotonic() + 20
    while not list((folder / "mounts").rglob("kept") if folder.is_dir() else ()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    done = cache(bench, "prune", place, "--all")
    assert "stay, since a build uses them right now" in done.stderr
    bench.result(running.finish())


# Mistakes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["ls", "--cache-dir=/nowhere/at/all"], "no-cache"),
        (["ls", "--cache-repo=oci:/nowhere/at/all"], "no-cache"),
        (["prune", "--cache-dir=/tmp"], "bad-option"),
        (["prune", "--cache-dir=/tmp", "--keep-size=much"], "bad-option"),
        (["prune", "--cache-dir=/tmp", "--older-than=5"], "bad-option"),
        (["sweep"], "unknown-command"),
        (["ls", "--cache-repo=127.0.0.1:9/cache"], "registry-unreachable"),
    ],
)
def test_mistakes(bench: Bench, words: list[str], code: str) -> None:
    assert f"error[{code}]" in cache(bench, *words, status=1).stderr
