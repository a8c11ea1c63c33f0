"""Layers and the identity of a stack of them (OCI image-spec, config.md, "Layer ChainID")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.reference import Reference


class Layer(Struct, frozen=True):
    """A layer whose bytes are fetched only when asked for.

    `open` gives the blob as stored (compressed), verified against the descriptor; it may be
    called any number of times. `source` is the repository the blob can be mounted from.
    """

    descriptor: Descriptor
    diff_id: Digest
    open: Callable[[], Iterator[bytes]]
    source: Reference | None = None


EMPTY_CHAIN = Digest("")  # of no layer at all


def chain_id(parent: Digest, diff_id: Digest) -> Digest:
    """The identity of the layer `diff_id` on top of `parent` (EMPTY_CHAIN where it is first)."""
    return diff_id if not parent else digest_of(f"{parent} {diff_id}".encode())


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """One chain ID for each layer, lowest first."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(chain_id(chains[-1] if chains else EMPTY_CHAIN, diff_id))
    return tuple(chains)
