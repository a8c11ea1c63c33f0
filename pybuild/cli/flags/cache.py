"""What is kept between builds."""

from __future__ import annotations

from pybuild.cli.flags.flag import ALL, PULLING, Flag, Group, Kind, switch, text

CACHE_FLAGS = (
    switch(
        "cache",
        Group.CACHE,
        "take finished layers from the cache, and keep new ones there",
        commands=ALL,
    ),
    text(
        "cache-repo",
        Group.CACHE,
        "where cached layers are kept; <destination>/cache if not given",
        "REPOSITORY",
        commands=ALL,
    ),
    text(
        "cache-dir",
        Group.CACHE,
        "where indexes of base images, and caches of RUN --mount, are kept between builds",
        "FOLDER",
        default="/cache",
        commands=PULLING,
    ),
    Flag(
        "cache-ttl",
        Group.CACHE,
        "how long a cached layer counts",
        "DURATION",
        Kind.DURATION,
        default="336h",
        commands=PULLING,
    ),
    switch("no-push-cache", Group.CACHE, "only read the cache"),
)
