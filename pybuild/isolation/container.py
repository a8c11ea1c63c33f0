"""Is this a container? Isolations that replace `/` ask before they do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MARKER_FILES = ("run/.containerenv", ".dockerenv", "var/run/secrets/kubernetes.io/serviceaccount")
DISK_FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs")
CGROUP_WORDS = ("docker", "kubepods", "containerd", "libpod", "lxc", "crio", "garden")


def signs_of_container(root: Path = Path("/"), env: Mapping[str, str] = os.environ) -> list[str]:
    """What speaks for a container, in words; nothing where this looks like a machine.

    A root that is a whole disk is a machine's, whatever else there is: a marker file may be left
    over from the image that the machine was made of.
    """
    mounts = _read(root / "proc/self/mountinfo").splitlines()
    if any(_is_whole_disk(line) for line in mounts):
        return []
    signs = [f"/{name} exists" for name in MARKER_FILES if (root / name).exists()]
    signs += [f"${name} is set" for name in ("KUBERNETES_SERVICE_HOST", "container") if name in env]
    cgroup = _read(root / "proc/1/cgroup")
    signs += [f"/proc/1/cgroup names {word}" for word in CGROUP_WORDS if word in cgroup]
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[4] == "/" and rest.startswith("overlay "):
            signs.append("/ is an overlay")
    return signs


def _is_whole_disk(line: str) -> bool:
    """A line of proc(5), /proc/PID/mountinfo: a disk's own root directory mounted on /."""
    fields, _, rest = line.partition(" - ")
    source_root, mount_point = fields.split(" ")[3:5]
    filesystem, _, source = rest.partition(" ")
    on_disk = filesystem in DISK_FILESYSTEMS and source.startswith("/dev/")
    return mount_point == "/" and source_root == "/" and on_disk


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
