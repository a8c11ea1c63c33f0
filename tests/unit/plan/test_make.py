"""The plan: variables, stages, targets, what is refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pybuild.dockerfile.parser import parse
from pybuild.errors import InputError, PybuildError
from pybuild.executor.lookup import required, without_cache
from pybuild.image.platform import Platform
from pybuild.plan.make import PlanRequest, UnknownTarget, images_needed, make_plan
from pybuild.plan.steps import CopyAction, FromImage, FromStage, MakeDirectory, RunAction
from tests.support.plans import AMD64, base_image, plan_of


def run_env(text: str, **options: object) -> dict[str, str]:
    """The environment of the last RUN."""
    plan = plan_of(text, **options)  # type: ignore[arg-type]
    actions = [step.action for step in plan.target_stage.steps]
    return dict([action for action in actions if isinstance(action, RunAction)][-1].env)


@pytest.mark.parametrize(
    ("lines", "build_args", "name", "expected"),
    [
        pytest.param("ARG A=1", {}, "A", "1", id="default"),
        pytest.param("ARG A=1", {"A": "2"}, "A", "2", id="given"),
        pytest.param("ARG A", {}, "A", None, id="no-value"),
        pytest.param("ARG A=1\nENV A=2", {}, "A", "2", id="env-after-arg"),
        pytest.param("ENV A=2\nARG A=1", {}, "A", "1", id="arg-after-env"),
        pytest.param("ENV A=2\nARG A=1", {"A": "3"}, "A", "3", id="given-arg-after-env"),
        pytest.param("ARG A=1\nARG B=${A}x", {}, "B", "1x", id="arg-of-arg"),
        pytest.param("ENV A=1 B=$A", {}, "B", "", id="env-sees-what-was-before"),
        pytest.param("ENV A=1\nENV A=2 B=$A", {}, "B", "1", id="env-sees-the-old-value"),
        pytest.param("ARG TARGETARCH", {}, "TARGETARCH", "amd64", id="platform-arg"),
        pytest.param("", {}, "TARGETARCH", None, id="platform-arg-not-declared"),
        pytest.param("", {"NOBODY": "1"}, "NOBODY", None, id="given-but-not-declared"),
    ],
)
def test_variables_of_a_run(
    lines: str, build_args: dict[str, str], name: str, expected: str | None
) -> None:
    env = run_env(f"FROM base\n{lines}\nRUN true\n", build_args=build_args)
    assert env.get(name) == expected


def test_a_global_arg_is_seen_where_it_is_declared_again() -> None:
    text = "ARG V=1\nFROM base:$V\n{}RUN true\n"
    assert "V" not in run_env(text.format(""))
    assert run_env(text.format("ARG V\n"))["V"] == "1"
    assert run_env(text.format("ARG V\n"), build_args={"V": "2"})["V"] == "2"
    assert run_env(text.format("ARG V=own\n"))["V"] == "own"


def test_a_stage_inherits_the_arguments_of_the_stage_it_starts_from() -> None:
    assert run_env("FROM base AS a\nARG A=1\nFROM a\nRUN true\n")["A"] == "1"


def test_proxies_are_seen_by_every_run_and_recorded_nowhere() -> None:
    plan = plan_of("FROM base\nRUN true\n", build_args={"HTTP_PROXY": "http://user:pw@proxy"})
    step = plan.target_stage.steps[0]
    assert isinstance(step.action, RunAction)
    assert step.action.proxies == (("HTTP_PROXY", "http://user:pw@proxy"),)
    assert "HTTP_PROXY" not in dict(step.action.env)
    assert "proxy" not in step.created_by
    assert plan.warnings == ()


def test_only_needed_stages_are_planned_in_an_order_that_works() -> None:
    plan = plan_of(
        "FROM base AS one\nFROM base AS unused\nRUN false\nFROM one AS two\n"
        "FROM base AS final\nCOPY --from=three /a /a\nCOPY --from=two /b /b\n"
        "FROM base AS three\n",
        target="final",
    )
    order = [stage.name for stage in plan.stages]
    assert sorted(order) == ["final", "one", "three", "two"]
    assert order.index("one") < order.index("two") < order.index("final")
    assert order.index("three") < order.index("final")


def test_a_target_is_found_by_name_in_any_case() -> None:
    text = "FROM base AS One\nFROM base AS two\n"
    assert plan_of(text, target="one").target == plan_of(text, target="ONE").target == 0


@pytest.mark.parametrize(
    ("text", "target", "code", "line"),
    [
        pytest.param("FROM base AS one\n", "onee", "unknown-target", 0, id="target"),
        pytest.param("FROM base\nCOPY --from=0 a b\n", "", "bad-stage-reference", 2, id="itself"),
        pytest.param("FROM base\nCOPY --from=7 a b\n", "", "bad-stage-reference", 2, id="number"),
        pytest.param(
            "FROM base AS a\nCOPY --from=b x x\nFROM base AS b\nCOPY --from=a x x\n",
            "",
            "bad-stage-reference",
            3,
            id="circle",
        ),
        pytest.param("ARG V\nFROM $V\n", "", "bad-reference", 2, id="empty-base"),
        pytest.param("FROM base\nCOPY a b c\n", "", "bad-destination", 2, id="several-onto-a-file"),
        pytest.param("FROM base\nEXPOSE http\n", "", "bad-port", 2, id="port"),
        pytest.param("FROM base\nSTOPSIGNAL nine\n", "", "bad-signal", 2, id="signal"),
        pytest.param("FROM base\nENV A=${B:?missing}\n", "", "bad-substitution", 2, id="required"),
        pytest.param(
            "FROM base\nRUN --mount=type=ssh true\n", "", "not-carried-out", 2, id="mount"
        ),
        pytest.param(
            "FROM base\nRUN --security=insecure true\n", "", "not-carried-out", 2, id="security"
        ),
        pytest.param("FROM --platform=linux/a/b/c base\n", "", "bad-platform", 1, id="platform"),
    ],
)
def test_what_is_refused(text: str, target: str, code: str, line: int) -> None:
    with pytest.raises(PybuildError) as caught:
        plan_of(text, target=target)
    assert caught.value.code == code
    assert isinstance(caught.value, InputError)
    if line:
        assert caught.value.source is not None
        assert caught.value.source.line == line


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        plan_of("FROM base AS builder\n", target="bulder")
    assert "builder" in caught.value.hint


def test_triggers_of_a_base_run_first_and_are_gone_from_the_config() -> None:
    triggers = ("COPY . /src", "RUN make", "COPY --from=tools /bin/cc /cc")
    bases = {"onbuild": base_image("onbuild", on_build=triggers)}
    plan = plan_of("FROM onbuild\nRUN after\n", bases=bases)
    actions = [step.action for step in plan.target_stage.steps]
    assert [type(action) for action in actions] == [CopyAction, RunAction, CopyAction, RunAction]
    assert plan.target_stage.config.on_build == ()
    assert "tools" in [request.name for request, _ in plan.images]


def test_workdir_is_relative_to_the_one_before() -> None:
    plan = plan_of("FROM base\nWORKDIR /a\nWORKDIR b/../c\nWORKDIR /\n")
    actions = [step.action for step in plan.target_stage.steps]
    assert actions == [MakeDirectory("/a", ""), MakeDirectory("/a/c", ""), None]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        pytest.param("b", "/w/b", id="relative"),
        pytest.param("b/", "/w/b/", id="folder"),
        pytest.param(".", "/w/", id="dot"),
        pytest.param("/x/./y", "/x/y", id="cleaned"),
        pytest.param("/", "/", id="root"),
        pytest.param("../b", "/b", id="above"),
    ],
)
def test_destinations_are_absolute(destination: str, expected: str) -> None:
    plan = plan_of(f"FROM base\nWORKDIR /w\nCOPY a {destination}\n")
    action = plan.target_stage.steps[-1].action
    assert isinstance(action, CopyAction)
    assert action.destination == expected


def test_platforms_of_stages_and_of_copied_images() -> None:
    plan = plan_of("FROM --platform=arm64 tools AS t\nFROM base\nCOPY --from=t a a\n")
    assert plan.stage(0).origin == FromImage(plan.images[0][0])
    assert {request.platform for request, _ in plan.images} == {
        Platform("linux", "arm64"),
        Platform("linux", "amd64"),
    }


def test_a_base_named_like_an_earlier_stage_is_that_stage() -> None:
    assert plan_of("FROM x AS base\nFROM Base\n").target_stage.origin == FromStage(0)


def test_an_entrypoint_clears_the_command_that_came_from_below() -> None:
    bases = {"base": base_image("base", cmd=("old",))}
    assert plan_of('FROM base\nENTRYPOINT ["e"]\n', bases=bases).target_stage.config.cmd is None
    config = plan_of('FROM base\nCMD ["c"]\nENTRYPOINT ["e"]\n', bases=bases).target_stage.config
    assert (config.entrypoint, config.cmd) == (("e",), ("c",))


def test_labels_of_the_command_line_come_last_and_on_the_target_only() -> None:
    text = "FROM base AS a\nLABEL k=file\nFROM a\n"
    plan = plan_of(text, labels=(("k", "line"),))
    assert dict(plan.target_stage.config.labels) == {"k": "line"}
    assert dict(plan.stage(0).config.labels) == {"k": "file"}


def test_an_unused_build_arg_is_told() -> None:
    assert "TYPO" in plan_of("FROM base\n", build_args={"TYPO": "1"}).warnings[0]


SEVERAL = """\
FROM debian AS build
RUN make
FROM build AS Test
RUN make test
FROM scratch AS docs
COPY --from=build /docs /
FROM scratch
COPY --from=build /app /
"""


def test_further_stages_are_built_and_the_first_is_the_image() -> None:
    request = PlanRequest({}, "docs", AMD64, AMD64, (("a", "b"),), ("test", "docs"))
    dockerfile = parse(SEVERAL)
    images = {need: base_image(need.name) for need in images_needed(dockerfile, request, {})}
    plan = make_plan(dockerfile, request, images)
    assert [stage.name for stage in plan.stages] == ["build", "docs", "test"]
    assert plan.target_stage.name == "docs" and plan.target_stage.config.labels == (("a", "b"),)
    assert required(plan, without_cache(plan).fit) == {0, 1, 2}
    with pytest.raises(UnknownTarget):
        make_plan(dockerfile, replace(request, also=("none",)), images)


def test_a_password_is_in_no_text_of_the_plan() -> None:
    plan = plan_of("FROM scratch\nADD http://me:hunter2@h/x /\nENV A=ssh://u:hunter2@h\n")
    add, env = plan.target_stage.steps
    assert add.created_by == "ADD http://me:xxxxx@h/x / # pybuild"
    assert "hunter2" not in add.text + env.text
    assert isinstance(add.action, CopyAction) and add.action.urls == ("http://me:hunter2@h/x",)
