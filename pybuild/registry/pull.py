"""Reading from a registry: manifests by tag or digest, and blobs as verified streams."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import ContentMismatch, RegistryError
from pybuild.events import EventSink, Level, Notice
from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import BadManifest, Descriptor
from pybuild.image.digest import BadDigest, Digest
from pybuild.image.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from pybuild.image.media_type import ACCEPTED
from pybuild.image.platform import Platform, choose
from pybuild.image.reference import Reference
from pybuild.image.verify import DigestMismatch, verified
from pybuild.registry.errors import BlobUnknown, PlatformUnknown
from pybuild.registry.mirrors import sources
from pybuild.registry.options import Purpose
from pybuild.registry.retry import Transient
from pybuild.registry.session import Call, Session, make_call
from pybuild.registry.wire import BadReply, Reply

_Found = TypeVar("_Found")

_ACCEPT = ", ".join(ACCEPTED)
_WHOLE_LIMIT = 32 << 20  # of a blob that is read into memory
_NESTED_INDEXES = 3


class ResolvedImage(Struct, frozen=True):
    """An image of one platform. `reference` is the one asked for, with the digest of what its tag
    names; `source` is where it was really pulled from, with the digest of `manifest`."""

    reference: Reference
    source: Reference
    manifest: Manifest
    config: ImageConfig
    raw_config: bytes


def fetch_manifest(
    session: Session, ref: Reference, purpose: Purpose = Purpose.PULL
) -> Manifest | Index:
    """From just this registry. Raises RegistryError; ContentMismatch where the bytes are not what
    the digest, or the registry's own header, names."""
    found = _manifest_call(session, ref, purpose, frozenset({200}))
    assert found is not None
    return found


def try_manifest(session: Session, ref: Reference) -> Manifest | Index | None:
    """None where the registry has no such tag, digest or repository."""
    return _manifest_call(session, ref, Purpose.PUSH, frozenset({200, 404}))


def _manifest_call(
    session: Session, ref: Reference, purpose: Purpose, expect: frozenset[int]
) -> Manifest | Index | None:
    call = make_call(
        "GET",
        f"manifests/{ref.digest or ref.tag}",
        ref=ref,
        doing=f"pull the manifest of {ref}",
        purpose=purpose,
        expect=expect,
        push=False,
    )
    call = replace(call, headers={"Accept": _ACCEPT})
    budget = session.budget()
    while True:
        reply, raw = session.fetch(call, MAX_MANIFEST_SIZE)
        if reply.status == 404:
            return None
        try:
            _check_manifest(ref, raw, reply.header("docker-content-digest"))
            break
        except DigestMismatch as wrong:
            budget.spend(Transient(wrong))
    try:
        return parse_manifest(raw, reply.header("content-type"))
    except BadManifest as error:
        hint = error.hint or "is it an image? A proxy may have answered in the registry's place"
        raise BadManifest(f"{ref}: {error.message}", hint=hint) from error


def _check_manifest(ref: Reference, raw: bytes, told: str) -> None:
    """Raises DigestMismatch where the bytes are not what `ref`, or the registry, says they are."""
    if ref.digest:
        _check(raw, ref.digest, f"the manifest of {ref}")
    if told.partition(":")[0] in ("sha256", "sha384", "sha512"):
        _check(raw, Digest(told), f"the manifest of {ref}")


def has_blob(session: Session, ref: Reference, digest: Digest) -> bool:
    """Whether this very repository holds the blob; the right to read is enough."""
    call = make_call(
        "HEAD",
        f"blobs/{digest}",
        ref=ref,
        doing=f"look for blob {digest} in {ref.name}",
        purpose=Purpose.PUSH,
        about=BlobUnknown,
        expect=frozenset({200, 404}),
        push=False,
    )
    reply = session.call(call)
    reply.close()
    return reply.status == 200


def _check(raw: bytes, digest: Digest, what: str) -> None:
    found = hashlib.new(digest.algorithm, raw).hexdigest()
    if found != digest.hex:
        raise DigestMismatch(
            f"can't pull {what}: it arrived as {digest.algorithm}:{found}, but {digest} was named",
            hint="something between here and the registry changes what passes",
        )


def resolve(session: Session, ref: Reference, platform: Platform) -> ResolvedImage:
    """The image of `platform` that `ref` names, from the first of its mirrors that has it."""
    return _first(session, ref, lambda source: _resolve_at(session, ref, source, platform))


def manifest_with_mirrors(session: Session, ref: Reference) -> Manifest | Index:
    """What `ref` names, from the first of its mirrors that has it."""
    return _first(session, ref, lambda source: fetch_manifest(session, source))


def _first(session: Session, ref: Reference, ask: Callable[[Reference], _Found]) -> _Found:
    """What the first place gives that gives anything; the last one's error is raised."""
    places = sources(ref, session.options)
    for position, source in enumerate(places, 1):
        try:
            found = ask(source)
        except (RegistryError, ContentMismatch) as error:
            if position == len(places):
                raise
            _tell_fallback(session.sink, error, places[position])
            continue
        if places[position:]:
            session.note_others(source, places[position:])
        return found
    raise AssertionError("there is at least one place")


def _tell_fallback(
    sink: EventSink, failure: RegistryError | ContentMismatch, source: Reference
) -> None:
    text = f"{failure.message}; trying {source.registry} instead"
    sink(Notice(Level.WARNING, text, "mirror-failed"))


def _resolve_at(
    session: Session, ref: Reference, source: Reference, platform: Platform
) -> ResolvedImage:
    found = fetch_manifest(session, source)
    named = found.digest
    for _ in range(_NESTED_INDEXES):
        if isinstance(found, Manifest):
            break
        chosen = choose_manifest(found, platform, str(ref))
        found = fetch_manifest(session, source.with_digest(chosen.digest))
    if not isinstance(found, Manifest):
        raise BadManifest(f"{ref} is an index of indexes of indexes")
    source = source.with_digest(found.digest)
    raw_config = fetch_blob(session, source, found.config)
    try:
        config = ImageConfig.from_json(raw_config)
    except (BadManifest, BadDigest) as error:
        raise BadManifest(
            f"{ref}: its config is none that images have: {error.message}",
            hint=error.hint or "is it an image, and not a chart or another artifact?",
        ) from error
    return ResolvedImage(ref.with_digest(named), source, found, config, raw_config)


def choose_manifest(index: Index, platform: Platform, name: str) -> Descriptor:
    """The entry of an index that fits the platform. Raises PlatformUnknown."""
    position = choose((entry.platform for entry in index.manifests), platform)
    if position is not None:
        return index.manifests[position]
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    # Attestations stand in indexes as images of the platform unknown/unknown.
    offered = [entry.platform for entry in index.manifests if entry.platform]
    known = dict.fromkeys(str(entry) for entry in offered if entry.os != "unknown")
    raise PlatformUnknown(
        f"{name} has no image for {platform}; it has {', '.join(known) or 'none at all'}",
        hint="choose another with --platform, or another base image",
    )


def fetch_blob(session: Session, ref: Reference, descriptor: Descriptor) -> bytes:
    """A small blob as a whole, verified; wrong bytes are asked for again."""
    if descriptor.size > _WHOLE_LIMIT:
        raise BadManifest(f"blob {descriptor.digest} of {ref} is too big: {descriptor.size} bytes")
    budget = session.budget()
    while True:
        try:
            return b"".join(stream_blob(session, ref, descriptor))
        except ContentMismatch as wrong:
            budget.spend(Transient(wrong))


def stream_blob(session: Session, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
    """A blob, verified over breaks. Where its place fails for good, the next one that may hold it
    goes on from there: all of them hold the same bytes, or none that pass."""
    places = [*sources(ref, session.options)]
    places += [other for other in session.others(ref) if other not in places]
    read = _Read(session, descriptor)
    try:
        yield from verified(read.chunks(places), descriptor)
    except ContentMismatch as wrong:
        # What was handed on can't be taken back: whoever reads decides whether to begin again.
        hint = wrong.hint or "something between here and the registry changes what passes"
        place = f"{read.place.registry}/{read.place.repository}"
        told = f"can't pull from {place}: {wrong.message} (attempt {read.attempt})"
        raise DigestMismatch(told, hint=hint) from wrong


def stream_rest(
    session: Session, ref: Reference, descriptor: Descriptor, done: int
) -> Iterator[bytes]:
    """A blob from its byte `done` on, not verified: who has its beginning checks the whole."""
    places = [*sources(ref, session.options)]
    return _Read(session, descriptor, done).chunks(places)


class _Read:
    """One blob on its way here: how far it is, and from where."""

    def __init__(self, session: Session, descriptor: Descriptor, done: int = 0) -> None:
        self._session = session
        self._descriptor = descriptor
        self._done = done
        self.attempt = 0
        self.place: Reference

    def chunks(self, places: Sequence[Reference]) -> Iterator[bytes]:
        for position, self.place in enumerate(places, 1):
            try:
                yield from self._resumed(self.place)
                return
            except RegistryError as error:
                if position == len(places):
                    raise
                _tell_fallback(self._session.sink, error, places[position])

    def _resumed(self, place: Reference) -> Iterator[bytes]:
        """The bytes from one place, asked for again from where they broke off."""
        budget = self._session.budget()
        since = 0
        while True:
            call = _blob_call(place, self._descriptor, self._done)
            self.attempt += 1
            try:
                reply = self._session.once(call)
                if reply.status == 416:
                    reply.close()
                    size = self._descriptor.size
                    raise DigestMismatch(
                        f"blob {self._descriptor.digest} ended after {self._done} of {size} bytes"
                    )
                for chunk in _from(reply, self._done):
                    self._done += len(chunk)
                    since += len(chunk)
                    yield chunk
                if self._done >= self._descriptor.size:
                    return
                short = f"{self._descriptor.size - self._done} bytes are missing"
                failure = self._session.broken(call, BadReply(short))
            except Transient as transient:
                failure = transient
            except (OSError, BadReply) as error:
                if self._done == self._descriptor.size:
                    return  # more was announced than there is; the digest decides
                failure = self._session.broken(call, error)
            budget.progressed(since)
            since = 0
            budget.spend(failure)


def _blob_call(ref: Reference, descriptor: Descriptor, done: int) -> Call:
    call = make_call(
        "GET",
        f"blobs/{descriptor.digest}",
        ref=ref,
        doing=f"pull blob {descriptor.digest} of {ref.registry}/{ref.repository}",
        purpose=Purpose.PULL,
        about=BlobUnknown,
        expect=frozenset({200, 206}),
    )
    if not done:
        return call
    # 416: it is shorter than its descriptor says.
    headers = {"Range": f"bytes={done}-"}
    return replace(call, headers=headers, expect=call.expect | {416})


def _from(reply: Reply, done: int) -> Iterator[bytes]:
    """What is new in an answer when `done` bytes are here already; a server that knows no ranges
    sends all of it once more."""
    start = 0
    if reply.status == 206:
        unit, _, span = reply.header("content-range").partition(" ")
        first = span.partition("-")[0]
        if unit != "bytes" or not first.isdigit() or int(first) > done:
            reply.close()
            raise BadReply("it begins at another place than asked for")
        start = int(first)
    skip = done - start
    for chunk in reply.chunks():
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        yield chunk[skip:] if skip else chunk
        skip = 0
