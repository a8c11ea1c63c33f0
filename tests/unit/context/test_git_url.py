"""The ways to write a git context, and that no secret of theirs is ever shown."""

from __future__ import annotations

import pytest

from pybuild.context.errors import ContextUnknown
from pybuild.context.git_url import (
    GitCredentials,
    GitSource,
    is_git_url,
    parse_git_url,
    redact,
    without_password,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git://github.com/a/b", True),
        ("git://github.com/a/b.git#main", True),
        ("https://github.com/a/b.git", True),
        ("https://github.com/a/b.git#v1:sub", True),
        ("http://host/b.git", True),
        ("ssh://git@host/b", True),
        ("git@github.com:a/b.git#main", True),
        ("file:///srv/b.git", True),
        ("https://host/archive.tar.gz", False),
        ("s3://bucket/key", False),
        ("dir:///src", False),
        ("/src/repo.git", False),
        ("git", False),
        (".", False),
    ],
)
def test_is_git_url(text: str, expected: bool) -> None:
    assert is_git_url(text) is expected


@pytest.mark.parametrize(
    ("text", "remote", "ref", "commit", "folder", "submodules"),
    [
        pytest.param("git://h/r.git", "https://h/r.git", "", "", "", False, id="kaniko"),
        pytest.param("git://h/r.git#refs/heads/x#c0ffee", "https://h/r.git", "refs/heads/x",
                     "c0ffee", "", False, id="kaniko: ref and commit"),
        pytest.param("git://h/r#refs/pull/7", "https://h/r", "refs/pull/7/head", "", "", False,
                     id="pull request"),
        pytest.param("https://h:8443/r.git#v1:a/b", "https://h:8443/r.git", "v1", "", "a/b", True,
                     id="docker"),
        pytest.param("https://h/r.git#:a", "https://h/r.git", "", "", "a", True, id="folder only"),
        pytest.param("git@h:o/r.git#x", "ssh://git@h/o/r.git", "x", "", "", True, id="scp"),
        pytest.param("ssh://git@h:22/r#x", "ssh://git@h:22/r", "x", "", "", True, id="ssh"),
        pytest.param("file:///srv/r#x:/d/", "file:///srv/r", "x", "", "d", True, id="file"),
    ],
)  # fmt: skip
def test_parse(
    text: str, remote: str, ref: str, commit: str, folder: str, submodules: bool
) -> None:
    expected = GitSource(remote, ref, commit, folder, submodules=submodules)
    assert parse_git_url(text, {}) == expected


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        pytest.param("https://u:p%40@h/r.git", {}, GitCredentials("u", "p@"), id="url"),
        pytest.param("git://h/r", {"GIT_TOKEN": "t"}, GitCredentials("t", "t"), id="token"),
        pytest.param("git://h/r", {"GIT_USERNAME": "u", "GIT_PASSWORD": "p"},
                     GitCredentials("u", "p"), id="user and password"),
        pytest.param("git://u@h/r", {"GIT_PASSWORD": "p"}, GitCredentials("u", "p"), id="both"),
        pytest.param("https://u:p@h/r.git", {"GIT_TOKEN": "t"}, GitCredentials("u", "p"),
                     id="the url wins"),
        pytest.param("ssh://git@h/r", {"GIT_TOKEN": "t"}, GitCredentials(), id="not for ssh"),
        pytest.param("file:///r", {"GIT_TOKEN": "t"}, GitCredentials(), id="not for files"),
        pytest.param("git://h/r", {"GIT_TOKEN": "t", "GIT_PULL_METHOD": "git"}, GitCredentials(),
                     id="not in the clear"),
    ],
)  # fmt: skip
def test_credentials(text: str, environment: dict[str, str], expected: GitCredentials) -> None:
    source = parse_git_url(text, environment)
    assert source.credentials == expected
    assert "@" not in source.remote or source.remote.startswith("ssh://git@")


@pytest.mark.parametrize(
    ("method", "remote"),
    [("http", "http://h/r"), ("https", "https://h/r"), ("git", "git://h/r"), ("ssh", "ssh://h/r")],
)
def test_pull_method(method: str, remote: str) -> None:
    assert parse_git_url("git://h/r", {"GIT_PULL_METHOD": method}).remote == remote


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("git://", {}),
        ("https:///x.git", {}),
        ("git://h/r#a#b#c", {}),
        ("git://h/r", {"GIT_PULL_METHOD": "ftp"}),
    ],
)
def test_bad_urls(text: str, environment: dict[str, str]) -> None:
    with pytest.raises(ContextUnknown):
        parse_git_url(text, environment)


def test_secrets_are_not_shown() -> None:
    token = "ghp_0123456789abcdefghij"
    source = parse_git_url(f"https://{token}@h/r.git", {})
    shown = [repr(source.credentials), without_password(f"https://{token}@h/r.git"),
             without_password("https://u:pw%2F@h/r.git#x"),
             redact(f"fatal: https://x:{token}@h refused {token}", GitCredentials(token, token)),
             redact("said p%40ss and p@ss", GitCredentials("u", "p@ss"))]  # fmt: skip
    for text in shown:
        assert token not in text and "pw" not in text and "p@ss" not in text and "p%40" not in text
    assert without_password("ssh://git@h/r") == "ssh://git@h/r"
