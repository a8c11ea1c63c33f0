"""A file behind http or https as one stream of bytes, however often the connection breaks.

After a break the rest is asked for (Range, with If-Match or If-Range so that it is the rest of the
same file); a server that sends everything again has to send the same bytes again. The size and
every checksum that the user or the server named are verified before the stream ends.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from threading import Event as Signal
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from pybuild.context.checks import Check, Checks
from pybuild.context.errors import (
    ContextDenied,
    ContextDiffers,
    ContextNotFound,
    ContextRefused,
    ContextUnreachable,
)
from pybuild.errors import PybuildError, RegistryError
from pybuild.events import (
    EventSink,
    Level,
    Notice,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
)
from pybuild.registry.options import Purpose, RegistryOptions
from pybuild.registry.retry import RetryPolicy, Transient, retry_after_seconds
from pybuild.registry.transport import Endpoint, Transport
from pybuild.registry.wire import BadReply, Reply

_REDIRECTS = 6
_MOVED = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSAL_LIMIT = 1 << 20
# A stream that came at least this far since its last break is not near its end of patience.
_PROGRESS_BYTES = 256 << 10
_TOLD_SECONDS = 10.0
_HARMLESS = frozenset({"Range", "If-Range", "If-Match"})  # may go to whom a redirect names
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Request(Struct, frozen=True):
    url: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return "Request(…)"  # both may hold secrets


class Remote(Protocol):
    """A file on a server, and how it is asked for."""

    @property
    def shown(self) -> str:
        """How it is called in messages: without secrets."""
        ...

    def request(self, wanted: Mapping[str, str]) -> Request:
        """The GET with these headers besides its own. Called anew for every attempt."""
        ...

    def validator(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers that make a request for the rest fail, or give all, where the file is not
        the one of this answer any more; none where the server gave nothing to tell by."""
        ...

    def checks(self, headers: Mapping[str, str]) -> tuple[Check, ...]:
        """What the first answer, of status 200, promises of the whole file."""
        ...

    def moved(self, status: int, headers: Mapping[str, str], body: bytes) -> Remote | None:
        """Where the server says that the file is asked for in another way, such as another
        region: that way."""
        ...

    def refused(self, status: int, body: bytes) -> PybuildError | None:
        """The error for an answer of no use, where there is a better one than for any server."""
        ...


class Download:
    """One stream; iterate `chunks` once. `close` may be called from any thread and ends it."""

    def __init__(
        self,
        remote: Remote,
        options: RegistryOptions,
        environment: Mapping[str, str],
        sink: EventSink,
    ) -> None:
        from pybuild import __version__

        self._remote = remote
        self._options = options
        self._transport = Transport(options, f"pybuild/{__version__}", environment)
        self._sink = sink
        self._patience = _Patience(options.retry, remote.shown, sink, self._transport.closed)
        self._done = 0
        self._size: int | None = None
        self._validator: Mapping[str, str] = {}
        self._checks = Checks(())
        self._seen = hashlib.sha256()  # of all bytes so far

    def close(self) -> None:
        self._transport.close()

    def whole(self, limit: int) -> bytes:
        """All of a small file. Raises what `chunks` raises, ContextRefused for a larger one."""
        parts = []
        for chunk in self.chunks():
            parts.append(chunk)
            if self._done > limit:
                raise ContextRefused(f"{self._remote.shown} is larger than {limit} bytes")
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """Raises ContextDenied, ContextNotFound, ContextRefused, ContextUnreachable (with the host
        and how often it was tried), ContextDiffers, CertificateNotTrusted."""
        shown = self._remote.shown
        started = told = time.monotonic()
        outcome = TransferOutcome.FAILED
        announced = False
        try:
            for chunk in self._resumed():
                if not announced:
                    self._sink(TransferStarted(shown, TransferKind.CONTEXT, shown, self._size or 0))
                    announced = True
                self._sink(TransferProgress(shown, self._done))
                if time.monotonic() - told > _TOLD_SECONDS:
                    told = time.monotonic()
                    self._sink(Notice(Level.INFO, self._so_far()))
                yield chunk
            self._verify()
            outcome = TransferOutcome.DONE
        finally:
            seconds = time.monotonic() - started
            if announced:
                kind = TransferKind.CONTEXT
                self._sink(TransferFinished(shown, kind, shown, outcome, self._done, seconds))

    def _so_far(self) -> str:
        of = f" of {self._size / 1e6:.0f} MB" if self._size else ""
        return f"{self._remote.shown}: {self._done / 1e6:.0f} MB{of} so far"

    def _resumed(self) -> Iterator[bytes]:
        while True:
            before = self._done
            try:
                reply = self._open()
                try:
                    for chunk in self._rest_of(reply):
                        self._seen.update(chunk)
                        self._checks.update(chunk)
                        self._done += len(chunk)
                        yield chunk
                finally:
                    reply.close()
                if self._size is not None and self._done < self._size:
                    raise BadReply(f"it ended {self._size - self._done} bytes early")
                return
            except (BadReply, OSError) as error:
                why, after = _why(error), None
            except Transient as error:
                why, after = error.error.message, error.after_seconds
            except RegistryError as error:
                raise _translated(error, self._remote.shown) from error
            if self._done - before >= _PROGRESS_BYTES:
                self._patience.forget()
            self._patience.spend(f"the connection broke: {why}" if self._done else why, after)

    # One attempt

    def _open(self) -> Reply:
        """An answer of status 200 or 206. Raises Transient, and the errors that are final."""
        wanted = {"Range": f"bytes={self._done}-", **self._validator} if self._can_resume else {}
        for _ in range(_REDIRECTS):
            reply = self._exchange(self._remote.request(wanted))
            if reply.status in (200, 206) or self._is_at_end(reply):
                return reply
            headers, body = reply.headers, reply.read(_REFUSAL_LIMIT)
            other = self._remote.moved(reply.status, headers, body)
            if other is None:
                raise self._refusal(reply, body)
            self._remote = other
        raise ContextRefused(f"{self._remote.shown} leads on without end")

    @property
    def _can_resume(self) -> bool:
        return self._done > 0 and bool(self._validator)

    def _is_at_end(self, reply: Reply) -> bool:
        """Whether the server says that there is no more than came (RFC 9110, 15.5.17)."""
        return reply.status == 416 and reply.header("content-range") == f"bytes */{self._done}"

    def _exchange(self, request: Request) -> Reply:
        """Follows redirects, never from https to http; what says who we are stays with the host
        that it is for."""
        url, headers = request.url, dict(request.headers)
        for _ in range(_REDIRECTS):
            parts = urlsplit(url)
            host = parts.netloc.rpartition("@")[2]
            verify = self._options.verifies(host, Purpose.PULL)
            endpoint = Endpoint(parts.scheme, host, verify or parts.scheme == "http")
            reply = self._transport.exchange(endpoint, "GET", url, headers, b"")
            location = reply.header("location")
            if reply.status not in _MOVED or not location:
                return reply
            if self._remote.moved(reply.status, reply.headers, b"") is not None:
                return reply  # to be asked anew, signed for where it leads
            reply.close()
            target = urljoin(url, location)
            to = urlsplit(target)
            if to.scheme not in ("http", "https") or (to.scheme, parts.scheme) == ("http", "https"):
                raise ContextRefused(
                    f"{self._remote.shown}: {host} sends us on to {to.scheme}://{to.hostname}",
                    hint="name the address that it really has",
                )
            if to.netloc != parts.netloc:
                headers = {name: headers[name] for name in headers if name in _HARMLESS}
            url = target
        raise ContextRefused(f"{self._remote.shown} redirects without end")

    def _refusal(self, reply: Reply, body: bytes) -> Exception:
        shown, status = self._remote.shown, reply.status
        if status in _BUSY:
            after = retry_after_seconds(reply.header("retry-after"))
            return Transient(RegistryError(f"{_host(shown)} answers {status}"), after)
        better = self._remote.refused(status, body)
        if better is not None:
            return better
        if status == 412 and self._done:
            return self._changed()
        if status == 416 and self._done:
            return ContextDiffers(
                f"{shown} ends after {self._done} bytes, {self._size} were announced"
            )
        answer = f"{shown}: the server answers {status} {reply.reason}".rstrip()
        if status in (401, 403, 407):
            return ContextDenied(
                answer, hint="write https://USER:PASSWORD@HOST/…, with what the server wants"
            )
        if status in (404, 410):
            return ContextNotFound(answer)
        return ContextRefused(answer, hint="an archive has to be answered with status 200")

    def _changed(self) -> ContextDiffers:
        return ContextDiffers(
            f"{self._remote.shown} was changed while it was downloaded",
            hint="build again; let the upload finish before",
        )

    # What an answer brings

    def _rest_of(self, reply: Reply) -> Iterator[bytes]:
        """The bytes that are still missing."""
        if not self._done:
            self._note_first(reply)
            return reply.chunks()
        if reply.status == 206:
            found = _RANGE.fullmatch(reply.header("content-range").strip())
            if not found or int(found[1]) != self._done:
                raise BadReply(f"it answers a request from byte {self._done} with another part")
            if found[3] != "*":  # the same file, by its validator: this tells its true size
                self._size = int(found[3])
            return reply.chunks()
        self._size = _length(reply)
        if reply.status == 416:
            self._size = self._done  # more was announced than there is
            return iter(())
        return self._without_known(reply)

    def _note_first(self, reply: Reply) -> None:
        if reply.status == 206:
            raise BadReply("it answers with a part that was not asked for")
        headers = reply.headers
        self._size = _length(reply)
        self._validator = self._remote.validator(headers)
        self._checks = Checks(self._remote.checks(headers))

    def _without_known(self, reply: Reply) -> Iterator[bytes]:
        """Everything came again: what we have already is only compared."""
        skip, again = self._done, hashlib.sha256()
        for chunk in reply.chunks():
            if not skip:
                yield chunk
                continue
            known, fresh = chunk[:skip], chunk[skip:]
            again.update(known)
            skip -= len(known)
            if not skip:
                if again.digest() != self._seen.digest():
                    raise self._changed()
                if fresh:
                    yield fresh
        if skip and self._size is not None:
            raise self._changed()  # it is shorter now
        if skip:
            raise BadReply("it ended before the place that was reached earlier")

    def _verify(self) -> None:
        shown = self._remote.shown
        if self._size is not None and self._done != self._size:
            raise ContextDiffers(f"{shown} has {self._done} bytes, {self._size} were announced")
        failed = self._checks.failed()
        if failed is not None:
            check, found = failed
            raise ContextDiffers(
                f"{shown} arrived with {found}, and {check.source} says {check.shown}",
                hint="the file was changed, or something on the way changes what passes",
            )
        if self._checks.unknown and not self._checks.names:
            names = ", ".join(self._checks.unknown)
            text = f"{shown} was not checked: {names} needs the extra pybuild[objects]"
            self._sink(Notice(Level.WARNING, text, "context-unchecked"))
        elif self._checks.names:
            text = f"{shown} has the {', '.join(self._checks.names)} that was promised"
            self._sink(Notice(Level.DEBUG, text))


class _Patience:
    """How often and how long one download may still be tried."""

    def __init__(self, policy: RetryPolicy, shown: str, sink: EventSink, closed: Signal) -> None:
        self._policy = policy
        self._shown = shown
        self._sink = sink
        self._closed = closed
        self._failures = 0
        self._waited = 0.0

    def forget(self) -> None:
        self._failures = 0

    def spend(self, why: str, after_seconds: float | None) -> None:
        """Waits for the next attempt. Raises ContextUnreachable where there is none left."""
        self._failures += 1
        tries = self._policy.tries
        told = f"{self._shown}: {why}"
        if self._failures >= tries or self._closed.is_set():
            raise ContextUnreachable(f"{told} (attempt {self._failures} of {tries})")
        wait = self._policy.wait_seconds(self._failures, random.random())
        wait = max(wait, after_seconds or 0.0)
        if self._waited + wait > self._policy.total_seconds:
            raise ContextUnreachable(
                f"{told} (attempt {self._failures} of {tries}), and asks to wait {wait:.0f} s"
            )
        text = f"{told}; trying again in {wait:.1f} s ({self._failures + 1} of {tries})"
        self._sink(Notice(Level.WARNING, text, "context-retry"))
        self._waited += wait
        if self._closed.wait(wait):
            raise ContextUnreachable(told)


def _length(reply: Reply) -> int | None:
    """Of the body, where the answer tells it."""
    text = reply.header("content-length")
    return int(text) if text.isdigit() and not reply.header("transfer-encoding") else None


def _host(shown: str) -> str:
    return urlsplit(shown).hostname or shown


def _why(error: OSError | BadReply) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)


def _translated(error: RegistryError, shown: str) -> PybuildError:
    """What the transport says of a registry, said of a context."""
    told = error.message.replace("the registry ", "")
    if error.code == "registry-unreachable":
        return ContextUnreachable(f"{shown}: {told}")
    error.message = f"{shown}: {told}"
    error.args = (error.message,)
    return error
