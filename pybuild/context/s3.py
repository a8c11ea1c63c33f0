"""An object of S3, or of a service that speaks as S3 does.

Amazon S3 API reference, GetObject; user guide, "Checking object integrity", "Virtual hosting of
buckets". S3_ENDPOINT and S3_FORCE_PATH_STYLE are kaniko's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from pybuild.context.checks import Check, encoded
from pybuild.context.download import Remote, Request
from pybuild.context.errors import ContextDenied, ContextNotFound, ContextUnknown
from pybuild.context.kinds import Bucket
from pybuild.context.web import as_address, xml_element
from pybuild.errors import PybuildError
from pybuild.registry.cloud.aws_identity import Aws, find_keys, profile_setting
from pybuild.registry.cloud.sigv4 import AwsKeys, signed_headers
from pybuild.registry.cloud.web import Web
from pybuild.registry.credentials import NothingFound
from pybuild.registry.options import split_host

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions

_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_DEFAULT_REGION = "us-east-1"
_MD5_TAG = re.compile(r'"([0-9a-f]{32})"')
_NAMES_BELOW_ONE_HOST = ("localhost", "svc", "local", "internal")
_ALGORITHMS = ("sha256", "sha1", "crc32", "crc32c", "crc64nvme")


class S3Object(Struct, frozen=True):
    """`keys` None: asked for without signature, since `tried` says that nothing was found."""

    bucket: str
    key: str
    region: str
    endpoint: str  # "" for Amazon's own
    path_style: bool
    keys: AwsKeys | None
    tried: str = ""

    @property
    def shown(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def url(self) -> str:
        endpoint = self.endpoint
        if not endpoint:
            suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
            endpoint = f"https://s3.{self.region}.{suffix}"
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/")
        host = parts.netloc
        if self.path_style:
            path += f"/{self.bucket}"
        else:
            host = f"{self.bucket}.{host}"
        path += "/" + quote(self.key, safe="/-_.~")
        return urlunsplit((parts.scheme, host, path, "", ""))

    def request(self, wanted: Mapping[str, str]) -> Request:
        headers = {"x-amz-checksum-mode": "ENABLED", **wanted}
        if self.keys is None:
            return Request(self.url, headers)
        headers["x-amz-content-sha256"] = _EMPTY_SHA256
        signed = signed_headers(
            self.keys, "GET", self.url, headers, b"", service="s3", region=self.region
        )
        return Request(self.url, signed)

    def validator(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        tag = headers.get("etag", "")
        return {"If-Match": tag} if tag else {}

    def checks(self, headers: Mapping[str, str]) -> tuple[Check, ...]:
        """Checksums over the whole object. That of one uploaded in parts may be one over the
        parts' checksums; the ETag is an MD5 only of what came in one piece, under no key."""
        found: dict[str, Check] = {}
        if headers.get("x-amz-checksum-type", "").upper() != "COMPOSITE":
            for algorithm in _ALGORITHMS:
                name = f"x-amz-checksum-{algorithm}"
                for check in encoded(algorithm, headers.get(name, ""), name):
                    found[algorithm] = check
        tag = _MD5_TAG.fullmatch(headers.get("etag", ""))
        encryption = headers.get("x-amz-server-side-encryption", "")
        plain = encryption == "" or (encryption == "AES256" and not self.endpoint)
        customer = "x-amz-server-side-encryption-customer-algorithm" in headers
        if tag and plain and not customer:
            found["md5"] = Check("md5", bytes.fromhex(tag[1]), "the ETag")
        if len(found) > 1:
            found.pop("crc64nvme", None)  # the slowest of them
        return tuple(found.values())

    def moved(self, status: int, headers: Mapping[str, str], body: bytes) -> Remote | None:
        """The bucket's own region, which any other one names (API reference, "Error responses":
        PermanentRedirect, AuthorizationHeaderMalformed)."""
        if status not in (301, 307, 400):
            return None
        region = headers.get("x-amz-bucket-region", "") or xml_element(body, "Region")
        if not region or region == self.region:
            return None
        return replace(self, region=region)

    def refused(self, status: int, body: bytes) -> PybuildError | None:
        code, message = xml_element(body, "Code"), xml_element(body, "Message")
        said = " ".join(str(part) for part in (status, code) if part)
        said += f": {message}" if message else ""
        host = urlsplit(self.url).netloc
        if code in ("NoSuchBucket", "NoSuchKey") or status == 404:
            return ContextNotFound(f"{self.shown}: {host} answers {said}")
        if status not in (400, 401, 403):
            return None
        if self.keys is None:
            return ContextDenied(
                f"{self.shown}: {host} answers {said}, and no AWS credentials were found",
                hint=f"tried {self.tried}",
            )
        return ContextDenied(
            f"{self.shown}: {host} answers {said} to the access key {self.keys.access_key}",
            hint="s3:GetObject on the object is needed; without s3:ListBucket, S3 says this of "
            "what is missing too",
        )


def s3_object(kind: Bucket, options: ContextOptions) -> S3Object:
    """Finds region, endpoint and credentials. Raises ContextUnknown."""
    environment = options.environment
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", kind.name):
        raise ContextUnknown(f"{kind.name!r} can't be the name of a bucket")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION", "")
    web = Web(environment)
    options.when_cancelled(web.close)
    aws = Aws(environment, web, region or _DEFAULT_REGION)
    endpoint = environment.get("S3_ENDPOINT", "") or aws.endpoint("s3", "")
    keys, tried = None, ""
    try:
        region = region or profile_setting(environment, "region") or _DEFAULT_REGION
        endpoint = endpoint or profile_setting(environment, "endpoint_url")
        keys, _ = find_keys(replace(aws, region=region))
    except NothingFound as missing:
        tried = str(missing)
    finally:
        web.close()
    endpoint = as_address(endpoint, "the S3 endpoint")
    wish = environment.get("S3_FORCE_PATH_STYLE", "").lower()
    path_style = wish in ("1", "t", "true") or _only_by_path(endpoint, kind.name)
    return S3Object(
        kind.name,
        kind.key,
        region or _DEFAULT_REGION,
        endpoint,
        path_style,
        keys,
        tried,
    )


def _only_by_path(endpoint: str, bucket: str) -> bool:
    """Whether a name below the endpoint's could not be found, or has no certificate."""
    if "." in bucket:
        return True
    if not endpoint:
        return False
    name = split_host(urlsplit(endpoint).netloc)[0]
    try:
        ip_address(name)
        return True
    except ValueError:
        last = name.rpartition(".")[2]
        return "." not in name or last in _NAMES_BELOW_ONE_HOST or ".svc." in name
