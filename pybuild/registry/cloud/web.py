"""Requests to the APIs of clouds and to their metadata servers: short, small, never redirected."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from msgspec import Struct

from pybuild.errors import PybuildError
from pybuild.registry.credentials import NothingFound
from pybuild.registry.helper import without_secrets
from pybuild.registry.options import RegistryOptions, is_loopback
from pybuild.registry.retry import Transient
from pybuild.registry.transport import Endpoint, Transport
from pybuild.registry.wire import BadReply

API_SECONDS = 10.0
METADATA_SECONDS = 1.5  # it is on this very machine, or not at all
_BODY_LIMIT = 1 << 20
_TRIES = 3
_WAIT_SECONDS = 0.4
# What metadata servers and the APIs of clouds answer while they are busy or not up yet.
_AGAIN = frozenset({429, 500, 502, 503, 504})


class Answer(Struct, frozen=True):
    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


class Web:
    """Two ways to ask: an API on the network, and a metadata server that answers at once or is
    not there. Thread-safe."""

    def __init__(self, environment: Mapping[str, str], user_agent: str = "pybuild") -> None:
        self._api = _transport(API_SECONDS, user_agent, environment)
        self._metadata = _transport(METADATA_SECONDS, user_agent, environment)

    def close(self) -> None:
        """Ends what is being waited for."""
        self._api.close()
        self._metadata.close()

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Asks an API. Raises NothingFound where no answer comes.

        Plain HTTP is spoken with this machine alone.
        """
        if url.startswith("http://") and not is_loopback(_host(url)):
            raise NothingFound(f"{_host(url)} is to be asked without TLS, which is not done")
        return _ask(self._api, method, url, headers or {}, body)

    def ask_metadata(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Asks a metadata server, plain as they are. Raises NothingFound where none answers."""
        return _ask(self._metadata, method, url, headers or {}, b"")


def _transport(seconds: float, user_agent: str, environment: Mapping[str, str]) -> Transport:
    return Transport(RegistryOptions(timeout_seconds=seconds), user_agent, environment)


def _ask(
    transport: Transport, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """A few tries: a metadata server may refuse connections while its node is starting up, but
    one that does not answer at all is not there."""
    scheme, host = url.partition("://")[0], _host(url)
    if scheme not in ("http", "https") or not host:
        raise NothingFound(f"{url[:80]!r} is no web address")
    answer: Answer | None = None
    failure = ""
    for attempt in range(_TRIES):
        if attempt and transport.closed.wait(_WAIT_SECONDS * attempt):
            break
        started = time.monotonic()
        try:
            reply = transport.exchange(Endpoint(scheme, host), method, url, headers, body)
            answer = Answer(reply.status, reply.read(_BODY_LIMIT))
        except (OSError, BadReply) as error:
            failure = f"the answer of {host} broke off: {error}"
            continue
        except Transient as error:
            failure = error.error.message
            if time.monotonic() - started > METADATA_SECONDS / 2:
                break
            continue
        except PybuildError as error:
            raise NothingFound(error.message) from error
        if answer.status not in _AGAIN:
            return answer
    if answer is not None:
        return answer
    raise NothingFound(failure or f"{host} was not asked any more")


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]


def json_of(answer: Answer, what: str) -> Mapping[str, object]:
    """The JSON object of a good answer. Raises NothingFound, with what a refusal says."""
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if answer.status != 200:
        raise NothingFound(f"{what} answered {answer.status}{_reason(value)}")
    if not isinstance(value, dict):
        raise NothingFound(f"{what} gave no JSON object")
    return value


def text_of(values: Mapping[str, object], name: str, what: str) -> str:
    """A text that has to be there. Raises NothingFound."""
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise NothingFound(f"{what} has no `{name}`")
    return value


def seconds_of(values: Mapping[str, object], name: str) -> float:
    """A lifetime as number or text, as some write it; 0 where there is none."""
    try:
        return max(0.0, float(str(values.get(name, 0))))
    except ValueError:
        return 0.0


def _reason(value: object) -> str:
    """How OAuth servers, Google, AWS and Azure name what they refuse."""
    if not isinstance(value, dict):
        return ""
    for name in ("error_description", "message", "Message", "__type", "error"):
        found = value.get(name)
        if isinstance(found, dict):
            return _reason(found)
        if isinstance(found, str) and found:
            return f" ({without_secrets(found)})"
    errors = value.get("errors")
    return _reason(errors[0]) if isinstance(errors, list) and errors else ""
