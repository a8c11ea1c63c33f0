"""The two forms, held against their official schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from hypothesis import given
from hypothesis import strategies as st
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from pybuild.image.digest import digest_of
from pybuild.output.sbom.collect import Found
from pybuild.output.sbom.document import Format, Subject, render
from pybuild.output.sbom.package import Distribution, Package

SUBJECT = Subject(
    "r.example.com:5000/team/app", digest_of(b"m"), "2024-01-02T03:04:05Z", "pybuild-1"
)
FOUND = Found(
    Distribution("debian", "12", "Debian GNU/Linux 12"),
    (
        Package("deb", "libc6", "2.36-9+deb12u4", "debian", (("arch", "amd64"),),
                ("GPL-2+", "LGPL-2.1-only"), "/var/lib/dpkg/status"),
        Package("golang", "c", "v1.2.3", "github.com/b", place="/bin/a"),
        Package("npm", "node", "1.0.0", "@types", licenses=("MIT",), place="/n/package.json"),
        Package("maven", "core", "", "org.example", place="/app.jar!/core.jar"),
    ),
    (("/var/lib/rpm/Packages", "it is of another form"),),
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
PACKAGES = st.builds(
    Package,
    kind=st.sampled_from(["deb", "apk", "rpm", "pypi", "npm", "maven", "golang"]),
    name=TEXTS.filter(bool),
    version=TEXTS,
    namespace=TEXTS,
    qualifiers=st.lists(st.tuples(st.sampled_from(["arch", "distro"]), TEXTS)).map(tuple),
    licenses=st.lists(TEXTS.filter(bool), max_size=3).map(tuple),
    place=TEXTS,
)


def mistakes_of_spdx(raw: bytes, folder: Path) -> list[str]:
    file = folder / "sbom.spdx.json"
    file.write_bytes(raw)
    document = parse_file(str(file))
    return [message.validation_message for message in validate_full_spdx_document(document)]


def mistake_of_cyclonedx(raw: bytes) -> str:
    validator = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_5)
    found = validator.validate_str(raw.decode())
    return "" if found is None else str(found)


def test_spdx_is_valid(tmp_path: Path) -> None:
    assert mistakes_of_spdx(render(FOUND, SUBJECT, Format.SPDX), tmp_path) == []


def test_cyclonedx_is_valid() -> None:
    assert mistake_of_cyclonedx(render(FOUND, SUBJECT, Format.CYCLONEDX)) == ""


def test_the_validators_see_mistakes(tmp_path: Path) -> None:
    raw = render(FOUND, SUBJECT, Format.SPDX)
    raw = raw.replace(b'Declared": "MIT"', b'Declared": "LicenseRef-9"')
    assert mistakes_of_spdx(raw, tmp_path)
    raw = render(FOUND, SUBJECT, Format.CYCLONEDX).replace(b'"library"', b'"nonsense"')
    assert mistake_of_cyclonedx(raw)


@given(st.lists(PACKAGES, max_size=3))
def test_whatever_packages_say_the_documents_are_valid(packages: list[Package]) -> None:
    found = Found(Distribution(), tuple(packages), ())
    assert mistake_of_cyclonedx(render(found, SUBJECT, Format.CYCLONEDX)) == ""
    body: dict[str, Any] = json.loads(render(found, SUBJECT, Format.SPDX))
    assert body["packages"][0]["name"] == SUBJECT.name
    assert len(body["packages"]) == len(body["relationships"]) == len(packages) + 1
    declared = {one["licenseId"] for one in body.get("hasExtractedLicensingInfos", ())}
    for package in body["packages"]:
        for term in package["licenseDeclared"].split(" AND "):
            assert not term.startswith("LicenseRef-") or term in declared


@pytest.mark.parametrize("form", list(Format))
def test_the_same_image_gives_the_same_bytes(form: Format) -> None:
    assert render(FOUND, SUBJECT, form) == render(FOUND, SUBJECT, form)
    assert SUBJECT.identity in render(FOUND, SUBJECT, form).decode()


def test_every_package_is_named_by_its_url() -> None:
    spdx = json.loads(render(FOUND, SUBJECT, Format.SPDX))
    cyclonedx = json.loads(render(FOUND, SUBJECT, Format.CYCLONEDX))
    urls = [package.url for package in FOUND.packages]
    assert urls == [
        reference["referenceLocator"]
        for package in spdx["packages"][1:]
        for reference in package["externalRefs"]
    ]
    assert urls == [component["purl"] for component in cyclonedx["components"][1:]]
    assert "another form" in spdx["comment"]
