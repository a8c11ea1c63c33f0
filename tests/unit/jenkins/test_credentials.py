"""Who we are for a controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybuild.jenkins.credentials import address
from pybuild.jenkins.errors import CredentialsUnusable

URL = "https://jenkins.example.com/ci"


def test_the_environment_in_its_order() -> None:
    names = {"JENKINS_USER": "b", "JENKINS_USER_ID": "a", "JENKINS_TOKEN": "2", "HOME": "/none"}
    found = address(URL, "", "", "", names)
    assert (found.user, found.token) == ("a", "2")
    found = address(URL, "c", "", "", {**names, "JENKINS_API_TOKEN": "1"})
    assert (found.user, found.token) == ("c", "1")


def test_nobody_is_a_user_too() -> None:
    assert address(URL, "", "", "", {"HOME": "/none"}).token == ""


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    found = address(URL, "a", str(tmp_path / "token"), "", {})
    assert found.token == "hunter2" and "hunter2" not in repr(found)


@pytest.mark.parametrize("url", ["", "jenkins.example.com", "ftp://x", "https://a:hunter2@x"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(CredentialsUnusable) as raised:
        address(url, "", "", "", {})
    assert "hunter2" not in raised.value.message + raised.value.hint


def test_files_that_can_t_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for given in (("a", str(tmp_path / "none"), ""), ("a", str(tmp_path / "empty"), ""),
                  ("", "", str(tmp_path / "none"))):  # fmt: skip
        with pytest.raises(CredentialsUnusable):
            address(URL, *given, {"HOME": "/none"})
    (tmp_path / ".netrc").write_text("machine\n")
    with pytest.raises(CredentialsUnusable):
        address(URL, "", "", "", {"HOME": str(tmp_path)})


def test_a_token_without_a_user() -> None:
    with pytest.raises(CredentialsUnusable):
        address(URL, "", "", "", {"JENKINS_TOKEN": "1", "HOME": "/none"})
