"""What COPY and ADD take: found before anything runs, and its digest for the cache keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import PybuildError
from pybuild.executor.copy import LayerDraft, Owner, Picked, SourceTree, draft_copy, pick
from pybuild.executor.mode import check_mode
from pybuild.image.digest import Digest, digest_from_hex
from pybuild.plan.steps import CopyAction, FromContext, Plan, Step
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree

if TYPE_CHECKING:
    from pybuild.executor.download import Download

StepId = tuple[int, int]


class Taken(Struct, frozen=True):
    """`files` are the content digests that packing has to find again, by path in the source: of
    all files that are not empty, several names of one file counted once. `downloads` are there
    where the addresses' content had to be known for the digest."""

    digest: Digest
    files: Mapping[str, Digest]
    downloads: tuple[Download, ...] = ()


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


def take_all(
    plan: Plan,
    picked: Mapping[StepId, Sequence[Picked]],
    take: Callable[[CopyAction, Sequence[Picked]], Taken],
) -> dict[StepId, Taken]:
    """What each COPY and ADD takes from the context and the network; errors have the place."""
    taken: dict[StepId, Taken] = {}
    for identity, step, action in context_steps(plan):
        try:
            taken[identity] = take(action, picked[identity])
        except PybuildError as error:
            raise error.at(step.source) from error.__cause__
    return taken


def digest_taken(
    action: CopyAction,
    picked: Sequence[Picked],
    tree: SourceTree,
    digests_of: Callable[[list[str]], Mapping[str, Digest]],
    *,
    downloads: tuple[Download, ...] = (),
    commits: tuple[str, ...] = (),
) -> Taken:
    """The digest over everything that the copy would put on an empty root: names, types, modes,
    links, attributes, owners and bytes, never times; what --exclude leaves out is not in it. Files
    that ADD may unpack count as they are. Reads the files it is told of."""
    from pybuild.layer.pack import content_record

    if action.chmod:
        check_mode(action.chmod)
    rows: list[tuple[str, Entry, str]] = []  # what it is, as it is to be, where its bytes are
    plain = []
    for one in picked:
        if may_be_archive(action, one):
            name = one.named.rpartition("/")[2]
            rows.append(("archive ", replace(one.entry, path=name), one.entry.path))
        else:
            plain.append(one)
    # Who --chown names is known to the parent, which is in the key as well.
    draft = LayerDraft(Tree(()), Owner(0, 0) if action.chown else None, action.chmod)
    draft_copy(action, plain, tree, draft)
    for change in draft.changes(lambda content: content.path, 0):
        assert not isinstance(change.content, bytes), "here-documents are in the key themselves"
        rows.append(("", change.entry, change.content or ""))
    files = digests_of([path for _, entry, path in rows if path and entry.size])
    hasher = sha256()
    for kind, entry, path in rows:
        digest = bytes.fromhex(files[path].hex) if path in files else b""
        hasher.update(kind.encode() + content_record(entry, digest))
    for fetched in downloads:
        hasher.update(f"download {len(fetched.name)} {fetched.name} {fetched.digest} ".encode())
    for commit in commits:
        hasher.update(f"commit {commit} ".encode())
    return Taken(digest_from_hex(hasher.hexdigest()), files, downloads)


def may_be_archive(action: CopyAction, one: Picked) -> bool:
    """Whether ADD looks into the source, to unpack it."""
    looks = action.is_add and action.unpack is not False
    return looks and one.entry.kind is Kind.FILE and one.entry.size > 0
