"""One blob's way into a registry (distribution-spec, "Push").

A small blob goes in one PUT. A larger one is streamed by one PATCH, of which a registry keeps what
arrived: after a break the upload goes on from where the registry says it is. (distribution 2.x
drops an upload that broke within a PATCH, "resumed at wrong offset": there it starts again.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote, urljoin

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import RegistryError
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.reference import Reference
from pybuild.image.verify import DigestMismatch
from pybuild.registry.errors import BlobUnknown, RepositoryUnknown, RequestRefused
from pybuild.registry.options import Purpose
from pybuild.registry.retry import Transient
from pybuild.registry.session import Call, Refused, Session, make_call
from pybuild.registry.transfer import Transfer
from pybuild.registry.wire import Reply

_ONE_PUT = 4 << 20  # up to here a break costs less than another round trip each time
_UPLOAD_GONE = frozenset({404, 416})

Opener = Callable[[], Iterator[bytes]]


class SourceFailed(Exception):
    """What is to be uploaded can't be read. An OSError of its own kind, so that it is not taken
    for a broken connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Blob(Struct, frozen=True):
    ref: Reference
    descriptor: Descriptor
    open: Opener

    @property
    def name(self) -> str:
        return f"blob {self.descriptor.digest} to {self.ref.registry}/{self.ref.repository}"


class Upload:
    """One blob on its way, with what it has gone through so far. Used by one thread."""

    def __init__(self, session: Session, blob: Blob, transfer: Transfer) -> None:
        self._session = session
        self._blob = blob
        self._transfer = transfer
        self._url = ""
        self._offset = 0  # what the registry has of it
        self._kept = 0  # the most that the registry ever had
        self._restarts = 0
        self._resumed = False  # whether it went on after a break

    def run(self, url: str) -> None:
        """Uploads to `url`, or where that is "" to an upload of its own."""
        self._url = url
        budget = self._session.budget()
        while True:
            try:
                self._go_on()
                return
            except Refused as refused:
                failure = self._reaction(refused)
            except Transient as transient:
                failure = transient
            budget.spend(failure)
            self._find_offset()
            # What was sent counts for nothing, only what the registry has kept of it.
            budget.progressed(self._offset - self._kept)
            self._kept = max(self._kept, self._offset)

    def _go_on(self) -> None:
        blob = self._blob
        size = blob.descriptor.size
        if not self._url:
            self._offset = 0
            self._url = start_upload(self._session, blob.ref, self._session.once)
        if size <= _ONE_PUT:
            self._finish(self._body)
            return
        if self._offset < size:
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size - self._offset),
            }
            if self._offset:
                headers["Content-Range"] = f"{self._offset}-{size - 1}"
            call = push_call("PATCH", self._url, ref=blob.ref, doing=f"upload {blob.name}")
            call = replace(
                call, headers=headers, body=self._body, expect=frozenset({200, 201, 202, 204})
            )
            reply = self._session.attempt(call)
            reply.close()
            self._url = location_of(reply, call, self._url)
            self._offset = size
        self._finish(b"")

    def _finish(self, body: bytes | Opener) -> None:
        url = with_digest(self._url, self._blob.descriptor.digest)
        call = push_call("PUT", url, ref=self._blob.ref, doing=f"finish {self._blob.name}")
        headers = {"Content-Type": "application/octet-stream"}
        if not isinstance(body, bytes):
            if self._blob.descriptor.size < (64 << 10):
                body = b"".join(body())  # one packet with the request's head
            else:
                headers["Content-Length"] = str(self._blob.descriptor.size)
        call = replace(call, headers=headers, body=body, expect=frozenset({200, 201, 204}))
        self._session.attempt(call).close()

    def _body(self) -> Iterator[bytes]:
        """The blob from the offset on; exactly as long as its descriptor says."""
        descriptor = self._blob.descriptor
        done = 0
        for chunk in self._transfer.watch(_readable(self._blob.open)):
            begin, done = done, done + len(chunk)
            if done > descriptor.size:
                raise DigestMismatch(
                    f"{self._blob.name}: there are more than {descriptor.size} bytes"
                )
            if done > self._offset:
                yield chunk[max(0, self._offset - begin) :]
        if done != descriptor.size:
            raise DigestMismatch(
                f"{self._blob.name}: there are {done} bytes, but {descriptor.size} were named"
            )

    def _reaction(self, refused: Refused) -> Transient:
        """What to do about a refusal: once more, or its error."""
        answer, problem = refused.answer, refused.problem
        if isinstance(problem, Transient):
            return problem
        if "DIGEST_INVALID" in answer.codes:
            if not self._resumed or self._restarts:
                raise DigestMismatch(
                    f"{problem.message}; what was sent is not {self._blob.descriptor.digest}",
                    hint="the layer changed on its way, or the disk it came from is broken",
                ) from None
        elif answer.status not in _UPLOAD_GONE and "BLOB_UPLOAD_INVALID" not in answer.codes:
            raise problem from None
        # The upload is gone, or holds something else: once more from the start.
        self._url = ""
        self._restarts += 1
        if self._restarts > self._session.options.retry.tries:
            raise problem from None
        return Transient(problem, 0.0)

    def _find_offset(self) -> None:
        """Asks how much of a large upload has arrived; a small one simply starts again."""
        size = self._blob.descriptor.size
        if not self._url:
            return
        if size <= _ONE_PUT:
            self._url = ""
            return
        call = push_call("GET", self._url, ref=self._blob.ref, doing=f"resume {self._blob.name}")
        call = replace(call, expect=frozenset({200, 202, 204}))
        try:
            reply = self._session.once(call)
        except (RegistryError, Transient):
            self._url = ""  # not kept, or not told: from the start
            return
        reply.close()
        self._offset = received(reply.header("range"))
        if self._offset > size:
            self._url = ""
        else:
            self._url = location_of(reply, call, self._url)
            self._resumed = True


def start_upload(session: Session, ref: Reference, send: Callable[[Call], Reply]) -> str:
    """Opens an upload and gives its URL."""
    call = push_call(
        "POST",
        "blobs/uploads/",
        ref=ref,
        doing=f"push to {ref.registry}/{ref.repository}",
        about=RepositoryUnknown,
    )
    reply = send(replace(call, expect=frozenset({202})))
    reply.close()
    return location_of(reply, call, base_of(session, call))


def with_digest(url: str, digest: Digest) -> str:
    return f"{url}{'&' if '?' in url else '?'}digest={quote(digest)}"


def base_of(session: Session, call: Call) -> str:
    """What a relative Location is relative to."""
    return session.transport.endpoint(call.asked.host, call.asked.purpose).url("/")


def received(span: str) -> int:
    """How many bytes an upload's Range header says are there: "0-99" is 100, and "0-0" none, as
    registries answer for a fresh upload (a single byte can't be told from that)."""
    last = span.removeprefix("bytes=").partition("-")[2]
    return int(last) + 1 if last.isdigit() and int(last) > 0 else 0


def location_of(reply: Reply, call: Call, base: str) -> str:
    location = reply.header("location")
    if not location and call.method != "POST":
        return base
    if not location:
        raise RequestRefused(
            f"can't {call.asked.doing}: {call.asked.host} opened an upload and did not say where"
        )
    return urljoin(base, location)


def _readable(open: Opener) -> Iterator[bytes]:
    try:
        yield from open()
    except OSError as error:
        raise SourceFailed(error) from error


def push_call(
    method: str,
    path: str,
    *,
    ref: Reference,
    doing: str,
    about: type[RegistryError] = BlobUnknown,
) -> Call:
    return make_call(method, path, ref=ref, doing=doing, purpose=Purpose.PUSH, about=about)
