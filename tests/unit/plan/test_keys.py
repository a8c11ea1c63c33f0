"""Cache keys: what changes them, what must not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pybuild.image.digest import Digest, digest_of
from pybuild.image.platform import Platform
from pybuild.plan.keys import KeyFacts, first_keys, state_key, step_key
from tests.support.plans import base_image, plan_of

FACTS = KeyFacts()
BASE = "FROM base\nARG A=1\nENV E=1\nCOPY src /src\nRUN make\nWORKDIR /w\n"


def last_key(
    text: str, *, content: str = "c", facts: KeyFacts = FACTS, **options: object
) -> Digest:
    """The key of the last step that may change files."""
    plan = plan_of(text, **options)  # type: ignore[arg-type]
    inputs = {
        (stage.number, step.number): digest_of(content.encode())
        for stage in plan.stages
        for step in stage.file_steps
    }
    return list(first_keys(plan, facts, inputs).values())[-1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("COPY src /src", "COPY src /other", id="destination"),
        pytest.param("COPY src", "COPY --chown=1:1 src", id="chown"),
        pytest.param("COPY src", "COPY --chmod=700 src", id="chmod"),
        pytest.param("COPY src", "COPY --link src", id="link"),
        pytest.param("RUN make", "RUN make all", id="command"),
        pytest.param("RUN make", 'RUN ["make"]', id="form"),
        pytest.param("RUN make", "USER 1\nRUN make", id="user"),
        pytest.param("RUN make", 'SHELL ["/bin/bash","-c"]\nRUN make', id="shell"),
        pytest.param("RUN make", "RUN --network=none make", id="network"),
        pytest.param("FROM base", "FROM base\nWORKDIR /elsewhere", id="workdir"),
        pytest.param("WORKDIR /w", "USER 1\nWORKDIR /w", id="owner-of-a-workdir"),
        pytest.param("ENV E=1", "ENV E=2", id="env"),
        pytest.param("ARG A=1", "ARG A=2", id="arg"),
        pytest.param("FROM base", "FROM other", id="base"),
        pytest.param("RUN make", "RUN true\nRUN make", id="step-before"),
    ],
)
def test_a_key_changes_with(old: str, new: str) -> None:
    assert last_key(BASE) != last_key(BASE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("RUN make", "LABEL version=7\nRUN make", id="label"),
        pytest.param("RUN make", 'CMD ["x"]\nEXPOSE 80\nRUN make', id="config"),
        pytest.param("RUN make", "HEALTHCHECK CMD true\nRUN make", id="healthcheck"),
        pytest.param("COPY src /src", "copy   src   /src", id="writing"),
        pytest.param("COPY src /src", "ARG D=/src\nCOPY src $D", id="expanded-before-args-count"),
    ],
)
def test_a_key_stays_with(old: str, new: str) -> None:
    changed = BASE.replace(old, new, 1)
    if "ARG D" in new:  # RUN sees the ARG; the COPY itself does not change
        base, changed = "FROM base\nCOPY src /src\n", "FROM base\nARG D=/src\nCOPY src $D\n"
        assert last_key(base) == last_key(changed)
    else:
        assert last_key(BASE) == last_key(changed)


def test_a_key_depends_on_content_isolation_and_base_digest() -> None:
    assert last_key(BASE) != last_key(BASE, content="other")
    assert last_key(BASE) != last_key(BASE, facts=KeyFacts("rootless"))
    assert last_key(BASE) != last_key(BASE, facts=KeyFacts(epoch=0))
    assert last_key(BASE) != last_key(BASE, facts=KeyFacts(compression="zstd"))
    moved = {"base": base_image("another digest")}
    assert last_key(BASE) != last_key(BASE, bases=moved)


def test_keys_of_contents_are_kept_apart_by_what_holds_for_the_build() -> None:
    stage = plan_of("FROM base\nRUN make\n").target_stage
    parent, content = digest_of(b"parent"), digest_of(b"content")
    arm = replace(stage, platform=Platform("linux", "arm64"))
    variants = [
        (stage, FACTS, parent, content),
        (arm, FACTS, parent, content),
        (stage, KeyFacts("rootless"), parent, content),
        (stage, KeyFacts(epoch=0), parent, content),
        (stage, KeyFacts(compression="zstd"), parent, content),
        (stage, FACTS, content, parent),
    ]
    keys = {state_key(a, b, parent=p, content=c) for a, b, p, c in variants}
    step = stage.file_steps[0]
    keys |= {
        step_key(a, step, b, parent=f"chain {p}", taken=c, inputs=None) for a, b, p, c in variants
    }
    assert len(keys) == 2 * len(variants)


def test_a_key_depends_on_the_platform() -> None:
    config = replace(base_image("base").config, platform=Platform("linux", "arm64"))
    arm = {"base": replace(base_image("base"), config=config)}
    assert last_key(BASE) != last_key(BASE, bases=arm)


def test_proxies_and_undeclared_build_args_are_in_no_key() -> None:
    given = {"http_proxy": "http://p", "BUILD_NUMBER": "7"}
    assert last_key(BASE) == last_key(BASE, build_args=given)


def test_a_linked_copy_does_not_depend_on_what_it_stands_on() -> None:
    text = "FROM {}\nCOPY --link src /src\n"
    assert last_key(text.format("base")) == last_key(text.format("other"))


@pytest.mark.parametrize("owner", ["app", "app:0", "0:app", "root"])
def test_a_linked_copy_with_a_named_owner_depends_on_who_that_is(owner: str) -> None:
    text = f"FROM {{}}\nCOPY --link --chown={owner} src /src\n"
    assert last_key(text.format("base")) != last_key(text.format("other"))
    numbers = text.replace(f"={owner} ", "=1000:100 ")
    assert last_key(numbers.format("base")) == last_key(numbers.format("other"))


def test_a_download_is_known_by_its_checksum() -> None:
    text = "FROM base\nADD --checksum=sha256:{} http://host/file /file\n"
    assert last_key(text.format("1" * 64)) != last_key(text.format("2" * 64))


def test_a_copy_from_a_stage_depends_on_that_stage() -> None:
    text = "FROM base AS b\nRUN {}\nFROM base\nCOPY --from=b /x /x\n"
    assert last_key(text.format("one")) != last_key(text.format("two"))
    assert last_key(text.format("one")) == last_key(text.format("one\nLABEL a=b"))


def test_facts_can_not_run_into_each_other() -> None:
    one = last_key('FROM base\nRUN ["a", "b c"]\n')
    two = last_key('FROM base\nRUN ["a b", "c"]\n')
    assert one != two
