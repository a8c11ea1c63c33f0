"""What is kept between builds."""

from __future__ import annotations

from pybuild.cli.flags.flag import ALL, PULLING, Flag, Group, Kind, many, switch, text

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
        "REPOSITORY|oci:FOLDER",
        commands=ALL,
    ),
    many(
        "cache-from",
        Group.CACHE,
        "also look for cached layers there, without --cache too: a cache repository, oci:FOLDER, "
        "or an image:tag that was built with --inline-cache",
        "PLACE",
        commands=ALL,
        kaniko=False,
    ),
    switch(
        "inline-cache",
        Group.CACHE,
        "write into the image what --cache-from needs to take layers from it",
        kaniko=False,
    ),
    switch(
        "cache-run-layers",
        Group.CACHE,
        "cache RUN and WORKDIR",
        default="true",
        commands=ALL,
    ),
    switch(
        "cache-copy-layers",
        Group.CACHE,
        "cache COPY and ADD; they are unless this is false in so many words",
        commands=ALL,
    ),
    text(
        "cache-dir",
        Group.CACHE,
        "where the warmer's images, indexes of layers, and caches of RUN --mount are kept",
        "FOLDER",
        default="/cache",
        commands=PULLING,
    ),
    Flag(
        "cache-ttl",
        Group.CACHE,
        "how long a cached layer counts, and an image of --cache-dir while no registry answers",
        "DURATION",
        Kind.DURATION,
        default="336h",
        commands=PULLING,
    ),
    switch("no-push-cache", Group.CACHE, "only read the cache"),
)
