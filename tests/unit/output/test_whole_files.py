"""Files that a build leaves are replaced as a whole, or written where they stand."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.output.files import write_whole
from pybuild.store.errors import OutputNotWritable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount, and to be another")


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    target = tmp_path / "a/b/digest"
    write_whole(target, b"one")
    first = target.stat().st_ino
    write_whole(target, b"two")
    assert target.read_bytes() == b"two" and target.stat().st_ino != first
    assert [path.name for path in target.parent.iterdir()] == ["digest"]


@needs_root
def test_a_file_that_is_mounted_by_itself_is_written_in_place(tmp_path: Path) -> None:
    """As a Pod's /dev/termination-log."""
    (tmp_path / "source").write_bytes(b"longer than what comes")
    (tmp_path / "target").touch()
    script = (
        f"mount --bind {tmp_path}/source {tmp_path}/target && {sys.executable} -c "
        "'from pathlib import Path; from pybuild.output.files import write_whole; "
        f'write_whole(Path("{tmp_path}/target"), b"text")\''
    )
    subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True)
    assert (tmp_path / "source").read_bytes() == b"text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that other users can reach, as pytest's own can't be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@needs_root
@pytest.mark.parametrize("may_write", [True, False])
def test_a_file_in_anothers_folder(open_folder: Path, may_write: bool) -> None:
    target = open_folder / "digest"
    write_whole(open_folder / "other", b"")  # imports what the child may not be able to read
    target.touch()
    target.chmod(0o666 if may_write else 0o644)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setresuid(1000, 1000, 1000)
            write_whole(target, b"text")
            status = 0
        except OutputNotWritable as error:
            cause = error.__cause__
            status = 3 if isinstance(cause, OSError) and cause.errno == errno.EACCES else 4
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (status, target.read_bytes()) == ((0, b"text") if may_write else (3, b""))
