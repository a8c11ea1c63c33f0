"""How the build runs."""

from __future__ import annotations

from pybuild.cli.flags.flag import ALL, BUILDING, EXECUTOR, Group, many, number, switch, text

BUILD_FLAGS = (
    text(
        "isolation",
        Group.BUILD,
        "how a RUN is confined; see `pybuild doctor`",
        "KIND",
        default="auto",
        choices=("auto", "namespace", "takeover", "rootless"),
        environment="PYBUILD_ISOLATION",
        kaniko=False,
    ),
    number("parallel", Group.BUILD, "how many RUNs at once", default="4", kaniko=False),
    switch(
        "single-snapshot",
        Group.BUILD,
        "one layer for all that the Dockerfile changes",
        commands=ALL,
    ),
    many(
        "ignore-path",
        Group.BUILD,
        "a path that never gets into the image, with all below it; * and ? match in a name",
        "PATH",
    ),
    switch(
        "ignore-var-run",
        Group.BUILD,
        "leave /var/run out of the image",
        old=("whitelist-var-run",),
    ),
    switch(
        "materialize",
        Group.BUILD,
        "unpack the finished image, also where all of it was cached: a broken layer is found here",
    ),
    switch("dryrun", Group.BUILD, "print the plan and build nothing", commands=(EXECUTOR,)),
    switch(
        "print-plan",
        Group.BUILD,
        "print the plan on standard output, and build",
        environment="KANIKO_PRINT_PLAN",
        commands=BUILDING,
        kaniko=False,
    ),
    number(
        "image-fs-extract-retry",
        Group.REGISTRY,
        "the same for layers of a base image",
        default="0",
        commands=ALL,
    ),
    switch("force", Group.BUILD, "allow takeover isolation outside a container"),
    switch(
        "allow-root-path",
        Group.BUILD,
        "accept files in which a RUN of isolation rootless left a path below /.root",
        kaniko=False,
    ),
    text(
        "kaniko-dir",
        Group.BUILD,
        "where the build keeps its files",
        "FOLDER",
        environment="KANIKO_DIR",
    ),
)
