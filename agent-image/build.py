"""Fetches what the agent image is made of, builds it with pybuild, and pushes it.

    python3 agent-image/build.py --repository HOST:PORT/REPOSITORY

Each target becomes a tag: REPOSITORY:debug and REPOSITORY:slim; with more than one architecture
REPOSITORY:debug-amd64 and so on. Without a repository everything is built and nothing pushed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MADE_OF = ("pybuild", "agent-image", "requirements.lock")
TARGETS = ("debug", "rootless", "slim")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repository", default="", help="where to push; nothing without it")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--architecture", action="append", default=[], choices=["amd64", "arm64"])
    parser.add_argument("--executor", default=REPOSITORY / ".venv/bin/executor", help="the builder")
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
                command = [
                    asked.executor,
                    *flags(asked, context, target, architecture),
                    *asked.flags,
                ]
                status = subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": epoch()})
                if status.returncode != 0:
                    return status.returncode
    return 0


def flags(
    asked: argparse.Namespace, context: Path, target: str, architecture: str
) -> Sequence[str]:
    tag = f"{target}-{architecture}" if len(asked.architecture) > 1 else target
    chosen = [f"--customPlatform=linux/{architecture}"] if architecture else []
    result = f"--destination={asked.repository}:{tag}" if asked.repository else "--no-push"
    dockerfile = context / "agent-image/Dockerfile"
    return [f"--context=dir://{context}", f"--dockerfile={dockerfile}", f"--target={target}",
            *chosen, result]  # fmt: skip


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
