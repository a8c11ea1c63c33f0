"""`executor login`: what it keeps, where, and what it refuses."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from pybuild.cli.login import LoginNotKept, login_command
from pybuild.errors import PybuildError
from pybuild.registry.keychain import SystemKeychain

STDIN = "--password-stdin"


def login(*argv: str, folder: Path, stdin: str = "pass word\n") -> Mapping[str, object]:
    environment = {"DOCKER_CONFIG": str(folder)}
    assert login_command(argv, environment, io.StringIO(stdin)) == 0
    config = json.loads((folder / "config.json").read_text())
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ("docker.io", "https://index.docker.io/v1/"),
        ("index.docker.io", "https://index.docker.io/v1/"),
        ("https://index.docker.io/v1/", "https://index.docker.io/v1/"),
        ("ghcr.io", "ghcr.io"),
        ("https://GHCR.io/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("gitlab.example/group/project", "gitlab.example/group/project"),
    ],
)
def test_what_is_kept(tmp_path: Path, registry: str, key: str) -> None:
    config = login(registry, "-u", "me", STDIN, folder=tmp_path / "new")
    assert config == {"auths": {key: {"auth": "bWU6cGFzcyB3b3Jk"}}}
    file = tmp_path / "new/config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["config.json"]


def test_a_pull_finds_it(tmp_path: Path) -> None:
    login("r.example/team", "--username=me", "-p=secret", folder=tmp_path)
    keychain = SystemKeychain({"DOCKER_CONFIG": str(tmp_path)}, helpers=())
    found = keychain.credentials("r.example", "team/app")
    assert (found.username, found.password) == ("me", "secret")


def test_the_rest_of_the_file_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        "auths": {"a": {"auth": "x"}, "b": {"auth": "old", "identitytoken": "t"}},
        "credHelpers": {"b": "pass"},
        "proxies": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(before))
    config = login("b", "-u=me", STDIN, folder=tmp_path)
    assert config == before | {"auths": {"a": {"auth": "x"}, "b": {"auth": "bWU6cGFzcyB3b3Jk"}}}
    told = capsys.readouterr()
    assert "the helper pass, which is asked first" in told.err and "pass word" not in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("argv", "stdin", "words"),
    [
        ([], "", "needs the registry"),
        (["a", "b"], "", "'b'"),
        (["a", "-u=me"], "", "the password is missing"),
        (["a", STDIN], "x", "--username is missing"),
        (["a", "-u=me", "-p=x", STDIN], "x", "both given"),
        (["a", "-u=me", STDIN], "\n", "the password is empty"),
        (["a", "-u=me", "-p="], "", "the password is empty"),
        (["", "-u=me", "-p=x"], "", "is no registry"),
        (["a b", "-u=me", "-p=x"], "", "is no registry"),
        (["a", "--user=me"], "", "has no flag --user"),
    ],
)
def test_mistakes(tmp_path: Path, argv: list[str], stdin: str, words: str) -> None:
    with pytest.raises(PybuildError) as caught:
        login(*argv, folder=tmp_path, stdin=stdin)
    assert words in caught.value.message and caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"auths": {"a": {"auth": "c2VjcmV0"', "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"auths": []}', "auths is no JSON object"),
    ],
)
def test_a_file_that_is_none_of_dockers_stays(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(LoginNotKept) as caught:
        login("a", "-u=me", STDIN, folder=tmp_path)
    assert words in caught.value.message and "c2VjcmV0" not in caught.value.message
    assert file.read_text() == text


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoginNotKept, match="can't be"):
        login("a", "-u=me", STDIN, folder=tmp_path / "file")
