"""Writing to a registry: blobs by mount or upload, then the manifest (distribution-spec, Push)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import quote

from msgspec.structs import replace

from pybuild.errors import RegistryError
from pybuild.events import Level, Notice, TransferKind, TransferOutcome
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.manifest import Index, Manifest
from pybuild.image.reference import Reference
from pybuild.image.verify import DigestMismatch
from pybuild.registry.challenge import Scope
from pybuild.registry.errors import BlobUnknown, RepositoryUnknown, TagImmutable
from pybuild.registry.options import host_of
from pybuild.registry.retry import Transient
from pybuild.registry.session import Refused, Session, with_body
from pybuild.registry.transfer import Transfer, Transfers
from pybuild.registry.upload import (
    Blob,
    Opener,
    SourceFailed,
    Upload,
    base_of,
    location_of,
    push_call,
    start_upload,
    with_digest,
)

_SPARE_SECONDS = 300.0  # how long an opened upload is kept for the next blob
_STARTED = frozenset({201, 202})
_CANCELLED = frozenset({200, 201, 202, 204, 404})
_EMPTY = digest_of(b"")


class Pusher:
    """Remembers what is known to be there, which uploads run, and which are open and unused."""

    def __init__(self, session: Session, transfers: Transfers) -> None:
        self._session = session
        self._transfers = transfers
        self._lock = threading.Lock()
        self._known: set[tuple[str, str, Digest]] = set()
        self._running: dict[tuple[str, str, Digest], threading.Event] = {}
        self._spare: dict[tuple[str, str], tuple[Reference, str, float]] = {}
        self._checking: dict[tuple[str, str], threading.Event] = {}
        self._no_mount: set[tuple[str, str, str]] = set()

    def close(self) -> None:
        """Cancels uploads that were opened by `check_push` and not used."""
        with self._lock:
            spare, self._spare = self._spare, {}
        for ref, url, _ in spare.values():
            self._cancel(ref, url)

    def _cancel(self, ref: Reference, url: str) -> None:
        """Gives an upload up. Some token servers give nobody the right to delete that the
        registry wants for it: there it becomes the empty blob, which the right to push is enough
        for. Where that fails too, the registry removes it by itself later on."""
        if self._session.transport.closed.is_set():
            return
        delete = push_call("DELETE", url, ref=ref, doing="cancel an upload")
        finish = push_call("PUT", with_digest(url, _EMPTY), ref=ref, doing="end an upload")
        for call in (delete, finish):
            with suppress(RegistryError, Transient):
                self._session.once(replace(call, expect=_CANCELLED)).close()
                return

    def blob_exists(self, ref: Reference, digest: Digest) -> bool:
        key = (ref.registry, ref.repository, digest)
        with self._lock:
            if key in self._known:
                return True
        call = push_call(
            "HEAD", f"blobs/{digest}", ref=ref, doing=f"look for blob {digest} in {ref}"
        )
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
                blob = Blob(ref, descriptor, open)
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
        self, blob: Blob, mount_from: Sequence[Reference], transfer: Transfer
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

    def _mount(self, blob: Blob, source: Reference) -> tuple[bool, str]:
        """Whether it was mounted; if not, the upload that the registry opened instead, or ""."""
        digest = blob.descriptor.digest
        query = f"mount={quote(digest)}&from={quote(source.repository, safe='')}"
        call = push_call(
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
        return False, location_of(reply, call, base_of(self._session, call))

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
        call = push_call(
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
            if key in self._spare or key in self._checking:
                return
            over = self._checking[key] = threading.Event()
        try:
            url = start_upload(self._session, ref, self._session.call)
            with self._lock:
                self._spare[key] = (ref, url, time.monotonic() + _SPARE_SECONDS)
        finally:
            with self._lock:
                del self._checking[key]
            over.set()

    def _take_spare(self, ref: Reference) -> str:
        """The upload that the check opened, also where it is about to: it asks what we would."""
        key = (ref.registry, ref.repository)
        with self._lock:
            checking = self._checking.get(key)
        if checking is not None:
            checking.wait()  # it ends with that thread's own deadlines
        with self._lock:
            _, url, until = self._spare.pop(key, (ref, "", 0.0))
        if url and until <= time.monotonic():
            self._cancel(ref, url)
            return ""
        return url
