"""A `requests` session that trusts whom the registry client trusts, for ADD and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import requests


def https_session(environment: Mapping[str, str]) -> requests.Session:
    """With the system's authorities and those of SSL_CERT_FILE, SSL_CERT_DIR and kaniko's folder
    besides the ones that `requests` brings; proxies and netrc as `requests` has them."""
    import requests
    from requests.adapters import HTTPAdapter

    from pybuild.registry.tls import make_context

    class Trusting(HTTPAdapter):
        def init_poolmanager(self, *given: Any, **more: Any) -> None:
            super().init_poolmanager(*given, ssl_context=_context(), **more)

        def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
            return super().proxy_manager_for(proxy, ssl_context=_context(), **more)

    def _context() -> Any:
        return make_context(None, None, environment)

    session = requests.Session()
    session.mount("https://", Trusting())
    return session
