"""What root writes for another belongs to that one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybuild.output.files import write_whole
from pybuild.store.blobs import beside
from pybuild.store.owner import make_folders

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


@pytest.mark.parametrize("whose", [(1000, 1001), (0, 0)])
def test_files_and_folders_belong_to_the_owner_of_where_they_are(
    tmp_path: Path, whose: tuple[int, int]
) -> None:
    os.chown(tmp_path, *whose)
    write_whole(tmp_path / "reports/today/digest", b"sha256:0")
    with beside(tmp_path / "image.tar") as (_, file):
        file.write(b"tar")
    make_folders(tmp_path / "layout/blobs")
    made = list(tmp_path.rglob("*"))
    assert len(made) == 6
    assert {owner(path) for path in made} == {whose}


def test_a_file_that_is_replaced_keeps_to_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 1000, 1000)
    (tmp_path / "digest").write_text("of a build that was root's")
    write_whole(tmp_path / "digest", b"new")
    assert owner(tmp_path / "digest") == (1000, 1000)
