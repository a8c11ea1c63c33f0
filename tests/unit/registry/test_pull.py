from __future__ import annotations

import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pybuild.errors import ContentMismatch
from pybuild.events import Event, Notice, TransferFinished, TransferOutcome
from pybuild.image.descriptor import BadManifest, Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.manifest import Index, Manifest, make_index, make_manifest
from pybuild.image.media_type import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_SCHEMA1,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Family,
)
from pybuild.image.platform import Platform, parse_platform
from pybuild.image.reference import Reference, parse_reference
from pybuild.registry.client import Client
from pybuild.registry.credentials import Credentials
from pybuild.registry.errors import (
    BlobUnknown,
    ManifestUnknown,
    PlatformUnknown,
    PullDenied,
    RateLimited,
    RegistryBroken,
    RegistryUnreachable,
    RepositoryUnknown,
    RequestRefused,
    Unauthorized,
)
from pybuild.registry.retry import RetryPolicy
from tests.support.fake_registry import FakeRegistry
from tests.unit.registry.conftest import MakeClient

AMD64 = parse_platform("linux/amd64")
BIG = os.urandom(3_000_000)


def ref_to(registry: FakeRegistry, rest: str = "app:1") -> Reference:
    return parse_reference(f"{registry.host}/{rest}")


def descriptor_of(content: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


def put_image(
    registry: FakeRegistry,
    tag: str = "1",
    *,
    architecture: str = "amd64",
    family: Family = Family.OCI,
    repository: str = "app",
) -> Manifest:
    config = json.dumps(
        {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}}
    ).encode()
    media_types = (
        (OCI_CONFIG, OCI_LAYER_GZIP) if family is Family.OCI else (DOCKER_CONFIG, DOCKER_LAYER_GZIP)
    )
    registry.add_blob(repository, config)
    registry.add_blob(repository, BIG)
    manifest = make_manifest(
        descriptor_of(config, media_types[0]), [descriptor_of(BIG, media_types[1])], family
    )
    registry.add_manifest(repository, tag, manifest.raw, manifest.media_type)
    return manifest


def put_index(registry: FakeRegistry, tag: str, *architectures: str) -> Index:
    entries = []
    for name in architectures:
        manifest = put_image(registry, "", architecture=name).descriptor
        platform = Platform("linux", name)
        entries.append(
            Descriptor(manifest.media_type, manifest.digest, manifest.size, (), platform)
        )
    index = make_index(entries, Family.OCI)
    registry.add_manifest("app", tag, index.raw, index.media_type)
    return index


@pytest.mark.parametrize("family", list(Family))
def test_an_image(registry: FakeRegistry, client: Client, family: Family) -> None:
    manifest = put_image(registry, family=family)
    found = client.resolve(ref_to(registry), AMD64)
    assert found.manifest == manifest
    assert found.config.platform.architecture == "amd64"
    assert found.reference == ref_to(registry).with_digest(manifest.digest)
    # One connection's worth: the probe of the scheme, manifest, config.
    assert len(registry.requests) == 3


def test_the_platform_is_chosen_from_an_index(registry: FakeRegistry, client: Client) -> None:
    index = put_index(registry, "1", "arm64", "amd64")
    found = client.resolve(ref_to(registry), AMD64)
    assert found.config.platform.architecture == "amd64"
    assert found.reference.digest == index.digest
    assert found.source.digest == found.manifest.digest == index.manifests[1].digest


def test_a_missing_platform_names_those_there_are(registry: FakeRegistry, client: Client) -> None:
    put_index(registry, "1", "arm64", "s390x")
    with pytest.raises(PlatformUnknown, match="linux/arm64, linux/s390x"):
        client.resolve(ref_to(registry), AMD64)


def test_schema_1_is_refused_by_name(registry: FakeRegistry, client: Client) -> None:
    registry.add_manifest("app", "1", b'{"schemaVersion":1,"fsLayers":[]}', DOCKER_SCHEMA1)
    with pytest.raises(BadManifest, match="schema 1"):
        client.manifest(ref_to(registry))


@pytest.mark.parametrize("how", ["bytes", "header"])
def test_a_manifest_that_is_not_what_was_named(
    registry: FakeRegistry, client: Client, how: str
) -> None:
    manifest = put_image(registry)
    registry.wrong_bytes = how == "bytes"
    registry.wrong_digest_header = how == "header"
    with pytest.raises(ContentMismatch, match="arrived as"):
        client.manifest(ref_to(registry).with_digest(manifest.digest))


REFUSALS = [
    pytest.param(401, "UNAUTHORIZED", Unauthorized, "looked into: the test's own list", id="401"),
    pytest.param(403, "DENIED", PullDenied, "no credentials were sent", id="403"),
    pytest.param(404, "MANIFEST_UNKNOWN", ManifestUnknown, "MANIFEST_UNKNOWN", id="404"),
    pytest.param(404, "NAME_UNKNOWN", RepositoryUnknown, "NAME_UNKNOWN", id="404-name"),
    pytest.param(429, "TOOMANYREQUESTS", RateLimited, "(tried 4 times)", id="429"),
    pytest.param(503, "", RegistryBroken, "503", id="503"),
    pytest.param(501, "", RegistryBroken, "501", id="501"),
    pytest.param(418, "", RequestRefused, "418", id="418"),
]


@pytest.mark.parametrize(("status", "code", "error", "part"), REFUSALS)
def test_a_refusal_is_told_apart(
    registry: FakeRegistry,
    client: Client,
    status: int,
    code: str,
    error: type[Exception],
    part: str,
) -> None:
    registry.fail("GET /v2/app/manifests", status, times=99, code=code, message="its own words")
    with pytest.raises(error) as caught:
        client.manifest(ref_to(registry))
    text = str(caught.value)
    assert part in text
    assert f"can't pull the manifest of {registry.host}/app:1" in text
    if code:
        assert "its own words" in text


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_passes_is_only_told(
    registry: FakeRegistry, client: Client, events: list[Event], status: int
) -> None:
    put_image(registry)
    registry.fail("/manifests/", status, times=2, headers={"Retry-After": "0"})
    client.manifest(ref_to(registry))
    assert sum(isinstance(event, Notice) for event in events) == 2


def test_retry_after_is_waited_for(registry: FakeRegistry, client: Client) -> None:
    put_image(registry)
    registry.fail("/manifests/", 429, headers={"Retry-After": "1"})
    started = time.monotonic()
    client.manifest(ref_to(registry))
    assert time.monotonic() - started >= 1


def test_a_registry_that_is_not_there(make_client: MakeClient) -> None:
    with FakeRegistry() as gone:
        ref = ref_to(gone)
    with pytest.raises(RegistryUnreachable, match=r"refused \(tried 4 times\)"):
        make_client().manifest(ref)


def test_a_name_that_is_not_known_is_not_tried_again(make_client: MakeClient) -> None:
    ref = parse_reference("no-such-host.invalid/app:1")
    with pytest.raises(RegistryUnreachable) as caught:
        make_client().manifest(ref)
    assert "no-such-host.invalid" in caught.value.message


def test_a_slow_registry_ends_at_the_deadline(
    registry: FakeRegistry, make_client: MakeClient
) -> None:
    registry.seconds = 1
    client = make_client(timeout_seconds=0.1, retry=RetryPolicy(tries=1))
    started = time.monotonic()
    with pytest.raises(RegistryUnreachable):
        client.manifest(ref_to(registry))
    assert time.monotonic() - started < 0.9


def test_try_manifest(registry: FakeRegistry, client: Client) -> None:
    manifest = put_image(registry)
    assert client.try_manifest(ref_to(registry)) == manifest
    assert client.try_manifest(ref_to(registry, "app:2")) is None
    assert client.try_manifest(ref_to(registry, "nothing/here:2")) is None


# Blobs


def pull(client: Client, ref: Reference, content: bytes = BIG) -> bytes:
    return b"".join(client.open_blob(ref, descriptor_of(content)))


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_blob_that_breaks_off_is_gone_on_with(
    registry: FakeRegistry, client: Client, knows_ranges: bool
) -> None:
    registry.add_blob("app", BIG)
    registry.knows_ranges = knows_ranges
    registry.cut_after = [1_000_000, 1_500_000, 1]
    assert pull(client, ref_to(registry)) == BIG
    ranges = [entry.range for entry in registry.requests if "/blobs/" in entry.target]
    assert len(ranges) == 4
    assert ranges[1] == "bytes=1000000-"


def test_breaks_without_end_are_given_up(registry: FakeRegistry, client: Client) -> None:
    registry.add_blob("app", BIG)
    registry.cut_after = [10] * 100
    with pytest.raises(RegistryUnreachable, match="broke off"):
        pull(client, ref_to(registry))
    assert registry.blob_gets == 4


@pytest.mark.parametrize(
    ("switch", "value", "error"),
    [
        ("wrong_bytes", True, ContentMismatch),
        ("wrong_length", -10, RegistryUnreachable),
    ],
)
def test_a_blob_that_is_not_what_was_named(
    registry: FakeRegistry,
    client: Client,
    events: list[Event],
    switch: str,
    value: object,
    error: type[Exception],
) -> None:
    registry.add_blob("app", BIG)
    setattr(registry, switch, value)
    with pytest.raises(error) as caught:
        pull(client, ref_to(registry))
    assert registry.host in caught.value.message  # type: ignore[attr-defined]
    assert re.search(r"attempt 1|tried 4 times", caught.value.message)  # type: ignore[attr-defined]
    finished = [event for event in events if isinstance(event, TransferFinished)]
    assert [event.outcome for event in finished] == [TransferOutcome.FAILED]


def test_an_answer_that_announces_more_than_it_holds(
    registry: FakeRegistry, client: Client
) -> None:
    registry.add_blob("app", BIG)
    registry.wrong_length = 10
    assert pull(client, ref_to(registry)) == BIG


def test_a_blob_that_is_shorter_than_its_descriptor(registry: FakeRegistry, client: Client) -> None:
    digest = registry.add_blob("app", BIG)
    registry.blobs["app"][digest] = BIG[:-7]
    with pytest.raises(ContentMismatch, match="ended after"):
        pull(client, ref_to(registry))


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_wrong_bytes_once_are_asked_for_again(
    registry: FakeRegistry, client: Client, what: str
) -> None:
    manifest = put_image(registry)
    registry.wrong_once = {what}
    assert client.resolve(ref_to(registry), AMD64).manifest == manifest
    assert registry.wrong_once == set()


def test_what_a_mirror_fails_to_deliver_comes_from_the_next_place(
    registry: FakeRegistry, other_registry: FakeRegistry, make_client: MakeClient
) -> None:
    """A pull-through cache that knows the manifest, and breaks in the middle of a blob."""
    layer = put_image(registry).layers[0]
    put_image(other_registry)
    client = make_client(map={registry.host: (other_registry.host,)})
    found = client.resolve(ref_to(registry), AMD64)
    assert found.source.registry == other_registry.host
    other_registry.cut_after = [len(BIG) // 2]
    other_registry.fail("GET /v2/app/blobs", 404, times=9, code="BLOB_UNKNOWN", after=1)
    assert b"".join(client.open_blob(found.source, layer)) == BIG
    asked = [request for request in registry.requests if "/blobs/" in request.target]
    assert [request.range for request in asked] == [f"bytes={len(BIG) // 2}-"]


def test_a_missing_blob(registry: FakeRegistry, client: Client) -> None:
    with pytest.raises(BlobUnknown, match=str(digest_of(BIG))):
        pull(client, ref_to(registry))


def test_an_empty_blob(registry: FakeRegistry, client: Client) -> None:
    registry.add_blob("app", b"")
    assert client.blob(ref_to(registry), descriptor_of(b"")) == b""


def test_a_redirected_blob_does_not_get_our_password(
    registry: FakeRegistry, other_registry: FakeRegistry, make_client: MakeClient
) -> None:
    registry.add_blob("app", BIG)
    other_registry.add_blob("app", BIG)
    registry.users = {"me": "s3cret"}
    registry.redirect_blobs = f"http://{other_registry.host}"
    client = make_client({"": Credentials("me", "s3cret", origin="here")})
    assert pull(client, ref_to(registry)) == BIG
    assert [entry.authorization for entry in other_registry.requests] == [""]


def test_a_reader_that_stops_early_does_not_harm_the_next(
    registry: FakeRegistry, client: Client
) -> None:
    registry.add_blob("app", BIG)
    chunks = client.open_blob(ref_to(registry), descriptor_of(BIG))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert pull(client, ref_to(registry)) == BIG


def test_many_threads_pull_at_once(registry: FakeRegistry, client: Client) -> None:
    contents = [os.urandom(200_000) for _ in range(12)]
    for content in contents:
        registry.add_blob("app", content)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda content: pull(client, ref_to(registry), content), contents))
    assert found == contents
    assert registry.count("GET", "/v2/") - registry.blob_gets == 1  # the scheme is found once


def test_close_wakes_a_waiting_thread(registry: FakeRegistry, make_client: MakeClient) -> None:
    registry.seconds = 3
    client = make_client(timeout_seconds=30)
    threading.Timer(0.2, client.close).start()
    started = time.monotonic()
    with pytest.raises(RegistryUnreachable):
        client.manifest(ref_to(registry))
    assert time.monotonic() - started < 2


# Mirrors


def test_a_mirror_stands_in_for_docker_hub(registry: FakeRegistry, make_client: MakeClient) -> None:
    manifest = put_image(registry, repository="proxy/library/app")
    client = make_client(mirrors=(f"{registry.host}/proxy",), default_fallback=False)
    found = client.resolve(parse_reference("app:1"), AMD64)
    assert found.manifest == manifest
    assert found.reference.registry == "docker.io"
    assert (found.source.registry, found.source.repository) == (registry.host, "proxy/library/app")
    assert pull(client, parse_reference("app:1")) == BIG


def test_the_next_source_is_asked_where_a_mirror_fails(
    registry: FakeRegistry,
    other_registry: FakeRegistry,
    make_client: MakeClient,
    events: list[Event],
) -> None:
    put_image(other_registry)
    registry.fail("/manifests/", 500, times=99)
    client = make_client(map={other_registry.host: (registry.host,)})
    found = client.resolve(ref_to(other_registry), AMD64)
    assert found.source.registry == other_registry.host
    codes = [event.code for event in events if isinstance(event, Notice)]
    assert codes[-1] == "mirror-failed"
    assert pull(client, ref_to(other_registry)) == BIG


def test_without_fallback_the_original_is_left_alone(
    registry: FakeRegistry, other_registry: FakeRegistry, make_client: MakeClient
) -> None:
    put_image(other_registry)
    client = make_client(map={other_registry.host: (registry.host,)}, default_fallback=False)
    with pytest.raises(RepositoryUnknown):
        client.resolve(ref_to(other_registry), AMD64)
    assert other_registry.requests == []


def test_the_media_type_of_the_header_must_agree(registry: FakeRegistry, client: Client) -> None:
    index = put_index(registry, "", "amd64")
    registry.add_manifest("app", "odd", index.raw, OCI_MANIFEST)
    with pytest.raises(BadManifest):
        client.manifest(ref_to(registry, "app:odd"))


def test_plain_http_through_a_proxy(
    registry: FakeRegistry, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{registry.host}")
    monkeypatch.setenv("no_proxy", "direct.test")
    manifest = put_image(registry)
    client = make_client(insecure=frozenset({"registry.test:5000", "direct.test:5000"}))
    assert client.manifest(parse_reference("registry.test:5000/app:1")) == manifest
    assert registry.requests[-1].target.startswith("http://registry.test:5000/v2/app/")
    with pytest.raises(RegistryUnreachable):
        client.manifest(parse_reference("direct.test:5000/app:1"))


def test_plain_http_is_not_spoken_to_other_hosts(
    registry: FakeRegistry, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The proxy would pass plain HTTP on, so only our own rule keeps it from being spoken.
    monkeypatch.setenv("http_proxy", f"http://{registry.host}")
    monkeypatch.setenv("no_proxy", "")
    put_image(registry)
    with pytest.raises(RegistryUnreachable):
        make_client().manifest(parse_reference("registry.test:5000/app:1"))
    assert registry.requests == []
