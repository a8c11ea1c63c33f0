"""Entra ID, Azure's directory: an access token for who this program is at Azure.

"OAuth 2.0 client credentials flow" (with a secret, or a federated assertion), "How to use managed
identities on a VM / App Service".
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from pybuild.registry.cloud.aws_identity import read_text
from pybuild.registry.cloud.web import Answer, Web, json_of, text_of
from pybuild.registry.credentials import NothingFound

_IMDS = "http://169.254.169.254"
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Entra:
    def __init__(self, environment: Mapping[str, str], web: Web) -> None:
        self._environment = environment
        self._web = web

    def token(self, authority: str, audience: str) -> tuple[str, str]:
        """A token for `audience` (an address without `/.default`), and which source gave it.
        AZURE_AUTHORITY_HOST goes before `authority`. Raises NothingFound, which tells all that was
        tried."""
        authority = self._environment.get("AZURE_AUTHORITY_HOST", "").rstrip("/") or authority
        tried: list[str] = []
        for origin, find in (
            ("AZURE_FEDERATED_TOKEN_FILE", self._federated),
            ("AZURE_CLIENT_SECRET", self._secret),
            ("managed identity", self._managed),
        ):
            try:
                token = find(authority, audience)
            except NothingFound as missing:
                tried.append(f"{origin}: {missing}")
                continue
            if token:
                return token, origin
            tried.append(f"{origin}: not set")
        raise NothingFound("; ".join(tried))

    def _federated(self, authority: str, audience: str) -> str:
        """Workload identity: the pod's token stands in for a secret (RFC 7523, 2.2)."""
        file = self._environment.get("AZURE_FEDERATED_TOKEN_FILE", "")
        if not file:
            return ""
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        form = {"client_assertion_type": kind, "client_assertion": read_text(file)}
        return self._log_in(authority, audience, form)

    def _secret(self, authority: str, audience: str) -> str:
        secret = self._environment.get("AZURE_CLIENT_SECRET", "")
        return self._log_in(authority, audience, {"client_secret": secret}) if secret else ""

    def _log_in(self, authority: str, audience: str, proof: Mapping[str, str]) -> str:
        values = self._environment
        tenant, client = values.get("AZURE_TENANT_ID", ""), values.get("AZURE_CLIENT_ID", "")
        if not tenant or not client:
            raise NothingFound("AZURE_TENANT_ID and AZURE_CLIENT_ID have to be set too")
        form = {
            "grant_type": "client_credentials",
            "client_id": client,
            "scope": f"{audience}/.default",
            **proof,
        }
        url = f"{authority}/{tenant}/oauth2/v2.0/token"
        return _access_token(
            self._web.ask("POST", url, _FORM, urlencode(form).encode()), "Entra ID"
        )

    def _managed(self, _authority: str, audience: str) -> str:
        """The identity of App Service and Container Apps where its variables are set, else that
        of the machine."""
        values = self._environment
        query = {"resource": audience}
        if client := values.get("AZURE_CLIENT_ID"):
            query["client_id"] = client
        endpoint = values.get("IDENTITY_ENDPOINT", "")
        if endpoint and values.get("IDENTITY_HEADER"):
            query["api-version"] = "2019-08-01"
            headers = {"X-IDENTITY-HEADER": values["IDENTITY_HEADER"]}
            url = f"{endpoint}?{urlencode(query)}"
        else:
            query["api-version"] = "2018-02-01"
            headers = {"Metadata": "true"}
            base = values.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", "").rstrip("/") or _IMDS
            url = f"{base}/metadata/identity/oauth2/token?{urlencode(query)}"
        return _access_token(self._web.ask_metadata("GET", url, headers), "it")


def _access_token(answer: Answer, what: str) -> str:
    return text_of(json_of(answer, what), "access_token", what)
