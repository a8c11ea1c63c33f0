"""Fetches what the agent image is made of, builds it with pybuild, and pushes it.

    python3 agent-image/build.py --repository HOST:PORT/REPOSITORY

Each target becomes a tag: REPOSITORY:debug, REPOSITORY:rootless and REPOSITORY:slim; with more than
one architecture REPOSITORY:debug-amd64 and so on, and the former name an index of these. Without a
repository everything is built and nothing pushed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MADE_OF = ("pybuild", "agent-image", "requirements.lock")
TARGETS = ("debug", "rootless", "slim")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repository", default="", help="where to push; nothing without it")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--architecture", action="append", default=[], choices=["amd64", "arm64"])
    parser.add_argument("--more-folders", default="", help="names in / of the rootless image")
    parser.add_argument("--more-links", default="", help="the same, of files")
    parser.add_argument("--builder", default=REPOSITORY / ".venv/bin/pybuild", help="the builder")
    parser.add_argument("flags", nargs="*", help="more flags of the executor, after --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agent-image-") as folder:
        context = Path(folder) / "context"
        fetch = [sys.executable, str(Path(__file__).with_name("fetch.py")), str(context)]
        subprocess.run(
            [*fetch, *(f"--architecture={name}" for name in asked.architecture)], check=True
        )
        for target in asked.target or TARGETS:
            for architecture in asked.architecture or [""]:
                command = [asked.builder, "build", *flags(asked, context, target, architecture)]
                run([*command, *asked.flags], os.environ | {"SOURCE_DATE_EPOCH": epoch()})
            if asked.repository and len(asked.architecture) > 1:
                run([asked.builder, "manifest", "create", *index_flags(asked, target)], os.environ)
    return 0


def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    status = subprocess.run(command, env=environment, check=False).returncode
    if status != 0:
        raise SystemExit(status)


def index_flags(asked: argparse.Namespace, target: str) -> list[str]:
    images = [f"{asked.repository}:{target}-{architecture}" for architecture in asked.architecture]
    registries = ("--insecure", "--skip-tls-verify", "--registry-")
    same = [flag for flag in asked.flags if flag.startswith(registries)]
    return [f"--tag={asked.repository}:{target}", *images, *same]


def flags(
    asked: argparse.Namespace, context: Path, target: str, architecture: str
) -> Sequence[str]:
    tag = f"{target}-{architecture}" if len(asked.architecture) > 1 else target
    chosen = [f"--platform=linux/{architecture}"] if architecture else []
    result = f"--destination={asked.repository}:{tag}" if asked.repository else "--no-push"
    dockerfile = context / "agent-image/Dockerfile"
    more = []
    if target == "rootless":
        named = {"MORE_FOLDERS": asked.more_folders, "MORE_LINKS": asked.more_links}
        more = [f"--build-arg={name}={value}" for name, value in named.items() if value]
    return [
        f"--dockerfile={dockerfile}",
        f"--target={target}",
        *chosen,
        *more,
        result,
        str(context),
    ]


def epoch() -> str:
    """When what the image is made of was last changed; the image's time, and no file's later."""
    asked = os.environ.get("SOURCE_DATE_EPOCH", "")
    if asked:
        return asked
    command = ["git", "log", "-1", "--format=%ct", "--", *MADE_OF]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "0"


if __name__ == "__main__":
    sys.exit(main())
