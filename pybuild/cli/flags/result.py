"""Where the image goes, and as what."""

from __future__ import annotations

from pybuild.cli.flags.flag import (
    ALL,
    BUILDING,
    MANIFEST,
    PUSHING,
    Group,
    many,
    number,
    pairs,
    switch,
    text,
)

RESULT_FLAGS = (
    many(
        "destination",
        Group.RESULT,
        "where the image is pushed: registry/repository:tag",
        "REFERENCE",
        short="d",
        docker=("tag",),
        commands=PUSHING,
    ),
    switch(
        "no-push",
        Group.RESULT,
        "build only, push no image",
        environment="KANIKO_NO_PUSH",
        environment_wins=True,
        commands=ALL,
    ),
    text(
        "tar-path",
        Group.RESULT,
        "also write the image as a docker-load archive",
        "FILE",
        old=("tarPath",),
    ),
    text("oci-layout-path", Group.RESULT, "also write the image as an OCI layout", "FOLDER"),
    text(
        "digest-file",
        Group.RESULT,
        "write the image's digest to this file",
        "FILE",
        commands=(*BUILDING, MANIFEST),
    ),
    text(
        "image-name-with-digest-file",
        Group.RESULT,
        "write repository@digest, one line a destination",
        "FILE",
    ),
    text(
        "image-name-tag-with-digest-file",
        Group.RESULT,
        "write repository:tag@digest, one line a destination",
        "FILE",
    ),
    text(
        "image-url-file",
        Group.RESULT,
        "write the first destination, repository:tag without a newline: Tekton's IMAGE_URL",
        "FILE",
        kaniko=False,
    ),
    text(
        "compression",
        Group.RESULT,
        "how new layers are compressed",
        "KIND",
        default="gzip",
        choices=("gzip", "zstd"),
        commands=ALL,
    ),
    text(
        "image-format",
        Group.RESULT,
        "which manifest is written; the base's if not given, oci where --compression=zstd or "
        "--annotation asks for what only OCI has",
        "KIND",
        choices=("docker", "oci"),
        commands=ALL,
    ),
    pairs(
        "annotation",
        Group.RESULT,
        "an annotation of the manifest",
        "KEY=VALUE",
        commands=PUSHING,
    ),
    many(
        "sbom",
        Group.RESULT,
        "write which software the image holds: spdx or cyclonedx; to sbom.spdx.json or "
        "sbom.cdx.json here if no file is named",
        "FORMAT[=FILE]",
        kaniko=False,
    ),
    switch(
        "sbom-attach",
        Group.RESULT,
        "push it beside the image too, as an OCI referrer; SPDX if --sbom names no format",
        kaniko=False,
    ),
    text(
        "report",
        Group.RESULT,
        "write what was built, how and why as a page into this folder, also of a build that fails: "
        "report.html and its pictures",
        "FOLDER",
        kaniko=False,
    ),
    switch(
        "reproducible",
        Group.RESULT,
        "the same bytes for the same input: every time is SOURCE_DATE_EPOCH, or 1970",
        commands=ALL,
    ),
    number(
        "compression-level",
        Group.RESULT,
        "how hard; -1: the fast default",
        default="-1",
        commands=ALL,
    ),
)
