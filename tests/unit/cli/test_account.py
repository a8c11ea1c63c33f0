"""The line of passwd that an ordinary user gets in a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybuild.cli.account import name_this_user

ROOT = "root:x:0:0:root:/root:/bin/sh\n"
BUILDER = "builder:x:1000:0:builder:/kaniko/home:/bin/sh\n"


@pytest.mark.parametrize(
    ("uid", "text", "added"),
    [
        pytest.param(0, ROOT, "", id="root"),
        pytest.param(1000, ROOT + BUILDER, "", id="known"),
        pytest.param(77, ROOT, "builder:x:77:0::/h:/bin/sh\n", id="unknown"),
        pytest.param(77, ROOT + BUILDER, "builder-77:x:77:0::/h:/bin/sh\n", id="name taken"),
        pytest.param(77, ROOT.strip(), "\nbuilder:x:77:0::/h:/bin/sh\n", id="no newline"),
        pytest.param(77, "", "builder:x:77:0::/h:/bin/sh\n", id="empty"),
    ],
)
def test_a_user_without_a_name_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, text: str, added: str
) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text(text)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    name_this_user({"HOME": "/h"}, passwd)
    assert passwd.read_text() == text + added
    name_this_user({"HOME": "/h"}, passwd)
    assert passwd.read_text() == text + added


def test_what_can_not_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 77)
    name_this_user({}, tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
