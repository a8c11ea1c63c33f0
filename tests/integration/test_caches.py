"""Several caches, in repositories, folders and images; what is spared by a warm one, counted at the
registry; and caches that lie or break off while a build relies on them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import cache_bench
from tests.support.cache_bench import Bench, Built
from tests.support.proxy import Instead
from tests.support.registry import is_available, running_registry

pytestmark = [
    pytest.mark.xdist_group("caches"),
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root here"),
    pytest.mark.skipif(not is_available(), reason="not installed: docker-registry"),
]
registry, proxy, bench = cache_bench.registry, cache_bench.proxy, cache_bench.bench

# A builder with its dependencies apart, a second one, a stage of assets, and what is shipped.
FOUR_STAGES = """\
FROM BASE AS dependencies
COPY deps.txt /src/
RUN mkdir -p /lib && sed 's/^/lib /' /src/deps.txt > /lib/all
FROM dependencies AS app
COPY app /src/app
RUN cat /lib/all /src/app/* > /app.bin
FROM BASE AS assets
COPY assets /assets
RUN cat /assets/* > /site
FROM BASE
WORKDIR /srv
COPY --from=app /app.bin /srv/
COPY --from=assets /site /srv/
RUN cat app.bin site > both
CMD ["cat", "/srv/both"]
"""
STEPS = 2 + 2 + 2 + 4


def four_stages(bench: Bench) -> None:
    bench.write(FOUR_STAGES)
    for name in ("deps.txt", "app/main", "app/util", "assets/page", "assets/style"):
        bench.project.write(name, f"{name}\n")


def nothing_was_moved(bench: Bench, built: Built) -> None:
    """No layer came from anywhere: of blobs only the config of the base, once."""
    assert not built.ran and built.all("build-started")[0]["isolation"] == "none"
    fetched = [one.path for one in bench.proxy.asked
               if one.method == "GET" and "/blobs/" in one.path]  # fmt: skip
    assert len(fetched) == 1 and "/base/busybox/blobs/" in fetched[0]
    assert not [one for one in bench.proxy.asked if one.method in ("PATCH", "PUT")
                and "/blobs/uploads/" in one.path and bench.cache in one.path]  # fmt: skip


def test_a_warm_rebuild_of_four_stages_moves_no_layer(bench: Bench) -> None:
    four_stages(bench)
    assert len(bench.build().ran) == STEPS
    first = bench.image()
    warm = bench.build(tag="2")
    nothing_was_moved(bench, warm)
    assert sorted(warm.skipped) == ["app", "assets", "dependencies"]
    assert bench.image("2").diff_ids == first.diff_ids
    assert len(warm.cached) == 4, "those of the image alone; the others were not even begun"
    asked = bench.proxy.count("GET", f"{bench.cache}/manifests/")
    assert asked == STEPS + 1, "each key once, in one burst, and the record of uses"


@pytest.mark.parametrize(
    ("edit", "ran"),
    [
        pytest.param(
            "app/main",
            ["COPY /src/app", "RUN /app.bin", "COPY /srv/", "COPY /srv/", "RUN both"],
            id="of one source file",
        ),
        pytest.param("assets/page", ["COPY /assets", "RUN /site", "COPY /srv/", "RUN both"],
                     id="of another stage's"),
        pytest.param("unused", [], id="of nothing that is taken"),
    ],
)  # fmt: skip
def test_an_edit_rebuilds_only_what_depends_on_it(bench: Bench, edit: str, ran: list[str]) -> None:
    four_stages(bench)
    bench.build()
    bench.project.write(edit, "another\n")
    edited = bench.build()
    assert sorted(edited.ran) == sorted(ran)
    if ran:
        assert "another" in bench.image().read("srv/both")
    if edit == "assets/page":
        assert sorted(edited.skipped) == ["app", "dependencies"]
    again = bench.build()
    nothing_was_moved(bench, again)


def test_an_early_stage_that_gives_the_same_again_stops_the_rebuild(bench: Bench) -> None:
    """Its sources and its command change, and what is taken from it does not."""
    four_stages(bench)
    bench.build()
    before = bench.image()
    bench.project.write("deps.txt", "deps.txt\n# nothing\n")
    bench.write(
        FOUR_STAGES.replace("sed 's/^/lib /'", "sed '/^#/d;s/^/lib /'").replace(
            "cat /assets/*", "sleep 0; cat /assets/*"
        )
    )
    time.sleep(1.02 - time.time() % 1)  # layers hold whole seconds
    built = bench.build()
    assert sorted(built.ran) == sorted(
        ["COPY /src/", "RUN /lib/all", "COPY /src/app", "RUN /app.bin", "RUN /site"]
    )
    assert built.cached[-4:] == ["WORKDIR /srv", "COPY /srv/", "COPY /srv/", "RUN both"]
    assert bench.image().diff_ids == before.diff_ids


# Caches in folders


def test_a_cache_in_a_folder(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    four_stages(bench)
    place = f"--cache-repo=oci:{folder}"
    assert len(bench.build(place).ran) == STEPS
    warm = bench.build(place, tag="2")
    assert not warm.ran and sorted(warm.skipped) == ["app", "assets", "dependencies"]
    assert bench.image("2").diff_ids == bench.image("1").diff_ids
    assert not bench.proxy.matching("GET", bench.cache)
    layout = json.loads((folder / "oci-layout").read_bytes())
    assert layout == {"imageLayoutVersion": "1.0.0"}
    bench.project.write("assets/page", "another\n")
    assert "another" in _both(bench, bench.build(place))


def _both(bench: Bench, built: Built) -> str:
    assert built.ran
    return bench.image().read("srv/both")


def test_builds_that_share_a_folder_at_once(bench: Bench, tmp_path: Path) -> None:
    place = f"--cache-repo=oci:{tmp_path}/layers"
    four_stages(bench)
    running = [bench.start(place, tag=str(number)) for number in range(3)]
    for one in running:
        bench.result(one.finish())
    assert not bench.build(place).ran
    index = json.loads((tmp_path / "layers/index.json").read_bytes())
    names = [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]]
    assert len(names) == len(set(names)) >= STEPS
    assert not list((tmp_path / "layers").rglob("*.partial"))


@pytest.mark.parametrize("what", ["index.json", "a blob", "a manifest", "gone", "file"])
def test_a_broken_folder_costs_a_rebuild_and_no_build(
    bench: Bench, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "layers"
    place = f"--cache-repo=oci:{folder}"
    text = "FROM BASE\nRUN echo 1 > /a\nCOPY d /d\n"
    bench.write(text)
    bench.build(place)
    bench.write(text + "RUN cat /a > /b\n")
    blobs = sorted((folder / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    if what == "index.json":
        (folder / "index.json").write_text("{")
    elif what == "gone":
        for blob in blobs:
            blob.unlink()
    elif what == "file":
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
        (folder / "index.json").mkdir()
    else:
        for blob in blobs:
            data = blob.read_bytes()
            if (data[:1] == b"{") is (what == "a manifest"):
                blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    built = bench.build(place)
    assert "RUN /b" in built.ran and bench.image().read("b") == "1\n"
    assert bench.image().read("d") == "d"
    told = built.notices("cache-unusable") + built.notices("cached-layer-lost")
    assert (len(told) == 0) if what == "gone" else (1 <= len(told) <= 3), told


# Several


def test_what_another_cache_has_is_taken_and_named_in_ones_own(bench: Bench) -> None:
    four_stages(bench)
    host, theirs = bench.proxy.host, f"{bench.name}/theirs"
    bench.build(f"--cache-repo={host}/{theirs}")
    source = f"--cache-from={host}/{theirs}"
    taken = bench.build(source, tag="2")
    nothing_was_moved(bench, taken)
    bench.write(FOUR_STAGES.replace("cat app.bin site", "cat site app.bin"))
    edited = bench.build(source)
    assert edited.ran == ["RUN both"]
    assert len({entry["diff-id"] for entry in bench.entries().values()}) == 1, "what ran"
    assert not bench.build(source).ran


def test_a_second_key_that_another_cache_has_is_brought_along(bench: Bench) -> None:
    text = (
        "FROM BASE AS b\nCOPY src /src\nRUN cat /src/used > /out\nFROM BASE\nCOPY --from=b /out /\n"
    )
    bench.write(text)
    bench.project.write("src/used", "u")
    bench.project.write("src/other", "1")
    host, theirs = bench.proxy.host, f"{bench.name}/theirs"
    bench.build(f"--cache-repo={host}/{theirs}")
    bench.project.write("src/other", "2")
    source = f"--cache-from={host}/{theirs}"
    built = bench.build(source)
    assert built.cached == ["COPY /"]
    assert bench.build().skipped == ["b"], "without the other one: its layer is here now"


def test_a_cache_to_read_from_needs_no_cache_to_write_to(bench: Bench) -> None:
    four_stages(bench)
    bench.build()
    host = bench.proxy.host
    bench.proxy.forget()
    only = bench.result(
        bench.project.executor(
            "--context=dir://.", f"--destination={host}/{bench.name}/app:3",
            f"--cache-from={host}/{bench.cache}", "--log-format=json",
        )
    )  # fmt: skip
    nothing_was_moved(bench, only)
    assert not [one for one in bench.proxy.asked if bench.cache in one.path
                and one.method not in ("GET", "HEAD")]  # fmt: skip


def test_one_of_several_caches_is_down(bench: Bench) -> None:
    four_stages(bench)
    bench.build()
    built = bench.build("--cache-from=127.0.0.1:9/cache", "--cache-from=oci:/nowhere/at/all")
    assert not built.ran and len(built.notices("cache-unusable")) == 1


# Inline


def test_an_image_is_a_cache_if_it_was_built_so(bench: Bench) -> None:
    four_stages(bench)
    host = bench.proxy.host
    image = f"{host}/{bench.name}/app:1"
    flags = ["--cache=false", "--inline-cache"]
    cold = bench.build("--inline-cache", f"--cache-from={image}", "--no-push-cache")
    assert "there is no such image yet" in cold.notices("cache-unusable")[0]
    assert not bench.entries(), "nothing but the image"
    first = bench.image()
    warm = bench.result(_from_image(bench, image, "2"))
    assert not warm.ran and sorted(warm.skipped) == ["app", "assets", "dependencies"]
    assert bench.image("2").diff_ids == first.diff_ids
    assert bench.image("2").config["org.pybuild.cache.v1"] == first.config["org.pybuild.cache.v1"]
    bench.project.write("assets/page", "another\n")
    edited = bench.result(_from_image(bench, image, "3"))
    assert sorted(edited.ran) == sorted(["COPY /assets", "RUN /site", "COPY /srv/", "RUN both"]), (
        "what was not pushed has to be built, and only that"
    )
    plain = bench.build(*flags[:1], tag="4")
    assert len(plain.ran) == STEPS and "org.pybuild.cache.v1" not in bench.image("4").config
    told = bench.result(_from_image(bench, f"{host}/{bench.name}/app:4", "5"))
    assert "without --inline-cache" in told.notices("cache-unusable")[0]


def _from_image(bench: Bench, image: str, tag: str) -> cache_bench.Finished:
    bench.proxy.forget()
    return bench.project.executor(
        "--context=dir://.", f"--destination={bench.proxy.host}/{bench.name}/app:{tag}",
        f"--cache-from={image}", "--inline-cache", "--log-format=json",
    )  # fmt: skip


def test_an_inline_cache_keeps_equal_builds_equal(bench: Bench) -> None:
    four_stages(bench)
    digests = set()
    for tag in ("1", "2"):
        bench.build("--inline-cache", "--reproducible", "--no-push-cache", tag=tag)
        raw = bench.ask("GET", f"/v2/{bench.name}/app/manifests/{tag}")
        digests.add(hashlib.sha256(raw).hexdigest())
    assert len(digests) == 1


# What is promised and not kept


LATER = "FROM BASE\nRUN echo 1 > /a\nCOPY d /d\nRUN cat /a > /b\n"


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda data: Instead(200, flipped(data)), id="damaged"),
        pytest.param(lambda data: Instead(200, data[:-1]), id="short"),
        pytest.param(lambda _: Instead(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}'), id="404"),
        pytest.param(lambda _: Instead(403, b"{}"), id="refused"),
        pytest.param(lambda _: Instead(500, b"{}"), id="500"),
    ],
)
def test_a_cached_layer_that_can_not_be_read_is_made_again(
    bench: Bench, answer: Callable[[bytes], Instead]
) -> None:
    bench.write(LATER)
    bench.build()
    bench.write(LATER + "RUN cat /a /b > /c\n")
    digest = bench.image().manifest["layers"][1]["digest"]
    data = bench.ask("GET", f"/v2/{bench.cache}/blobs/{digest}")
    bench.proxy.rule = lambda method, path: (
        answer(data) if method == "GET" and digest in path and bench.cache in path else None
    )
    built = bench.build()
    assert len(built.notices("cached-layer-lost")) == 1
    assert bench.image().read("c") == "1\n1\n" and bench.is_one_chain(bench.image())


def test_a_layer_that_is_lost_on_its_way_to_another_registry(bench: Bench, tmp_path: Path) -> None:
    """Read only to be pushed: no step needs it."""
    bench.write(LATER)
    place = f"--cache-repo=oci:{tmp_path}/layers"
    bench.build(place)
    digest = bench.image().manifest["layers"][1]["digest"]
    blob = tmp_path / "layers/blobs" / digest.replace(":", "/")
    blob.write_bytes(flipped(blob.read_bytes()))
    finished = bench.project.executor(
        "--context=dir://.", f"--destination={bench.proxy.host}/{bench.name}/elsewhere:1",
        "--cache", place, "--log-format=json",
    )  # fmt: skip
    built = bench.result(finished)
    assert len(built.notices("cached-layer-lost")) == 1
    raw = bench.ask("GET", f"/v2/{bench.name}/elsewhere/manifests/1")
    assert digest not in raw.decode()


def test_an_entry_whose_layer_is_another_than_it_says(bench: Bench) -> None:
    """Its bytes are what the descriptor names, but unpack to something else."""
    bench.write(LATER)
    bench.build()
    entry = next(e for e in bench.entries().values() if e["diff-id"] == bench.image().diff_ids[1])
    lie = json.loads(entry["raw"])
    others = bench.image().manifest["layers"][2]
    lie["layers"][0] = {**others, "mediaType": lie["layers"][0]["mediaType"]}
    kind = "application/vnd.oci.image.manifest.v1+json"
    key = next(key for key, one in bench.entries().items() if one["raw"] == entry["raw"]
               and key[:12] == bench.first_keys()[0])  # fmt: skip
    bench.ask("PUT", f"/v2/{bench.cache}/manifests/{key}", json.dumps(lie).encode(), kind)
    bench.write(LATER + "RUN cat /a /b > /c\n")
    built = bench.build()
    assert len(built.notices("cached-layer-lost")) == 1
    assert bench.image().read("c") == "1\n1\n"


# Access


def test_a_cache_behind_a_password(bench: Bench, tmp_path: Path) -> None:
    """Its credentials come from where all others do."""
    four_stages(bench)
    with running_registry(tmp_path / "private", users={"me": "s3cret"}) as private:
        place = f"--cache-repo={private.host}/team/cache"
        refused = bench.build(place)
        assert (
            len(refused.ran) == STEPS and "no credentials" in refused.notices("cache-unusable")[0]
        )
        pair = base64.b64encode(b"me:s3cret").decode()
        config = bench.project.home / ".docker/config.json"
        config.parent.mkdir()
        config.write_text(json.dumps({"auths": {private.host: {"auth": pair}}}))
        assert len(bench.build(place).ran) == STEPS
        warm = bench.build(place)
        assert not warm.ran and "s3cret" not in warm.finished.text
        listed = bench.pybuild("cache", "ls", place)
        assert ": 1 entries" not in listed.stdout and "layer" in listed.stdout


# Flags


@pytest.mark.parametrize(
    ("flag", "cached"),
    [
        ("--cache-run-layers=false", ["COPY /d"]),
        ("--cache-copy-layers=false", ["RUN /a"]),
        ("--cache-copy-layers", ["RUN /a", "COPY /d", "RUN /b"]),
    ],
)
def test_what_is_kept_can_be_chosen(bench: Bench, flag: str, cached: list[str]) -> None:
    text = "FROM BASE\nCOPY d /d\nRUN echo $RANDOM > /a\n"
    bench.write("FROM BASE\nRUN echo 1 > /a\nCOPY d /d\nRUN cat /a > /b\n")
    if flag == "--cache-run-layers=false":
        bench.write(text)
    bench.build(flag)
    built = bench.build(flag)
    assert built.cached[: len(cached)] == cached
    if flag.endswith("false"):
        assert "not to be kept in the cache" in built.reasons
        kinds = {"--cache-run-layers=false": "RUN", "--cache-copy-layers=false": "COPY"}
        assert not any(one.startswith(kinds[flag]) for one in built.cached)
        assert "not to be kept in the cache" in bench.plan(flag)


def test_the_plan_names_the_cache_and_the_folder_that_serve(bench: Bench, tmp_path: Path) -> None:
    four_stages(bench)
    bench.build()
    host = bench.proxy.host
    shown = bench.plan(f"--cache-from={host}/{bench.cache}", f"--cache-repo=oci:{tmp_path}/none")
    assert shown.count(f"in {host}/{bench.cache}") == STEPS
    assert re.search(r"stage app .*\n.*not built: all that others take from it is cached", shown)
