"""How manifests are checked."""

from __future__ import annotations

from pybuild.cli.flags.flag import POD_CHECK, Group, switch, text

POD_FLAGS = (
    text(
        "pod-security",
        Group.PODS,
        "also what a namespace with this level of Pod Security would refuse",
        "LEVEL",
        choices=("privileged", "baseline", "restricted"),
        commands=(POD_CHECK,),
        kaniko=False,
    ),
    switch(
        "strict",
        Group.PODS,
        "warnings fail too",
        commands=(POD_CHECK,),
        kaniko=False,
    ),
    text(
        "log-format",
        Group.PODS,
        "how findings are written to standard output; json: an object a line",
        "FORMAT",
        default="plain",
        choices=("plain", "json"),
        commands=(POD_CHECK,),
        kaniko=False,
    ),
)
