"""Files that Git LFS keeps elsewhere: fetched where git-lfs is installed, else named.

A repository holds small texts in their place, "pointers" (git-lfs, docs/spec.md), and an image
that got those instead of the files builds without an error.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pybuild.context.git_program import GitProgram
from pybuild.events import EventSink, Level, Notice

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_LIMIT = 1024  # bytes, as the specification has it
_NAMED = 5


def fill_lfs(program: GitProgram, checkout: Path, sink: EventSink) -> None:
    """Puts the files in the place of their pointers; a warning names those that stay.

    Raises GitFailed where git-lfs is there and can't fetch, and the other Git… errors.
    """
    for repository in _repositories(program, checkout):
        pointers = _pointers(program, repository)
        if not pointers:
            continue
        environment = program.options.environment
        skipped = environment.get("GIT_LFS_SKIP_SMUDGE", "0").lower() not in ("", "0", "false")
        if skipped or shutil.which("git-lfs", path=environment.get("PATH")) is None:
            why = "GIT_LFS_SKIP_SMUDGE is set" if skipped else "git-lfs is not installed here"
            below = "" if repository == checkout else f"{repository.relative_to(checkout)}/"
            named = ", ".join(below + name for name in pointers[:_NAMED])
            more = f" and {len(pointers) - _NAMED} more" if len(pointers) > _NAMED else ""
            text = f"files of Git LFS are only pointers in this context, since {why}: {named}{more}"
            sink(Notice(Level.WARNING, text, "git-lfs-missing"))
            continue
        program.run("lfs", "install", "--local", "--skip-repo", cwd=repository)
        program.online("lfs", "pull", "origin", cwd=repository)
        sink(Notice(Level.INFO, f"{len(pointers)} files fetched by Git LFS"))


def _repositories(program: GitProgram, checkout: Path) -> list[Path]:
    """The checkout, and its submodules at all depths."""
    found = [checkout]
    if (checkout / ".gitmodules").is_file():
        command = 'printf "%s\\0" "$toplevel/$sm_path"'
        output = program.run(
            "submodule", "--quiet", "foreach", "--recursive", command, cwd=checkout
        )
        found += [Path(os.fsdecode(name)) for name in output.split(b"\0") if name]
    return found


def _pointers(program: GitProgram, repository: Path) -> list[str]:
    output = program.run("ls-files", "-z", "--", ":(attr:filter=lfs)", cwd=repository)
    names = [os.fsdecode(name) for name in output.split(b"\0") if name]
    return [name for name in names if _is_pointer(repository / name)]


def _is_pointer(path: Path) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size > _POINTER_LIMIT:
            return False
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False
