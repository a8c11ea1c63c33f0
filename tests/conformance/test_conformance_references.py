from __future__ import annotations

import re
from typing import Any

import pytest

from pybuild.image.reference import (
    IDENTIFIER,
    NAME,
    REFERENCE,
    REGISTRY,
    BadReference,
    Reference,
    parse_normalized,
    parse_reference,
    parse_strict,
    split_registry,
)

Case = dict[str, Any]
FILE = "reference.json"
REGEXPS = {
    "DomainRegexp": REGISTRY,
    "FullNameRegexp": NAME,
    "ReferenceRegexp": REFERENCE,
    "IdentifierRegexp": IDENTIFIER,
}


def parts(reference: Reference) -> dict[str, str]:
    return {
        "domain": reference.registry,
        "path": reference.repository,
        "tag": reference.tag,
        "digest": reference.digest or "",
        "normalized": str(reference),
        "familiar": reference.familiar,
    }


def check(case: Case, found: Reference) -> None:
    expected = {key: case[key] for key in parts(found) if key in case}
    assert expected, "nothing to compare"
    assert {key: parts(found)[key] for key in expected} == expected


@pytest.mark.conformance(FILE, "parse")
def test_parse(case: Case) -> None:
    if case["ok"]:
        check(case, parse_strict(case["input"]))
        return
    with pytest.raises(BadReference):
        parse_strict(case["input"])


@pytest.mark.conformance(FILE, "name")
def test_name(case: Case) -> None:
    match = NAME.fullmatch(case["input"])
    assert bool(match) == case["ok"]
    if match:
        assert (match[1] or "", match[2]) == (case["domain"], case["path"])


@pytest.mark.conformance(FILE, "canonical_named")
def test_canonical_name(case: Case) -> None:
    found = parse_normalized(case["input"])
    assert (str(found) == case["input"]) == case["ok"]
    if case["ok"]:
        check(case, found)


@pytest.mark.conformance(FILE, "normalize")
def test_normalize(case: Case) -> None:
    if case["ok"]:
        check(case, parse_normalized(case["input"]))
        return
    with pytest.raises(BadReference):
        parse_normalized(case["input"])


@pytest.mark.conformance(FILE, "any")
def test_any(case: Case) -> None:
    text = case["input"]
    found = f"sha256:{text}" if IDENTIFIER.fullmatch(text) else str(parse_normalized(text))
    assert found == case["normalized"]


@pytest.mark.conformance(FILE, "docker_ref")
def test_tag_filled_in(case: Case) -> None:
    assert str(parse_reference(case["input"])) == case["normalized"]


@pytest.mark.conformance(FILE, "ggcr_default")
def test_other_defaults(case: Case) -> None:
    defaults = {"registry": case["default_registry"], "tag": case["default_tag"]}
    assert str(parse_reference(case["input"], **defaults)) == case["normalized"]


@pytest.mark.conformance(FILE, "regexp")
def test_building_block(case: Case) -> None:
    expression: re.Pattern[str] = REGEXPS[case["what"]]
    match = expression.fullmatch(case["input"])
    assert bool(match) == case["match"]
    if match and "groups" in case:
        assert [group or "" for group in match.groups()] == case["groups"]


def valid(kind: str, text: str) -> tuple[bool, bool]:
    """Whether the text names a thing of that kind at all, and whether it leaves nothing out."""
    if kind == "ggcr_registry":
        return (fits := REGISTRY.fullmatch(text) is not None), fits
    try:
        found = parse_normalized(text)
    except BadReference:
        return False, False
    fits = {
        "ggcr_repository": not found.tag and found.digest is None,
        "ggcr_tag": found.digest is None,
        "ggcr_digest": found.digest is not None,
    }[kind]
    is_whole = bool(split_registry(text)[0]) and (kind != "ggcr_tag" or bool(found.tag))
    return fits, fits and is_whole


@pytest.mark.conformance(FILE, "ggcr_registry", "ggcr_repository", "ggcr_tag", "ggcr_digest")
def test_validity(case: Case) -> None:
    assert valid(case["kind"], case["input"]) == (case["ok_weak"], case["ok_strict"])
