"""One request to a registry's API: credentials added, refusals named, failures tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from pybuild.errors import RegistryError
from pybuild.events import EventSink
from pybuild.image.reference import Reference
from pybuild.registry.auth import Authorizer, Scopes
from pybuild.registry.challenge import Scope
from pybuild.registry.credentials import Keychain
from pybuild.registry.errors import (
    ManifestUnknown,
    PullDenied,
    PushDenied,
    RegistryUnreachable,
    RequestRefused,
)
from pybuild.registry.options import Purpose, RegistryOptions, host_of
from pybuild.registry.problem import Answer, Asked, problem_of, read_answer
from pybuild.registry.retry import Budget, Transient
from pybuild.registry.transport import Endpoint, Transport
from pybuild.registry.wire import AnswerTooLong, BadReply, Body, Reply


class Call(Struct, frozen=True):
    """A request as a value. `path` is below the repository ("manifests/1.2"), or the absolute URL
    that an upload was given. A streamed `body` is made anew for each attempt; `expect` are the
    statuses that are no error."""

    method: str
    path: str
    asked: Asked
    scopes: Scopes
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], Iterator[bytes]] = b""
    expect: frozenset[int] = frozenset({200})


def make_call(
    method: str,
    path: str,
    *,
    ref: Reference,
    doing: str,
    purpose: Purpose,
    about: type[RegistryError] = ManifestUnknown,
    expect: frozenset[int] = frozenset({200}),
    push: bool | None = None,
) -> Call:
    """A call about one repository; it asks for the right to push where its purpose is a push."""
    wants_push = purpose is Purpose.PUSH if push is None else push
    asked = Asked(
        doing,
        host_of(ref.registry),
        ref.registry,
        ref.repository,
        purpose,
        about,
        PushDenied if wants_push else PullDenied,
    )
    return Call(method, path, asked, (Scope(ref.repository, wants_push),), expect=expect)


class Refused(Exception):
    """An answer that was not expected, before it becomes an error; only `Session` raises it."""

    def __init__(self, answer: Answer, problem: RegistryError | Transient) -> None:
        super().__init__(answer.text)
        self.answer = answer
        self.problem = problem


class Session:
    """Thread-safe; every request of the client passes here."""

    def __init__(
        self, options: RegistryOptions, keychain: Keychain, sink: EventSink, *, user_agent: str
    ) -> None:
        self.options = options
        self.sink = sink
        self.transport = Transport(options, user_agent)
        self.auth = Authorizer(keychain, self.transport)
        self._others: dict[str, tuple[Reference, ...]] = {}

    def close(self) -> None:
        self.transport.close()

    def note_others(self, source: Reference, others: Sequence[Reference]) -> None:
        """Remembers which places besides a mirror have the images of this repository."""
        self._others[source.name] = tuple(others)

    def others(self, source: Reference) -> tuple[Reference, ...]:
        return self._others.get(source.name, ())

    def budget(self) -> Budget:
        return Budget(self.options.retry, self.sink, self.transport.closed)

    def call(self, call: Call) -> Reply:
        """The answer's head; tried again as the policy says. Raises RegistryError."""
        budget = self.budget()
        while True:
            try:
                return self.once(call)
            except Transient as failure:
                budget.spend(failure)

    def fetch(self, call: Call, limit: int) -> tuple[Reply, bytes]:
        """The answer with its body of at most `limit` bytes. Raises RegistryError."""
        budget = self.budget()
        while True:
            try:
                reply = self.once(call)
                try:
                    return reply, reply.read(limit)
                except AnswerTooLong as error:
                    raise RequestRefused(
                        f"can't {call.asked.doing}: {error}",
                        hint="no registry sends that: what else answers under this name?",
                    ) from error
                except (OSError, BadReply) as error:
                    raise self.broken(call, error) from error
            except Transient as failure:
                budget.spend(failure)

    def once(self, call: Call) -> Reply:
        """One attempt. Raises Transient or RegistryError."""
        try:
            return self.attempt(call)
        except Refused as refused:
            raise refused.problem from None

    def attempt(self, call: Call) -> Reply:
        """One attempt; raises Refused where the answer's own codes are needed."""
        try:
            return self._attempt(call)
        except Transient as failure:
            # Who waits for the next try wants to know for what.
            if not failure.error.message.startswith("can't "):
                failure.error.message = f"can't {call.asked.doing}: {failure.error.message}"
                failure.error.args = (failure.error.message,)
            raise

    def _attempt(self, call: Call) -> Reply:
        asked = call.asked
        endpoint = self.transport.endpoint(asked.host, asked.purpose)
        url = self._url(call, endpoint)
        target = self.transport.endpoint_of(url, endpoint, asked.purpose)
        sent = ""
        for last in (False, True):
            if target is endpoint:
                sent = self.auth.header(asked.registry, endpoint, call.scopes)
            headers = dict(call.headers)
            if sent:
                headers["Authorization"] = sent
            body: Body = call.body if isinstance(call.body, bytes) else call.body()
            reply = self.transport.request(
                target, call.method, url, headers, body, purpose=asked.purpose
            )
            if reply.status in call.expect:
                return reply
            answer = self._read(call, reply)
            if last or answer.status != 401 or target is not endpoint:
                break
            if not self.auth.learn(
                asked.registry, endpoint, call.scopes, header=answer.challenge, sent=sent
            ):
                break
        used = self.auth.credentials(asked.registry, call.scopes).origin if sent else ""
        tried = self.auth.tried(asked.registry) if answer.status in (401, 403) else ()
        raise Refused(answer, problem_of(asked, answer, used=used, tried=tried))

    def _url(self, call: Call, endpoint: Endpoint) -> str:
        if "://" not in call.path:
            return endpoint.url(f"/v2/{call.asked.repository}/{call.path}")
        parts = urlsplit(call.path)
        if parts.netloc == endpoint.host and parts.scheme == "http":
            # A registry behind a proxy that ends TLS often does not know of it.
            return parts._replace(scheme=endpoint.scheme).geturl()
        return call.path

    def _read(self, call: Call, reply: Reply) -> Answer:
        try:
            return read_answer(reply)
        except (OSError, BadReply) as error:
            raise self.broken(call, error) from error

    def broken(self, call: Call, error: OSError | BadReply) -> Transient:
        """For an answer whose body did not come to its end."""
        text = f"can't {call.asked.doing}: the answer of {call.asked.host} broke off: {error}"
        return Transient(RegistryUnreachable(text))


def with_body(call: Call, body: bytes, media_type: str) -> Call:
    return replace(call, body=body, headers={**call.headers, "Content-Type": media_type})
