"""A name for a user that a cluster has made up: programs that ask for their own would fail."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PASSWD = Path("/etc/passwd")


def name_this_user(environment: Mapping[str, str], passwd: Path = PASSWD) -> None:
    """Adds a line for this uid where there is none and it may be written (passwd(5)), as the
    agent image's `rootless` has it. To be called by a container's first process alone: later an
    image may lie on `/`, whose file that is."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 or not os.access(passwd, os.W_OK):
        return
    text = passwd.read_text(errors="surrogateescape")
    if any(line.split(":")[2:3] == [str(uid)] for line in text.splitlines()):
        return
    taken = any(line.startswith("builder:") for line in text.splitlines())
    name = f"builder-{uid}" if taken else "builder"
    end = "" if text.endswith("\n") or not text else "\n"
    home = environment.get("HOME", "/")
    with passwd.open("a", errors="surrogateescape") as file:
        file.write(f"{end}{name}:x:{uid}:{gid}::{home}:/bin/sh\n")
