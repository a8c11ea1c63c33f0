from __future__ import annotations

import json
import time
from base64 import b64encode
from pathlib import Path

import pytest

from pybuild.registry.credentials import ANONYMOUS, Credentials
from pybuild.registry.docker_config import normalized_key, parse_config
from pybuild.registry.errors import BrokenConfig
from pybuild.registry.helper import without_secrets
from pybuild.registry.keychain import SystemKeychain


def auth(pair: str) -> str:
    return b64encode(pair.encode()).decode()


def write(folder: Path, body: object, name: str = "config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(body))
    return folder


def chain(folder: Path, **environment: str) -> SystemKeychain:
    return SystemKeychain({"DOCKER_CONFIG": str(folder), **environment}, helper_seconds=0.5)


def helper(folder: Path, name: str, script: str) -> str:
    """Makes docker-credential-<name> and gives a PATH with it."""
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        pytest.param({"auth": auth("me:pass:word")}, ("me", "pass:word", ""), id="auth"),
        pytest.param({"username": "me", "password": "p"}, ("me", "p", ""), id="plain"),
        pytest.param(
            {"auth": auth("me:p").rstrip("=") + "\n"}, ("me", "p", ""), id="no-padding-newline"
        ),
        pytest.param(
            {"auth": auth("0000:"), "identitytoken": "t"}, ("0000", "", "t"), id="identity-token"
        ),
        pytest.param(
            {"auth": auth("a:b"), "username": "x", "password": "y"}, ("a", "b", ""), id="auth-wins"
        ),
        pytest.param({}, ("", "", ""), id="empty"),
    ],
)
def test_an_entry(tmp_path: Path, entry: dict[str, str], expected: tuple[str, str, str]) -> None:
    found = chain(write(tmp_path, {"auths": {"reg.example": entry}})).credentials(
        "reg.example", "app"
    )
    assert (found.username, found.password, found.identity_token) == expected


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        ("https://index.docker.io/v1/", "docker.io", "library/busybox"),
        ("index.docker.io", "docker.io", "me/app"),
        ("docker.io", "docker.io", "me/app"),
        ("registry-1.docker.io", "index.docker.io", "me/app"),
        ("https://reg.example:5000/v2/", "reg.example:5000", "app"),
        ("http://reg.example", "reg.example", "a/b/c"),
        ("REG.example/", "reg.example", "app"),
        ("reg.example/team/project", "reg.example", "team/project/app"),
        ("reg.example/team/app", "reg.example", "team/app"),
    ],
)
def test_a_key_matches(tmp_path: Path, key: str, registry: str, repository: str) -> None:
    folder = write(tmp_path, {"auths": {key: {"auth": auth("me:p")}}})
    assert chain(folder).credentials(registry, repository) == Credentials("me", "p")


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        ("reg.example", "reg.example:5000", "app"),
        ("reg.example/team", "reg.example", "teammate/app"),
        ("example", "reg.example", "app"),
    ],
)
def test_a_key_does_not_match(tmp_path: Path, key: str, registry: str, repository: str) -> None:
    folder = write(tmp_path, {"auths": {key: {"auth": auth("me:p")}}})
    assert chain(folder).credentials(registry, repository) == ANONYMOUS


def test_the_longest_path_wins(tmp_path: Path) -> None:
    keys = {"r.io": "host:1", "r.io/team": "team:2", "r.io/team/app": "app:3"}
    folder = write(tmp_path, {"auths": {key: {"auth": auth(pair)} for key, pair in keys.items()}})
    found = [
        chain(folder).credentials("r.io", name).username
        for name in ("x", "team", "team/y", "team/app", "team/app/z", "team/apple")
    ]
    assert found == ["host", "team", "team", "app", "app", "team"]


@pytest.mark.parametrize("name", ["config.json", ".dockerconfigjson"])
def test_a_mounted_secret_is_found(tmp_path: Path, name: str) -> None:
    # Kubernetes shows a secret's keys as links into ..data, which is a link itself.
    write(tmp_path / "..2024", {"auths": {"r.io": {"auth": auth("me:p")}}}, name)
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / name).symlink_to(f"..data/{name}")
    assert chain(tmp_path).credentials("r.io", "app").username == "me"


def test_the_environment_comes_before_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"auths": {"r.io": {"auth": auth("file:p")}}})
    text = json.dumps({"auths": {"r.io": {"auth": auth("env:p")}}})
    found = chain(tmp_path, DOCKER_AUTH_CONFIG=text).credentials("r.io", "app")
    assert (found.username, found.origin) == ("env", "DOCKER_AUTH_CONFIG")


def test_the_home_folder_is_the_default(tmp_path: Path) -> None:
    write(tmp_path / ".docker", {"auths": {"r.io": {"auth": auth("me:p")}}})
    found = SystemKeychain({"HOME": str(tmp_path)}).credentials("r.io", "app")
    assert found.origin == str(tmp_path / ".docker" / "config.json")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param('{\n "auths": {\n  "s3cret"\n}}', "line 4", id="line"),
        pytest.param("[]", "no JSON object", id="list"),
        pytest.param('{"auths": []}', "auths", id="auths"),
        pytest.param('{"auths": {"r.io": 1}}', "r.io", id="entry"),
        pytest.param('{"auths": {"r.io": {"auth": "s3cret%%"}}}', "r.io", id="base64"),
        pytest.param('{"auths": {"r.io": {"auth": "czNjcmV0"}}}', "r.io", id="no-colon"),
        pytest.param('{"auths": {"r.io": {"password": 5}}}', "password", id="type"),
        pytest.param('{"credHelpers": {"r.io": 5}}', "credHelpers", id="helper"),
        pytest.param('{"credsStore": 5}', "credsStore", id="store"),
        pytest.param("[" * 100_000, "no Docker configuration", id="deep"),
    ],
)
def test_a_broken_file_is_named_and_no_secret_shown(text: str, part: str) -> None:
    with pytest.raises(BrokenConfig) as caught:
        parse_config(text, "/the/config.json")
    assert "/the/config.json" in caught.value.message
    assert part in caught.value.message
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None


def test_an_empty_file_has_nothing() -> None:
    assert parse_config("\n", "x").entries == {}


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials("me", "s3cret1", "s3cret2", "s3cret3"))
    assert "me" in shown
    assert "s3cret" not in shown


ANSWER = 'cat > "$0.asked"; echo \'{"ServerURL":"x","Username":"%s","Secret":"%s"}\''


def test_a_helper_is_asked_once_and_by_the_registry_s_name(tmp_path: Path) -> None:
    path = helper(tmp_path / "bin", "x", ANSWER % ("me", "p") + '; echo >> "$0.count"')
    folder = write(tmp_path / "c", {"credHelpers": {"docker.io": "x"}})
    keychain = chain(folder, PATH=path)
    found = [keychain.credentials("docker.io", name) for name in ("a", "b")]
    assert found == [Credentials("me", "p")] * 2
    assert (tmp_path / "bin/docker-credential-x.asked").read_text() == "https://index.docker.io/v1/"
    assert (tmp_path / "bin/docker-credential-x.count").read_text() == "\n"


def test_a_helper_s_token_is_an_identity_token(tmp_path: Path) -> None:
    path = helper(tmp_path / "bin", "x", ANSWER % ("<token>", "t"))
    folder = write(tmp_path / "c", {"credsStore": "x", "auths": {"r.io": {}}})
    assert chain(folder, PATH=path).credentials("r.io", "a") == Credentials(identity_token="t")


def test_a_helper_for_the_host_comes_before_entries_and_the_store_after(tmp_path: Path) -> None:
    path = helper(tmp_path / "bin", "one", ANSWER % ("one", "p"))
    helper(tmp_path / "bin", "all", ANSWER % ("all", "p"))
    auths = {name: {"auth": auth("file:p")} for name in ("a.io", "b.io")}
    body = {"auths": auths, "credHelpers": {"a.io": "one"}, "credsStore": "all"}
    keychain = chain(write(tmp_path / "c", body), PATH=path)
    names = [keychain.credentials(host, "x").username for host in ("a.io", "b.io", "c.io")]
    assert names == ["one", "file", "all"]


@pytest.mark.parametrize(
    ("script", "part"),
    [
        pytest.param("sleep 30 & sleep 30", "no answer within 0.5 s", id="hangs"),
        pytest.param("echo oops; exit 3", "status 3: oops", id="fails"),
        pytest.param("echo token=abcdef >&2; exit 1", "status 1: token=***", id="tells-a-secret"),
        pytest.param("echo no json", "no JSON", id="no-json"),
        pytest.param("echo '{\"Username\": 1}'", "no user name", id="wrong-type"),
    ],
)
def test_a_helper_that_fails_is_named_and_leaves_us_anonymous(
    tmp_path: Path, script: str, part: str
) -> None:
    path = helper(tmp_path / "bin", "x", script)
    keychain = chain(write(tmp_path / "c", {"credsStore": "x"}), PATH=path)
    started = time.monotonic()
    assert keychain.credentials("r.io", "a") == ANONYMOUS
    assert time.monotonic() - started < 5
    assert any(part in line for line in lines(keychain) if "docker-credential-x" in line)


def lines(keychain: SystemKeychain) -> tuple[str, ...]:
    """But the one of KANIKO_R_IO_USER, which is always looked for."""
    return tuple(line for line in keychain.tried("r.io") if not line.startswith("KANIKO_"))


@pytest.mark.parametrize("text", ["credentials not found in native keychain", "No credentials"])
def test_a_helper_that_knows_nothing_has_not_failed(tmp_path: Path, text: str) -> None:
    path = helper(tmp_path / "bin", "x", f"echo {text}; exit 1")
    keychain = chain(write(tmp_path / "c", {"credsStore": "x"}), PATH=path)
    assert keychain.credentials("r.io", "a") == ANONYMOUS
    assert lines(keychain)[-1] == "docker-credential-x (knows none)"


def test_a_missing_helper_and_a_missing_file_are_named(tmp_path: Path) -> None:
    keychain = chain(write(tmp_path / "c", {"credHelpers": {"r.io": "nope"}}), PATH="/bin")
    assert keychain.credentials("r.io", "a") == ANONYMOUS
    assert "docker-credential-nope (no such program in PATH)" in lines(keychain)
    nothing = SystemKeychain({"DOCKER_CONFIG": str(tmp_path / "no")})
    assert lines(nothing) == (f"{tmp_path / 'no'} (not there)",)


def test_what_was_tried_names_the_registries_that_are_known(tmp_path: Path) -> None:
    folder = write(tmp_path, {"auths": {"a.io": {"auth": auth("me:s3cret")}}})
    assert lines(chain(folder)) == (f"{folder}/config.json (has a.io, not r.io)",)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BrokenConfig, match="no UTF-8"):
        chain(tmp_path).credentials("r.io", "a")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bad password: hunter2", "bad password: ***"),
        ("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.x failed", "*** failed"),
        ("region not set", "region not set"),
        ("first\nsecond", "first"),
    ],
)
def test_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_normalized_key_keeps_a_path() -> None:
    assert normalized_key("https://r.io/a/b/") == "r.io/a/b"
