"""Lists folders so that nothing about them can differ unnoticed: for each path its kind, mode,
owner, time, content digest, attributes, and which names are one file. A program for a container:
`tree_listing.py OUTPUT FOLDER… [--without FOLDER…]`; `/` is listed without what is mounted on it
but with /dev, and /proc/self/mountinfo beside it. `differences` compares two such lists."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path


def mounted() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ")[4] for line in lines}


def listing(folders: list[str], left_out: set[str]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for folder in folders:
        for path, info in _walk(folder, (mounted() - {folder, "/dev"}) | left_out):
            content = ""
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                names.setdefault((info.st_dev, info.st_ino), []).append(path)
            attributes = [
                [name, os.getxattr(path, name, follow_symlinks=False).hex()]
                for name in sorted(os.listxattr(path, follow_symlinks=False))
            ]
            # what is written to a terminal or to /dev/null may be known by its time
            time = 0 if stat.S_ISCHR(info.st_mode) else info.st_mtime_ns
            owner = [info.st_uid, info.st_gid]
            found[path] = [oct(info.st_mode), *owner, time, info.st_rdev, content, attributes]
    for group in names.values():  # other names may be outside, as in a cache on the machine
        if len(group) > 1:
            for path in group:
                found[path].append(min(group))
    return found


def _walk(folder: str, left_out: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    pending = [folder]
    while pending:
        path = pending.pop()
        info = os.lstat(path)
        yield path, info
        if stat.S_ISDIR(info.st_mode):
            names = sorted(os.listdir(path), reverse=True)
            below = [f"{path.rstrip('/')}/{name}" for name in names]
            pending += [name for name in below if name not in left_out]


def differences(before: Path, after: Path, *, groups: bool = True) -> list[str]:
    """Without `groups` it does not count to which group something belongs."""
    one, two = (json.loads(path.read_text()) for path in (before, after))
    if not groups:
        for line in (*one.values(), *two.values()):
            line[2] = 0
    assert len(one) > 100, "that was not a whole container"
    names = sorted(one.keys() | two.keys())
    return [
        f"{name}: {one.get(name)} → {two.get(name)}"
        for name in names
        if one.get(name) != two.get(name)
    ]


def main(output: str, *arguments: str) -> None:
    words = list(arguments)
    cut = words.index("--without") if "--without" in words else len(words)
    folders, left_out = words[:cut], set(words[cut + 1 :])
    found = listing(folders, left_out)
    # the runtime covers files with the node of /dev/null, whatever becomes of that one's name
    mounts = Path("/proc/self/mountinfo").read_text().replace("//deleted", "")
    found["mountinfo"] = [*sorted(mounts.splitlines())]
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
