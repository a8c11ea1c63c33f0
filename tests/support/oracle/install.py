"""Installs the BuildKit that is the oracle, once a machine, from its Go module.

Run as `python -m tests.support.oracle.install`. `go install name@version` refuses this module,
since its go.mod has `exclude` lines; so its source is copied out of the module cache and built as
the main module there, which also gives exactly the versions that its own release is built from.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "0.33.0"
MODULE = "github.com/moby/buildkit"
PROGRAMS = ("buildkitd", "buildctl")
NEEDED_GO = (1, 26)


class OracleMissing(Exception):
    """BuildKit is not installed and can't be: the message says what is missing."""


def cache_directory() -> Path:
    """Where machine-wide test material lives; never the repository."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "pybuild-dev"


def binary_directory() -> Path:
    return cache_directory() / f"buildkit-{VERSION}"


def installed() -> bool:
    """Whether both programs are there; cheap, for tests that skip without them."""
    return all(os.access(binary_directory() / name, os.X_OK) for name in PROGRAMS)


def install() -> Path:
    """Makes sure that both programs are there; returns their directory. Raises OracleMissing."""
    target = binary_directory()
    if installed():
        return target
    go = _usable_go()
    target.mkdir(parents=True, exist_ok=True)
    source = target / "source.partial"
    try:
        shutil.rmtree(source, ignore_errors=True)
        _copy_writable(_module_directory(go), source)
        for name in PROGRAMS:
            partial = target / f"{name}.partial"
            _go(go, "build", "-trimpath", "-o", str(partial), f"./cmd/{name}", cwd=source)
            partial.rename(target / name)
    finally:
        shutil.rmtree(source, ignore_errors=True)
    return target


def _usable_go() -> str:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise OracleMissing(
            f"BuildKit {VERSION} is built from its Go module, and there is no `go` on PATH: "
            f"install Go {NEEDED_GO[0]}.{NEEDED_GO[1]} or newer"
        )
    version = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, check=True
    ).stdout.strip()
    numbers = version.removeprefix("go").split(".")
    if (int(numbers[0]), int(numbers[1])) < NEEDED_GO:
        raise OracleMissing(
            f"BuildKit {VERSION} needs Go {NEEDED_GO[0]}.{NEEDED_GO[1]} or newer; {go} is {version}"
        )
    return go


def _module_directory(go: str) -> Path:
    done = _go(go, "mod", "download", "-json", f"{MODULE}@v{VERSION}", cwd=Path("/"))
    return Path(json.loads(done)["Dir"])


def _copy_writable(source: Path, target: Path) -> None:
    """Files of the module cache are read-only, and so are its directories."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for directory, _, _ in os.walk(target):
        Path(directory).chmod(0o755)


def _go(go: str, *arguments: str, cwd: Path) -> str:
    command = [go, *arguments]
    nice = shutil.which("nice")
    done = subprocess.run(
        [nice, *command] if nice else command,
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "CGO_ENABLED": "0"},
        timeout=3600,
    )
    if done.returncode != 0:
        raise OracleMissing(
            f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout)[-2000:]}"
        )
    return done.stdout


def main() -> int:
    try:
        print(install())
    except OracleMissing as problem:
        print(f"oracle: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
