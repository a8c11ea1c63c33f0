"""Amazon ECR: the registry's password for who is known at AWS (ECR API, GetAuthorizationToken)."""

from __future__ import annotations

import time
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Mapping

from msgspec import Struct

from pybuild.registry.cloud.aws_identity import Aws, find_keys
from pybuild.registry.cloud.hosts import EcrPlace, ecr_place
from pybuild.registry.cloud.sigv4 import signed_headers
from pybuild.registry.cloud.web import Web, json_of, text_of
from pybuild.registry.credentials import Credentials, Found, NothingFound

_PUBLIC_REGION = "us-east-1"
_LIFETIME_SECONDS = 12 * 3600.0
_BODY = b"{}"


class _Api(Struct, frozen=True):
    service: str  # as it is signed
    target: str
    url: str
    region: str
    suffix: str


class Ecr:
    """Private registries by account and region, and the public one. Anonymous pulls from the
    public one need none of this, so that what goes wrong here is told only where it matters."""

    title = "Amazon ECR"

    def __init__(self, environment: Mapping[str, str], web: Web) -> None:
        self._environment = environment
        self._web = web

    def ask(self, host: str) -> Found:
        """Raises NothingFound."""
        api = _api_of(ecr_place(host) or EcrPlace())
        aws = Aws(self._environment, self._web, api.region, api.suffix)
        keys, origin = find_keys(aws)
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"{api.target}.GetAuthorizationToken",
        }
        url = aws.endpoint(api.service, api.url) + "/"
        signed = signed_headers(
            keys, "POST", url, headers, _BODY, service=api.service, region=api.region
        )
        told = f"{self.title} (keys from {origin})"
        answer = json_of(self._web.ask("POST", url, signed, _BODY), told)
        data = answer.get("authorizationData")
        entry = data[0] if isinstance(data, list) and data else data
        if not isinstance(entry, dict):
            raise NothingFound(f"{told} gave no authorizationData")
        username, password = _pair(text_of(entry, "authorizationToken", told))
        expires = entry.get("expiresAt")
        left = float(expires) - time.time() if isinstance(expires, (int, float)) else 0.0
        return Found(
            Credentials(username, password, origin=f"{self.title}, keys from {origin}"),
            time.monotonic() + (left if left > 0 else _LIFETIME_SECONDS),
        )


def _api_of(place: EcrPlace) -> _Api:
    if not place.region:
        return _Api(
            "ecr-public",
            "SpencerFrontendService",
            f"https://api.ecr-public.{_PUBLIC_REGION}.amazonaws.com",
            _PUBLIC_REGION,
            "amazonaws.com",
        )
    first = "ecr-fips" if place.fips else "api.ecr"
    url = f"https://{first}.{place.region}.{place.suffix}"
    target = "AmazonEC2ContainerRegistry_V20150921"
    return _Api("ecr", target, url, place.region, place.suffix)


def _pair(token: str) -> tuple[str, str]:
    try:
        username, colon, password = b64decode(token, validate=True).decode().partition(":")
    except (BadBase64, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise NothingFound("Amazon ECR's token is not `user:password` in base64")
    return username, password
