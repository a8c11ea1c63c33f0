"""What errors never show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.cli.session import failed_event
from pybuild.errors import InputError, Source, without_passwords


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ADD http://user:pw@h/x /", "ADD http://user:xxxxx@h/x /"),
        ("ADD https://user:p:w@h:8080/x /", "ADD https://user:xxxxx@h:8080/x /"),
        ("ADD http://user:p@w@h/x /", "ADD http://user:xxxxx@h/x /"),
        ("git clone https://token@h/r.git", "git clone https://xxxxx@h/r.git"),
        ("https://:pw@h https://u:@h", "https://:xxxxx@h https://u:xxxxx@h"),
        ("ssh://git@h/r.git", "ssh://git@h/r.git"),
        ("ssh://git:pw@h/r.git", "ssh://git:xxxxx@h/r.git"),
        ("A=\"http://u:pw@h\" B='ftp://u:pw@h'", "A=\"http://u:xxxxx@h\" B='ftp://u:xxxxx@h'"),
        ("http://h/path@v1 a@b.c user:pw@h", "http://h/path@v1 a@b.c user:pw@h"),
        ("r.io/app@sha256:00", "r.io/app@sha256:00"),
    ],
)
def test_passwords_of_addresses_are_hidden(text: str, expected: str) -> None:
    assert without_passwords(text) == expected


@given(st.text(alphabet="abc:@.%-_"))
def test_no_password_gets_through(noise: str) -> None:
    shown = without_passwords(f"x {noise} http://u:{noise}hunter2{noise}@host/{noise} y")
    assert "hunter2" not in shown


def test_an_error_is_told_without_them() -> None:
    line = "ADD http://user:hunter2@h/x /"
    error = InputError(line, hint=line, source=Source("Dockerfile", 2, 2, line))
    told = failed_event(error)
    assert "hunter2" not in f"{told}" and told.text == "ADD http://user:xxxxx@h/x /"
