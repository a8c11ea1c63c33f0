"""One reference for images of several platforms: an index made from what registries hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import InputError
from pybuild.image.manifest import Index, Manifest, make_index
from pybuild.image.media_type import Family, is_foreign
from pybuild.image.platform import Platform, normalized

if TYPE_CHECKING:
    from pybuild.image.descriptor import Annotations, Descriptor
    from pybuild.image.digest import Digest
    from pybuild.image.reference import Reference
    from pybuild.registry.client import Client

_ATTESTATION = "unknown"  # the platform under which attestations stand in an index


class PlatformsClash(InputError):
    """Two images of an index are for one platform, so that nobody could tell them apart."""

    code = "platforms-clash"


class Member(Struct, frozen=True):
    """An image of an index: where it is, and how the index names it."""

    source: Reference
    manifest: Manifest
    entry: Descriptor


def find_members(client: Client, sources: Sequence[Reference]) -> tuple[Member, ...]:
    """The images that the references name, in order; of an index, all that it holds. Raises
    RegistryError, ContentMismatch, PlatformsClash."""
    members = tuple(member for source in sources for member in _members_of(client, source))
    known: dict[Platform, Member] = {}
    for member in members:
        platform = member.entry.platform
        if platform is None or platform.os == _ATTESTATION:
            continue
        first = known.setdefault(normalized(platform), member)
        if first is not member and first.manifest.digest != member.manifest.digest:
            raise PlatformsClash(
                f"{first.source} and {member.source} are both for {platform}",
                hint="an index has one image for each platform",
            )
    unique: dict[Digest, Member] = {}
    for member in members:
        unique.setdefault(member.manifest.digest, member)
    return tuple(unique.values())


def _members_of(client: Client, source: Reference) -> Iterator[Member]:
    found = client.manifest(source)
    if isinstance(found, Index):
        for entry in found.manifests:
            named = source.with_digest(entry.digest)
            manifest = client.manifest(named)
            if isinstance(manifest, Index):
                raise PlatformsClash(
                    f"{source} is an index of indexes", hint="name the images themselves"
                )
            yield Member(named, manifest, entry)
        return
    named = source.with_digest(found.digest)
    yield Member(named, found, replace(found.descriptor, platform=_platform(client, named, found)))


def _platform(client: Client, source: Reference, manifest: Manifest) -> Platform:
    from pybuild.image.config import ImageConfig

    return ImageConfig.from_json(client.blob(source, manifest.config)).platform


def index_of(members: Sequence[Member], annotations: Annotations = ()) -> Index:
    """Docker's list where every image is Docker's and nothing has to be annotated, else OCI's."""
    families = {member.manifest.family for member in members}
    docker = families == {Family.DOCKER} and not annotations
    family = Family.DOCKER if docker else Family.OCI
    return make_index((member.entry for member in members), family, annotations=annotations)


def push_index(
    client: Client, members: Sequence[Member], index: Index, destinations: Sequence[Reference]
) -> None:
    """Brings the images to each destination's repository, mounted where the registry can and
    copied as streams else; the index goes last, under every tag."""
    repositories = {destination.name: destination for destination in destinations}
    for repository in repositories.values():
        for member in members:
            if member.source.name == repository.name:
                continue
            for blob in (*member.manifest.layers, member.manifest.config):
                if not is_foreign(blob.media_type):
                    client.push_blob(
                        repository,
                        blob,
                        partial(client.open_blob, member.source, blob),
                        mount_from=(member.source,),
                    )
            named = replace(repository, tag="", digest=member.manifest.digest)
            client.push_manifest(named, member.manifest)
    for destination in destinations:
        client.push_manifest(destination, index)
