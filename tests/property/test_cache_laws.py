"""Whatever a cache holds, a build takes from it only layers that were made on each other."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pybuild.executor.lookup import required
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.layer import chain_id
from pybuild.plan.fit import Fit, StoredStep, base_chain, fit, taken_result
from pybuild.plan.keys import KeyFacts, StepId, first_keys
from pybuild.plan.steps import FromStage, Plan
from tests.support.plans import plan_of

Entries = Mapping[StepId, tuple[StoredStep, ...]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Stages that start from images or each other, and take from each other in all ways."""
    lines: list[str] = []
    for number in range(draw(st.integers(1, 5))):
        stages = [f"s{before}" for before in range(number)]
        base = draw(st.sampled_from([*stages, "one", "two", "scratch"]))
        lines.append(f"FROM {base} AS s{number}")
        for step in range(draw(st.integers(0, 4))):
            source = draw(st.sampled_from([*stages, "one", ""]))
            flag = f"--from={source} " if source else ""
            link = draw(st.sampled_from(["", "--link "]))
            mount = f"--mount=type=bind,target=/m,from={source} " if source else ""
            lines.append(
                draw(
                    st.sampled_from(
                        [
                            f"RUN do {step}",
                            f"RUN {mount}do {step}",
                            f"COPY {flag}{link}/f /f{step}",
                            f"WORKDIR /w{step}",
                            f"LABEL n={step}",
                        ]
                    )
                )
            )
    return plan_of("\n".join(lines) + "\n")


def layer_of(name: str) -> tuple[Digest, Descriptor]:
    data = digest_of(f"gz {name}".encode())
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    return digest_of(name.encode()), Descriptor(kind, data, 10)


class Builder:
    """Builds that share a store: each makes layers of its own, and says so under the keys."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.made: dict[tuple[Digest, Digest], None] = {}  # parent and diff ID of every layer

    def build(self, name: str, empty: frozenset[StepId] = frozenset()) -> dict[StepId, StoredStep]:
        """All entries of one complete build; the steps of `empty` changed nothing."""
        entries: dict[StepId, StoredStep] = {}
        results: dict[int, Digest] = {}
        for stage in self.plan.stages:
            chain = base_chain(stage, results)
            assert chain is not None
            for step in stage.file_steps:
                identity = (stage.number, step.number)
                # what stands alone is the same wherever it stands
                place = "" if step.stands_alone else f"{chain} "
                diff_id, layer = layer_of(f"{name} {place}{step.text} {stage.number}")
                stored = StoredStep(
                    parent=chain,
                    chain=chain_id(chain, diff_id),
                    taken=taken_result(self.plan, step, results),
                    content=diff_id,
                    diff_id=diff_id,
                    layer=layer,
                    index=None,
                )
                if identity in empty:
                    stored = replace(stored, chain=chain, diff_id=None, layer=None)
                else:
                    self.made[chain, diff_id] = None
                entries[identity] = stored
                chain = stored.chain
            results[stage.number] = chain
        return entries


def check(plan: Plan, entries: Entries, builder: Builder, result: Fit) -> None:
    """Walks what would be taken, as an image would hold it."""
    whole = {number: hits.chain for number, hits in result.stages.items() if hits.stopped is None}
    for stage in plan.stages:
        hits = result.stages[stage.number]
        chain = base_chain(stage, whole)
        numbers = [step.number for step in stage.file_steps]
        assert list(hits.steps) == numbers[: len(hits.steps)], "hits come first, without a gap"
        if chain is None:
            assert not hits.steps, "on a stage that runs nothing is known to fit"
            continue
        for step in stage.file_steps[: len(hits.steps)]:
            entry = hits.steps[step.number]
            assert entry in entries[stage.number, step.number]
            if not step.stands_alone:
                assert entry.parent == chain
                assert entry.diff_id is None or (chain, entry.diff_id) in builder.made
            assert entry.taken == taken_result(plan, step, whole)
            assert not step.takes or entry.taken is not None
            chain = chain if entry.diff_id is None else chain_id(chain, entry.diff_id)
        assert chain == hits.chain
        assert (hits.stopped is None) == (len(hits.steps) == len(numbers))


@st.composite
def stores(draw: st.DrawFn) -> tuple[Plan, Builder, Entries]:
    """Each key holds what some of several builds stored there, in one cache or in several, or
    nothing any more."""
    plan = draw(plans())
    builder = Builder(plan)
    steps = [(s.number, step.number) for s in plan.stages for step in s.file_steps]
    builds = []
    for name in ("red", "green", "blue"):
        empty = draw(st.frozensets(st.sampled_from(steps))) if steps else frozenset()
        builds.append(builder.build(name, empty))
    kept = st.lists(st.sampled_from([*builds, builds[0], builds[0]]), max_size=3)
    found = {identity: tuple(build[identity] for build in draw(kept)) for identity in steps}
    return plan, builder, found


@given(stores())
def test_a_layer_is_taken_only_on_the_parent_it_was_made_on(
    store: tuple[Plan, Builder, Entries],
) -> None:
    plan, builder, found = store
    check(plan, found, builder, fit(plan, found))


@given(plans(), st.data())
def test_the_entries_of_a_complete_build_fit_as_a_whole(plan: Plan, data: st.DataObject) -> None:
    steps = [(s.number, step.number) for s in plan.stages for step in s.file_steps]
    empty = data.draw(st.frozensets(st.sampled_from(steps))) if steps else frozenset()
    builder = Builder(plan)
    red, further = builder.build("red", empty), data.draw(st.sampled_from([None, "green"]))
    found = {identity: (entry,) for identity, entry in red.items()}
    if further:  # what another cache has changes nothing
        green = builder.build(further)
        found = {identity: (*entries, green[identity]) for identity, entries in found.items()}
    result = fit(plan, found)
    assert all(stage.steps[step] == red[number, step]
               for number, stage in result.stages.items() for step in stage.steps)  # fmt: skip
    assert all(stage.stopped is None for stage in result.stages.values())
    check(plan, found, builder, result)
    lineage = {plan.target}
    for stage in reversed(plan.stages):
        if stage.number in lineage and isinstance(stage.origin, FromStage):
            lineage.add(stage.origin.stage)
    assert required(plan, result) == lineage, "no stage is started for what is cached"


@given(stores())
def test_all_that_a_step_to_run_needs_is_there(store: tuple[Plan, Builder, Entries]) -> None:
    plan, _, found = store
    result = fit(plan, found)
    needed = required(plan, result)
    for stage in plan.stages:
        if stage.number not in needed:
            continue
        hits = result.stages[stage.number].steps
        if isinstance(stage.origin, FromStage):
            assert stage.origin.stage in needed
        for step in stage.file_steps:
            sources = {one.stage for one in step.takes if isinstance(one, FromStage)}
            skipped = sources - needed
            if step.number in hits:
                assert all(result.stages[number].stopped is None for number in skipped)
            else:
                assert not skipped


@given(plans())
def test_steps_share_a_key_only_if_all_that_they_depend_on_is_the_same(plan: Plan) -> None:
    """Two steps with one key make one layer: they stand on the same and do the same."""
    keys = first_keys(plan, KeyFacts(), {})
    places: dict[Digest, object] = {}
    identity: dict[int, object] = {}
    for stage in plan.stages:
        origin = stage.origin
        below = identity[origin.stage] if isinstance(origin, FromStage) else origin
        for step in stage.file_steps:
            taken = [
                identity[one.stage] if isinstance(one, FromStage) else one for one in step.takes
            ]
            action = step.text.partition("--from=")[0], step.text.rpartition(" ")[2]
            if "mount" in step.text:
                action = "mount", step.text.rpartition(" ")[2]
            parent = None if step.stands_alone else below
            place = repr((parent, taken, action))
            key = keys[stage.number, step.number]
            assert places.setdefault(key, place) == place
            below = (key, below)
        identity[stage.number] = below
    assert len(set(places.values())) == len(places)
