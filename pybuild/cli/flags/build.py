"""How the build runs."""

from __future__ import annotations

from pybuild.cli.flags.flag import ALL, Group, number, switch, text

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
    switch("force", Group.BUILD, "allow takeover isolation outside a container"),
    text(
        "kaniko-dir",
        Group.BUILD,
        "where the build keeps its files",
        "FOLDER",
        environment="KANIKO_DIR",
    ),
)
