"""Makes the top-level names of the `rootless` image: an ordinary user can't make any in `/`.

    tops.py TARGET

Runs in a stage of the Dockerfile; TOP_FOLDERS, TOP_LINKS and MORE_… of both are build arguments.
A folder is the user's to fill. A link leads to `/.root`, where the user can make what a base has
there: a folder, a link or a file. The COPY that takes these trees gives owner and group.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

LINKS = ".root"  # as pybuild/isolation/tops.py has it
EPOCH = 1_700_000_000
USER = "builder:x:1000:0:builder:/kaniko/home:/bin/sh\n"
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    f"{USER}nobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
# `home` for what wants one, `work` for the builder's own files; both stay while `/` is an image's.
OURS = ("home", "work")
STICKY = ("tmp",)
NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]|^\.\.?$")
TAKEN = {"proc", "sys", "dev", "kaniko", "busybox", "workspace", LINKS}


def main() -> int:
    target, ours = Path(sys.argv[1]) / "root", Path(sys.argv[1]) / "kaniko"
    folders, links = names("TOP_FOLDERS"), names("TOP_LINKS")
    twice = sorted(set(folders) & set(links))
    if twice:
        raise SystemExit(f"TOP_FOLDERS and TOP_LINKS both have {' '.join(twice)}")
    at_top = (target / name for name in (*folders, LINKS, "workspace"))
    for folder in (*at_top, *(ours / name for name in OURS)):
        folder.mkdir(parents=True)
        folder.chmod(0o1777 if folder.name in STICKY else 0o777)
    # Where a runtime mounts the service account's secret, and what leads there would be root's
    (target / "var/run").mkdir(parents=True)
    (target / "var/run").chmod(0o777)
    for name in links:
        (target / name).symlink_to(f"{LINKS}/{name}")
    (target / LINKS / "bin").symlink_to("/busybox")
    for name, text in FILES.items():
        (target / name).write_text(text)
        (target / name).chmod(0o664)  # a random uid of group 0 may add its own line
    for path in (target, ours):
        settle(path)
    return 0


def settle(path: Path) -> None:
    """One time for all; children first, since writing to a folder changes its own."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            settle(child)
    os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def names(argument: str) -> list[str]:
    more = argument.replace("TOP", "MORE")
    found = sorted({word for name in (argument, more) for word in os.environ.get(name, "").split()})
    bad = [name for name in found if NOT_A_NAME.search(name) or name in TAKEN]
    if bad:
        raise SystemExit(f"{argument} can't have {' '.join(bad)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
