"""Reading from a registry: manifests by tag or digest, and blobs as verified streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

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
    reply, raw = session.fetch(call, MAX_MANIFEST_SIZE)
    if reply.status == 404:
        return None
    if ref.digest:
        _check(raw, ref.digest, f"the manifest of {ref}")
    told = reply.header("docker-content-digest")
    algorithm = told.partition(":")[0]
    if algorithm in ("sha256", "sha384", "sha512"):
        _check(raw, Digest(told), f"the manifest of {ref}")
    try:
        return parse_manifest(raw, reply.header("content-type"))
    except BadManifest as error:
        hint = error.hint or "is it an image? A proxy may have answered in the registry's place"
        raise BadManifest(f"{ref}: {error.message}", hint=hint) from error


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
            f"{what} arrived as {digest.algorithm}:{found}, but {digest} was named",
            hint="something between here and the registry changes what passes",
        )


def resolve(session: Session, ref: Reference, platform: Platform) -> ResolvedImage:
    """The image of `platform` that `ref` names, from the first of its mirrors that has it."""
    failure: RegistryError | ContentMismatch | None = None
    for source in sources(ref, session.options):
        _tell_fallback(session.sink, failure, source)
        try:
            return _resolve_at(session, ref, source, platform)
        except (RegistryError, ContentMismatch) as error:
            failure = error
    assert failure is not None
    raise failure


def _tell_fallback(
    sink: EventSink, failure: RegistryError | ContentMismatch | None, source: Reference
) -> None:
    if failure is not None:
        text = f"{failure.message}; trying {source.registry} instead"
        sink(Notice(Level.WARNING, text, "mirror-failed"))


def manifest_with_mirrors(session: Session, ref: Reference) -> Manifest | Index:
    failure: RegistryError | ContentMismatch | None = None
    for source in sources(ref, session.options):
        _tell_fallback(session.sink, failure, source)
        try:
            return fetch_manifest(session, source)
        except (RegistryError, ContentMismatch) as error:
            failure = error
    assert failure is not None
    raise failure


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
    """A small blob as a whole, verified."""
    if descriptor.size > _WHOLE_LIMIT:
        raise BadManifest(f"blob {descriptor.digest} of {ref} is too big: {descriptor.size} bytes")
    return b"".join(stream_blob(session, ref, descriptor))


def stream_blob(session: Session, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
    """A blob from the first mirror that begins to deliver it, verified over breaks."""
    places = sources(ref, session.options)
    failure: RegistryError | None = None
    for source in places:
        _tell_fallback(session.sink, failure, source)
        chunks = verified(_resumed(session, source, descriptor), descriptor)
        try:
            first = next(chunks, b"")
        except RegistryError as error:
            failure = error
            continue
        yield first
        yield from chunks
        return
    assert failure is not None
    raise failure


def _resumed(session: Session, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
    """The blob's bytes, asked for again from where they broke off."""
    budget = session.budget()
    done = since = 0
    while True:
        call = _blob_call(ref, descriptor, done)
        try:
            reply = session.once(call)
            for chunk in _from(reply, done):
                done += len(chunk)
                since += len(chunk)
                yield chunk
            return
        except Transient as transient:
            failure = transient
        except (OSError, BadReply) as error:
            failure = session.broken(call, error)
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
    return replace(call, headers={"Range": f"bytes={done}-"}) if done else call


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
