"""Azure Container Registry: a token of Entra ID for a refresh token of the registry.

ACR: docs/AAD-OAuth.md, POST /oauth2/exchange.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlencode

from pybuild.registry.cloud.entra import Entra
from pybuild.registry.cloud.web import Web, json_of, text_of
from pybuild.registry.credentials import Credentials, Found
from pybuild.registry.options import split_host

# By the end of the registry's name: Entra ID's host, and for whom a token is asked.
_CLOUDS = {
    ".azurecr.io": ("https://login.microsoftonline.com", "https://containerregistry.azure.net"),
    ".azurecr.cn": ("https://login.chinacloudapi.cn", "https://management.chinacloudapi.cn"),
    ".azurecr.us": ("https://login.microsoftonline.us", "https://management.usgovcloudapi.net"),
}
_NOBODY = "00000000-0000-0000-0000-000000000000"  # the user name that goes with a refresh token
_LIFETIME_SECONDS = 3 * 3600.0  # of a refresh token
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Acr:
    title = "Azure"

    def __init__(self, environment: Mapping[str, str], web: Web) -> None:
        self._environment = environment
        self._web = web
        self._entra = Entra(environment, web)

    def ask(self, host: str) -> Found:
        """Raises NothingFound, which tells all that was tried."""
        name = split_host(host)[0]
        authority, audience = next(
            pair for ending, pair in _CLOUDS.items() if name.endswith(ending)
        )
        started = time.monotonic()
        token, origin = self._entra.token(authority, audience)
        credentials = Credentials(
            _NOBODY,
            "",
            identity_token=self._exchange(host, token),
            origin=f"{self.title}, {origin}",
        )
        return Found(credentials, started + _LIFETIME_SECONDS)

    def _exchange(self, host: str, token: str) -> str:
        form = {"grant_type": "access_token", "service": host, "access_token": token}
        if tenant := self._environment.get("AZURE_TENANT_ID"):
            form["tenant"] = tenant
        url = f"https://{host}/oauth2/exchange"
        answer = self._web.ask("POST", url, _FORM, urlencode(form).encode())
        return text_of(json_of(answer, f"the exchange at {host}"), "refresh_token", host)
