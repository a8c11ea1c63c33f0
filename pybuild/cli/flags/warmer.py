"""What only the warmer takes."""

from __future__ import annotations

from pybuild.cli.flags.flag import WARMER, Group, many, switch, text

WARMER_FLAGS = (
    many("image", Group.SOURCE, "an image to keep", "REFERENCE", short="i", commands=(WARMER,)),
    text(
        "dockerfile",
        Group.SOURCE,
        "keep all images that a stage of this Dockerfile starts from, or takes files from",
        "PATH",
        short="f",
        commands=(WARMER,),
    ),
    many(
        "build-arg",
        Group.SOURCE,
        "a build argument for FROM lines",
        "NAME[=VALUE]",
        commands=(WARMER,),
    ),
    switch("force", Group.CACHE, "fetch again what is there", commands=(WARMER,)),
)
