"""A blob of Azure's storage, in the public and the sovereign clouds, or in an emulator.

Azure Storage REST API: "Get Blob", "Authorize with Shared Key", "Create an account SAS", "Authorize
with Microsoft Entra ID"; "Configure Azure Storage connection strings".
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from msgspec import Struct

from pybuild.context.checks import Check, by_user, encoded
from pybuild.context.download import Remote, Request
from pybuild.context.errors import ContextDenied, ContextNotFound
from pybuild.context.kinds import AzureBlob
from pybuild.context.web import as_address, xml_element
from pybuild.errors import PybuildError
from pybuild.registry.cloud.entra import Entra
from pybuild.registry.cloud.web import Web
from pybuild.registry.credentials import NothingFound

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions

_VERSION = "2021-12-02"
_AUDIENCE = "https://storage.azure.com"
_AUTHORITIES = {
    "core.chinacloudapi.cn": "https://login.chinacloudapi.cn",
    "core.usgovcloudapi.net": "https://login.microsoftonline.us",
    "core.cloudapi.de": "https://login.microsoftonline.de",
}
_AUTHORITY = "https://login.microsoftonline.com"
_KEY_VARIABLES = ("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
# Azurite's and the old emulator's one account, the same on every machine ("Use the Azurite
# emulator for local Azure Storage development").
_EMULATOR_ACCOUNT = "devstoreaccount1"
_EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_EMULATOR = "http://127.0.0.1:10000/devstoreaccount1"
# The headers in a signature without their names ("Authorize with Shared Key", 2009-09-19 on).
_SIGNED = (
    "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
    "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
)  # fmt: skip


class BlobCredentials(Struct, frozen=True):
    """One of the three, or none: the account's key, a shared access signature (a query), a token.
    `origin` names where they are from, or what was tried."""

    key: bytes = b""
    sas: str = ""
    token: str = ""
    origin: str = ""

    def __repr__(self) -> str:
        return f"BlobCredentials(origin={self.origin!r})"

    def __bool__(self) -> bool:
        return bool(self.key or self.sas or self.token)


class Blob(Struct, frozen=True):
    account: str
    endpoint: str  # with the account in its path for emulators
    container: str
    name: str
    credentials: BlobCredentials
    checksum: str = ""

    @property
    def shown(self) -> str:
        return f"{self.endpoint}/{self.container}/{self.name}"

    def request(self, wanted: Mapping[str, str]) -> Request:
        name = quote(self.name, safe="/-_.~")
        url = f"{self.endpoint}/{quote(self.container, safe='$-')}/{name}"
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": _VERSION, **wanted}
        found = self.credentials
        if found.sas:
            return Request(f"{url}?{found.sas}", dict(wanted))
        if found.token:
            headers["Authorization"] = f"Bearer {found.token}"
        elif found.key:
            signature = self._signature(url, headers)
            headers["Authorization"] = f"SharedKey {self.account}:{signature}"
        return Request(url, headers)

    def _signature(self, url: str, headers: Mapping[str, str]) -> str:
        parts = urlsplit(url)
        own = sorted((name.lower(), value) for name, value in headers.items()
                     if name.lower().startswith("x-ms-"))  # fmt: skip
        query = sorted(parse_qsl(parts.query, keep_blank_values=True))
        lines = [
            "GET",
            *(headers.get(name, "") for name in _SIGNED),
            *(f"{name}:{value}" for name, value in own),
            f"/{self.account}{parts.path}",
            *(f"{name.lower()}:{value}" for name, value in query),
        ]
        digest = hmac.digest(self.credentials.key, "\n".join(lines).encode(), "sha256")
        return b64encode(digest).decode()

    def validator(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        tag = headers.get("etag", "")
        return {"If-Match": tag} if tag else {}

    def checks(self, headers: Mapping[str, str]) -> tuple[Check, ...]:
        promised = encoded("md5", headers.get("content-md5", ""), "Content-MD5")
        return (*by_user(self.checksum), *promised)

    def moved(self, status: int, headers: Mapping[str, str], body: bytes) -> Remote | None:  # noqa: ARG002
        return None

    def refused(self, status: int, body: bytes) -> PybuildError | None:
        code = xml_element(body, "Code")
        said = f"{self.shown}: Azure answers {status}{f' {code}' if code else ''}"
        found = self.credentials
        # Without credentials Azure says 404 or 409 of what is there, and not public.
        if not found and status in (401, 403, 404, 409):
            return ContextDenied(
                f"{said}, and no credentials were found", hint=f"tried {found.origin}"
            )
        if status == 404:
            return ContextNotFound(said)
        if status in (401, 403):
            return ContextDenied(
                f"{said} to {found.origin}",
                hint="the role Storage Blob Data Reader is needed, or a key or signature that is "
                "valid for this account now",
            )
        return None


def azure_blob(kind: AzureBlob, options: ContextOptions) -> Blob:
    """Finds endpoint and credentials. Raises ContextUnknown, ContextDenied for a broken key."""
    environment = options.environment
    settings = _connection(environment.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    if settings.get("AccountName", kind.account) != kind.account:
        settings = {}  # it is for another account
    emulated = environment.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
    emulated = emulated and kind.account == _EMULATOR_ACCOUNT
    endpoint = as_address(
        settings.get("BlobEndpoint", "")
        or environment.get("AZURE_STORAGE_ENDPOINT", "")
        or (_EMULATOR if emulated else ""),
        "the endpoint of Azure's storage",
    )
    return Blob(
        kind.account,
        endpoint or f"https://{kind.account}.blob.{kind.cloud}",
        kind.container,
        kind.blob,
        _credentials(kind, settings, options),
        kind.checksum,
    )


def _connection(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    settings = {name.strip(): value.strip() for name, _, value in pairs}
    if settings.get("UseDevelopmentStorage", "").lower() == "true":
        return {"AccountName": _EMULATOR_ACCOUNT, "AccountKey": _EMULATOR_KEY,
                "BlobEndpoint": _EMULATOR}  # fmt: skip
    return settings


def _credentials(
    kind: AzureBlob, settings: Mapping[str, str], options: ContextOptions
) -> BlobCredentials:
    """The address's own signature, then kaniko's key, further keys and signatures, then Entra ID;
    last nobody's, for a blob that is public."""
    environment = options.environment
    if kind.query:
        return BlobCredentials(sas=kind.query, origin="the signature of the address")
    for name in _KEY_VARIABLES:
        if environment.get(name):
            return BlobCredentials(key=_key(environment[name], name), origin=name)
    where = "AZURE_STORAGE_CONNECTION_STRING"
    if settings.get("AccountKey"):
        return BlobCredentials(key=_key(settings["AccountKey"], where), origin=where)
    for origin, sas in (
        ("AZURE_STORAGE_SAS_TOKEN", environment.get("AZURE_STORAGE_SAS_TOKEN", "")),
        (where, settings.get("SharedAccessSignature", "")),
    ):
        if sas:
            return BlobCredentials(sas=sas.lstrip("?"), origin=origin)
    web = Web(environment)
    options.when_cancelled(web.close)
    try:
        authority = _AUTHORITIES.get(kind.cloud, _AUTHORITY)
        token, origin = Entra(environment, web).token(authority, _AUDIENCE)
    except NothingFound as missing:
        names = ", ".join((*_KEY_VARIABLES, where, "AZURE_STORAGE_SAS_TOKEN"))
        return BlobCredentials(origin=f"{names}; {missing}")
    finally:
        web.close()
    return BlobCredentials(token=token, origin=origin)


def _key(text: str, name: str) -> bytes:
    try:
        return b64decode(text.strip(), validate=True)
    except (BadBase64, ValueError):
        raise ContextDenied(
            f"{name} is no account key: it has to be base64", hint="copy it from the account again"
        ) from None
