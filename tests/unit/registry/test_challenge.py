from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.registry.challenge import Challenge, Scope, covers, parse_challenges, preferred


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("", (), id="none"),
        pytest.param("Basic", (Challenge("basic"),), id="scheme-alone"),
        pytest.param(
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
            'scope="repository:library/busybox:pull,push"',
            (
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/busybox:pull,push",
                    },
                ),
            ),
            id="docker-hub",
        ),
        pytest.param(
            'Basic realm="a, b", Bearer realm=x , service="y"',
            (
                Challenge("basic", {"realm": "a, b"}),
                Challenge("bearer", {"realm": "x", "service": "y"}),
            ),
            id="two-joined",
        ),
        pytest.param(
            r'basic REALM="say \"hi\""', (Challenge("basic", {"realm": 'say "hi"'}),), id="quotes"
        ),
        pytest.param(
            "Negotiate, Basic realm=r",
            (Challenge("negotiate"), Challenge("basic", {"realm": "r"})),
            id="scheme-without-parameters-first",
        ),
        pytest.param('realm="x"', (), id="parameter-without-scheme"),
    ],
)
def test_parse(header: str, expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges(header) == expected


@given(st.text())
def test_any_header_is_read_without_failing(header: str) -> None:
    preferred(parse_challenges(header))


@pytest.mark.parametrize(
    ("header", "scheme"),
    [
        ("Basic realm=r, Bearer realm=t", "bearer"),
        ("Basic realm=r, Bearer service=t", "basic"),
        ("Digest realm=r", None),
    ],
)
def test_bearer_with_a_realm_comes_before_basic(header: str, scheme: str | None) -> None:
    found = preferred(parse_challenges(header))
    assert (found.scheme if found else None) == scheme


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        ([Scope("a", push=True)], [Scope("a")], True),
        ([Scope("a")], [Scope("a", push=True)], False),
        ([Scope("a", push=True), Scope("b")], [Scope("b")], True),
        ([Scope("a", push=True)], [Scope("a"), Scope("b")], False),
    ],
)
def test_what_a_token_covers(held: list[Scope], wanted: list[Scope], expected: bool) -> None:
    assert covers(held, wanted) is expected
    assert str(held[0]).startswith("repository:a:pull")
