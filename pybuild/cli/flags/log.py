"""What is shown."""

from __future__ import annotations

from pybuild.cli.flags.flag import BUILD, MANIFEST, REACHING, Group, switch, text

LOG_FLAGS = (
    text(
        "verbosity",
        Group.LOG,
        "how much is told",
        "LEVEL",
        short="v",
        default="info",
        commands=REACHING,
        choices=("trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"),
    ),
    text(
        "log-format",
        Group.LOG,
        "how it is told; auto: progress on a terminal, else plain",
        "FORMAT",
        default="auto",
        choices=("auto", "progress", "plain", "json", "text", "color"),
        docker=("progress",),
        commands=REACHING,
    ),
    switch(
        "log-timestamp",
        Group.LOG,
        "date and time on each plain line, not the seconds since the start",
        commands=REACHING,
    ),
    switch(
        "quiet",
        Group.LOG,
        "say nothing but errors; the digest goes to standard output",
        short="q",
        commands=(BUILD, MANIFEST),
        kaniko=False,
    ),
)
