"""What COPY and ADD take: found before anything runs, and its digest for the cache keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256

from msgspec import Struct

from pybuild.errors import PybuildError
from pybuild.executor.copy import Picked, SourceTree, pick
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.plan.steps import CopyAction, FromContext, Plan, Step
from pybuild.rootfs.entry import Entry, Kind

StepId = tuple[int, int]


class Taken(Struct, frozen=True):
    """`files` are the content digests that packing has to find again, by path in the source."""

    digest: Digest
    files: Mapping[str, Digest]


def context_steps(plan: Plan) -> Iterator[tuple[StepId, Step, CopyAction]]:
    for stage in plan.stages:
        for step in stage.file_steps:
            if isinstance(step.action, CopyAction) and isinstance(step.action.origin, FromContext):
                yield (stage.number, step.number), step, step.action


def check_sources(plan: Plan, context: SourceTree) -> dict[StepId, list[Picked]]:
    """Finds what each COPY and ADD names in the context. Raises SourceMissing with the place."""
    found: dict[StepId, list[Picked]] = {}
    for identity, step, action in context_steps(plan):
        try:
            found[identity] = pick(action, context)
        except PybuildError as error:
            raise error.at(step.source) from error.__cause__
    return found


def digest_taken(
    picked: Iterable[Picked],
    tree: SourceTree,
    digests_of: Callable[[list[str]], Mapping[str, Digest]],
    *,
    with_owner: bool,
) -> Taken:
    """The digest over everything the picked sources hold: names, types, modes, links, attributes
    and bytes; owners where the copy keeps them; never times. Reads the files it is told of."""
    rows: list[tuple[str, Entry]] = []
    for number, source in enumerate(picked):
        top = f"{number}/{source.prefix}/{source.named.rpartition('/')[2]}"
        rows += _below(source.entry, top, tree)
    paths = [entry.path for _, entry in rows if entry.kind is Kind.FILE and entry.size]
    files = digests_of(paths)
    hasher = sha256()
    for name, entry in rows:
        owner = [entry.uid, entry.gid] if with_owner else []
        attributes = [[key, value.hex()] for key, value in entry.xattrs]
        bytes_ = files[entry.path] if entry.kind is Kind.FILE and entry.size else ""
        facts = [name, entry.kind, entry.mode, owner, entry.link, entry.major, entry.minor]
        hasher.update(json.dumps([*facts, attributes, bytes_]).encode())
    return Taken(digest_from_hex(hasher.hexdigest()), files)


def _below(entry: Entry, name: str, tree: SourceTree) -> Iterator[tuple[str, Entry]]:
    yield name, entry
    if entry.kind is Kind.DIRECTORY:
        for child in tree.children(entry.path):
            yield from _below(child, f"{name}/{child.path.rpartition('/')[2]}", tree)
