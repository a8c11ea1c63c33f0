"""What was found, as SPDX 2.3 or CycloneDX 1.5: the same image always gives the same bytes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from enum import Enum

from msgspec import Struct

from pybuild.image.digest import Digest
from pybuild.output.sbom.collect import Found
from pybuild.output.sbom.package import Package

_NAMES = uuid.UUID("6c3a3f52-2b9d-5d0e-9a53-6d9b8f0c7a11")  # of our documents: any constant does
# Those that most packages have; another's text is declared in the document itself.
_SPDX_LICENSES = {
    "0BSD", "AFL-2.1", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-1.1", "Apache-2.0",
    "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "BSL-1.0", "CC0-1.0",
    "CC-BY-3.0", "CC-BY-4.0", "CDDL-1.0", "CDDL-1.1", "EPL-1.0", "EPL-2.0", "GPL-1.0-or-later",
    "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC",
    "LGPL-2.0-only", "LGPL-2.0-or-later", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only",
    "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-1.1", "MPL-2.0", "OFL-1.1", "PSF-2.0", "Python-2.0",
    "Ruby", "Unlicense", "Vim", "WTFPL", "X11", "Zlib", "ZPL-2.1", "bzip2-1.0.6", "curl",
    "OpenSSL", "PostgreSQL",
}  # fmt: skip


class Format(Enum):
    """The value is what users write; each has its media type and the usual end of a file's name."""

    SPDX = "spdx"
    CYCLONEDX = "cyclonedx"

    @property
    def media_type(self) -> str:
        spdx = self is Format.SPDX
        return "application/spdx+json" if spdx else "application/vnd.cyclonedx+json"

    @property
    def file_name(self) -> str:
        return "sbom.spdx.json" if self is Format.SPDX else "sbom.cdx.json"


class Subject(Struct, frozen=True):
    """The image that a document is about: `name` without tag, `created` as in RFC 3339."""

    name: str
    digest: Digest
    created: str
    tool: str  # name and version of the program that writes

    @property
    def identity(self) -> str:
        return str(uuid.uuid5(_NAMES, str(self.digest)))

    @property
    def url(self) -> str:
        last = self.name.rpartition("/")[2]
        return f"pkg:oci/{last}@{str(self.digest).replace(':', '%3A')}?repository_url={self.name}"


def render(found: Found, subject: Subject, form: Format) -> bytes:
    body = _spdx(found, subject) if form is Format.SPDX else _cyclonedx(found, subject)
    return json.dumps(body, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _spdx(found: Found, subject: Subject) -> dict[str, object]:
    """https://spdx.github.io/spdx-spec/v2.3/"""
    root = "SPDXRef-Image"
    licenses: dict[str, str] = {}
    packages: list[dict[str, object]] = [
        {
            "SPDXID": root,
            "name": subject.name,
            "versionInfo": str(subject.digest),
            "primaryPackagePurpose": "CONTAINER",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "checksums": [{"algorithm": "SHA256", "checksumValue": subject.digest.hex}],
            "externalRefs": [_spdx_reference(subject.url)],
        }
    ]
    relations = [_related("SPDXRef-DOCUMENT", "DESCRIBES", root)]
    for number, package in enumerate(found.packages, 1):
        name = f"SPDXRef-Package-{number}"
        packages.append(
            {
                "SPDXID": name,
                "name": "/".join(part for part in (package.namespace, package.name) if part)
                if package.kind in ("golang", "npm", "maven")
                else package.name,
                **({"versionInfo": package.version} if package.version else {}),
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": _expression(package.licenses, licenses),
                "copyrightText": "NOASSERTION",
                "sourceInfo": f"found in {package.place}",
                "externalRefs": [_spdx_reference(package.url)],
            }
        )
        relations.append(_related(root, "CONTAINS", name))
    body: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": f"urn:uuid:{subject.identity}",
        "creationInfo": {"created": subject.created, "creators": [f"Tool: {subject.tool}"]},
        "packages": packages,
        "relationships": relations,
    }
    if licenses:
        body["hasExtractedLicensingInfos"] = [
            {"licenseId": key, "name": text, "extractedText": text}
            for text, key in licenses.items()
        ]
    if found.unread:
        body["comment"] = "not read: " + "; ".join(f"{path}: {why}" for path, why in found.unread)
    return body


def _spdx_reference(url: str) -> dict[str, str]:
    return {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": url,
    }


def _related(one: str, how: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}


def _expression(texts: Iterable[str], declared: dict[str, str]) -> str:
    """All of the licenses (SPDX 2.3, annex D); those that are no known identifier are declared."""
    terms = []
    for text in texts:
        if text in _SPDX_LICENSES:
            terms.append(text)
            continue
        known = declared.setdefault(text, f"LicenseRef-{len(declared) + 1}")
        terms.append(known)
    return " AND ".join(dict.fromkeys(terms)) or "NOASSERTION"


def _cyclonedx(found: Found, subject: Subject) -> dict[str, object]:
    """https://cyclonedx.org/docs/1.5/json/"""
    tool, _, version = subject.tool.partition("-")
    components: list[dict[str, object]] = []
    if found.distribution.id:
        components.append(
            {
                "type": "operating-system",
                "bom-ref": "os",
                "name": found.distribution.id,
                "version": found.distribution.version,
                "description": found.distribution.name,
            }
        )
    for number, package in enumerate(found.packages, 1):
        components.append(_component(package, f"{number}"))
    properties = [
        {"name": "pybuild:unread", "value": f"{path}: {why}"} for path, why in found.unread
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{subject.identity}",
        "version": 1,
        "metadata": {
            "timestamp": subject.created,
            "tools": {"components": [{"type": "application", "name": tool, "version": version}]},
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": subject.name,
                "version": str(subject.digest),
                "purl": subject.url,
            },
            **({"properties": properties} if properties else {}),
        },
        "components": components,
        "dependencies": [
            {"ref": "image", "dependsOn": [str(component["bom-ref"]) for component in components]}
        ],
    }


def _component(package: Package, ref: str) -> dict[str, object]:
    body: dict[str, object] = {"type": "library", "bom-ref": ref, "name": package.name}
    if package.namespace:
        body["group"] = package.namespace
    if package.version:
        body["version"] = package.version
    if package.licenses:
        body["licenses"] = [
            {"license": {"id" if text in _SPDX_LICENSES else "name": text}}
            for text in package.licenses
        ]
    body["purl"] = package.url
    body["properties"] = [{"name": "pybuild:path", "value": package.place}]
    return body
