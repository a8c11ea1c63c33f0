"""Contexts in S3, Google's and Azure's storage, from servers that speak as these do."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import google_crc32c
import pytest

from pybuild.context.crc64 import Crc64Nvme
from pybuild.context.errors import (
    ContextDenied,
    ContextDiffers,
    ContextNotFound,
    ContextUnreachable,
)
from pybuild.context.kinds import Bucket
from pybuild.context.open import ContextOptions, open_context
from pybuild.context.s3 import s3_object
from pybuild.errors import PybuildError
from pybuild.events import Event, Level, Notice
from pybuild.registry.options import RegistryOptions
from pybuild.registry.retry import RetryPolicy
from tests.support.archives import tar_of
from tests.support.object_stores import (
    AZURE_ACCOUNT,
    AZURE_KEY,
    Store,
    azure_sas,
    azure_server,
    enforce_signatures,
    gcs_server,
    s3_server,
)
from tests.support.project import EXECUTOR, Project
from tests.support.proxy import Instead, Spoil, running_proxy

FILES = {"Dockerfile": b"FROM scratch\nCOPY . /\n", "a/b": b"content", "large": os.urandom(600_000)}
TAR = tar_of(FILES)
ODD = "folder/a context+more é.tar"
HALF = len(TAR) // 2
SERVERS: Mapping[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "s3": s3_server, "gs": gcs_server, "azure": azure_server,
}  # fmt: skip
QUICK = RegistryOptions(
    retry=RetryPolicy(tries=4, first_wait_seconds=0.01, total_seconds=3.0), timeout_seconds=2.0
)
# One worker starts each server once.
pytestmark = pytest.mark.xdist_group("object-stores")


@pytest.fixture(scope="module", params=SERVERS)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    name = str(request.param)
    with SERVERS[name](tmp_path_factory.mktemp(name)) as store:
        store.put("bucket", "c.tar", TAR)
        store.put("bucket", ODD, TAR)
        if name == "s3":
            enforce_signatures(store)
        yield store


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with s3_server(tmp_path_factory.mktemp("s3-open")) as store:
        yield store


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with azure_server(tmp_path_factory.mktemp("azure-too")) as store:
        store.put("bucket", "c.tar", TAR)
        yield store


def fetch(
    url: str, folder: Path, environment: Mapping[str, str]
) -> tuple[dict[str, bytes], list[Event]]:
    events: list[Event] = []
    options = ContextOptions(
        folder / "work", environment={"HOME": str(folder), **environment}, web=QUICK
    )
    try:
        with open_context(url, options, events.append) as root:
            found = {
                str(path.relative_to(root)): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            }
    finally:
        assert not (folder / "work").exists() or list((folder / "work").iterdir()) == []
    return found, events


def told(events: list[Event], level: Level) -> str:
    return "\n".join(e.message for e in events if isinstance(e, Notice) and e.level is level)


def through(environment: Mapping[str, str], store: Store, host: str) -> dict[str, str]:
    return {name: value.replace(store.host, host) for name, value in environment.items()}


@pytest.mark.parametrize("name", ["c.tar", ODD])
def test_an_object(store: Store, tmp_path: Path, name: str) -> None:
    found, events = fetch(store.context("bucket", name), tmp_path, store.environment)
    assert found == FILES
    assert "that was promised" in told(events, Level.DEBUG) and not told(events, Level.WARNING)


def test_the_command_line(store: Store, tmp_path: Path) -> None:
    project = Project(tmp_path)
    run = subprocess.run(
        [EXECUTOR, f"--context={store.context('bucket', 'c.tar')}", "--no-push"],
        env=project.environment(dict(store.environment)), capture_output=True, text=True,
        cwd=project.context,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert not project.leftovers()


FAULTS = {
    "cut in the middle": [Spoil(cut_after=HALF)],
    "cut at once": [Spoil(cut_after=0)],
    "503 and 429": [Instead(503), Instead(429)],
    "500": [Instead(500)],
    "hangs": [Spoil(hangs=True)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes(store: Store, tmp_path: Path, fault: str) -> None:
    with running_proxy(store.host) as proxy:
        faults = list(FAULTS[fault])
        proxy.rule = lambda *_: faults.pop(0) if faults else None
        environment = through(store.environment, store, proxy.host)
        found, events = fetch(store.context("bucket", "c.tar"), tmp_path, environment)
    assert found == FILES
    assert told(events, Level.WARNING).count("trying again") == len(FAULTS[fault])
    if fault == "cut in the middle" and "STORAGE_EMULATOR_HOST" not in store.environment:
        assert proxy.asked[-1].status == 206  # Google's emulator names no generation


def test_less_than_announced(store: Store, tmp_path: Path) -> None:
    """Whoever asks for the rest learns that there is none: the file is whole, or it is told."""
    with running_proxy(store.host) as proxy:
        faults = [Spoil(length=HALF)]
        proxy.rule = lambda *_: faults.pop() if faults else None
        environment = through(store.environment, store, proxy.host)
        try:
            found, _ = fetch(store.context("bucket", "c.tar"), tmp_path, environment)
        except ContextDiffers as error:
            assert f"ends after {len(TAR)} bytes" in error.message
        else:
            assert found == FILES


@pytest.mark.parametrize("fault", [Instead(503), Spoil(cut_after=100)], ids=["busy", "cut"])
def test_a_fault_that_stays(store: Store, tmp_path: Path, fault: Instead | Spoil) -> None:
    with running_proxy(store.host) as proxy:
        proxy.rule = lambda *_: fault
        environment = through(store.environment, store, proxy.host)
        with pytest.raises(ContextUnreachable) as caught:
            fetch(store.context("bucket", "c.tar"), tmp_path, environment)
    assert "attempt 4 of 4" in caught.value.message


def test_a_byte_that_changes_on_the_way(store: Store, tmp_path: Path) -> None:
    with running_proxy(store.host) as proxy:
        proxy.rule = lambda *_: Spoil(flip=True)
        environment = through(store.environment, store, proxy.host)
        with pytest.raises(PybuildError) as caught:
            fetch(store.context("bucket", "c.tar"), tmp_path, environment)
    assert caught.value.code in ("context-differs", "bad-archive", "no-archive")


@pytest.mark.parametrize("name", SERVERS)
def test_an_object_that_changes_meanwhile(tmp_path: Path, name: str) -> None:
    with SERVERS[name](tmp_path) as store, running_proxy(store.host) as proxy:
        store.put("bucket", "c.tar", TAR)

        def rule(*_: str) -> Spoil | None:
            if not proxy.asked:
                return Spoil(cut_after=HALF)
            store.put("bucket", "c.tar", tar_of({"Dockerfile": "FROM other\n"}))
            return None

        proxy.rule = rule
        environment = through(store.environment, store, proxy.host)
        with pytest.raises(ContextDiffers) as caught:
            fetch(store.context("bucket", "c.tar"), tmp_path, environment)
    assert "changed while" in caught.value.message


@pytest.mark.parametrize("place", [("bucket", "none.tar"), ("nowhere", "c.tar")])
def test_what_is_missing(store: Store, tmp_path: Path, place: tuple[str, str]) -> None:
    with pytest.raises(ContextNotFound) as caught:
        fetch(store.context(*place), tmp_path, store.environment)
    assert place[1] in caught.value.message and "404" in caught.value.message


# -- S3 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with s3_server(tmp_path_factory.mktemp("s3-keys")) as store:
        store.put("bucket", "c.tar", TAR)
        enforce_signatures(store)
        yield store


class TestS3Credentials:
    """Against a server that checks signatures; the right keys are in `store`."""

    @pytest.fixture
    def store(self, secured: Store) -> Store:
        return secured

    def plain(self, store: Store) -> dict[str, str]:
        """Without keys."""
        return {name: value for name, value in store.environment.items() if "ACCESS" not in name}

    def test_a_profile_file(self, store: Store, tmp_path: Path) -> None:
        keys = store.environment
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws" / "credentials").write_text(
            "[ci]\n"
            f"aws_access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
        )
        endpoint = keys["S3_ENDPOINT"]
        (tmp_path / ".aws" / "config").write_text(
            f"[profile ci]\nregion = us-east-1\nendpoint_url = {endpoint}\n"
        )
        environment = {"AWS_PROFILE": "ci", "S3_FORCE_PATH_STYLE": "true"}
        assert fetch("s3://bucket/c.tar", tmp_path, environment)[0] == FILES

    def test_a_web_identity(self, s3: Store, tmp_path: Path) -> None:
        """STS is moto's as well."""
        s3.put("bucket", "c.tar", TAR)
        (tmp_path / "token").write_text("pod-token")
        environment = {
            **self.plain(s3),
            "AWS_ENDPOINT_URL_STS": s3.environment["S3_ENDPOINT"],
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        }
        found = s3_object(Bucket("s3", "bucket", "c.tar"),
                          ContextOptions(tmp_path, environment=environment))  # fmt: skip
        assert found.keys is not None and found.keys.token
        assert "X-Amz-Security-Token" in found.request({}).headers
        assert fetch("s3://bucket/c.tar", tmp_path, environment)[0] == FILES

    def test_the_role_of_an_instance(self, s3: Store, tmp_path: Path) -> None:
        """moto has a metadata server too, of version 1: the token of version 2 is put before it."""
        s3.put("bucket", "c.tar", TAR)
        with running_proxy(s3.host) as proxy:
            proxy.rule = lambda method, _: Instead(200, b"session") if method == "PUT" else None
            environment = {
                **self.plain(s3),
                "AWS_EC2_METADATA_DISABLED": "false",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{proxy.host}",
            }
            assert fetch("s3://bucket/c.tar", tmp_path, environment)[0] == FILES
            assert proxy.count("GET", "security-credentials") == 2

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "SignatureDoesNotMatch"),
            ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, "InvalidAccessKeyId"),
        ],
    )
    def test_wrong_keys(
        self, store: Store, tmp_path: Path, changed: dict[str, str], said: str
    ) -> None:
        with pytest.raises(ContextDenied) as caught:
            fetch("s3://bucket/c.tar", tmp_path, {**store.environment, **changed})
        assert said in caught.value.message and "wrong-secret" not in caught.value.message

    def test_no_keys(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(ContextDenied) as caught:
            fetch("s3://bucket/c.tar", tmp_path, self.plain(store))
        assert "no AWS credentials" in caught.value.message
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def _crc32c(data: bytes) -> bytes:
    digest: bytes = google_crc32c.Checksum(data).digest()
    return digest


def _crc64(data: bytes) -> bytes:
    running = Crc64Nvme()
    running.update(data)
    return running.digest()


S3_CHECKSUMS: Mapping[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": _crc32c,
    "crc64nvme": _crc64,
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


@pytest.mark.parametrize("algorithm", S3_CHECKSUMS)
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_a_checksum_of_s3(s3: Store, tmp_path: Path, algorithm: str, right: bool) -> None:
    """The proxy promises what S3 promises; moto itself knows these for few objects."""
    s3.put("bucket", "c.tar", TAR)
    value = base64.b64encode(S3_CHECKSUMS[algorithm](TAR if right else b"another")).decode()
    name = f"x-amz-checksum-{algorithm}"
    headers = ((name, value), ("x-amz-checksum-type", "FULL_OBJECT"), ("ETag", '"parts-2"'))
    with running_proxy(s3.host) as proxy:
        proxy.rule = lambda *_: Instead(200, TAR, "application/x-tar", headers)
        environment = through(s3.environment, s3, proxy.host)
        if right:
            found, events = fetch("s3://bucket/c.tar", tmp_path, environment)
            assert found == FILES and f"has the {algorithm}" in told(events, Level.DEBUG)
            return
        with pytest.raises(ContextDiffers) as caught:
            fetch("s3://bucket/c.tar", tmp_path, environment)
        assert name in caught.value.message


def test_another_region(s3: Store, tmp_path: Path) -> None:
    """The bucket's own is named by whoever was asked, and what is asked next is signed for it."""
    s3.put("bucket", "c.tar", TAR)
    seen: list[str] = []
    with running_proxy(s3.host) as proxy:

        def rule(*_: str) -> Instead | None:
            seen.append("asked")
            moved = (("x-amz-bucket-region", "eu-west-1"),)
            return Instead(301, b"", headers=moved) if len(seen) == 1 else None

        proxy.rule = rule
        environment = through(s3.environment, s3, proxy.host)
        assert fetch("s3://bucket/c.tar", tmp_path, environment)[0] == FILES
    assert len(seen) == 2


# -- Azure -------------------------------------------------------------------------------------


def _azure_ways(azure: Store) -> dict[str, tuple[str, dict[str, str]]]:
    """By name: the address and the environment."""
    endpoint = azure.environment["AZURE_STORAGE_ENDPOINT"]
    url, sas = azure.context("bucket", "c.tar"), azure_sas("bucket", "c.tar")
    account = f"AccountName={AZURE_ACCOUNT};BlobEndpoint={endpoint}"
    there = {"AZURE_STORAGE_ENDPOINT": endpoint}
    return {
        "key": (url, {**there, "AZURE_STORAGE_KEY": AZURE_KEY}),
        "connection string": (
            url, {"AZURE_STORAGE_CONNECTION_STRING": f"{account};AccountKey={AZURE_KEY}"}
        ),
        "signature in the address": (f"{url}?{sas}", there),
        "signature": (url, {**there, "AZURE_STORAGE_SAS_TOKEN": f"?{sas}"}),
        "signature in a connection string": (
            url, {"AZURE_STORAGE_CONNECTION_STRING": f"{account};SharedAccessSignature={sas}"}
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "way",
    ["key", "connection string", "signature in the address", "signature",
     "signature in a connection string"],
)  # fmt: skip
def test_credentials_of_azure(azure: Store, tmp_path: Path, way: str) -> None:
    url, environment = _azure_ways(azure)[way]
    found, events = fetch(url, tmp_path, environment)
    assert found == FILES
    assert "sig=" not in repr(events)


@pytest.mark.parametrize("minutes", [-5, 60])
def test_a_signature_that_has_ended_or_is_for_another_blob(
    azure: Store, tmp_path: Path, minutes: int
) -> None:
    name = "other.tar" if minutes > 0 else "c.tar"
    sas = azure_sas("bucket", name, minutes=minutes)
    there = {"AZURE_STORAGE_ENDPOINT": azure.environment["AZURE_STORAGE_ENDPOINT"]}
    with pytest.raises(ContextDenied) as caught:
        fetch(f"{azure.context('bucket', 'c.tar')}?{sas}", tmp_path, there)
    assert "the signature of the address" in caught.value.message
    assert "sig=" not in caught.value.message


def test_a_key_that_is_none(azure: Store, tmp_path: Path) -> None:
    environment = {**azure.environment, "AZURE_STORAGE_ACCESS_KEY": "no base64!"}
    with pytest.raises(ContextDenied) as caught:
        fetch(azure.context("bucket", "c.tar"), tmp_path, environment)
    assert "AZURE_STORAGE_ACCESS_KEY" in caught.value.message
    assert "no base64" not in json.dumps([caught.value.message, caught.value.hint])
