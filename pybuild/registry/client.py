"""The client that the rest of the program uses. Thread-safe; one for a build."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from pybuild import __version__
from pybuild.events import EventSink, TransferKind, TransferOutcome
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest
from pybuild.image.manifest import Index, Manifest
from pybuild.image.platform import Platform
from pybuild.image.reference import Reference
from pybuild.registry import catalog, pull, referrers
from pybuild.registry.credentials import Keychain
from pybuild.registry.options import RegistryOptions
from pybuild.registry.pull import ResolvedImage
from pybuild.registry.push import Pusher
from pybuild.registry.session import Session
from pybuild.registry.transfer import Transfers

__all__ = ["Client", "ResolvedImage"]


class Client:
    """All methods raise RegistryError (a subclass for each refusal), and ContentMismatch where
    bytes are not what was named; BrokenConfig where the credentials can't be read."""

    def __init__(self, options: RegistryOptions, keychain: Keychain, sink: EventSink) -> None:
        agent = ",".join(filter(None, (f"pybuild/{__version__}", options.client_name)))
        self._session = Session(options, keychain, sink, user_agent=agent)
        self._transfers = Transfers(sink)
        self._pusher = Pusher(self._session, self._transfers)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives up what is open; threads that wait on a registry are woken with an error."""
        self._pusher.close()
        self._session.close()

    # Pull

    def resolve(self, ref: Reference, platform: Platform) -> ResolvedImage:
        """The image of one platform that a reference names, mirrors first."""
        return pull.resolve(self._session, ref, platform)

    def manifest(self, ref: Reference) -> Manifest | Index:
        """What a tag or digest names, mirrors first."""
        return pull.manifest_with_mirrors(self._session, ref)

    def try_manifest(self, ref: Reference) -> Manifest | Index | None:
        """None where the repository or the tag does not exist. Mirrors are not asked."""
        return pull.try_manifest(self._session, ref)

    def has_blob(self, ref: Reference, digest: Digest) -> bool:
        """Whether the repository holds a blob. Mirrors are not asked."""
        return pull.has_blob(self._session, ref, digest)

    def blob(self, ref: Reference, descriptor: Descriptor) -> bytes:
        """A small blob (at most 32 MiB), verified."""
        return pull.fetch_blob(self._session, ref, descriptor)

    def open_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        label: str = "",
        kind: TransferKind = TransferKind.PULL,
    ) -> Iterator[bytes]:
        """A blob as a stream; the last step of the iteration fails if it is not what was named.

        Nothing is asked before the first chunk is wanted.
        """
        label = label or f"{ref.repository}@{descriptor.digest.hex[:12]}"
        with self._transfers.begin(kind, label, descriptor.size) as transfer:
            yield from transfer.watch(pull.stream_blob(self._session, ref, descriptor))
            transfer.outcome = TransferOutcome.DONE

    def open_rest(self, ref: Reference, descriptor: Descriptor, done: int) -> Iterator[bytes]:
        """A blob from its byte `done` on, NOT verified: who has the beginning checks the whole."""
        label = f"{ref.repository}@{descriptor.digest.hex[:12]}"
        with self._transfers.begin(TransferKind.PULL, label, descriptor.size) as transfer:
            rest = pull.stream_rest(self._session, ref, descriptor, done)
            yield from transfer.watch(rest, done)
            transfer.outcome = TransferOutcome.DONE

    # Push

    def blob_exists(self, ref: Reference, digest: Digest) -> bool:
        return self._pusher.blob_exists(ref, digest)

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open: Callable[[], Iterator[bytes]],
        *,
        mount_from: Sequence[Reference] = (),
        label: str = "",
        kind: TransferKind = TransferKind.PUSH,
    ) -> TransferOutcome:
        """Makes the repository hold a blob: EXISTS, MOUNTED from another one, or uploaded (DONE).

        `open` gives the bytes from the start and may be called several times. Two threads that
        push the same blob to one repository upload it once.
        """
        label = label or f"{ref.repository}@{descriptor.digest.hex[:12]}"
        return self._pusher.push_blob(
            ref, descriptor, open, mount_from=mount_from, label=label, kind=kind
        )

    def push_manifest(self, ref: Reference, manifest: Manifest | Index) -> Digest:
        """Under the reference's tag, or its digest where it has no tag. All blobs have to be
        there already."""
        return self._pusher.push_manifest(ref, manifest)

    def lists_referrers(self, ref: Reference, digest: Digest) -> bool:
        """Whether the registry tells what refers to a manifest, so that no tag has to."""
        return referrers.lists_referrers(self._session, ref, digest)

    # What is kept

    def tags(self, ref: Reference) -> Iterator[str]:
        """All tags of the repository."""
        return catalog.tags(self._session, ref)

    def delete_manifest(self, ref: Reference) -> bool:
        """Removes what the reference's digest names, with all its tags; whether it was there."""
        return catalog.delete_manifest(self._session, ref)

    def check_push(self, ref: Reference) -> None:
        """Raises what a push would raise, unless the options leave that out. The upload that this
        opens serves the first blob, or is given up."""
        self._pusher.check_push(ref)
