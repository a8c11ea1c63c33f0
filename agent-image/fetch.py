"""Fills the build context of the agent image: Debian packages, wheels, tools and our sources.

    python3 agent-image/fetch.py TARGET_FOLDER [--architecture amd64 ...] [--max-age HOURS]

Needs apt-get and pip, on any Debian; packages are those of bookworm, through apt's own signatures
and this machine's sources, with a package list of our own, so that neither the machine's packages
nor its architecture count. Wheels are those of requirements.lock, by hash. What was fetched stays
in the cache folder; versions are looked up again once they are older than `--max-age`, or never
where the network is missing and a set is there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from debian import data_of  # beside this file

REPOSITORY = Path(__file__).resolve().parents[1]
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
AGENT = (
    *("python3.11-minimal", "libpython3.11-stdlib", "git", "ca-certificates", "busybox-static"),
    "openssh-client",  # git contexts by ssh
    "libsqlite3-0",  # rpm's database
    "libstdc++6",  # of the wheel that takes CRC-32C sums
)
TOOLS = ("python3.11-minimal", "libpython3.11-stdlib", "patchelf")
# Dependencies that nothing of ours calls: git's Perl scripts, what configures packages, terminals,
# keys in hardware.
NOT_NEEDED = re.compile(
    r"(lib)?perl.*|liberror-perl|git-man|debconf|dpkg|tar|openssl|media-types|readline-common|"
    r"libreadline8|libncursesw6|libtinfo6|libdb5.3|libgdbm.*|libnsl2|libtirpc.*|"
    r"gcc-12-base|libacl1|libmd0|libuuid1|libsasl2-modules-db|"
    r"adduser|passwd|libpam.*|libaudit.*|libcap-ng0|libsemanage.*|libsepol2|libbsd0|libedit2|"
    r"libfido2-1|libcbor.*|libudev1"
)
SOURCES = ("agent-image", "pybuild")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path, help="folder that is made anew")
    parser.add_argument("--architecture", action="append", choices=sorted(ARCHITECTURES))
    parser.add_argument("--max-age", type=float, default=24.0, help="hours (24)")
    asked = parser.parse_args()
    here = MACHINES[os.uname().machine]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fill(asked.target, asked.architecture or [here], here, cache, asked.max_age * 3600)
    return 0


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pybuild-dev/agent-image"


def fill(
    target: Path, architectures: Sequence[str], here: str, cache: Path, max_age_seconds: float
) -> None:
    """Makes the context; what comes from the cache is linked, not copied, where that works."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    tools = debian_packages(here, TOOLS, cache, max_age_seconds)
    make_tools(tools, target / f"tools-{here}.tar")
    for architecture in architectures:
        packages = debian_packages(architecture, AGENT, cache, max_age_seconds)
        link(packages, target / "packages" / architecture)
        link(wheels(architecture, cache), target / "wheels" / architecture)
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, target / name, ignore=ignore)


def link(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        try:
            (folder / file.name).hardlink_to(file)
        except OSError:  # another filesystem
            shutil.copy2(file, folder / file.name)


# --- Debian -----------------------------------------------------------------------------------


def debian_packages(
    architecture: str, names: Sequence[str], cache: Path, max_age_seconds: float
) -> list[Path]:
    """`names` and what they need, for a machine that has nothing yet."""
    folder = cache / "debian" / architecture
    folder.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(" ".join([*names, NOT_NEEDED.pattern]).encode()).hexdigest()[:12]
    chosen = folder / f"chosen-{wanted}"
    fresh = chosen.exists() and time.time() - chosen.stat().st_mtime < max_age_seconds
    if not fresh:
        try:
            resolve(architecture, names, folder, chosen)
        except subprocess.CalledProcessError as error:
            if not chosen.exists():
                raise SystemExit(f"agent-image: apt-get failed: {error.stderr}") from error
            sys.stderr.write("agent-image: apt-get failed; the packages of last time serve\n")
    return [folder / name for name in chosen.read_text().split()]


def resolve(architecture: str, names: Sequence[str], folder: Path, chosen: Path) -> None:
    apt = Apt(architecture, folder)
    apt.update(older_than_seconds=600)
    uris = apt.run("install", "--yes", "--no-install-recommends", "--print-uris", *names)
    files = re.findall(r"^'[^']+' (\S+) \d+", uris, re.M)
    kept = [name for name in files if not NOT_NEEDED.fullmatch(name.partition("_")[0])]
    missing = [name for name in kept if not (folder / name).exists()]
    if missing:
        exact = [f"{file.split('_')[0]}={version(file)}" for file in missing]
        apt.run("download", *exact, folder=folder)
    draft = chosen.with_suffix(".new")
    draft.write_text("\n".join(sorted(kept)) + "\n")
    draft.rename(chosen)


def version(file: str) -> str:
    return file.split("_")[1].replace("%3a", ":")


class Apt:
    """apt-get for `architecture`, with this machine's sources and keys, and nothing installed."""

    def __init__(self, architecture: str, folder: Path) -> None:
        self.folder = folder / "apt"
        (self.folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "archives/partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            "APT::Sandbox::User": "root",  # the cache folder is often closed to others
            "APT::Default-Release": "",
            "Dir::State::lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder,
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Debug::NoLocking": "true",  # of the machine's own folders; ours has a lock already
        }
        self.options = [
            word for pair in settings.items() for word in ("-o", "=".join(map(str, pair)))
        ]

    def update(self, *, older_than_seconds: float) -> None:
        stamp = self.folder / "updated"
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > older_than_seconds:
            self.run("update", "--error-on=any")
            stamp.touch()

    def run(self, *words: str, folder: Path | None = None) -> str:
        command = ["apt-get", "--quiet", *self.options, *words]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=900
        )
        return done.stdout


def make_tools(packages: Iterable[Path], target: Path) -> None:
    """One tar that is a root in which Python and patchelf run; no documents."""
    unneeded = re.compile(r"\./usr/share/(doc|man|lintian|locale|bug|info)/")
    with tarfile.open(target, "w") as merged:
        for package in packages:
            with data_of(package) as files:
                for member in files:
                    if not unneeded.match(member.name):
                        merged.addfile(
                            member, files.extractfile(member) if member.isreg() else None
                        )


# --- wheels -----------------------------------------------------------------------------------


def wheels(architecture: str, cache: Path) -> list[Path]:
    """Those of requirements.lock for Debian 12's Python, whatever runs this."""
    lock = REPOSITORY / "requirements.lock"
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache / "wheels" / f"{architecture}-{key}"
    if not folder.exists():
        draft = folder.with_suffix(f".{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        machine = ARCHITECTURES[architecture]
        tags = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes"]
        command += ["--no-deps", "--only-binary=:all:", "--implementation=cp", "--abi=cp311"]
        command += ["--abi=abi3", "--abi=none", "--python-version=3.11"]
        command += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]
        subprocess.run([*command, f"--requirement={lock}", f"--dest={draft}"], check=True)
        draft.rename(folder)
    return sorted(folder.glob("*.whl"))


if __name__ == "__main__":
    sys.exit(main())
