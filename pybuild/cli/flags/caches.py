"""How caches are listed and pruned: `pybuild cache ls` and `pybuild cache prune`."""

from __future__ import annotations

from pybuild.cli.flags.flag import CACHE_PRUNE, CACHES, Flag, Group, Kind, many, switch, text

_PRUNE = (CACHE_PRUNE,)

CACHES_FLAGS = (
    many(
        "cache-repo",
        Group.CACHE,
        "a cache of layers",
        "REPOSITORY|oci:FOLDER",
        commands=CACHES,
        kaniko=False,
    ),
    many(
        "cache-dir",
        Group.CACHE,
        "a folder that builds and the warmer keep things in; /cache if nothing is named",
        "FOLDER",
        commands=CACHES,
        kaniko=False,
    ),
    Flag(
        "older-than",
        Group.CACHE,
        "what was made longer ago",
        "DURATION",
        Kind.DURATION,
        commands=_PRUNE,
        kaniko=False,
    ),
    Flag(
        "unused-for",
        Group.CACHE,
        "what no build has used for so long",
        "DURATION",
        Kind.DURATION,
        commands=_PRUNE,
        kaniko=False,
    ),
    text(
        "keep-size",
        Group.CACHE,
        "what is over so many bytes in each cache, longest unused first",
        "SIZE",
        commands=_PRUNE,
        kaniko=False,
    ),
    switch("all", Group.CACHE, "everything", commands=_PRUNE, kaniko=False),
    switch("dry-run", Group.CACHE, "only say what would go", commands=_PRUNE, kaniko=False),
    text(
        "format",
        Group.LOG,
        "how the list is written to standard output",
        "FORMAT",
        default="table",
        choices=("table", "json"),
        commands=CACHES,
        kaniko=False,
    ),
)
