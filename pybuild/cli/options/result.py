"""Flags to where the image goes, and as what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag, FlagsContradict, NoDestination
from pybuild.cli.options.source import build_args
from pybuild.cli.parse import Values

if TYPE_CHECKING:
    from pybuild.image.descriptor import Annotations
    from pybuild.image.media_type import Family
    from pybuild.image.reference import Reference
    from pybuild.layer.compress import CompressionOptions
    from pybuild.output.sbom.write import SbomRequest


def destinations(values: Values, *, needed: bool) -> tuple[Reference, ...]:
    """Where to push, each once. Raises BadReference, and NoDestination if one is `needed`, unless
    --no-push is given."""
    from pybuild.image.reference import parse_reference

    found = tuple(dict.fromkeys(parse_reference(text) for text in values.many("destination")))
    for reference in found:
        if reference.digest is not None:
            raise BadFlag(f"--destination={reference} names a digest", hint="name a tag to push to")
    if needed and not found and not values.switch("no-push"):
        raise NoDestination(
            "there is nowhere to push the image to",
            hint="give --destination=registry/repository:tag, or --no-push to build only",
        )
    return found


def epoch(values: Values, environment: Mapping[str, str]) -> int | None:
    """The one time that everything in the image gets: SOURCE_DATE_EPOCH, as build arg or variable,
    else 0 with --reproducible, else None. Raises BadFlag."""
    text = build_args(values, environment).get("SOURCE_DATE_EPOCH") or environment.get(
        "SOURCE_DATE_EPOCH", ""
    )
    if not text:
        return 0 if values.switch("reproducible") else None
    if not (text.isascii() and text.isdigit()):
        raise BadFlag(f"SOURCE_DATE_EPOCH can't be {text!r}", hint="seconds since 1970")
    return int(text)


def image_annotations(values: Values) -> Annotations:
    return tuple(sorted(values.pairs("annotation").items()))


def family(values: Values) -> Family | None:
    """The one that --image-format asks for, or that the other flags need; None: the base's. Raises
    FlagsContradict."""
    from pybuild.image.media_type import Family

    asked = values.text("image-format")
    needs_oci = {
        "--compression=zstd": values.text("compression") == "zstd",
        "--annotation": bool(values.pairs("annotation")),
    }
    for flag, given in needs_oci.items():
        if given and asked == Family.DOCKER.value:
            raise FlagsContradict(
                f"{flag} asks for what Docker's manifest has not, and --image-format=docker for "
                "that manifest",
                hint="leave out one of them; every registry and engine of today takes oci",
            )
    if any(needs_oci.values()):
        return Family.OCI
    return Family(asked) if asked else None


def sbom_request(values: Values) -> SbomRequest | None:
    """None where no document is asked for. Raises BadFlag for a format that there is not,
    FlagsContradict for one without a push to be attached to."""
    if not (values.many("sbom") or values.switch("sbom-attach")):
        return None
    from pathlib import Path

    from pybuild.output.sbom.document import Format
    from pybuild.output.sbom.write import SbomRequest

    files = []
    for text in values.many("sbom"):
        name, _, file = text.partition("=")
        if name not in {form.value for form in Format}:
            raise BadFlag(f"--sbom can't be {text!r}", hint="spdx or cyclonedx, FORMAT=FILE")
        form = Format(name)
        files.append((form, Path(file or form.file_name)))
    if not values.switch("sbom-attach"):
        return SbomRequest(tuple(files))
    if values.switch("no-push"):
        raise FlagsContradict(
            "--sbom-attach needs the image in a registry, and --no-push keeps it out",
            hint="--sbom writes a file",
        )
    attached = tuple(dict.fromkeys(form for form, _ in files)) or (Format.SPDX,)
    return SbomRequest(tuple(files), attached)


def compression(values: Values, epoch: int | None) -> CompressionOptions:
    """Raises BadFlag for a level the kind has not; -1 and 0 are the fast default, as in kaniko."""
    from pybuild.layer.compress import Compression, CompressionOptions

    reproducible = epoch is not None
    kind = Compression[values.text("compression").upper()]
    level = values.number("compression-level")
    highest = 22 if kind is Compression.ZSTD else 9
    if level not in (-1, 0) and not 1 <= level <= highest:
        raise BadFlag(
            f"--compression-level={level} is none of {kind.name.lower()}",
            hint=f"1 to {highest}, or -1 for the fast default",
        )
    return CompressionOptions(kind, level if level > 0 else -1, reproducible)
