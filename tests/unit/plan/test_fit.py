"""The chain ID rule: a layer never stands on a parent that it was not made on."""

from __future__ import annotations

from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import Digest, digest_of
from pybuild.image.layer import chain_id
from pybuild.plan.fit import NOT_KEPT, Fit, StoredStep, fit, taken_result
from pybuild.plan.keys import StepId
from pybuild.plan.steps import Plan
from tests.support.plans import plan_of

TWO_STAGES = (
    "FROM base AS b\nRUN one\nRUN two\nFROM base\nRUN three\nCOPY --from=b /x /x\nRUN four\n"
)


def diff_id(name: str) -> Digest:
    return digest_of(name.encode())


def stored(parent: Digest, name: str, taken: Digest | None = None) -> StoredStep:
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", diff_id(f"gz {name}"), 10)
    chain = chain_id(parent, diff_id(name))
    return StoredStep(parent, chain, taken, diff_id(f"content {name}"), diff_id(name), layer, None)


def filled(plan: Plan) -> dict[StepId, StoredStep]:
    """Entries for every step, as one build would have stored them."""
    found: dict[StepId, StoredStep] = {}
    chains: dict[int, Digest] = {}
    for stage in plan.stages:
        chain = stage.base_config.diff_ids[0]
        for step in stage.file_steps:
            taken = chains[0] if step.text.startswith("COPY") else None
            entry = stored(chain, f"{stage.number}.{step.number}", taken)
            found[stage.number, step.number] = entry
            chain = entry.chain
        chains[stage.number] = chain
    return found


def fit_of(plan: Plan, found: dict[StepId, StoredStep]) -> Fit:
    return fit(plan, {identity: [entry] for identity, entry in found.items()})


def hits(plan: Plan, found: dict[StepId, StoredStep]) -> dict[int, int]:
    return {number: len(stage.steps) for number, stage in fit_of(plan, found).stages.items()}


def test_a_whole_build_fits() -> None:
    plan = plan_of(TWO_STAGES)
    assert hits(plan, filled(plan)) == {0: 2, 1: 3}


def test_an_evicted_entry_ends_its_stage_and_what_takes_from_it() -> None:
    plan = plan_of(TWO_STAGES)
    found = filled(plan)
    del found[0, 0]
    assert hits(plan, found) == {0: 0, 1: 1}
    assert fit_of(plan, found).stages[1].stopped == (1, "a stage it takes files from runs")


def test_entries_of_two_builds_are_never_mixed() -> None:
    plan = plan_of(TWO_STAGES)
    found = filled(plan)
    found[0, 0] = stored(found[0, 0].parent, "from another build")
    assert hits(plan, found) == {0: 1, 1: 1}
    assert fit_of(plan, found).reason(0, 1) == "the cached layer was made on another parent"


def test_an_entry_that_took_from_another_result_does_not_fit() -> None:
    plan = plan_of(TWO_STAGES)
    found = filled(plan)
    found[1, 1] = stored(found[1, 1].parent, "1.1", taken=diff_id("another result"))
    assert hits(plan, found) == {0: 2, 1: 1}
    assert "another result" in fit_of(plan, found).reason(1, 1)


def test_a_base_that_moved_under_its_tag_fits_nothing() -> None:
    plan = plan_of(TWO_STAGES)
    found = filled(plan)
    moved = plan_of(TWO_STAGES.replace("FROM base", "FROM moved"))
    assert hits(moved, found) == {0: 0, 1: 0}


def test_a_linked_copy_fits_on_any_parent() -> None:
    text = "FROM base\nRUN one\nCOPY --link a /a\n"
    plan = plan_of(text)
    parent = plan.target_stage.base_config.diff_ids[0]
    found = {(0, 0): stored(parent, "one"), (0, 1): stored(diff_id("elsewhere"), "link")}
    result = fit_of(plan, found).stages[0]
    assert len(result.steps) == 2
    assert result.chain == chain_id(chain_id(parent, diff_id("one")), diff_id("link"))


def test_a_run_fits_on_the_results_of_all_stages_it_has_mounted() -> None:
    plan = plan_of(
        "FROM base AS a\nRUN one\nFROM base AS b\nRUN two\nFROM base\n"
        "RUN --mount=from=a,target=/a --mount=from=b,target=/b three\nRUN four\n"
    )
    step = plan.target_stage.steps[0]
    chains = {0: diff_id("a"), 1: diff_id("b")}
    taken = taken_result(plan, step, chains)
    assert taken is not None
    assert taken != taken_result(plan, step, {0: diff_id("a"), 1: diff_id("other")})
    assert taken != taken_result(plan, step, {0: diff_id("b"), 1: diff_id("a")})
    assert taken_result(plan, step, {0: diff_id("a")}) is None
    found = filled(plan)
    results = {stage: found[stage, 0].chain for stage in (0, 1)}
    found[2, 0] = stored(found[2, 0].parent, "2.0", taken_result(plan, step, results))
    assert hits(plan, found) == {0: 1, 1: 1, 2: 2}
    found[1, 0] = stored(found[1, 0].parent, "of another build")
    assert hits(plan, found) == {0: 1, 1: 1, 2: 0}
    del found[1, 0]
    assert fit_of(plan, found).stages[2].stopped == (0, "a stage it takes files from runs")


def test_of_several_caches_the_way_that_leads_furthest_is_taken() -> None:
    plan = plan_of("FROM base\nRUN one\nRUN two\nRUN three\n")
    whole = filled(plan)
    other = stored(whole[0, 0].parent, "another build's")
    found = {identity: [entry] for identity, entry in whole.items()}
    found[0, 0] = [other, whole[0, 0]]
    assert fit(plan, found).stages[0].steps == {0: whole[0, 0], 1: whole[0, 1], 2: whole[0, 2]}
    del found[0, 1]
    assert fit(plan, found).stages[0].steps == {0: other}, "the first cache is preferred"


def test_steps_that_are_not_to_be_cached_say_so() -> None:
    plan = plan_of(TWO_STAGES)
    found = {identity: [entry] for identity, entry in filled(plan).items() if identity != (0, 1)}
    assert fit(plan, found, frozenset({(0, 1)})).reason(0, 1) == NOT_KEPT
