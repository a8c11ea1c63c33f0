"""Who we are, for each request: Basic, or a bearer token for just the repositories needed.

Token protocol: distribution docs/spec/auth (token.md, oauth.md). Tokens are shared by all threads
and fetched once, however many requests wait for them.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from pybuild.registry.challenge import (
    Challenge,
    Scope,
    covers,
    parse_challenges,
    preferred,
)
from pybuild.registry.credentials import Credentials, Keychain
from pybuild.registry.errors import PullDenied, PushDenied, RequestRefused
from pybuild.registry.options import Purpose
from pybuild.registry.problem import Asked, problem_of, read_answer
from pybuild.registry.retry import Transient
from pybuild.registry.transport import Endpoint, Transport
from pybuild.registry.wire import BadReply, Reply

_CLIENT = "pybuild"
_LIFETIME_SECONDS = 60.0  # of a token whose answer names none (token.md)
_TOKEN_LIMIT = 4 << 20

Scopes = tuple[Scope, ...]  # the repository that is worked on first


class _Token(Struct, frozen=True):
    text: str
    scopes: Scopes
    until: float  # time.monotonic()


class Authorizer:
    def __init__(self, keychain: Keychain, transport: Transport) -> None:
        self._keychain = keychain
        self._transport = transport
        self._lock = threading.Lock()
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[str, list[_Token]] = {}
        self._fetching: dict[tuple[str, Scopes], threading.Lock] = {}
        self._renamed: dict[tuple[str, str], str] = {}

    def credentials(self, registry: str, scopes: Scopes) -> Credentials:
        return self._keychain.credentials(registry, scopes[0].repository)

    def tried(self, registry: str) -> tuple[str, ...]:
        return self._keychain.tried(registry)

    def one_serves_both(self, registry: str, first: str, second: str) -> bool:
        """Whether both repositories are reached with the same credentials."""
        chain = self._keychain
        return chain.credentials(registry, first) == chain.credentials(registry, second)

    def header(self, registry: str, endpoint: Endpoint, scopes: Scopes) -> str:
        """The Authorization header, "" while the registry has not asked for one.

        Raises RegistryError where no token is given out, Transient where that may change.
        """
        known = self.credentials(registry, scopes)
        if known.registry_token:
            return _said(known)
        challenge = self._challenges.get(endpoint.host)
        if challenge is None:
            challenge = preferred(parse_challenges(endpoint.challenge))
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return _said(known)
        return f"Bearer {self._token(registry, endpoint, scopes, challenge)}"

    def learn(
        self, registry: str, endpoint: Endpoint, scopes: Scopes, *, header: str, sent: str
    ) -> bool:
        """Takes note of a 401's WWW-Authenticate; says whether asking again may help."""
        challenge = preferred(parse_challenges(header))
        if challenge is None:
            return False
        with self._lock:
            self._challenges[endpoint.host] = challenge
            tokens = self._tokens.get(endpoint.host, [])
            self._tokens[endpoint.host] = [token for token in tokens if token.text not in sent]
            self._note_name(endpoint, scopes, challenge)
        known = self.credentials(registry, scopes)
        if challenge.scheme == "bearer" and not known.registry_token:
            return True
        if known and sent != _said(known):
            return True
        return self._keychain.renew(registry, scopes[0].repository, known)

    def _note_name(self, endpoint: Endpoint, scopes: Scopes, challenge: Challenge) -> None:
        # A registry behind a proxy may know the repository under a longer name.
        words = challenge.get("scope").split(":")
        if len(scopes) == 1 and len(words) == 3 and words[0] == "repository":
            name = scopes[0].repository
            if words[1] != name and words[1].endswith(f"/{name}"):
                self._renamed[endpoint.host, name] = words[1]

    def _token(
        self, registry: str, endpoint: Endpoint, scopes: Scopes, challenge: Challenge
    ) -> str:
        held = self._held(endpoint, scopes)
        if held is not None:
            return held
        with self._lock:
            fetching = self._fetching.setdefault((endpoint.host, scopes), threading.Lock())
        with fetching:
            held = self._held(endpoint, scopes)
            if held is not None:
                return held
            token = self._fetch(registry, endpoint, scopes, challenge)
            with self._lock:
                self._tokens.setdefault(endpoint.host, []).append(token)
            return token.text

    def _held(self, endpoint: Endpoint, scopes: Scopes) -> str | None:
        now = time.monotonic()
        with self._lock:
            for token in self._tokens.get(endpoint.host, ()):
                # The credentials may differ by repository, so the first has to be the same.
                same = token.scopes[0].repository == scopes[0].repository
                if same and token.until > now and covers(token.scopes, scopes):
                    return token.text
        return None

    def _fetch(
        self, registry: str, endpoint: Endpoint, scopes: Scopes, challenge: Challenge
    ) -> _Token:
        known = self.credentials(registry, scopes)
        realm = challenge.get("realm")
        host = urlsplit(realm).netloc.rpartition("@")[2]
        purpose = Purpose.PUSH if scopes[0].push else Purpose.PULL
        if endpoint.scheme == "https" and not realm.startswith("https://"):
            raise RequestRefused(
                f"{endpoint.host} wants its token fetched unencrypted, from {host}"
            )
        doing = f"get a token for {registry}/{scopes[0].repository}"
        denied = PushDenied if scopes[0].push else PullDenied
        asked = Asked(doing, host, registry, scopes[0].repository, purpose, denied=denied)
        started = time.monotonic()
        parameters = self._parameters(endpoint, scopes, challenge)
        try:
            reply = self._ask(realm, endpoint, parameters, known)
            if reply.status in (400, 401) and self._renewed(registry, scopes, known, reply):
                known = self.credentials(registry, scopes)
                reply = self._ask(realm, endpoint, parameters, known)
            if reply.status != 200:
                answer = read_answer(reply)
                tried = self.tried(registry)
                raise problem_of(asked, answer, used=known.origin, tried=tried)
            text, lifetime = _parse_token(reply.read(_TOKEN_LIMIT))
        except (OSError, BadReply, ValueError) as error:
            raise Transient(RequestRefused(f"can't {doing}: {host}'s answer: {error}")) from error
        # A token about to expire is not begun with.
        return _Token(text, scopes, started + lifetime - min(10.0, lifetime / 4))

    def _renewed(self, registry: str, scopes: Scopes, refused: Credentials, reply: Reply) -> bool:
        """Whether other credentials are to be had now than those that were just refused."""
        if not self._keychain.renew(registry, scopes[0].repository, refused):
            return False
        reply.close()
        return True

    def _parameters(
        self, endpoint: Endpoint, scopes: Scopes, challenge: Challenge
    ) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        if service := challenge.get("service"):
            pairs.append(("service", service))
        for scope in scopes:
            name = self._renamed.get((endpoint.host, scope.repository), scope.repository)
            pairs.append(("scope", str(Scope(name, scope.push))))
        return pairs

    def _ask(
        self, realm: str, asked: Endpoint, pairs: list[tuple[str, str]], known: Credentials
    ) -> Reply:
        endpoint = self._transport.endpoint_of(realm, asked, Purpose.PULL)
        if known.identity_token:
            scope = " ".join(value for name, value in pairs if name == "scope")
            form = [pair for pair in pairs if pair[0] != "scope"]
            form += [("scope", scope), ("grant_type", "refresh_token"), ("client_id", _CLIENT)]
            form.append(("refresh_token", known.identity_token))
            return self._transport.request(
                endpoint,
                "POST",
                realm,
                {"Content-Type": "application/x-www-form-urlencoded"},
                urlencode(form).encode(),
            )
        headers = {}
        if known.username:
            headers["Authorization"] = _basic(known)
            pairs = [*pairs, ("account", known.username)]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(pairs)}"
        return self._transport.request(endpoint, "GET", url, headers)


def _said(known: Credentials) -> str:
    """The header that these credentials make without a token server; "" for none."""
    if known.registry_token:
        return f"Bearer {known.registry_token}"
    return _basic(known) if known.username else ""


def _basic(known: Credentials) -> str:
    pair = f"{known.username}:{known.password}".encode()
    return f"Basic {b64encode(pair).decode()}"


def _parse_token(body: bytes) -> tuple[str, float]:
    """The token and its lifetime in seconds. Raises ValueError."""
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("no JSON object")
    text = answer.get("token") or answer.get("access_token")
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError("it holds no token")
    lifetime = answer.get("expires_in")
    if not isinstance(lifetime, (int, float)) or lifetime <= 0:
        lifetime = _LIFETIME_SECONDS
    return text, float(lifetime)
