"""Flags of kaniko that are taken and change nothing, or are not carried out yet."""

from __future__ import annotations

from pybuild.cli.flags.flag import Group, Kind, refused, refused_switch

_ALWAYS = ("true", "false")
SETTLED_FLAGS = (
    refused("bucket", Group.BUILD, "the bucket of a context", short="b"),
    refused(
        "annotation", Group.BUILD, "an annotation of the manifest", repeatable=True, kind=Kind.PAIR
    ),
    refused(
        "snapshot-mode",
        Group.BUILD,
        "how changes are found",
        default="full",
        old=("snapshotMode",),
        harmless=("full", "redo", "time"),
        why="changes are always found exactly, without reading what did not change",
    ),
    refused_switch(
        "use-new-run",
        Group.BUILD,
        "find changes by their times",
        harmless=_ALWAYS,
        why="changes are always found exactly, without reading what did not change",
    ),
    refused_switch(
        "cache-copy-layers",
        Group.BUILD,
        "also cache COPY",
        harmless=_ALWAYS,
        why="with --cache, COPY layers are always cached",
    ),
    refused_switch(
        "cache-run-layers",
        Group.BUILD,
        "cache RUN",
        default="true",
        harmless=("true",),
    ),
    refused_switch(
        "compressed-caching",
        Group.BUILD,
        "keep compressed layers in memory",
        default="true",
        harmless=_ALWAYS,
        why="layers are never kept in memory",
    ),
    refused_switch(
        "skip-unused-stages",
        Group.BUILD,
        "leave out stages that nothing needs",
        harmless=_ALWAYS,
        why="stages that nothing needs are never built",
    ),
    refused_switch(
        "cleanup",
        Group.BUILD,
        "delete the root file system at the end",
        harmless=_ALWAYS,
        environment="KANIKO_CLEANUP",
        why="everything is always put back as it was",
    ),
    refused_switch(
        "ignore-var-run",
        Group.BUILD,
        "leave /var/run out of the image",
        default="true",
        old=("whitelist-var-run",),
        harmless=("false",),
    ),
    refused(
        "image-fs-extract-retry",
        Group.BUILD,
        "retries of the base image",
        default="0",
        harmless=("0",),
        why="broken downloads are always resumed",
        kind=Kind.NUMBER,
    ),
    refused("image-format", Group.BUILD, "docker or oci"),
    refused_switch(
        "pre-cleanup",
        Group.BUILD,
        "delete the root file system first",
        environment="KANIKO_PRE_CLEANUP",
    ),
    refused_switch(
        "preserve-context",
        Group.BUILD,
        "put the root file system back at the end",
        environment="KANIKO_PRESERVE_CONTEXT",
        harmless=_ALWAYS,
        why="everything is always put back as it was",
    ),
    refused_switch(
        "materialize",
        Group.BUILD,
        "unpack the image even if all of it was cached",
    ),
    refused_switch(
        "dryrun",
        Group.BUILD,
        "only print a plan",
        why="use `pybuild plan`",
    ),
    refused("ignore-path", Group.BUILD, "a path that never gets into the image", repeatable=True),
    refused_switch(
        "push-ignore-immutable-tag-errors",
        Group.BUILD,
        "a tag that can't be moved is no failure",
    ),
    refused_switch(
        "skip-push-permission-check",
        Group.BUILD,
        "do not try before the build whether the push is allowed",
    ),
    refused(
        "credential-helpers", Group.REGISTRY, "which credential helpers are asked", repeatable=True
    ),
    refused_switch(
        "force-build-metadata",
        Group.BUILD,
        "a layer for each metadata instruction",
    ),
)
