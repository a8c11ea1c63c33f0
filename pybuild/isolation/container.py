"""Is this a container? Isolations that replace `/` ask before they do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MARKER_FILES = ("run/.containerenv", ".dockerenv", "var/run/secrets/kubernetes.io/serviceaccount")
CGROUP_WORDS = ("docker", "kubepods", "containerd", "libpod", "lxc", "crio", "garden")


def signs_of_container(root: Path = Path("/"), env: Mapping[str, str] = os.environ) -> list[str]:
    """What speaks for a container, in words; nothing where this looks like a machine."""
    signs = [f"/{name} exists" for name in MARKER_FILES if (root / name).exists()]
    signs += [f"${name} is set" for name in ("KUBERNETES_SERVICE_HOST", "container") if name in env]
    cgroup = _read(root / "proc/1/cgroup")
    signs += [f"/proc/1/cgroup names {word}" for word in CGROUP_WORDS if word in cgroup]
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[4] == "/" and rest.startswith("overlay "):
            signs.append("/ is an overlay")
    return signs


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
