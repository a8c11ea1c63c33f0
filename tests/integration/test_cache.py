"""The layer cache with the real command line and a real registry: what is taken, what never is.

Every image is checked layer by layer: each one has to stand on the parent that it was made on.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import cache_bench
from tests.support.cache_bench import Bench
from tests.support.proxy import Instead
from tests.support.registry import RealRegistry, is_available

pytestmark = [
    pytest.mark.xdist_group("cache"),
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root here"),
    pytest.mark.skipif(not is_available(), reason="not installed: docker-registry"),
]
registry, proxy, bench = cache_bench.registry, cache_bench.proxy, cache_bench.bench
RANDOM = "head -c 9 /dev/urandom | base64"


# Only one build's chain


def test_builds_that_store_the_same_keys_at_once_are_never_mixed(bench: Bench) -> None:
    steps = "".join(f"RUN {RANDOM} > /{name}\n" for name in "abc")
    bench.write(f"FROM BASE\n{steps}COPY Dockerfile /\n")
    running = [bench.start(tag=tag) for tag in ("1", "2")]
    for one in running:
        bench.result(one.finish())
    for _ in range(2):
        third = bench.build(tag="3")
        assert bench.is_one_chain(bench.image("3"))
    assert not third.ran, "what the second keys gave is found by the first ones, then"


def test_entries_of_two_builds_under_neighbouring_keys_are_never_mixed(bench: Bench) -> None:
    bench.write(f"FROM BASE\nRUN {RANDOM} > /a\nRUN {RANDOM} > /b\nRUN {RANDOM} > /c\n")
    bench.build(tag="1")
    first = bench.entries()
    step = next(key for key in first if key[:12] == bench.first_keys()[0])
    for diff_id in bench.image("1").diff_ids[1:]:
        bench.evict(diff_id)
    bench.build(tag="2")
    assert bench.image("1").diff_ids[1:] != bench.image("2").diff_ids[1:]
    # the first step's key shows the first build's entry again, the others the second build's
    kind = "application/vnd.oci.image.manifest.v1+json"
    bench.ask("PUT", f"/v2/{bench.cache}/manifests/{step}", first[step]["raw"], kind)
    third = bench.build(tag="3")
    assert third.cached[0] == "RUN /a" and "RUN /b" in third.ran
    assert third.reasons[0] == "the cached layer was made on another parent"
    assert bench.is_one_chain(bench.image("3"))


def test_an_evicted_entry_between_two_hits(bench: Bench) -> None:
    bench.write(f"FROM BASE\nRUN {RANDOM} > /a\nRUN {RANDOM} > /b\nRUN {RANDOM} > /c\n")
    bench.build()
    before = bench.image()
    bench.evict(before.diff_ids[2])
    again = bench.build()
    assert (again.cached, again.ran) == (["RUN /a"], ["RUN /b", "RUN /c"])
    after = bench.image()
    assert after.read("c") != before.read("c") and bench.is_one_chain(after)


def test_a_base_that_moved_under_its_tag(bench: Bench) -> None:
    host = bench.proxy.host
    moving = f"{host}/{bench.name}/moving:1"
    for number in ("1", "2"):
        bench.write(f"FROM BASE\nRUN echo {number} > /number\n")
        bench.build(f"--destination={moving}")
        bench.write(f"FROM {moving}\nRUN cp /number /copy\nCOPY --link d /linked\n")
        built = bench.build()
        assert bench.image().read("copy").strip() == number
        assert "RUN /copy" in built.ran
    assert built.cached == ["COPY /linked"]
    assert not bench.build().ran


def test_an_early_stage_that_gave_something_else_this_time(bench: Bench) -> None:
    bench.write(
        f"FROM BASE AS b\nRUN {RANDOM} > /now; echo same > /same\nFROM BASE\n"
        "COPY --from=b /same /same\nCOPY --from=b /now /now\nCOPY --from=b /now /copy\n"
    )
    bench.build()
    before = bench.image()
    made = next(entry for entry in bench.entries().values() if not entry["taken"])
    bench.evict(made["diff-id"])
    again = bench.build()
    after = bench.image()
    assert after.read("now") != before.read("now") and after.read("copy") == after.read("now")
    assert again.cached == ["COPY /same"]
    assert bench.is_one_chain(after)
    assert bench.build().skipped == ["b"]


# Early cut-off


def wait_for_the_next_second() -> None:
    """Layers hold whole seconds."""
    time.sleep(1.02 - time.time() % 1)


def test_an_edit_that_changes_nothing_in_the_end_is_cut_off(bench: Bench) -> None:
    bench.write(
        "FROM BASE AS b\nCOPY src /src\nRUN cat /src/used > /out\nFROM BASE\n"
        "COPY --from=b /out /out\nRUN cat /out > /final\n"
    )
    bench.project.write("src/used", "u")
    bench.project.write("src/other", "1")
    bench.build()
    before = bench.image()
    bench.project.write("src/other", "2")
    wait_for_the_next_second()
    edited = bench.build()
    assert (edited.ran, edited.cached) == (
        ["COPY /src", "RUN /out"],
        ["COPY /out", "RUN /final"],
    )
    assert bench.image().diff_ids == before.diff_ids
    again = bench.build()
    assert (again.ran, again.skipped) == ([], ["b"])


def test_a_command_that_gives_the_same_takes_the_older_layer(bench: Bench) -> None:
    bench.write("FROM BASE\nRUN echo x > /x\nRUN mkdir /d; date +%N > /d/n\n")
    bench.build()
    before = bench.image()
    wait_for_the_next_second()
    bench.write("FROM BASE\nRUN echo 'x' > /x\nRUN mkdir /d; date +%N > /d/n\n")
    edited = bench.build()
    assert (edited.ran, edited.cached) == (["RUN /x"], ["RUN /d/n"])
    assert bench.image().diff_ids == before.diff_ids
    again = bench.build()
    assert not again.ran and again.all("build-started")[0]["isolation"] == "none"


DIFFERENT = {
    "time": ("touch -d @1000000 /x", "touch -d @2000000 /x"),
    "future": ("touch -d @4000000000 /x", "touch -d @4000000001 /x"),
    "content": ("echo a > /x", "echo b > /x"),
    "mode": ("chmod 600 /etc/group", "chmod 640 /etc/group"),
    "owner": ("chown 1 /etc/group", "chown :1 /etc/group"),
    "removal": ("rm /etc/group", "rm /etc/passwd"),
    "opaque": ("rm -r /var/www", "rm -r /var/www; mkdir /var/www"),
    "link": ("ln -s a /x", "ln -s b /x"),
    "names": ("touch /y; ln /y /z", "touch /y /z"),
    "device": ("mknod /x c 1 3", "mknod /x c 1 5"),
}


def test_commands_that_give_something_else_keep_their_own(bench: Bench) -> None:
    layers: list[set[str]] = []
    for number in range(2):
        stages = [f"FROM BASE AS {name}\nRUN {DIFFERENT[name][number]}\n" for name in DIFFERENT]
        copies = [f"COPY --from={name} /etc/hostname /{name}\n" for name in DIFFERENT]
        bench.write("".join([*stages, "FROM BASE\n", *copies]))
        assert len(bench.build().ran) >= len(DIFFERENT)
        layers.append({entry["diff-id"] for entry in bench.entries().values()})
    assert len(layers[1] - layers[0]) == len(DIFFERENT)


def test_layers_of_a_free_build_never_get_into_a_reproducible_one(bench: Bench) -> None:
    bench.write("FROM BASE\nCOPY Dockerfile /f\nRUN echo x > /x\n")
    bench.build()
    bench.build("--reproducible")
    assert {bench.image().member(path)[1].mtime for path in ("f", "x")} == {0}
    assert bench.build("--reproducible").cached == ["COPY /f", "RUN /x"]
    bench.build()
    assert bench.image().member("x")[1].mtime > 0


# What is in a key, and what is not


def test_a_linked_copy_fits_on_another_base(bench: Bench) -> None:
    """Also on one of the other family: the layer's media type follows the image's."""
    bench.write("FROM BASE\nCOPY --link Dockerfile /first\nCOPY --link a /a\n")
    bench.project.write("a", "a")
    bench.build()
    text = "FROM BASE\nCOPY --link a /a\nRUN cat /a > /b\n"
    bench.write(text.replace("BASE", f"{bench.proxy.host}/base/tools"))
    built = bench.build()
    assert (built.cached, built.ran) == (["COPY /a"], ["RUN /b"])
    image = bench.image()
    assert image.read("b") == "a"
    families = {layer["mediaType"].split(".")[1] for layer in image.manifest["layers"]}
    assert families == {image.manifest["mediaType"].split(".")[1]} == {"oci"}


def test_config_and_build_args(bench: Bench) -> None:
    text = 'FROM BASE\nCOPY Dockerfile.x /x\n{}RUN echo $V > /v\nCMD ["a"]\n'
    bench.project.write("Dockerfile.x", "x")
    bench.write(text.format("ARG V=1\n"))
    bench.build()
    config = 'ARG V=1\nLABEL n={}\nEXPOSE {}\nENTRYPOINT ["b"]\nSTOPSIGNAL 9\nVOLUME /w\n'
    bench.write(text.format(config.format(7, 80)))
    assert not bench.build("--build-arg=UNDECLARED=1", "--label=build=7").ran
    bench.write(text.format(config.format(8, 81)))
    assert not bench.build("--build-arg=UNDECLARED=2", "--label=build=8").ran
    used = bench.build("--build-arg=V=2")
    assert (used.cached, used.ran) == (["COPY /x"], ["RUN /v"])
    assert bench.image().read("v") == "2\n"


def test_secrets_of_proxies_are_nowhere(bench: Bench, registry: RealRegistry) -> None:
    bench.write("FROM BASE\nRUN test $http_proxy; echo x > /x\n")
    bench.build("--build-arg=http_proxy=http://me:hunter2@127.0.0.1:9")
    assert not bench.build("--build-arg=http_proxy=http://me:hunter3@127.0.0.1:9").ran
    for blob in (registry.folder / "data").rglob("data"):
        raw = blob.read_bytes()
        if raw[:2] == b"\x1f\x8b" and len(raw) < 1 << 16:
            raw = gzip.decompress(raw)
        assert b"hunter" not in raw, blob


def test_an_edit_of_one_file_builds_only_what_depends_on_it(bench: Bench) -> None:
    bench.write(
        "FROM BASE AS a\nCOPY a /a\nRUN cat /a > /x\n"
        "FROM BASE AS b\nCOPY --exclude=*.log b /b\nRUN cat /b/f > /y\n"
        "FROM BASE\nCOPY c /c\nCOPY --from=a /x /x\nCOPY --from=b /y /y\n"
    )
    for name in ("a", "b/f", "b/some.log", "c"):
        bench.project.write(name, "1")
    bench.build()
    bench.project.write("b/some.log", "2")
    bench.project.write("unused", "2")
    assert not bench.build().ran
    bench.project.write("b/f", "2")
    edited = bench.build()
    assert edited.ran == ["COPY /b", "RUN /y", "COPY /y"]
    assert (edited.cached, edited.skipped) == (["COPY /c", "COPY /x"], ["a"])
    assert bench.image().read("y") == "2"


@pytest.mark.parametrize("flags", ["--parents", ""])
def test_modes_on_the_way_count_where_they_are_copied(bench: Bench, flags: str) -> None:
    bench.write(f"FROM BASE\nCOPY {flags} src/f /to/\n")
    bench.project.write("src/f", "1")
    bench.build()
    (bench.project.context / "src").chmod(0o700)
    assert bool(bench.build().ran) is bool(flags)


# A whole build from the cache


def test_a_cached_build_fetches_no_layer_and_opens_nothing(bench: Bench) -> None:
    bench.write(
        "FROM BASE AS b\nCOPY Dockerfile /d\nRUN cp /d /e\nFROM b AS c\nRUN cp /e /f\n"
        "FROM BASE\nWORKDIR /w\nCOPY --from=c /f /f\nCOPY --from=b /e /e\nRUN cat /e > /g\n"
    )
    bench.build()
    first = bench.image()
    built = bench.build()
    assert not built.ran and sorted(built.skipped) == ["b", "c"]
    assert built.all("build-started")[0]["isolation"] == "none"
    assert bench.proxy.count("GET", "/blobs/") == 1, "the config of the base"
    assert bench.proxy.count("GET", f"{bench.cache}/manifests/") == 7 + 1, "steps, and uses"
    assert not bench.proxy.matching("PUT", bench.cache)
    assert bench.image().diff_ids == first.diff_ids


def test_a_copy_onto_a_base_fetches_no_layer_of_it(bench: Bench) -> None:
    """Its index is in the cache."""
    bench.write("FROM BASE\nCOPY f /etc/f\n")
    bench.project.write("f", "1")
    bench.build()
    bench.project.write("f", "2")
    bench.build()
    assert bench.image().read("etc/f") == "2"
    assert bench.proxy.count("GET", "base/busybox/blobs/") == 1, "its config"


def test_the_plan_says_what_is_cached_and_why_not_and_does_nothing(bench: Bench) -> None:
    bench.write("FROM BASE AS b\nRUN echo 1 > /a\nFROM BASE\nCOPY --from=b /a /a\nRUN id > /i\n")
    folder = bench.project.out / "cache"
    cold = bench.plan(f"--cache-dir={folder}")
    assert cold.count("not in the cache") == 2 and "a step before it runs" in cold
    bench.build()
    bench.project.leftovers()  # has the first build gone wholly
    files = sorted(bench.project.folder.rglob("*"))
    bench.proxy.forget()
    warm = bench.plan(f"--cache-dir={folder}")
    assert warm.count("cached, ") == 3 and "runs" not in warm
    asked = {one.method for one in bench.proxy.asked}
    assert asked == {"GET", "HEAD"}
    assert sorted(bench.project.folder.rglob("*")) == files
    bench.evict(bench.image().diff_ids[1])
    assert re.search(r"COPY .*\n     runs: not in the cache", bench.plan())
    bench.write("FROM BASE AS b\nRUN echo 1  > /a\nFROM BASE\nCOPY --from=b /a /a\n")
    assert re.search(r"RUN .*\n     runs: not in the cache", bench.plan())


# What does not work, and what lies


THREE = "FROM BASE\nRUN echo 1 > /a\nCOPY d /d\nRUN echo 2 > /b\n"


def test_a_cache_that_is_down(bench: Bench) -> None:
    bench.write(THREE)
    built = bench.build("--cache-repo=127.0.0.1:9/cache")
    assert len(built.ran) == 3 and len(built.notices("cache-unusable")) == 1
    usual = bench.build("--cache=false")
    assert built.finished.seconds < usual.finished.seconds + 3, "one short wait, not five"


def test_a_cache_that_can_only_be_read(bench: Bench) -> None:
    bench.write(THREE)
    bench.build()
    bench.proxy.rule = lambda method, path: (
        Instead(403, b'{"errors":[{"code":"DENIED","message":"read only"}]}')
        if bench.cache in path and method not in ("GET", "HEAD")
        else None
    )
    assert not bench.build().ran
    bench.write(THREE.replace("echo 2", "echo 3") + "RUN echo 4 > /e\n")
    built = bench.build()
    assert len(built.cached) == 2 and len(built.notices("cache-unusable")) == 1


def test_a_cache_that_answers_garbage(bench: Bench) -> None:
    bench.write(THREE)
    bench.build(tag="0")
    raw = next(iter(bench.entries().values()))["raw"].decode()
    bodies = {
        "html": b"<html>",
        "nothing": b"{}",
        "another image": bench.ask("GET", "/v2/base/busybox/manifests/latest"),
        "no digest": re.sub(r'(content": ")[^"]*', r"\g<1>sha256:x", raw).encode(),
    }
    for name, body in bodies.items():
        instead = Instead(200, body, "application/vnd.oci.image.manifest.v1+json")
        bench.proxy.rule = lambda method, path, answer=instead: (
            answer if method == "GET" and f"{bench.cache}/manifests" in path else None
        )
        built = bench.build()
        assert len(built.ran) == 3 and len(built.notices("cache-unusable")) == 1, name
        assert bench.image().read("b") == "2\n"


def test_an_entry_whose_layer_is_gone(bench: Bench) -> None:
    bench.write(THREE)
    bench.build(tag="0")
    lost = bench.image("0").manifest["layers"][2]["digest"]
    bench.ask("DELETE", f"/v2/{bench.cache}/blobs/{lost}")
    built = bench.build()
    assert (built.cached, built.ran) == (["RUN /a", "RUN /b"], ["COPY /d"])
    assert len(built.notices("cache-unusable")) == 1
    assert bench.is_one_chain(bench.image())
    assert not bench.build().ran


def test_a_layer_that_is_not_what_was_promised(bench: Bench) -> None:
    bench.write(THREE)
    bench.build()
    bench.write(THREE + "RUN echo more > /m\n")
    blob = bench.image().manifest["layers"][1]
    body = b"x" * blob["size"]
    bench.proxy.rule = lambda method, path: (
        Instead(200, body) if method == "GET" and blob["digest"] in path else None
    )
    built = bench.build()
    told = built.notices("cached-layer-lost")
    assert len(told) == 1 and blob["digest"] in told[0] and "begins again" in told[0]
    assert built.ran[-1] == "RUN /m" and bench.image().read("m") == "more\n"
    assert blob["digest"] not in str(bench.image().manifest) and bench.is_one_chain(bench.image())


def test_a_layer_that_is_gone_is_not_missed_where_it_is_not_needed(bench: Bench) -> None:
    bench.write("FROM BASE AS b\nRUN echo 1 > /a\nFROM BASE\nCOPY --from=b /a /x\n")
    bench.build()
    early = next(e for e in bench.entries().values() if not e["taken"])
    lost = json.loads(early["raw"])["layers"][0]["digest"]
    bench.ask("DELETE", f"/v2/{bench.cache}/blobs/{lost}")
    assert bench.build().skipped == ["b"]


# Flags


def test_no_push_cache_only_reads(bench: Bench) -> None:
    bench.write(THREE)
    bench.build("--no-push-cache")
    assert not bench.entries()
    bench.build()
    bench.write(THREE + "RUN echo more > /m\n")
    built = bench.build("--no-push-cache")
    assert (len(built.cached), built.ran) == (3, ["RUN /m"])
    assert {one.method for one in bench.proxy.asked if bench.cache in one.path} == {"GET", "HEAD"}


def test_entries_get_too_old(bench: Bench) -> None:
    bench.write(THREE)
    bench.build()
    time.sleep(1.1)
    assert not bench.build("--cache-ttl=1h").ran
    assert len(bench.build("--cache-ttl=1s").ran) == 3
    assert not bench.build("--cache-ttl=1h").ran


def test_builds_that_share_a_cache_folder(bench: Bench) -> None:
    folder = bench.project.folder / "shared"
    own = [f"--cache-repo={bench.proxy.host}/{bench.name}/{name}" for name in ("one", "two", "x")]
    bench.write("FROM BASE\nCOPY Dockerfile /d\n")
    running = [
        bench.start(f"--cache-dir={folder}", repository, tag=str(number))
        for number, repository in enumerate(own[:2])
    ]
    for one in running:
        bench.result(one.finish())
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert len(kept) == 1, "the base's index, and nothing half written"
    bench.build(f"--cache-dir={folder}", own[2])
    assert bench.proxy.count("GET", "base/busybox/blobs/") == 1, "its config"
    kept[0].write_bytes(kept[0].read_bytes()[:-7])
    bench.write("FROM BASE\nCOPY Dockerfile /e\n")
    bench.build(f"--cache-dir={folder}", f"{own[2]}y")
    assert bench.image().read("e")
    bench.write("FROM BASE\nCOPY Dockerfile /f\n")
    bench.build(f"--cache-dir={folder}", f"{own[2]}z")
    assert bench.proxy.count("GET", "base/busybox/blobs/") == 1, "the folder was mended"


# The network and the context while a build runs


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder that is served, its address, and what was asked."""
    folder = tmp_path_factory.mktemp("web")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_a_download_is_never_served_stale(bench: Bench, web: tuple[Path, str, list[str]]) -> None:
    folder, address, asked = web
    bench.write(f"FROM BASE\nADD {address}/file /file\nRUN cat /file > /copy\n")
    folder.joinpath("file").write_text("1")
    assert len(bench.build().ran) == 2
    assert len(asked) == 1, "what was fetched for the key is what is copied"
    assert not bench.build().ran
    folder.joinpath("file").write_text("2")
    changed = bench.build()
    assert len(changed.ran) == 2 and bench.image().read("copy") == "2"


def test_a_download_with_a_checksum_is_not_fetched_again(
    bench: Bench, web: tuple[Path, str, list[str]]
) -> None:
    folder, address, asked = web
    for content in ("1", "2"):
        folder.joinpath("file").write_text(content)
        digest = hashlib.sha256(content.encode()).hexdigest()
        bench.write(f"FROM BASE\nADD --checksum=sha256:{digest} {address}/file /file\n")
        asked.clear()
        assert len(bench.build().ran) == 1 and len(asked) == 1
        assert not bench.build().ran and len(asked) == 1
        assert bench.image().read("file") == content


@pytest.mark.parametrize("change", ["new", "edit", "removal"])
def test_a_context_that_changes_meanwhile_is_never_stored(bench: Bench, change: str) -> None:
    bench.write("FROM BASE\nRUN sleep 0.7\nCOPY src /src\n")
    bench.project.write("src/f", "1")
    running = bench.start()
    running.wait_for("step-started")
    if change == "removal":
        (bench.project.context / "src/f").unlink()
    else:
        bench.project.write("src/g" if change == "new" else "src/f", "2")
    failed = bench.result(running.finish(), fails=True)
    assert failed.all("build-failed")[0]["code"] in ("context-changed", "file-changed")
    assert all(not entry["diff-id"] for entry in bench.entries().values()), "the RUN's alone"
