"""An object of Google Cloud Storage.

JSON API reference, "Objects: get"; "Hashes and ETags", "Transcoding of gzip-compressed files".
STORAGE_EMULATOR_HOST is what Google's own libraries take for an emulator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from msgspec import Struct

from pybuild.context.checks import Check, encoded
from pybuild.context.download import Remote, Request
from pybuild.context.errors import ContextDenied, ContextNotFound
from pybuild.context.kinds import Bucket
from pybuild.context.web import as_address
from pybuild.errors import PybuildError
from pybuild.registry.cloud.google import Google
from pybuild.registry.cloud.web import Web
from pybuild.registry.credentials import NothingFound

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions

_HOST = "https://storage.googleapis.com"
_GENERATION = "x-goog-generation"


class GcsObject(Struct, frozen=True):
    """`token` "": asked for as anybody; `tried` says where credentials were looked for."""

    bucket: str
    key: str
    endpoint: str
    token: str
    origin: str = ""
    tried: str = ""

    def __repr__(self) -> str:
        return f"GcsObject({self.shown!r})"

    @property
    def shown(self) -> str:
        return f"gs://{self.bucket}/{self.key}"

    def request(self, wanted: Mapping[str, str]) -> Request:
        query = {"alt": "media"}
        # What is stored compressed would else arrive inflated, and without the checksum it has.
        headers = {"Accept-Encoding": "gzip", **wanted}
        generation = headers.pop(_GENERATION, "")
        if generation:
            query["ifGenerationMatch"] = generation
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        path = f"/storage/v1/b/{quote(self.bucket, safe='')}/o/{quote(self.key, safe='')}"
        return Request(f"{self.endpoint}{path}?{urlencode(query)}", headers)

    def validator(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        generation = headers.get(_GENERATION, "")
        return {_GENERATION: generation} if generation.isdigit() else {}

    def checks(self, headers: Mapping[str, str]) -> tuple[Check, ...]:
        stored = headers.get("x-goog-stored-content-encoding", "identity")
        if stored != "identity" and headers.get("content-encoding", "identity") != stored:
            return ()
        found: dict[str, Check] = {}
        for pair in headers.get("x-goog-hash", "").split(","):
            algorithm, _, value = pair.strip().partition("=")
            if algorithm in ("crc32c", "md5"):
                found |= {
                    check.algorithm: check for check in encoded(algorithm, value, "x-goog-hash")
                }
        return tuple(found.values())

    def moved(self, status: int, headers: Mapping[str, str], body: bytes) -> Remote | None:  # noqa: ARG002
        return None

    def refused(self, status: int, body: bytes) -> PybuildError | None:
        said = f"{status}{_reason(body)}"
        if status == 404:
            return ContextNotFound(f"{self.shown}: Google Cloud Storage answers {said}")
        if status not in (401, 403):
            return None
        if not self.token:
            return ContextDenied(
                f"{self.shown}: Google Cloud Storage answers {said}, and no credentials were found",
                hint=f"tried {self.tried}",
            )
        return ContextDenied(
            f"{self.shown}: Google Cloud Storage answers {said} to {self.origin}",
            hint="the right storage.objects.get is needed (role Storage Object Viewer)",
        )


def _reason(body: bytes) -> str:
    try:
        value = json.loads(body)
        text = value["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" ({' '.join(str(text).split())[:300]})"


def gcs_object(kind: Bucket, options: ContextOptions) -> GcsObject:
    """Finds endpoint and credentials; an emulator gets none. Raises ContextUnknown."""
    environment = options.environment
    emulator = environment.get("STORAGE_EMULATOR_HOST", "")
    if emulator:
        address = emulator if "://" in emulator else f"http://{emulator}"
        return GcsObject(kind.name, kind.key, as_address(address, "STORAGE_EMULATOR_HOST"), "")
    web = Web(environment)
    options.when_cancelled(web.close)
    try:
        found = Google(environment, web).ask("storage.googleapis.com").credentials
    except NothingFound as missing:
        return GcsObject(kind.name, kind.key, _HOST, "", tried=str(missing))
    finally:
        web.close()
    return GcsObject(kind.name, kind.key, _HOST, found.password, found.origin)
