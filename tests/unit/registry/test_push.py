from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybuild.errors import ContentMismatch
from pybuild.events import Event, Notice, TransferFinished, TransferOutcome
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.manifest import make_manifest
from pybuild.image.media_type import OCI_CONFIG, OCI_LAYER_GZIP, Family
from pybuild.image.reference import Reference, parse_reference
from pybuild.image.verify import DigestMismatch
from pybuild.registry.client import Client
from pybuild.registry.errors import (
    PushDenied,
    RegistryBroken,
    RegistryUnreachable,
    RepositoryUnknown,
    RequestRefused,
    TagImmutable,
    Unauthorized,
)
from pybuild.registry.upload import received
from tests.support.fake_registry import FakeRegistry
from tests.unit.registry.conftest import MakeClient

SMALL = os.urandom(5_000)
LARGE = os.urandom(6 << 20)  # more than goes in one PUT


def ref_to(registry: FakeRegistry, rest: str = "app:1") -> Reference:
    return parse_reference(f"{registry.host}/{rest}")


def descriptor_of(content: bytes) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, digest_of(content), len(content))


def opener(content: bytes, size: int = 100_000) -> Callable[[], Iterator[bytes]]:
    return lambda: (content[at : at + size] for at in range(0, len(content), size))


def push(
    client: Client, registry: FakeRegistry, content: bytes, mount_from: tuple[Reference, ...] = ()
) -> TransferOutcome:
    ref = ref_to(registry)
    return client.push_blob(
        ref, descriptor_of(content), opener(content), mount_from=mount_from, label="layer"
    )


def held(registry: FakeRegistry, content: bytes, repository: str = "app") -> bool:
    return registry.blobs.get(repository, {}).get(digest_of(content)) == content


@pytest.mark.parametrize(
    ("content", "requests"),
    [
        pytest.param(SMALL, ["HEAD", "POST", "PUT"], id="small"),
        pytest.param(LARGE, ["HEAD", "POST", "PATCH", "PUT"], id="large"),
    ],
)
def test_an_upload_takes_few_requests(
    registry: FakeRegistry, client: Client, content: bytes, requests: list[str]
) -> None:
    assert push(client, registry, content) is TransferOutcome.DONE
    assert held(registry, content)
    methods = [entry.method for entry in registry.requests if entry.path != "/v2/"]
    assert methods == requests
    registry.forget_requests()
    assert push(client, registry, content) is TransferOutcome.EXISTS
    assert registry.log == []  # it is known by now


def test_a_tiny_build_takes_few_requests(registry: FakeRegistry, client: Client) -> None:
    ref = ref_to(registry)
    client.check_push(ref)
    push(client, registry, SMALL)
    config = b"{}"
    client.push_blob(ref, descriptor_of(config), opener(config))
    manifest = make_manifest(
        Descriptor(OCI_CONFIG, digest_of(config), 2), [descriptor_of(SMALL)], Family.OCI
    )
    assert client.push_manifest(ref, manifest) == manifest.digest
    methods = [entry.method for entry in registry.requests]
    assert methods == ["GET", "POST", "HEAD", "PUT", "HEAD", "POST", "PUT", "PUT"]
    assert registry.open_uploads == 0
    assert registry.manifests["app"]["1"][1] == manifest.raw


def test_an_upload_that_was_only_a_check_is_cancelled(
    registry: FakeRegistry, client: Client
) -> None:
    client.check_push(ref_to(registry))
    client.check_push(ref_to(registry))
    assert registry.open_uploads == 1
    client.close()
    assert registry.open_uploads == 0


def test_what_the_registry_has_is_not_sent(registry: FakeRegistry, client: Client) -> None:
    registry.add_blob("app", SMALL)

    def never() -> Iterator[bytes]:
        pytest.fail("the blob was read")

    outcome = client.push_blob(ref_to(registry), descriptor_of(SMALL), never)
    assert outcome is TransferOutcome.EXISTS


# Mounts


def test_a_blob_of_another_repository_is_mounted(
    registry: FakeRegistry, client: Client, events: list[Event]
) -> None:
    registry.add_blob("base", LARGE)
    outcome = push(client, registry, LARGE, (ref_to(registry, "base:1"),))
    assert outcome is TransferOutcome.MOUNTED
    assert held(registry, LARGE)
    finished = [event for event in events if isinstance(event, TransferFinished)]
    assert [event.outcome for event in finished] == [TransferOutcome.MOUNTED]


def test_a_mount_that_becomes_an_upload_uses_it(registry: FakeRegistry, client: Client) -> None:
    outcome = push(client, registry, SMALL, (ref_to(registry, "base:1"),))
    assert outcome is TransferOutcome.DONE
    assert registry.count("POST") == 1
    assert held(registry, SMALL)


def test_a_mount_that_is_refused_is_asked_for_once(registry: FakeRegistry, client: Client) -> None:
    registry.fail("mount=", 405, times=99)
    for content in (SMALL, LARGE):
        assert push(client, registry, content, (ref_to(registry, "base:1"),)) is (
            TransferOutcome.DONE
        )
    assert registry.count("POST", "mount=") == 1


def test_nothing_is_mounted_from_elsewhere(
    registry: FakeRegistry, other_registry: FakeRegistry, client: Client
) -> None:
    elsewhere = (ref_to(other_registry, "base:1"), ref_to(registry, "app:other"))
    assert push(client, registry, SMALL, elsewhere) is TransferOutcome.DONE
    assert registry.count("POST", "mount=") == 0
    assert other_registry.requests == []


# Breaks


@pytest.mark.parametrize("cuts", [[1_000_000], [5_000_000, 10, 300_000]])
def test_an_upload_goes_on_from_where_it_broke(
    registry: FakeRegistry, client: Client, cuts: list[int]
) -> None:
    registry.cut_upload_after = list(cuts)
    assert push(client, registry, LARGE) is TransferOutcome.DONE
    assert held(registry, LARGE)
    bodies = [entry.sent for entry in registry.requests if entry.method == "PATCH"]
    assert len(bodies) == len(cuts) + 1
    assert bodies == sorted(bodies, reverse=True)
    assert bodies[-1] < len(LARGE)
    assert registry.count("POST") == 1


def test_a_registry_that_forgets_an_upload_gets_a_new_one(
    registry: FakeRegistry, client: Client
) -> None:
    registry.cut_upload_after = [1_000_000]
    registry.fail("GET /v2/app/blobs/uploads", 404, code="BLOB_UPLOAD_UNKNOWN")
    assert push(client, registry, LARGE) is TransferOutcome.DONE
    assert registry.count("POST") == 2
    assert held(registry, LARGE)


def test_a_registry_that_dropped_what_came_is_sent_all_of_it(
    registry: FakeRegistry, client: Client
) -> None:
    registry.cut_upload_after = [1_000_000]
    registry.keeps_uploads = False
    assert push(client, registry, LARGE) is TransferOutcome.DONE
    assert held(registry, LARGE)


def test_a_small_upload_that_breaks_starts_again(registry: FakeRegistry, client: Client) -> None:
    registry.cut_upload_after = [1000, 2000]
    assert push(client, registry, SMALL) is TransferOutcome.DONE
    assert held(registry, SMALL)


def test_an_upload_that_never_gets_on_is_given_up(registry: FakeRegistry, client: Client) -> None:
    registry.cut_upload_after = [10] * 100
    with pytest.raises(RegistryUnreachable, match=r"tried 4 times"):
        push(client, registry, LARGE)
    assert not held(registry, LARGE)


@pytest.mark.parametrize("where", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_passes(
    registry: FakeRegistry, client: Client, where: str, status: int
) -> None:
    registry.fail(f"{where} /v2/app", status, times=2)
    assert push(client, registry, LARGE) is TransferOutcome.DONE
    assert held(registry, LARGE)


def test_a_failure_that_stays(registry: FakeRegistry, client: Client) -> None:
    registry.fail("POST", 500, times=99)
    with pytest.raises(RegistryBroken):
        push(client, registry, SMALL)
    assert registry.count("POST") == 4


# Refusals


@pytest.mark.parametrize(
    ("status", "code", "error", "hint"),
    [
        (403, "DENIED", PushDenied, "put credentials"),
        (401, "UNAUTHORIZED", Unauthorized, "put credentials"),
        (404, "NAME_UNKNOWN", RepositoryUnknown, "before the first push"),
    ],
)
def test_a_push_that_is_refused(
    registry: FakeRegistry,
    client: Client,
    status: int,
    code: str,
    error: type[Exception],
    hint: str,
) -> None:
    registry.fail("POST", status, times=9, code=code, message="no")
    with pytest.raises(error) as caught:
        client.check_push(ref_to(registry))
    assert f"can't push to {registry.host}/app" in str(caught.value)
    assert hint in caught.value.hint  # type: ignore[attr-defined]


def test_denied_as_a_switch(registry: FakeRegistry, client: Client) -> None:
    registry.deny("push")
    with pytest.raises(PushDenied):
        push(client, registry, SMALL)


def test_an_upload_that_is_too_big_for_a_proxy_stops_early(
    registry: FakeRegistry, client: Client
) -> None:
    registry.fail("PATCH", 413, times=9)
    content = bytes(64 << 20)
    sent: list[int] = []

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(content), 1 << 20):
            sent.append(at)
            yield content[at : at + (1 << 20)]

    with pytest.raises(RequestRefused) as caught:
        client.push_blob(ref_to(registry), descriptor_of(content), chunks)
    assert "proxy" in caught.value.hint
    assert len(sent) < 64


# As Amazon ECR, Google Artifact Registry and Harbor answer.
IMMUTABLE = [
    (400, "TAG_INVALID", "The image tag '1' already exists in the 'app' repository and cannot be "
     "overwritten because the tag is immutable."),
    (400, "MANIFEST_INVALID", "cannot update tag 1. The repository has enabled tag immutability"),
    (412, "PRECONDITION", "Failed to process request due to 'app:1' configured as immutable."),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message"), IMMUTABLE)
def test_a_tag_that_may_not_move(
    registry: FakeRegistry, client: Client, status: int, code: str, message: str
) -> None:
    registry.fail("PUT", status, code=code, message=message)
    manifest = make_manifest(descriptor_of(b"{}"), [], Family.OCI)
    with pytest.raises(TagImmutable) as caught:
        client.push_manifest(ref_to(registry), manifest)
    assert "--push-ignore-immutable-tag-errors" in caught.value.hint


@pytest.mark.parametrize(("status", "code", "message"), IMMUTABLE)
def test_a_tag_that_may_not_move_can_be_left_alone(
    registry: FakeRegistry,
    make_client: MakeClient,
    events: list[Event],
    status: int,
    code: str,
    message: str,
) -> None:
    """The image is there under its digest, and what the digest files say is true."""
    registry.fail("PUT /v2/app/manifests/1", status, code=code, message=message)
    manifest = make_manifest(descriptor_of(b"{}"), [], Family.OCI)
    client = make_client(ignore_immutable=True)
    assert client.push_manifest(ref_to(registry), manifest) == manifest.digest
    assert list(registry.manifests["app"]) == [manifest.digest]
    told = [event for event in events if isinstance(event, Notice)]
    assert [notice.code for notice in told] == ["tag-immutable"]


def test_another_refusal_is_one_also_where_immutable_tags_are_ignored(
    registry: FakeRegistry, make_client: MakeClient
) -> None:
    registry.fail("PUT", 400, code="MANIFEST_INVALID", message="manifest invalid")
    manifest = make_manifest(descriptor_of(b"{}"), [], Family.OCI)
    with pytest.raises(RequestRefused):
        make_client(ignore_immutable=True).push_manifest(ref_to(registry), manifest)


def test_the_check_can_be_left_out(registry: FakeRegistry, make_client: MakeClient) -> None:
    registry.deny("push")
    make_client(check_push=False).check_push(ref_to(registry))
    assert registry.requests == []


@pytest.mark.parametrize("aged", [False, True], ids=["unused", "too-old-for-use"])
def test_the_check_leaves_no_upload_open(
    registry: FakeRegistry, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, aged: bool
) -> None:
    client = make_client()
    client.check_push(ref_to(registry))
    assert registry.open_uploads == 1
    if aged:
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
        client.push_blob(ref_to(registry), descriptor_of(b"x"), lambda: iter([b"x"]))
    else:
        client.close()
    assert registry.open_uploads == 0


@pytest.mark.parametrize(("action", "word"), [("push", "push"), ("pull", "pull")])
def test_a_retry_tells_what_is_tried(
    registry: FakeRegistry, client: Client, events: list[Event], action: str, word: str
) -> None:
    registry.add_blob("app", b"x")
    registry.fail("/v2/app", 503, times=1)
    registry.fail("/v2/app", 0, times=2)  # the idle connection may end, which nobody is told of
    if action == "push":
        client.check_push(ref_to(registry))
    else:
        client.blob(ref_to(registry), descriptor_of(b"x"))
    told = [event.message for event in events if isinstance(event, Notice)]
    assert len(told) == 2
    assert all(text.startswith(f"can't {word} ") and registry.host in text for text in told)


def test_a_blob_that_is_not_seen_yet_is_waited_for(registry: FakeRegistry, client: Client) -> None:
    registry.fail("PUT", 400, code="MANIFEST_BLOB_UNKNOWN", message="blob unknown", times=2)
    manifest = make_manifest(descriptor_of(b"{}"), [], Family.OCI)
    assert client.push_manifest(ref_to(registry), manifest) == manifest.digest


def test_a_manifest_goes_under_its_digest_without_a_tag(
    registry: FakeRegistry, client: Client
) -> None:
    manifest = make_manifest(descriptor_of(b"{}"), [], Family.OCI)
    client.push_manifest(Reference(registry.host, "app", "", None), manifest)
    assert set(registry.manifests["app"]) == {manifest.digest}


# What is sent


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_that_are_too_few_or_too_many(
    registry: FakeRegistry, client: Client, content: bytes, change: int
) -> None:
    sent = content[:change] if change < 0 else content + b"x"
    with pytest.raises(DigestMismatch):
        client.push_blob(ref_to(registry), descriptor_of(content), opener(sent))
    assert registry.blobs.get("app", {}) == {}
    # The connection that was left in the middle is not used again.
    assert push(client, registry, content) is TransferOutcome.DONE


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_other_bytes_than_named(registry: FakeRegistry, client: Client, content: bytes) -> None:
    with pytest.raises(ContentMismatch, match="DIGEST_INVALID"):
        client.push_blob(ref_to(registry), descriptor_of(content), opener(bytes(len(content))))
    assert registry.blobs.get("app", {}) == {}


def test_a_file_that_can_t_be_read_is_no_broken_connection(
    registry: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    def missing() -> Iterator[bytes]:
        yield (tmp_path / "gone").read_bytes()

    with pytest.raises(FileNotFoundError):
        client.push_blob(ref_to(registry), descriptor_of(LARGE), missing)
    assert registry.count("PATCH") <= 1


# Threads


def test_the_same_blob_is_uploaded_once(registry: FakeRegistry, client: Client) -> None:
    registry.seconds = 0.02
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: push(client, registry, LARGE), range(8)))
    assert sorted(outcome.value for outcome in outcomes) == ["done"] + ["exists"] * 7
    assert registry.count("PATCH") == 1


def test_where_the_first_fails_the_second_tries_itself(
    registry: FakeRegistry, client: Client
) -> None:
    begun = threading.Event()
    go_on = threading.Event()

    def failing() -> Iterator[bytes]:
        begun.set()
        go_on.wait(5)
        raise FileNotFoundError("gone")
        yield b""

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.push_blob, ref_to(registry), descriptor_of(SMALL), failing)
        begun.wait(5)
        second = pool.submit(push, client, registry, SMALL)
        go_on.set()
        assert isinstance(first.exception(), FileNotFoundError)
        assert second.result() is TransferOutcome.DONE


@pytest.mark.parametrize(
    ("header", "expected"),
    [("0-99", 100), ("bytes=0-99", 100), ("0-0", 0), ("", 0), ("x", 0), ("0--1", 0)],
)
def test_received(header: str, expected: int) -> None:
    assert received(header) == expected
