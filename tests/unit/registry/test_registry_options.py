from __future__ import annotations

import pytest

from pybuild.image.reference import parse_reference
from pybuild.registry.mirrors import sources
from pybuild.registry.options import (
    Purpose,
    RegistryOptions,
    host_of,
    is_loopback,
    split_host,
)
from pybuild.registry.problem import parse_problem


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("reg.localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
        ("10.0.0.1:5000", False),
        ("127.example.com", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("a.io", ("a.io", None)), ("A.io:5", ("a.io", 5)), ("[::1]:5", ("::1", 5))],
)
def test_split_host(host: str, expected: tuple[str, int | None]) -> None:
    assert split_host(host) == expected


def test_docker_hub_is_served_by_another_host() -> None:
    assert host_of("docker.io") == host_of("index.docker.io") == "registry-1.docker.io"
    assert host_of("a.io") == "a.io"


@pytest.mark.parametrize(
    ("options", "pull", "push"),
    [
        (RegistryOptions(), False, False),
        (RegistryOptions(insecure=frozenset({"a.io"})), True, True),
        (RegistryOptions(insecure=frozenset({"b.io"})), False, False),
        (RegistryOptions(insecure_pull=True), True, False),
        (RegistryOptions(insecure_push=True), False, True),
    ],
)
def test_plain_http_is_spoken_only_where_it_was_allowed(
    options: RegistryOptions, pull: bool, push: bool
) -> None:
    assert options.may_be_plain("a.io", Purpose.PULL) is pull
    assert options.may_be_plain("a.io", Purpose.PUSH) is push


@pytest.mark.parametrize(
    ("options", "reference", "expected"),
    [
        pytest.param(RegistryOptions(), "app", ["docker.io/library/app:latest"], id="none"),
        pytest.param(
            RegistryOptions(mirrors=("m.io", "n.io/hub")),
            "app",
            [
                "m.io/library/app:latest",
                "n.io/hub/library/app:latest",
                "docker.io/library/app:latest",
            ],
            id="hub",
        ),
        pytest.param(RegistryOptions(mirrors=("m.io",)), "a.io/b:1", ["a.io/b:1"], id="not-hub"),
        pytest.param(
            RegistryOptions(map={"a.io": ("https://m.io/x/",)}, default_fallback=False),
            "a.io/b:1",
            ["m.io/x/b:1"],
            id="map-without-fallback",
        ),
        pytest.param(
            RegistryOptions(map={"index.docker.io": ("m.io",)}, mirrors=("m.io",)),
            "app:1",
            ["m.io/library/app:1", "docker.io/library/app:1"],
            id="hub-by-another-name-and-twice",
        ),
        pytest.param(
            RegistryOptions(default_fallback=False), "a.io/b", ["a.io/b:latest"], id="last"
        ),
    ],
)
def test_sources(options: RegistryOptions, reference: str, expected: list[str]) -> None:
    assert [str(ref) for ref in sources(parse_reference(reference), options)] == expected


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"", "", ((), "")),
        (b"<html>", "text/html", ((), "")),
        (b"too big\nor so", "text/plain; charset=utf-8", ((), "too big")),
        (b'{"details": "no"}', "application/json", ((), "no")),
        (b'{"errors": 5}', "", ((), "")),
        (b'{"errors": [1, {"code": "A", "message": "b"}]}', "", (("A",), "b")),
        (b'{"error": "invalid_grant", "error_description": "late"}', "", ((), "late")),
        (b'{"errors": [{"message": "a\\u001b[31m"}]}', "", ((), "a[31m")),
        (b"[" * 100_000, "", ((), "")),
    ],
)
def test_what_a_registry_says(
    body: bytes, content_type: str, expected: tuple[tuple[str, ...], str]
) -> None:
    assert parse_problem(body, content_type) == expected
