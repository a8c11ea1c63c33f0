from __future__ import annotations

import pytest

from pybuild.image.digest import Digest
from pybuild.image.reference import (
    BadReference,
    Reference,
    parse_normalized,
    parse_reference,
    parse_strict,
)

DIGEST = Digest("sha256:" + "ab" * 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", Reference("docker.io", "library/a", "latest")),
        ("a/b:1", Reference("docker.io", "a/b", "1")),
        ("index.docker.io/a", Reference("docker.io", "library/a", "latest")),
        ("localhost/a", Reference("localhost", "a", "latest")),
        ("LOCAL/a", Reference("LOCAL", "a", "latest")),
        ("r:5000/a/b", Reference("r:5000", "a/b", "latest")),
        ("r.io/a:1@" + DIGEST, Reference("r.io", "a", "1", DIGEST)),
        ("a@" + DIGEST, Reference("docker.io", "library/a", "", DIGEST)),
        ("[::1]:5000/a", Reference("[::1]:5000", "a", "latest")),
    ],
)
def test_parse(text: str, expected: Reference) -> None:
    found = parse_reference(text)
    assert found == expected
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no image reference"),
        ("A", "lower case"),
        ("r.io/A/b", "lower case"),
        ("a b", "no image reference"),
        ("https://r.io/a", "no image reference"),
        ("a:", "no image reference"),
        ("r.io/", "no image reference"),
        ("a:" + "t" * 129, "no image reference"),
        ("r.io/" + "a" * 256, "255"),
        ("a@sha256:" + "AB" * 32, "digest"),
        ("a@md5:" + "ab" * 16, "md5"),
        ("ab" * 32, "no image reference"),
        ("a\n", "no image reference"),
    ],
)
def test_bad_reference(text: str, part: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse_reference(text)
    assert part in caught.value.message


def test_lower_case_is_offered() -> None:
    with pytest.raises(BadReference) as caught:
        parse_reference("MyApp:V1")
    assert caught.value.hint == "write myapp:V1"


def test_parts() -> None:
    found = parse_reference("r.io/a/b:1")
    assert found.name == "r.io/a/b"
    assert str(found.with_tag("x")) == "r.io/a/b:x"
    assert str(found.with_digest(DIGEST)) == f"r.io/a/b:1@{DIGEST}"
    assert str(found.with_digest(DIGEST).with_tag("2")) == "r.io/a/b:2"
    with pytest.raises(BadReference):
        found.with_tag("no tag")


def test_nothing_is_filled_in_strictly() -> None:
    assert parse_strict("a/b") == Reference("a", "b")
    assert parse_strict("a") == Reference("", "a")
    assert parse_normalized("a").tag == ""


def test_familiar() -> None:
    assert parse_reference("library/a").familiar == "a:latest"
    assert parse_reference("library/a/b").familiar == "library/a/b:latest"
    assert parse_reference("r.io/library/a").familiar == "r.io/library/a:latest"


def test_a_long_name_is_read_in_time() -> None:
    with pytest.raises(BadReference):
        parse_reference("a" + "-a" * 50_000 + "!")
