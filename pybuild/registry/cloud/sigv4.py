"""AWS Signature Version 4 ("Authenticating Requests", Signature Version 4 signing process)."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import parse_qsl, quote, urlsplit

from msgspec import Struct

_ALGORITHM = "AWS4-HMAC-SHA256"


class AwsKeys(Struct, frozen=True):
    """An access key; `until` (seconds since 1970) is when a temporary one ends, 0 for never."""

    access_key: str
    secret_key: str
    token: str = ""
    until: float = 0.0

    def __repr__(self) -> str:
        return f"AwsKeys({self.access_key!r})"


def signed_headers(
    keys: AwsKeys,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    service: str,
    region: str,
    now: float | None = None,
) -> dict[str, str]:
    """The headers to send: those given, with date, token and Authorization. `url` is encoded, and
    has no dots in its path; all services but S3 encode it once more. Host is signed as the client
    sends it."""
    moment = time.gmtime(time.time() if now is None else now)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", moment)
    parts = urlsplit(url)
    sent = {**headers, "X-Amz-Date": stamp}
    if keys.token:
        sent["X-Amz-Security-Token"] = keys.token
    signed = {name.lower(): " ".join(value.split()) for name, value in sent.items()}
    signed["host"] = parts.netloc
    names = ";".join(sorted(signed))
    query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    canonical = "\n".join(
        [
            method,
            quote(parts.path or "/", safe="/-_.~%" if service == "s3" else "/-_.~"),
            query,
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join([_ALGORITHM, stamp, scope, sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    sent["Authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return sent
