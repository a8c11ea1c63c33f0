"""How objects of the three clouds are asked for, and what their answers promise."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pybuild.context.azure import azure_blob
from pybuild.context.errors import ContextDenied, ContextUnknown
from pybuild.context.gcs import GcsObject, gcs_object
from pybuild.context.kinds import AzureBlob, Bucket
from pybuild.context.open import ContextOptions
from pybuild.context.s3 import S3Object, s3_object
from pybuild.registry.cloud.sigv4 import AwsKeys, signed_headers
from tests.support.web_server import web_site

NOWHERE = {"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}


def options(tmp_path: Path, **environment: str) -> ContextOptions:
    return ContextOptions(tmp_path, environment={**NOWHERE, **environment})


def test_a_signature_that_amazon_publishes() -> None:
    """Amazon S3 API reference, "Signature calculations: examples", GET Object: the values that it
    gives for its example account."""
    keys = AwsKeys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    empty = hashlib.sha256(b"").hexdigest()
    signed = signed_headers(
        keys, "GET", "https://examplebucket.s3.amazonaws.com/test.txt",
        {"Range": "bytes=0-9", "x-amz-content-sha256": empty}, b"", service="s3",
        region="us-east-1", now=1369353600.0,
    )  # fmt: skip
    signature = signed["Authorization"].rpartition("Signature=")[2]
    assert signature == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


@pytest.mark.parametrize(
    ("environment", "bucket", "url"),
    [
        ({}, "b", "https://b.s3.us-east-1.amazonaws.com/a%20b/c%2B.tar"),
        ({"AWS_REGION": "cn-north-1"}, "b",
         "https://b.s3.cn-north-1.amazonaws.com.cn/a%20b/c%2B.tar"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "b.c",
         "https://s3.eu-west-1.amazonaws.com/b.c/a%20b/c%2B.tar"),
        ({"S3_ENDPOINT": "http://minio:9000"}, "b", "http://minio:9000/b/a%20b/c%2B.tar"),
        ({"S3_ENDPOINT": "https://10.0.0.1/s3/"}, "b", "https://10.0.0.1/s3/b/a%20b/c%2B.tar"),
        ({"S3_ENDPOINT": "oss.example.com"}, "b", "https://b.oss.example.com/a%20b/c%2B.tar"),
        ({"S3_ENDPOINT": "https://oss.example.com", "S3_FORCE_PATH_STYLE": "true"}, "b",
         "https://oss.example.com/b/a%20b/c%2B.tar"),
        ({"AWS_ENDPOINT_URL": "http://minio.storage.svc:9000"}, "b",
         "http://minio.storage.svc:9000/b/a%20b/c%2B.tar"),
        ({"AWS_ENDPOINT_URL_S3": "http://one:1", "AWS_ENDPOINT_URL": "http://two:1"}, "b",
         "http://one:1/b/a%20b/c%2B.tar"),
    ],
)  # fmt: skip
def test_where_an_object_of_s3_is(
    tmp_path: Path, environment: dict[str, str], bucket: str, url: str
) -> None:
    kind = Bucket("s3", bucket, "a b/c+.tar")
    found = s3_object(kind, options(tmp_path, **KEYS, **environment))
    assert found.url == url
    headers = found.request({"Range": "bytes=5-", "If-Match": '"x"'}).headers
    assert headers["Range"] == "bytes=5-" and "AKIDEXAMPLE" in headers["Authorization"]
    assert "secret" not in repr(found) + repr(found.request({}))


def test_an_object_that_anybody_may_read(tmp_path: Path) -> None:
    found = s3_object(Bucket("s3", "b", "k"), options(tmp_path))
    assert found.keys is None and "Authorization" not in found.request({}).headers
    assert "AWS_ACCESS_KEY_ID" in found.tried


@pytest.mark.parametrize("endpoint", ["ftp://x", "http://"])
def test_an_endpoint_that_is_none(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(ContextUnknown):
        s3_object(Bucket("s3", "b", "k"), options(tmp_path, S3_ENDPOINT=endpoint, **KEYS))


MD5 = '"25f9e794323b453885f5181f1b624d0b"'
CRC, CRC64 = (base64.b64encode(bytes(size)).decode() for size in (4, 8))


@pytest.mark.parametrize(
    ("headers", "endpoint", "algorithms"),
    [
        ({"etag": MD5}, "", {"md5"}),
        ({"etag": '"25f9e794323b453885f5181f1b624d0b-2"'}, "", set()),
        ({"etag": MD5, "x-amz-server-side-encryption": "AES256"}, "", {"md5"}),
        ({"etag": MD5, "x-amz-server-side-encryption": "AES256"}, "http://minio", set()),
        ({"etag": MD5, "x-amz-server-side-encryption": "aws:kms"}, "", set()),
        ({"etag": MD5, "x-amz-server-side-encryption-customer-algorithm": "AES256"}, "", set()),
        ({"x-amz-checksum-crc32": CRC}, "", {"crc32"}),
        ({"x-amz-checksum-crc32": CRC, "x-amz-checksum-type": "COMPOSITE"}, "", set()),
        ({"x-amz-checksum-crc32": f"{CRC}-3"}, "", set()),
        ({"x-amz-checksum-crc64nvme": CRC64}, "", {"crc64nvme"}),
        ({"x-amz-checksum-crc64nvme": CRC64, "etag": MD5}, "", {"md5"}),
    ],
)  # fmt: skip
def test_what_s3_promises(headers: dict[str, str], endpoint: str, algorithms: set[str]) -> None:
    found = S3Object("b", "k", "us-east-1", endpoint, False, None).checks(headers)
    assert {check.algorithm for check in found} == algorithms


@pytest.mark.parametrize(
    ("status", "headers", "body", "region"),
    [
        (301, {"x-amz-bucket-region": "eu-west-1"}, b"", "eu-west-1"),
        (400, {}, b"<Error><Code>x</Code><Region>eu-west-1</Region></Error>", "eu-west-1"),
        (400, {"x-amz-bucket-region": "us-east-1"}, b"", ""),
        (403, {"x-amz-bucket-region": "eu-west-1"}, b"", ""),
    ],
)
def test_the_region_of_a_bucket(
    status: int, headers: dict[str, str], body: bytes, region: str
) -> None:
    moved = S3Object("b", "k", "us-east-1", "", False, None).moved(status, headers, body)
    assert (moved.region if isinstance(moved, S3Object) else "") == region


# -- Google


def test_the_token_of_google_comes_from_the_metadata_server(tmp_path: Path) -> None:
    with web_site() as site:
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        site.files[path] = json.dumps({"access_token": "t0ken", "expires_in": 3599}).encode()
        found = gcs_object(
            Bucket("gs", "b", "folder/c d.tar"), options(tmp_path, GCE_METADATA_HOST=site.host)
        )
    request = found.request({"Range": "bytes=7-", "x-goog-generation": "12"})
    assert request.headers == {
        "Authorization": "Bearer t0ken", "Range": "bytes=7-", "Accept-Encoding": "gzip",
    }  # fmt: skip
    assert request.url == (
        "https://storage.googleapis.com/storage/v1/b/b/o/folder%2Fc%20d.tar"
        "?alt=media&ifGenerationMatch=12"
    )
    assert "t0ken" not in repr(found) + repr(request)


def test_a_key_file_of_google(tmp_path: Path) -> None:
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, check=True, text=True)
    with web_site() as site:
        site.files["/token"] = json.dumps({"access_token": "t0ken", "expires_in": 3599}).encode()
        account = {"type": "service_account", "client_email": "a@b", "private_key": key.stdout,
                   "token_uri": f"{site.url}/token"}  # fmt: skip
        (tmp_path / "key.json").write_text(json.dumps(account))
        found = gcs_object(
            Bucket("gs", "b", "k"),
            options(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json")),
        )
    assert found.request({}).headers["Authorization"] == "Bearer t0ken"


def test_an_emulator_gets_no_token(tmp_path: Path) -> None:
    found = gcs_object(Bucket("gs", "b", "k"), options(tmp_path, STORAGE_EMULATOR_HOST="h:1"))
    assert found.token == "" and found.request({}).url.startswith("http://h:1/storage/v1/b/b/o/k?")


def test_google_without_credentials(tmp_path: Path) -> None:
    found = gcs_object(Bucket("gs", "b", "k"), options(tmp_path, GCE_METADATA_HOST="127.0.0.1:9"))
    error = found.refused(401, json.dumps({"error": {"message": "Anonymous caller"}}).encode())
    assert isinstance(error, ContextDenied) and "Anonymous caller" in error.message
    assert "GOOGLE_APPLICATION_CREDENTIALS" in error.hint


@pytest.mark.parametrize(
    ("headers", "algorithms"),
    [
        ({"x-goog-hash": "crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw=="}, {"crc32c", "md5"}),
        ({"x-goog-hash": "crc32c=4waSgw=="}, {"crc32c"}),
        ({}, set()),
        ({"x-goog-hash": "crc32c=4waSgw==", "x-goog-stored-content-encoding": "gzip"}, set()),
        (
            {"x-goog-hash": "crc32c=4waSgw==", "x-goog-stored-content-encoding": "gzip",
             "content-encoding": "gzip"}, {"crc32c"},
        ),
    ],
)  # fmt: skip
def test_what_google_promises(headers: dict[str, str], algorithms: set[str]) -> None:
    """Nothing, where what is stored compressed was inflated on the way."""
    found = GcsObject("b", "k", "https://h", "").checks(headers)
    assert {check.algorithm for check in found} == algorithms


# -- Azure

_KEY, _SAS = "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN"
_CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


def test_a_token_of_entra_for_a_workload(tmp_path: Path) -> None:
    (tmp_path / "federated").write_text("assertion")
    with web_site() as site:
        site.files["/tenant/oauth2/v2.0/token"] = json.dumps({"access_token": "t0ken"}).encode()
        found = azure_blob(
            AzureBlob("mine", "core.windows.net", "c", "b"),
            options(
                tmp_path,
                AZURE_AUTHORITY_HOST=site.url,
                AZURE_TENANT_ID="tenant",
                AZURE_CLIENT_ID="client",
                AZURE_FEDERATED_TOKEN_FILE=str(tmp_path / "federated"),
            ),
        )
    headers = found.request({}).headers
    assert headers["Authorization"] == "Bearer t0ken" and headers["x-ms-version"] >= "2017-11-09"
    assert "t0ken" not in repr(found)
    error = found.refused(403, b"<Error><Code>AuthorizationPermissionMismatch</Code></Error>")
    assert isinstance(error, ContextDenied) and "AZURE_FEDERATED_TOKEN_FILE" in error.message


@pytest.mark.parametrize(
    ("environment", "origin"),
    [
        ({_KEY: "a2V5", _SAS: "s"}, _KEY),
        ({_SAS: "?sp=r"}, _SAS),
        ({_CONNECTION: "AccountName=mine;AccountKey=a2V5"}, _CONNECTION),
    ],
)
def test_the_order_of_azures_credentials(
    tmp_path: Path, environment: Mapping[str, str], origin: str
) -> None:
    kind = AzureBlob("mine", "core.usgovcloudapi.net", "c", "b")
    found = azure_blob(kind, options(tmp_path, **environment))
    assert found.credentials.origin == origin
    assert found.shown == "https://mine.blob.core.usgovcloudapi.net/c/b"
    signed = azure_blob(
        AzureBlob("mine", "core.windows.net", "c", "b", "sp=r&sig=x"),
        options(tmp_path, **environment),
    )
    assert signed.request({}).url.endswith("/c/b?sp=r&sig=x")


def test_a_connection_string_for_another_account(tmp_path: Path) -> None:
    text = "AccountName=other;AccountKey=a2V5;BlobEndpoint=http://elsewhere"
    there = {
        "AZURE_STORAGE_CONNECTION_STRING": text,
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
    }
    found = azure_blob(AzureBlob("mine", "core.windows.net", "c", "b"), options(tmp_path, **there))
    assert not found.credentials and found.endpoint == "https://mine.blob.core.windows.net"


def test_the_emulator_of_azure(tmp_path: Path) -> None:
    text = {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}
    kind = AzureBlob("devstoreaccount1", "core.windows.net", "c", "b")
    found = azure_blob(kind, options(tmp_path, **text))
    assert found.shown == "http://127.0.0.1:10000/devstoreaccount1/c/b" and found.credentials.key
