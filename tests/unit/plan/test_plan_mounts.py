"""RUN mounts as planned: what is filled in, what enters the keys, which stages are needed."""

from __future__ import annotations

import pytest

from pybuild.errors import PybuildError
from pybuild.image.digest import Digest, digest_of
from pybuild.plan.keys import KeyFacts, first_keys
from pybuild.plan.steps import (
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    ImageRequest,
    PlannedMount,
    RunAction,
)
from tests.support.plans import AMD64, base_image, plan_of

STAGES = "FROM base AS one\nRUN one\nFROM base AS two\nRUN two\nFROM base\n"


def mounts_of(options: str, before: str = "") -> tuple[PlannedMount, ...]:
    plan = plan_of(f"{STAGES}{before}RUN {options} true\n")
    action = plan.target_stage.steps[-1].action
    assert isinstance(action, RunAction)
    return action.mounts


def secret(target: str, **fields: object) -> PlannedMount:
    fields = {"id": "x", "mode": 0o400, "read_only": True} | fields
    return PlannedMount("secret", target, None, **fields)  # type: ignore[arg-type]


def cache(target: str, id: str, **fields: object) -> PlannedMount:
    fields = {"origin": FromScratch(), "sharing": "shared", "mode": 0o755} | fields
    return PlannedMount("cache", target, id=id, **fields)  # type: ignore[arg-type]


TOOLS = FromImage(ImageRequest("tools", AMD64))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            "target=/c", PlannedMount("bind", "/c", FromContext(), read_only=True), id="context"
        ),
        pytest.param(
            "source=/a/../b/,target=c/",
            PlannedMount("bind", "/w/c", FromContext(), "b", True),
            id="relative",
        ),
        pytest.param(
            "from=ONE,target=/c,rw", PlannedMount("bind", "/c", FromStage(0)), id="stage, writable"
        ),
        pytest.param(
            "from=1,target=/c", PlannedMount("bind", "/c", FromStage(1), "", True), id="number"
        ),
        pytest.param(
            "from=tools,source=x,target=/c",
            PlannedMount("bind", "/c", TOOLS, "x", True),
            id="image",
        ),
        pytest.param(
            "from=scratch,target=/c", PlannedMount("bind", "/c", FromScratch(), "", True), id="none"
        ),
        pytest.param(
            "type=tmpfs,target=t,size=1k",
            PlannedMount("tmpfs", "/w/t", None, size=1024),
            id="tmpfs",
        ),
        pytest.param("type=cache,target=c", cache("/w/c", "c"), id="cache is called as written"),
        pytest.param("type=cache,target=/a/../c/,ro", cache("/c", "/c", read_only=True), id="ro"),
        pytest.param(
            "type=cache,id=i,target=/c,sharing=LOCKED,uid=5",
            cache("/c", "i", sharing="locked", uid=5),
            id="owned cache",
        ),
        pytest.param(
            "type=cache,target=/c,from=one,source=/s,uid=5,mode=0700",
            cache("/c", "/c", origin=FromStage(0), source="s"),
            id="a cache with first content has its owner",
        ),
        pytest.param(
            "type=cache,target=/c,from=one,mode=0700",
            cache("/c", "/c", mode=0o700),
            id="an owner takes the place of a whole stage",
        ),
        pytest.param("type=secret,id=x", secret("/run/secrets/x"), id="secret"),
        pytest.param("type=secret,id=a/x", secret("/run/secrets/x", id="a/x"), id="secret's name"),
        pytest.param("type=secret,target=d/x", secret("/w/d/x"), id="secret by target"),
        pytest.param(
            "type=secret,source=x,required", secret("/run/secrets/x", required=True), id="r"
        ),
        pytest.param("type=secret,id=x,env=X", secret("", env="X"), id="only a variable"),
        pytest.param(
            "type=secret,id=x,env=X,target=/t,uid=1,gid=2,mode=0444",
            secret("/t", env="X", uid=1, gid=2, mode=0o444),
            id="both",
        ),
    ],
)
def test_what_a_mount_means(options: str, expected: PlannedMount) -> None:
    assert mounts_of(f"--mount={options}", "WORKDIR /w\n") == (expected,)


def test_options_are_expanded_as_the_stage_has_them() -> None:
    before = "ARG KIND=cache\nENV PLACE=/p WHO=7\n"
    (mount,) = mounts_of("--mount=type=$KIND,target=${PLACE}/x,id=${KIND%he},uid=${WHO:-1}", before)
    assert (mount.type, mount.target, mount.id, mount.uid) == ("cache", "/p/x", "cac", 7)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("type=ssh", "not-carried-out"),
        ("target=/", "bad-mount"),
        ("target=.", "bad-mount"),
        ("source=x", "bad-mount"),
        ("from=2,target=/x", "bad-stage-reference"),
        ("type=$NONE,target=/x", "bad-mount"),
        ("type=tmpfs,target=/x,size=$NONE,uid=1", "bad-mount"),
    ],
)
def test_what_is_refused_has_a_place(options: str, code: str) -> None:
    with pytest.raises(PybuildError) as caught:
        mounts_of(f"--mount={options}")
    assert caught.value.code == code
    assert caught.value.source is not None and caught.value.source.line == 6


def test_stages_and_images_that_are_mounted_are_needed() -> None:
    mounts = "--mount=from=two,target=/2 --mount=type=cache,from=one,target=/1"
    plan = plan_of(f"{STAGES}RUN {mounts} --mount=from=tools,target=/t true\n")
    assert sorted(stage.number for stage in plan.stages) == [0, 1, 2]
    assert plan.stages[-1] is plan.target_stage
    assert plan.target_stage.needs == (0, 1)
    step = plan.target_stage.steps[-1]
    assert step.takes == (FromStage(1), FromStage(0), TOOLS)
    assert {request.name for request, _ in plan.images} == {"base", "tools"}
    without = plan_of(f"{STAGES}RUN --mount=from=two,target=/2 true\n")
    assert [stage.number for stage in without.stages] == [1, 2]


def test_two_stages_that_mount_each_other_are_a_circle() -> None:
    text = "FROM base AS a\nRUN --mount=from=b,target=/x true\nFROM base AS b\n"
    with pytest.raises(PybuildError) as caught:
        plan_of(text + "RUN --mount=from=a,target=/x true\n")
    assert caught.value.code == "bad-stage-reference"


# Keys

MOUNTS = (
    "--mount=target=/c --mount=from=one,target=/1 --mount=from=two,target=/2 "
    "--mount=type=cache,id=i,target=/k,sharing=shared --mount=type=tmpfs,target=/t,size=1k "
    "--mount=type=secret,id=s,target=/s"
)


def key(options: str, *, stages: str = STAGES, content: str = "c", tools: str = "t") -> Digest:
    plan = plan_of(f"{stages}RUN {options} true\n", bases={"tools": base_image(tools)})
    last = (plan.target, plan.target_stage.steps[-1].number)
    return first_keys(plan, KeyFacts(), {last: digest_of(content.encode())})[last]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("target=/c", "target=/d", id="target"),
        pytest.param("target=/c", "target=/c,source=x", id="source"),
        pytest.param("target=/c", "target=/c,rw", id="writable"),
        pytest.param("from=one,target=/1", "from=two,target=/1", id="stage"),
        pytest.param("from=one,target=/1", "from=scratch,target=/1", id="origin"),
        pytest.param("id=i", "id=j", id="cache"),
        pytest.param("sharing=shared", "sharing=private", id="sharing"),
        pytest.param("target=/k", "target=/k,uid=1", id="owner"),
        pytest.param("size=1k", "size=2k", id="size"),
        pytest.param("id=s", "id=z", id="secret"),
        pytest.param("target=/s", "target=/s,mode=0444", id="mode"),
        pytest.param("target=/s", "target=/s,env=S", id="variable"),
        pytest.param("target=/s", "target=/s,required", id="required"),
        pytest.param("--mount=target=/c ", "", id="one less"),
    ],
)
def test_a_key_changes_with_a_mount(old: str, new: str) -> None:
    assert old in MOUNTS
    assert key(MOUNTS) != key(MOUNTS.replace(old, new))


def test_a_key_depends_on_what_is_mounted() -> None:
    assert key(MOUNTS) != key(MOUNTS, content="other")
    assert key(MOUNTS) != key(MOUNTS, stages=STAGES.replace("RUN two", "RUN 2"))
    image = "--mount=from=tools,target=/t"
    assert key(image) != key(image, tools="another digest")


def test_a_key_stays_with_the_way_a_mount_is_written() -> None:
    assert key("--mount=type=bind,source=/a/,dst=/c,ro") == key("--mount=target=/c,source=a")
    variable = f"{STAGES}ARG P=/c\n"
    args = key("--mount=target=$P", stages=variable)
    assert args == key("--mount=target=/c", stages=variable)


def test_a_key_knows_which_mount_takes_from_which_stage() -> None:
    def three(*names: str) -> Digest:
        mounts = (f"--mount=from={name},target=/{n}" for n, name in enumerate(names))
        return key(" ".join(mounts))

    keys = [three(*names) for names in (("one", "one", "two"), ("one", "two", "two"))]
    keys += [three("two", "one", "one"), three("two", "two", "one"), three("one", "two", "one")]
    assert len(set(keys)) == len(keys)
