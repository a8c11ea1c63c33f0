"""How git calls ssh: without questions, and with the keys that lie where people mount them."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping
from pathlib import Path

# ssh's own names, and the one in Kubernetes' secrets of type kubernetes.io/ssh-auth.
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa", "ssh-privatekey", "ssh-key")
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=15")


def ssh_command(environment: Mapping[str, str], private: Path) -> str:
    """For GIT_SSH_COMMAND. ssh looks for its files in the home that /etc/passwd names, and takes
    no key that others may read: in a Pod $HOME is elsewhere, and mounted secrets are readable by
    a group. So these are named, keys as copies in `private`, a folder that only we can read."""
    words = ["ssh", *_OPTIONS]
    home = environment.get("HOME", "")
    folder = Path(home) / ".ssh"
    if not home or not folder.is_dir():
        return shlex.join(words)
    elsewhere = folder.resolve() != _own_folder()
    config = folder / "config"
    if elsewhere and config.is_file():
        words += ["-F", str(config)]
    known = folder / "known_hosts"
    if elsewhere and known.is_file():
        words += ["-o", f"UserKnownHostsFile={known}"]
    for name in _KEYS:
        key = folder / name
        if key.is_file() and os.access(key, os.R_OK) and (elsewhere or not _is_found(key)):
            words += ["-i", str(_copied(key, private))]
    return shlex.join(words)


def _own_folder() -> Path | None:
    try:
        return (Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh").resolve()
    except KeyError:
        return None  # an arbitrary user id


def _is_found(key: Path) -> bool:
    """Whether ssh takes the key by itself: by its name, and since nobody else can read it."""
    status = key.stat()
    return key.name.startswith("id_") and status.st_uid == os.getuid() and not status.st_mode & 0o77


def _copied(key: Path, private: Path) -> Path:
    copy = private / f"key-{key.name}"
    if not copy.exists():
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            # ssh wants the line end that editors and secrets lose
            file.write(key.read_bytes().rstrip(b"\n") + b"\n")
    return copy
