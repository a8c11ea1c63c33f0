"""The client against distribution itself, in the forms in which people run it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybuild.events import Event, TransferFinished, TransferOutcome
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_from_hex, digest_of
from pybuild.image.manifest import make_manifest
from pybuild.image.media_type import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Family,
)
from pybuild.image.platform import parse_platform
from pybuild.image.reference import Reference, parse_reference
from pybuild.registry.client import Client
from pybuild.registry.credentials import AnonymousKeychain
from pybuild.registry.errors import (
    BadCertificateFile,
    BlobUnknown,
    CertificateNotTrusted,
    ManifestUnknown,
    RegistryUnreachable,
    Unauthorized,
)
from pybuild.registry.keychain import SystemKeychain
from pybuild.registry.options import RegistryOptions
from pybuild.registry.retry import RetryPolicy
from tests.support.proxy import CuttingProxy, Tunnel
from tests.support.registry import (
    Certificates,
    RealRegistry,
    is_available,
    make_certificates,
    running_registry,
)

pytestmark = pytest.mark.skipif(not is_available(), reason="docker-registry is not installed")

AMD64 = parse_platform("linux/amd64")
CONFIG = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("anonymous")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RealRegistry]:
    """TLS and a password file."""
    folder = tmp_path_factory.mktemp("guarded")
    with running_registry(folder, users={"me": "s3cret"}, certificates=certificates) as running:
        yield running


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(RegistryOptions(), AnonymousKeychain(), lambda event: None) as made:
        yield made


def docker_config(folder: Path, host: str, pair: str = "me:s3cret") -> SystemKeychain:
    auth = b64encode(pair.encode()).decode()
    (folder / ".dockerconfigjson").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return SystemKeychain({"DOCKER_CONFIG": str(folder)})


def ref_to(registry: RealRegistry, rest: str) -> Reference:
    return parse_reference(f"{registry.host}/{rest}")


def descriptor_of(content: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


def push(client: Client, ref: Reference, content: bytes) -> TransferOutcome:
    return client.push_blob(ref, descriptor_of(content), lambda: iter([content]))


def push_image(client: Client, ref: Reference, family: Family = Family.OCI) -> list[bytes]:
    """Three layers as blobs; what is in them is not the registry's business."""
    media_types = (
        (OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_LAYER)
        if family is Family.OCI
        else (DOCKER_LAYER_GZIP,) * 3
    )
    contents = [os.urandom(10_000 + number) for number in range(3)]
    layers = [descriptor_of(*pair) for pair in zip(contents, media_types, strict=True)]
    config = descriptor_of(CONFIG, OCI_CONFIG if family is Family.OCI else DOCKER_CONFIG)
    for content in (CONFIG, *contents):
        push(client, ref, content)
    client.push_manifest(ref, make_manifest(config, layers, family))
    return contents


@pytest.mark.parametrize("family", list(Family))
def test_an_image_goes_there_and_back(
    registry: RealRegistry, client: Client, family: Family
) -> None:
    ref = ref_to(registry, f"there/{family.value}:1")
    client.check_push(ref)
    contents = push_image(client, ref, family)
    found = client.resolve(ref, AMD64)
    assert found.raw_config == CONFIG
    assert found.manifest.family is family
    layers = found.manifest.layers
    assert [b"".join(client.open_blob(found.source, layer)) for layer in layers] == contents
    assert client.manifest(found.reference) == found.manifest


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_another_client_reads_what_was_pushed(
    registry: RealRegistry, client: Client, tmp_path: Path
) -> None:
    ref = ref_to(registry, "other:1")
    push_image(client, ref)
    raw = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{ref}"],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    assert digest_of(raw) == client.resolve(ref, AMD64).manifest.digest


def test_what_is_missing_is_named(registry: RealRegistry, client: Client) -> None:
    ref = ref_to(registry, "there/missing:1")
    push_image(client, ref)
    with pytest.raises(ManifestUnknown):
        client.manifest(ref.with_tag("2"))
    assert client.try_manifest(ref.with_tag("2")) is None
    assert client.try_manifest(ref_to(registry, "never/seen:1")) is None
    with pytest.raises(BlobUnknown):
        client.blob(ref, descriptor_of(b"nobody has this"))


def test_a_blob_is_mounted_across_repositories(registry: RealRegistry, client: Client) -> None:
    content = os.urandom(100_000)
    base = ref_to(registry, "mount/base:1")
    assert push(client, base, content) is TransferOutcome.DONE

    def never() -> Iterator[bytes]:
        pytest.fail("the blob was read")

    target = ref_to(registry, "mount/app:1")
    descriptor = descriptor_of(content)
    outcome = client.push_blob(target, descriptor, never, mount_from=[base])
    assert outcome is TransferOutcome.MOUNTED
    assert client.blob(target, descriptor) == content


def big_blob(megabytes: int) -> tuple[Descriptor, Callable[[], Iterator[bytes]]]:
    chunk = os.urandom(1 << 20)
    hasher = hashlib.sha256()
    for _ in range(megabytes):
        hasher.update(chunk)
    descriptor = Descriptor(OCI_LAYER, digest_from_hex(hasher.hexdigest()), megabytes << 20)
    return descriptor, lambda: (chunk for _ in range(megabytes))


def test_a_big_blob_passes_through_little_memory(registry: RealRegistry, client: Client) -> None:
    import tracemalloc

    ref = ref_to(registry, "big:1")
    descriptor, open_chunks = big_blob(96)
    tracemalloc.start()
    try:
        assert client.push_blob(ref, descriptor, open_chunks) is TransferOutcome.DONE
        size = sum(len(chunk) for chunk in client.open_blob(ref, descriptor))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == descriptor.size
    assert peak < 8 << 20


def test_many_blobs_at_once(registry: RealRegistry, client: Client) -> None:
    ref = ref_to(registry, "many:1")
    contents = [os.urandom(300_000) for _ in range(8)] * 2
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda content: push(client, ref, content), contents))
        pulled = list(pool.map(lambda content: client.blob(ref, descriptor_of(content)), contents))
    assert pulled == contents
    assert outcomes.count(TransferOutcome.DONE) == 8
    assert outcomes.count(TransferOutcome.EXISTS) == 8


def test_an_upload_survives_a_broken_line(registry: RealRegistry) -> None:
    events: list[Event] = []
    descriptor, open_chunks = big_blob(40)
    with (
        CuttingProxy(registry.host, cut_after=20 << 20) as proxy,
        Client(RegistryOptions(), AnonymousKeychain(), events.append) as client,
    ):
        ref = parse_reference(f"{proxy.host}/broken:1")
        assert client.push_blob(ref, descriptor, open_chunks) is TransferOutcome.DONE
    assert proxy.cut
    with Client(RegistryOptions(), AnonymousKeychain(), events.append) as client:
        ref = ref_to(registry, "broken:1")
        assert sum(map(len, client.open_blob(ref, descriptor))) == descriptor.size
    outcomes = [event.outcome for event in events if isinstance(event, TransferFinished)]
    assert outcomes == [TransferOutcome.DONE] * 2


# TLS and passwords


def test_a_password_over_tls(
    guarded: RealRegistry, certificates: Certificates, tmp_path: Path
) -> None:
    options = RegistryOptions(certificates={guarded.host: certificates.authority})
    keychain = docker_config(tmp_path, guarded.host)
    with Client(options, keychain, lambda event: None) as client:
        ref = ref_to(guarded, "app:1")
        contents = push_image(client, ref)
        found = client.resolve(ref, AMD64)
        assert client.blob(ref, found.manifest.layers[0]) == contents[0]
        descriptor, open_chunks = big_blob(8)
        assert client.push_blob(ref, descriptor, open_chunks) is TransferOutcome.DONE
        assert sum(map(len, client.open_blob(ref, descriptor))) == descriptor.size


@pytest.mark.parametrize(
    ("pair", "part"),
    [(None, "no credentials were sent"), ("me:wr0ng", "credentials are from")],
)
def test_no_or_a_wrong_password(
    guarded: RealRegistry,
    certificates: Certificates,
    tmp_path: Path,
    pair: str | None,
    part: str,
) -> None:
    options = RegistryOptions(certificates={guarded.host: certificates.authority})
    keychain = (
        docker_config(tmp_path, guarded.host, pair)
        if pair
        else SystemKeychain({"DOCKER_CONFIG": str(tmp_path)})
    )
    with (
        Client(options, keychain, lambda event: None) as client,
        pytest.raises(Unauthorized, match=part) as caught,
    ):
        client.check_push(ref_to(guarded, "app:1"))
    assert "wr0ng" not in str(caught.value)


def test_an_authority_that_is_not_known_is_named(guarded: RealRegistry) -> None:
    with (
        Client(RegistryOptions(), AnonymousKeychain(), lambda event: None) as client,
        pytest.raises(CertificateNotTrusted) as caught,
    ):
        client.manifest(ref_to(guarded, "app:1"))
    assert "issued by Authority of the tests" in caught.value.message
    assert f"--registry-certificate={guarded.host}=" in caught.value.hint


@pytest.mark.parametrize("how", ["file", "folder", "skipped"])
def test_other_ways_to_trust(
    guarded: RealRegistry,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    options = RegistryOptions()
    if how == "file":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    elif how == "folder":  # as in kaniko's image: a plain bundle, not c_rehash's names
        folder = tmp_path / "certs"
        folder.mkdir()
        shutil.copy(certificates.authority, folder / "ca-certificates.crt")
        monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    else:
        options = RegistryOptions(skip_tls_hosts=frozenset({guarded.host}))
    with Client(options, docker_config(tmp_path, guarded.host), lambda event: None) as client:
        client.check_push(ref_to(guarded, "trust:1"))


def test_a_name_that_the_certificate_does_not_have(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "ca", "registry.example")
    with running_registry(tmp_path / "registry", certificates=certificates) as running:
        name = running.host.replace("127.0.0.1", "localhost")
        options = RegistryOptions(certificates={name: certificates.authority})
        with (
            Client(options, AnonymousKeychain(), lambda event: None) as client,
            pytest.raises(CertificateNotTrusted, match="made for another name"),
        ):
            client.manifest(parse_reference(f"{name}/app:1"))


def test_tls_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = make_certificates(tmp_path / "ca", "registry.test")
    options = RegistryOptions(certificates={"registry.test": certificates.authority})
    ref = parse_reference("registry.test/app:1")
    with (
        running_registry(tmp_path / "registry", certificates=certificates) as running,
        Tunnel(running.host, "us:pw") as tunnel,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://us:pw@{tunnel.host}")
        with Client(options, AnonymousKeychain(), lambda event: None) as client:
            push_image(client, ref)
        monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.host}")
        with (
            Client(options, AnonymousKeychain(), lambda event: None) as client,
            pytest.raises(RegistryUnreachable, match="407 Proxy Authentication") as caught,
        ):
            client.manifest(ref)
    assert tunnel.heads[0].startswith(b"CONNECT registry.test:443 HTTP/1.1\r\n")
    assert "NO_PROXY" in caught.value.hint


def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://us:pw@127.0.0.1:1")
    options = RegistryOptions(retry=RetryPolicy(tries=1))
    with (
        Client(options, AnonymousKeychain(), lambda event: None) as client,
        pytest.raises(RegistryUnreachable, match=r"through the proxy 127.0.0.1:1:") as caught,
    ):
        client.manifest(parse_reference("registry.test/app:1"))
    assert "NO_PROXY=registry.test" in caught.value.hint


def test_a_certificate_file_that_is_none(guarded: RealRegistry, tmp_path: Path) -> None:
    broken = tmp_path / "ca.crt"
    broken.write_text("hello")
    options = RegistryOptions(certificates={guarded.host: broken})
    with (
        Client(options, AnonymousKeychain(), lambda event: None) as client,
        pytest.raises(BadCertificateFile, match=str(broken)),
    ):
        client.manifest(ref_to(guarded, "app:1"))


def test_tls_to_a_plain_server_says_so(registry: RealRegistry) -> None:
    from pybuild.registry.transport import Endpoint, Transport

    endpoint = Endpoint("https", registry.host)
    transport = Transport(RegistryOptions(), "test")
    with pytest.raises(RegistryUnreachable, match="plain HTTP") as caught:
        transport.request(endpoint, "GET", endpoint.url("/v2/"), {})
    assert f"--insecure-registry={registry.host}" in caught.value.hint
    transport.close()
