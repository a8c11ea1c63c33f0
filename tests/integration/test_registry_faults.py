"""Pulls and pushes over a line that breaks, lies, stalls or refuses: in the end the right image,
or an error that names the host and the attempt; never a wrong image."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pybuild.errors import ContentMismatch, RegistryError
from pybuild.events import Event, Notice
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.manifest import Manifest, make_manifest
from pybuild.image.media_type import OCI_CONFIG, OCI_LAYER, Family
from pybuild.image.platform import parse_platform
from pybuild.image.reference import Reference, parse_reference
from pybuild.registry.client import Client
from pybuild.registry.credentials import AnonymousKeychain
from pybuild.registry.options import RegistryOptions
from pybuild.registry.retry import RetryPolicy
from tests.support.project import Project
from tests.support.proxy import Instead, RegistryProxy, Rule, Spoil, running_proxy
from tests.support.registry import RealRegistry, is_available, running_registry

pytestmark = pytest.mark.skipif(not is_available(), reason="docker-registry is not installed")

AMD64 = parse_platform("linux/amd64")
CONFIG = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER = os.urandom(5 << 20)  # more than goes in one request, so that it is a PATCH and a PUT
SMALL = os.urandom(50_000)
POLICY = RetryPolicy(tries=3, first_wait_seconds=0.01, longest_wait_seconds=0.05, total_seconds=5)
ALWAYS = 99


@dataclass(frozen=True)
class Image:
    manifest: Manifest
    blobs: dict[Descriptor, bytes]


def descriptor_of(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


CONFIG_DESCRIPTOR = descriptor_of(CONFIG, OCI_CONFIG)
BLOBS = {
    CONFIG_DESCRIPTOR: CONFIG,
    descriptor_of(LAYER, OCI_LAYER): LAYER,
    descriptor_of(SMALL, OCI_LAYER): SMALL,
}
IMAGE = Image(make_manifest(CONFIG_DESCRIPTOR, list(BLOBS)[1:], Family.OCI), BLOBS)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        push(RegistryOptions(), f"{running.host}/image:1", [])
        yield running


@pytest.fixture(scope="module")
def one_proxy(registry: RealRegistry) -> Iterator[RegistryProxy]:
    with running_proxy(registry.host) as running:
        yield running


@pytest.fixture
def proxy(one_proxy: RegistryProxy) -> RegistryProxy:
    one_proxy.rule = None
    one_proxy.forget()
    return one_proxy


def push(options: RegistryOptions, name: str, events: list[Event]) -> None:
    ref = parse_reference(name)
    with Client(options, AnonymousKeychain(), events.append) as client:
        for descriptor, content in BLOBS.items():
            client.push_blob(ref, descriptor, lambda content=content: pieces(content))
        client.push_manifest(ref, IMAGE.manifest)


def pieces(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), 1 << 18):
        yield content[at : at + (1 << 18)]


def pull(options: RegistryOptions, name: str, events: list[Event]) -> Image:
    ref = parse_reference(name)
    with Client(options, AnonymousKeychain(), events.append) as client:
        found = client.resolve(ref, AMD64)
        blobs = {found.manifest.config: found.raw_config}
        for layer in found.manifest.layers:
            blobs[layer] = b"".join(client.open_blob(found.source, layer))
        return Image(found.manifest, blobs)


def options(**more: object) -> RegistryOptions:
    more = {"retry": POLICY, "timeout_seconds": 0.6, **more}
    return RegistryOptions(**more)  # type: ignore[arg-type]


def at(pattern: str, fault: Instead | Spoil, times: int) -> Rule:
    """The fault for the first `times` requests whose "METHOD /path" matches."""
    left = [times]

    def rule(method: str, path: str) -> Instead | Spoil | None:
        if not re.search(pattern, f"{method} {path}") or not left[0]:
            return None
        left[0] -= 1
        return fault

    return rule


SLOW_DOWN = Instead(
    429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', headers=(("Retry-After", "0"),)
)
ANSWERS = {
    "429": SLOW_DOWN,
    "500": Instead(500, b"oops", "text/plain"),
    "503": Instead(503),
    "no-answer": Instead(0),
    "hangs": Spoil(hangs=True),
}
PULLED = {"manifest": "GET .*/manifests/", "config": f"GET .*{CONFIG_DESCRIPTOR.digest}",
          "layer": f"GET .*{digest_of(LAYER)}"}  # fmt: skip
BODIES = {
    "cut": Spoil(cut_after=40),
    "cut-at-once": Spoil(cut_after=0),
    "too-long": Spoil(length=7),
    "too-short": Spoil(length=-7),
    "wrong-bytes": Spoil(flip=True),
}


@pytest.mark.parametrize("what", PULLED)
@pytest.mark.parametrize("fault", [*ANSWERS, *BODIES])
def test_a_pull_survives_a_fault(proxy: RegistryProxy, what: str, fault: str) -> None:
    events: list[Event] = []
    proxy.rule = at(PULLED[what], {**ANSWERS, **BODIES}[fault], 1)
    name = f"{proxy.host}/image:1"
    if (what, fault) == ("layer", "wrong-bytes"):
        # It was handed on as it came: nothing but an error is left.
        with pytest.raises(ContentMismatch) as caught:
            pull(options(), name, events)
        assert f"can't pull from {proxy.host}/image: " in caught.value.message
        assert "(attempt 1)" in caught.value.message
        return
    assert pull(options(), name, events) == IMAGE
    told = [event.message for event in events if isinstance(event, Notice)]
    # Neither the end of an idle connection is told, nor that more was announced than came.
    quiet = fault == "no-answer" or (fault == "too-long" and what != "manifest")
    if not quiet:
        assert len(told) == 1, told
        assert proxy.host in told[0] and "pull" in told[0] and "(2 of 3)" in told[0]


@pytest.mark.parametrize("what", PULLED)
@pytest.mark.parametrize("fault", [*ANSWERS, "cut-at-once", "too-short", "wrong-bytes"])
def test_a_pull_that_fails_each_time(proxy: RegistryProxy, what: str, fault: str) -> None:
    proxy.rule = at(PULLED[what], {**ANSWERS, **BODIES}[fault], ALWAYS)
    with pytest.raises((RegistryError, ContentMismatch)) as caught:
        pull(options(), f"{proxy.host}/image:1", [])
    assert proxy.host in caught.value.message
    assert re.search(r"tried 3 times|attempt \d", caught.value.message), caught.value.message


def test_a_pull_gets_on_over_a_line_that_breaks_again_and_again(proxy: RegistryProxy) -> None:
    """More breaks than tries, but each time something came through."""
    proxy.rule = at(PULLED["layer"], Spoil(cut_after=600_000), 7)
    assert pull(options(), f"{proxy.host}/image:1", []) == IMAGE
    assert proxy.count("GET", str(digest_of(LAYER))) == 8


PUSHED = {
    "look": "HEAD .*/blobs/",
    "open": "POST .*/uploads/",
    "stream": "PATCH .*/uploads/",
    "finish": "PUT .*/uploads/",
    "manifest": "PUT .*/manifests/",
}
SENDINGS = {
    "loses-answer": Spoil(loses_answer=True),
    "cut": Spoil(cut_upload_after=20_000),
    "wrong-bytes": Spoil(flip_upload=True),
}


def holds(registry: RealRegistry, repository: str) -> bool:
    """Whether the image is there, and right; False where there is none."""
    with Client(RegistryOptions(), AnonymousKeychain(), lambda event: None) as client:
        if client.try_manifest(parse_reference(f"{registry.host}/{repository}:1")) is None:
            return False
    assert pull(RegistryOptions(), f"{registry.host}/{repository}:1", []) == IMAGE
    return True


@pytest.mark.parametrize("what", PUSHED)
@pytest.mark.parametrize("fault", [*ANSWERS, "loses-answer"])
def test_a_push_survives_a_fault(
    proxy: RegistryProxy, registry: RealRegistry, what: str, fault: str
) -> None:
    events: list[Event] = []
    repository = f"once/{what}/{fault}"
    proxy.rule = at(PUSHED[what], {**ANSWERS, **SENDINGS}[fault], 1)
    push(options(), f"{proxy.host}/{repository}:1", events)
    proxy.rule = None
    assert holds(registry, repository)
    told = [event.message for event in events if isinstance(event, Notice)]
    if fault not in ("no-answer", "loses-answer"):  # an idle connection may end without a word
        assert proxy.host in told[0] and "(2 of 3)" in told[0]


@pytest.mark.parametrize("what", ["stream", "finish", "manifest"])
def test_an_upload_that_breaks_off(proxy: RegistryProxy, registry: RealRegistry, what: str) -> None:
    repository = f"broken/{what}"
    after = 200 if what == "manifest" else 20_000
    proxy.rule = at(PUSHED[what], Spoil(cut_upload_after=after), 2)
    push(options(), f"{proxy.host}/{repository}:1", [])
    assert holds(registry, repository)


@pytest.mark.parametrize("what", ["stream", "finish", "manifest"])
def test_an_upload_that_is_changed_on_its_way(
    proxy: RegistryProxy, registry: RealRegistry, what: str
) -> None:
    repository = f"changed/{what}"
    proxy.rule = at(PUSHED[what], Spoil(flip_upload=True), ALWAYS)
    with pytest.raises((RegistryError, ContentMismatch)) as caught:
        push(options(), f"{proxy.host}/{repository}:1", [])
    assert proxy.host in caught.value.message
    assert not holds(registry, repository)


@pytest.mark.parametrize("what", PUSHED)
@pytest.mark.parametrize("fault", ANSWERS)
def test_a_push_that_fails_each_time(
    proxy: RegistryProxy, registry: RealRegistry, what: str, fault: str
) -> None:
    repository = f"never/{what}/{fault}"
    proxy.rule = at(PUSHED[what], ANSWERS[fault], ALWAYS)
    with pytest.raises(RegistryError) as caught:
        push(options(), f"{proxy.host}/{repository}:1", [])
    assert proxy.host in caught.value.message
    assert "tried 3 times" in caught.value.message
    assert not holds(registry, repository)


def test_a_registry_that_asks_for_time_gets_it(proxy: RegistryProxy) -> None:
    proxy.rule = at("GET .*/manifests/", Instead(503, headers=(("Retry-After", "1"),)), 1)
    started = time.monotonic()
    assert pull(options(), f"{proxy.host}/image:1", []) == IMAGE
    assert time.monotonic() - started >= 1


# The whole command


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def build(project: Project, *flags: str, base: Reference | str = "scratch") -> tuple[int, str]:
    project.write("Dockerfile", f"FROM {base}\nCOPY a /a\n")
    project.write("a", SMALL)
    run = project.executor("--context=.", *flags)
    return run.status, run.text


@pytest.fixture(scope="module")
def base(registry: RealRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    status, text = build(Project(folder), f"-d={registry.host}/base:1")
    assert status == 0, text
    return "base:1"


def named(registry: RealRegistry, name: str) -> bool:
    with Client(RegistryOptions(), AnonymousKeychain(), lambda event: None) as client:
        return client.try_manifest(parse_reference(f"{registry.host}/{name}")) is not None


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("GET .*/manifests/", SLOW_DOWN),
        ("GET .*/blobs/", Spoil(cut_after=100)),
        ("POST .*/uploads/", Instead(500)),
        ("PUT .*/uploads/", Instead(0)),
        ("PUT .*/manifests/", Instead(503)),
    ],
)
def test_a_build_over_a_bad_line(
    project: Project, proxy: RegistryProxy, registry: RealRegistry, base: str, pattern: str,
    fault: Instead | Spoil,
) -> None:  # fmt: skip
    proxy.rule = at(pattern, fault, 2)
    name = f"built:{abs(hash(pattern)) % 1000}"
    status, text = build(project, f"-d={proxy.host}/{name}", base=f"{proxy.host}/{base}")
    assert status == 0, text
    assert "(2 of 5)" in text and proxy.host in text
    assert named(registry, name)


def test_a_build_from_a_base_that_is_changed_on_its_way(
    project: Project, proxy: RegistryProxy, registry: RealRegistry, base: str
) -> None:
    proxy.rule = at("GET .*/blobs/", Spoil(flip=True), ALWAYS)
    flags = (f"-d={registry.host}/wrong:1",)
    status, text = build(project, *flags, base=f"{proxy.host}/{base}")
    assert status == 1
    assert "error[digest-mismatch]" in text and proxy.host in text
    assert not named(registry, "wrong:1")


def test_a_registry_that_is_gone(project: Project, registry: RealRegistry) -> None:
    started = time.monotonic()
    status, text = build(project, "-d=127.0.0.1:1/app:1")
    assert (status, "tried 5 times" in text, "127.0.0.1:1" in text) == (1, True, True)
    assert "can't push to 127.0.0.1:1/app" in text
    assert time.monotonic() - started < 20
