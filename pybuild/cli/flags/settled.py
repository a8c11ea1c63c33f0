"""Flags of kaniko that are taken and change nothing."""

from __future__ import annotations

from pybuild.cli.flags.flag import Group, settled_switch, text

_EXACT = "changes are always found exactly, without reading what did not change"
_PUT_BACK = "everything is always put back as it was"
SETTLED_FLAGS = (
    text(
        "snapshot-mode",
        Group.BUILD,
        "how changes are found",
        "MODE",
        default="full",
        old=("snapshotMode",),
        choices=("full", "redo", "time"),
        harmless=("full",),
        why=_EXACT,
    ),
    settled_switch("use-new-run", Group.BUILD, "find changes by their times", why=_EXACT),
    settled_switch(
        "compressed-caching",
        Group.BUILD,
        "keep compressed layers in memory",
        default="true",
        why="layers are never kept in memory",
    ),
    settled_switch(
        "skip-unused-stages",
        Group.BUILD,
        "leave out stages that nothing needs",
        harmless=("true",),
        why="stages that nothing needs are never built",
    ),
    settled_switch(
        "force-build-metadata",
        Group.BUILD,
        "a layer for each metadata instruction",
        why="each instruction is in the image's history, and none makes an empty layer",
    ),
    settled_switch(
        "cleanup",
        Group.BUILD,
        "delete the root file system at the end",
        environment="KANIKO_CLEANUP",
        why=_PUT_BACK,
    ),
    settled_switch(
        "pre-cleanup",
        Group.BUILD,
        "delete the root file system first",
        environment="KANIKO_PRE_CLEANUP",
        why="a build never sees the container's own files",
    ),
    settled_switch(
        "preserve-context",
        Group.BUILD,
        "put the root file system back at the end",
        environment="KANIKO_PRESERVE_CONTEXT",
        why=_PUT_BACK,
    ),
)
