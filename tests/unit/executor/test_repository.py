"""ADD of repositories: which addresses they are, and which credentials each host is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybuild.context.open import ContextOptions
from pybuild.executor.repository import Repositories, is_repository
from pybuild.executor.workspace import Workspace
from pybuild.isolation.command import Secret


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/repo.git", True),
        ("https://host/repo.git#ref:folder", True),
        ("http://host:1/a/repo.git/", True),
        ("git@host:a/repo.git", True),
        ("ssh://git@host/repo", True),
        ("git://host/repo", True),
        ("https://host/repo.git/file", False),
        ("https://host/archive.tar.gz#x.git", False),
        ("https://host/?x=.git", False),
    ],
)
def test_what_is_a_repository(url: str, expected: bool) -> None:
    assert is_repository(url) == expected


@pytest.mark.parametrize(
    ("url", "secrets", "password"),
    [
        pytest.param("https://a/r.git", {"GIT_AUTH_TOKEN": "all"}, "all", id="for all"),
        pytest.param(
            "https://a/r.git",
            {"GIT_AUTH_TOKEN": "all", "GIT_AUTH_TOKEN.a": "own\n"},
            "own",
            id="own",
        ),
        pytest.param("https://b/r.git", {"GIT_AUTH_TOKEN.a": "own"}, "", id="another host"),
        pytest.param("https://u:pw@a/r.git", {"GIT_AUTH_TOKEN": "all"}, "pw", id="address first"),
        pytest.param("ssh://git@a/r.git", {"GIT_AUTH_TOKEN": "all"}, "", id="not over ssh"),
        pytest.param("git://a/r.git", {"GIT_AUTH_TOKEN": "all"}, "", id="not in the clear"),
        pytest.param("https://a/r.git", {"other": "x"}, "", id="no such secret"),
    ],
)
def test_credentials_are_for_their_host(
    tmp_path: Path, url: str, secrets: dict[str, str], password: str
) -> None:
    workspace = Workspace.create(tmp_path)
    options = ContextOptions(tmp_path, environment={"GIT_TOKEN": "of-the-context"})
    values = {name: Secret(value.encode()) for name, value in secrets.items()}
    repositories = Repositories(options, values, workspace, lambda _: None)
    source = repositories._source(url)
    assert source.credentials.password == password
    assert password == "" or password not in repr(source)
    workspace.remove()
