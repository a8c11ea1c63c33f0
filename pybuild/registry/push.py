"""Writing to a registry: blobs by mount or upload, then the manifest (distribution-spec, "Push").

A small blob goes in one PUT. A larger one is streamed by one PATCH, of which a registry keeps what
arrived: after a break the upload goes on from where the registry says it is. (distribution 2.x
drops an upload that broke within a PATCH, "resumed at wrong offset": there it starts again.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from urllib.parse import quote, urljoin

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import RegistryError
from pybuild.events import Level, Notice, TransferKind, TransferOutcome
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.manifest import Index, Manifest
from pybuild.image.reference import Reference
from pybuild.image.verify import DigestMismatch
from pybuild.registry.challenge import Scope
from pybuild.registry.errors import BlobUnknown, RepositoryUnknown, RequestRefused, TagImmutable
from pybuild.registry.options import Purpose, host_of
from pybuild.registry.retry import Transient
from pybuild.registry.session import Call, Refused, Session, make_call, with_body
from pybuild.registry.transfer import Transfer, Transfers
from pybuild.registry.wire import Reply

_ONE_PUT = 4 << 20  # up to here a break costs less than another round trip each time
_SPARE_SECONDS = 300.0  # how long an opened upload is kept for the next blob
_STARTED = frozenset({201, 202})
_UPLOAD_GONE = frozenset({404, 416})

Opener = Callable[[], Iterator[bytes]]


class SourceFailed(Exception):
    """What is to be uploaded can't be read. An OSError of its own kind, so that it is not taken
    for a broken connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Blob(Struct, frozen=True):
    ref: Reference
    descriptor: Descriptor
    open: Opener

    @property
    def name(self) -> str:
        return f"blob {self.descriptor.digest} to {self.ref.registry}/{self.ref.repository}"


class Pusher:
    """Remembers what is known to be there, which uploads run, and which are open and unused."""

    def __init__(self, session: Session, transfers: Transfers) -> None:
        self._session = session
        self._transfers = transfers
        self._lock = threading.Lock()
        self._known: set[tuple[str, str, Digest]] = set()
        self._running: dict[tuple[str, str, Digest], threading.Event] = {}
        self._spare: dict[tuple[str, str], tuple[Reference, str, float]] = {}
        self._no_mount: set[tuple[str, str, str]] = set()

    def close(self) -> None:
        """Cancels uploads that were opened by `check_push` and not used."""
        with self._lock:
            spare, self._spare = self._spare, {}
        for ref, url, _ in spare.values():
            self._cancel(ref, url)

    def _cancel(self, ref: Reference, url: str) -> None:
        """Gives an upload up. Where that fails, the registry removes it by itself later on."""
        if self._session.transport.closed.is_set():
            return
        call = _call("DELETE", url, ref=ref, doing="cancel an upload")
        with suppress(RegistryError, Transient):
            self._session.once(replace(call, expect=frozenset({200, 202, 204, 404}))).close()

    def blob_exists(self, ref: Reference, digest: Digest) -> bool:
        key = (ref.registry, ref.repository, digest)
        with self._lock:
            if key in self._known:
                return True
        call = _call("HEAD", f"blobs/{digest}", ref=ref, doing=f"look for blob {digest} in {ref}")
        reply = self._session.call(replace(call, expect=frozenset({200, 404})))
        reply.close()
        if reply.status == 404:
            return False
        with self._lock:
            self._known.add(key)
        return True

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open: Opener,
        *,
        mount_from: Sequence[Reference],
        label: str,
        kind: TransferKind,
    ) -> TransferOutcome:
        key = (ref.registry, ref.repository, descriptor.digest)
        while True:
            with self._lock:
                running = self._running.get(key)
                if running is None:
                    self._running[key] = threading.Event()
                    break
            running.wait()  # it ends with that thread's own deadlines
        try:
            with self._transfers.begin(kind, label, descriptor.size) as transfer:
                blob = _Blob(ref, descriptor, open)
                transfer.outcome = self._push(blob, mount_from, transfer)
            with self._lock:
                self._known.add(key)
            return transfer.outcome
        except SourceFailed as failed:
            raise failed.error from failed
        finally:
            with self._lock:
                self._running.pop(key).set()

    def _push(
        self, blob: _Blob, mount_from: Sequence[Reference], transfer: Transfer
    ) -> TransferOutcome:
        if self.blob_exists(blob.ref, blob.descriptor.digest):
            return TransferOutcome.EXISTS
        url = ""
        for source in dict.fromkeys(mount_from):
            if not self._can_mount(blob.ref, source):
                continue
            mounted, url = self._mount(blob, source)
            if mounted:
                return TransferOutcome.MOUNTED
            if url:
                break
        Upload(self._session, blob, transfer).run(url or self._take_spare(blob.ref))
        return TransferOutcome.DONE

    def _can_mount(self, ref: Reference, source: Reference) -> bool:
        """Only within a registry, and where one token can be had for both repositories."""
        same = host_of(ref.registry) == host_of(source.registry)
        if not same or ref.repository == source.repository:
            return False
        if (ref.registry, ref.repository, source.repository) in self._no_mount:
            return False
        auth = self._session.auth
        return auth.one_serves_both(ref.registry, ref.repository, source.repository)

    def _mount(self, blob: _Blob, source: Reference) -> tuple[bool, str]:
        """Whether it was mounted; if not, the upload that the registry opened instead, or ""."""
        digest = blob.descriptor.digest
        query = f"mount={quote(digest)}&from={quote(source.repository, safe='')}"
        call = _call(
            "POST",
            f"blobs/uploads/?{query}",
            ref=blob.ref,
            doing=f"mount {blob.name} from {source.repository}",
        )
        scopes = (Scope(blob.ref.repository, push=True), Scope(source.repository))
        try:
            reply = self._session.once(replace(call, scopes=scopes, expect=_STARTED))
        except (RegistryError, Transient) as refused:
            with self._lock:
                self._no_mount.add((blob.ref.registry, blob.ref.repository, source.repository))
            text = refused.error.message if isinstance(refused, Transient) else refused.message
            self._session.sink(Notice(Level.DEBUG, f"{text}; it is uploaded", "mount-refused"))
            return False, ""
        reply.close()
        if reply.status == 201:
            return True, ""
        return False, _location(reply, call, _base(self._session, call))

    def push_manifest(self, ref: Reference, manifest: Manifest | Index) -> Digest:
        try:
            return self._put_manifest(ref, manifest)
        except TagImmutable as error:
            if not self._session.options.ignore_immutable:
                raise
            # By its digest the image is to be had all the same.
            digest = self._put_manifest(replace(ref, tag="", digest=manifest.digest), manifest)
            text = f"{error.message}; the tag stays as it is, and the image has no tag there"
            self._session.sink(Notice(Level.WARNING, text, error.code))
            return digest

    def _put_manifest(self, ref: Reference, manifest: Manifest | Index) -> Digest:
        name = ref.tag or ref.digest or manifest.digest
        call = _call(
            "PUT",
            f"manifests/{name}",
            ref=ref,
            doing=f"push the manifest of {ref}",
            about=RepositoryUnknown,
        )
        call = replace(call, expect=frozenset({200, 201, 202}))
        call = with_body(call, manifest.raw, manifest.media_type)
        budget = self._session.budget()
        while True:
            try:
                reply = self._session.attempt(call)
                break
            except Refused as refused:
                problem = refused.problem
                if "MANIFEST_BLOB_UNKNOWN" in refused.answer.codes and isinstance(
                    problem, RegistryError
                ):
                    # Registries that are spread over several machines may need a moment.
                    problem = Transient(BlobUnknown(problem.message, hint=problem.hint))
                if isinstance(problem, RegistryError):
                    raise problem from None
                budget.spend(problem)
            except Transient as failure:
                budget.spend(failure)
        reply.close()
        told = reply.header("docker-content-digest")
        if told.startswith("sha256:") and told != manifest.digest:
            raise DigestMismatch(
                f"the manifest of {ref} was pushed as {manifest.digest}, "
                f"but {ref.registry} says it holds {told}"
            )
        return manifest.digest

    def check_push(self, ref: Reference) -> None:
        if not self._session.options.check_push:
            return
        key = (ref.registry, ref.repository)
        with self._lock:
            if key in self._spare:
                return
        url = start_upload(self._session, ref, self._session.call)
        with self._lock:
            self._spare[key] = (ref, url, time.monotonic() + _SPARE_SECONDS)

    def _take_spare(self, ref: Reference) -> str:
        with self._lock:
            _, url, until = self._spare.pop((ref.registry, ref.repository), (ref, "", 0.0))
        if url and until <= time.monotonic():
            self._cancel(ref, url)
            return ""
        return url


class Upload:
    """One blob on its way, with what it has gone through so far. Used by one thread."""

    def __init__(self, session: Session, blob: _Blob, transfer: Transfer) -> None:
        self._session = session
        self._blob = blob
        self._transfer = transfer
        self._url = ""
        self._offset = 0  # what the registry has of it
        self._passed = 0  # what the last attempt got rid of
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
            budget.progressed(self._passed)
            self._passed = 0
            budget.spend(failure)
            self._find_offset()

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
            call = _call("PATCH", self._url, ref=blob.ref, doing=f"upload {blob.name}")
            call = replace(
                call, headers=headers, body=self._body, expect=frozenset({200, 201, 202, 204})
            )
            reply = self._session.attempt(call)
            reply.close()
            self._url = _location(reply, call, self._url)
            self._offset = size
        self._finish(b"")

    def _finish(self, body: bytes | Opener) -> None:
        digest = self._blob.descriptor.digest
        url = f"{self._url}{'&' if '?' in self._url else '?'}digest={quote(digest)}"
        call = _call("PUT", url, ref=self._blob.ref, doing=f"finish {self._blob.name}")
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
        self._passed = 0
        for chunk in self._transfer.watch(_readable(self._blob.open)):
            begin, done = done, done + len(chunk)
            if done > descriptor.size:
                raise DigestMismatch(
                    f"{self._blob.name}: there are more than {descriptor.size} bytes"
                )
            if done > self._offset:
                yield chunk[max(0, self._offset - begin) :]
                self._passed += done - begin
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
        call = _call("GET", self._url, ref=self._blob.ref, doing=f"resume {self._blob.name}")
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
            self._url = _location(reply, call, self._url)
            self._resumed = True


def start_upload(session: Session, ref: Reference, send: Callable[[Call], Reply]) -> str:
    """Opens an upload and gives its URL."""
    call = _call(
        "POST",
        "blobs/uploads/",
        ref=ref,
        doing=f"push to {ref.registry}/{ref.repository}",
        about=RepositoryUnknown,
    )
    reply = send(replace(call, expect=frozenset({202})))
    reply.close()
    return _location(reply, call, _base(session, call))


def _base(session: Session, call: Call) -> str:
    """What a relative Location is relative to."""
    return session.transport.endpoint(call.asked.host, call.asked.purpose).url("/")


def received(span: str) -> int:
    """How many bytes an upload's Range header says are there: "0-99" is 100, and "0-0" none, as
    registries answer for a fresh upload (a single byte can't be told from that)."""
    last = span.removeprefix("bytes=").partition("-")[2]
    return int(last) + 1 if last.isdigit() and int(last) > 0 else 0


def _location(reply: Reply, call: Call, base: str) -> str:
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


def _call(
    method: str,
    path: str,
    *,
    ref: Reference,
    doing: str,
    about: type[RegistryError] = BlobUnknown,
) -> Call:
    return make_call(method, path, ref=ref, doing=doing, purpose=Purpose.PUSH, about=about)
