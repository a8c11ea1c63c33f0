"""In which order credentials are looked for, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path

import pytest

from pybuild.registry.credentials import ANONYMOUS, Credentials
from pybuild.registry.keychain import SystemKeychain


def auths(**by_name: str) -> str:
    """A config.json with `name: host=user`, all with the password p."""
    entries = dict(pair.split("=") for pair in by_name.values())
    coded = {host: b64encode(f"{user}:p".encode()).decode() for host, user in entries.items()}
    return json.dumps({"auths": {host: {"auth": text} for host, text in coded.items()}})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def program(folder: Path, name: str, script: str) -> str:
    """Makes docker-credential-<name> and gives a PATH with it."""
    path = write(folder / f"docker-credential-{name}", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    """Each environment takes away the source that was found before."""
    write(tmp_path / "docker/config.json", auths(a="r.io=docker"))
    podman = write(tmp_path / "podman.json", auths(a="r.io=podman"))
    write(tmp_path / "run/containers/auth.json", auths(a="r.io=session"))
    write(tmp_path / ".config/containers/auth.json", auths(a="r.io=config"))
    environment = {
        "HOME": str(tmp_path),
        "DOCKER_AUTH_CONFIG": auths(a="r.io=variable"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "REGISTRY_AUTH_FILE": str(podman),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "KANIKO_R_IO_USER": "kaniko",
        "KANIKO_R_IO_PASSWORD": "p",
        "CI_REGISTRY": "r.io",
        "CI_REGISTRY_USER": "gitlab",
        "CI_REGISTRY_PASSWORD": "p",
    }
    found = []
    for gone in (
        "", "DOCKER_AUTH_CONFIG", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "HOME",
        "KANIKO_R_IO_USER", "CI_REGISTRY",
    ):  # fmt: skip
        environment.pop(gone, None)
        found.append(SystemKeychain(environment).credentials("r.io", "app").username)
    order = ["variable", "docker", "podman", "session", "config", "kaniko", "gitlab", ""]
    assert found == order


@pytest.mark.parametrize(
    ("host", "variable"),
    [
        ("registry.example.com", "REGISTRY_EXAMPLE_COM"),
        ("registry.example.com", "EXAMPLE_COM"),
        ("registry.example.com", "COM"),
        ("my-registry.example.com:5000", "MY_REGISTRY_EXAMPLE_COM_5000"),
        ("my-registry.example.com:5000", "MY_REGISTRY_EXAMPLE_COM"),
        ("docker.io", "DOCKER_IO"),
        ("docker.io", "INDEX_DOCKER_IO"),
        ("index.docker.io", "DOCKER_IO"),
    ],
)
def test_kaniko_s_variables(host: str, variable: str) -> None:
    environment = {f"KANIKO_{variable}_USER": "me", f"KANIKO_{variable}_PASSWORD": "p"}
    found = SystemKeychain(environment).credentials(host, "app")
    assert (found, found.origin) == (Credentials("me", "p"), f"KANIKO_{variable}_USER")


@pytest.mark.parametrize("variable", ["OTHER_COM", "EXAMPLE", "REGISTRY_EXAMPLE"])
def test_variables_of_other_hosts(variable: str) -> None:
    environment = {f"KANIKO_{variable}_USER": "me", f"KANIKO_{variable}_PASSWORD": "p"}
    assert SystemKeychain(environment).credentials("registry.example.com", "a") == ANONYMOUS


def test_the_closest_variables_win() -> None:
    environment = {}
    for name in ("EXAMPLE_COM", "A_EXAMPLE_COM"):
        environment |= {f"KANIKO_{name}_USER": name, f"KANIKO_{name}_PASSWORD": "p"}
    assert SystemKeychain(environment).credentials("a.example.com", "x").username == "A_EXAMPLE_COM"


GITLAB = {
    "CI_REGISTRY": "registry.gitlab.example:5050",
    "CI_DEPENDENCY_PROXY_SERVER": "gitlab.example:443",
}


@pytest.mark.parametrize(
    ("host", "more", "expected"),
    [
        ("registry.gitlab.example:5050", {"CI_REGISTRY_USER": "u", "CI_REGISTRY_PASSWORD": "p"},
         Credentials("u", "p")),
        ("registry.gitlab.example:5050", {"CI_JOB_TOKEN": "t"},
         Credentials("gitlab-ci-token", "t")),
        ("gitlab.example", {"CI_DEPENDENCY_PROXY_USER": "u", "CI_DEPENDENCY_PROXY_PASSWORD": "p"},
         Credentials("u", "p")),
        ("gitlab.example", {"CI_JOB_TOKEN": "t"}, Credentials("gitlab-ci-token", "t")),
        ("registry.example", {"CI_JOB_TOKEN": "t"}, ANONYMOUS),
        ("registry.gitlab.example:5050", {}, ANONYMOUS),
    ],
)  # fmt: skip
def test_gitlab_s_variables(host: str, more: dict[str, str], expected: Credentials) -> None:
    assert SystemKeychain({**GITLAB, **more}).credentials(host, "app") == expected


def test_sources_can_be_switched_off() -> None:
    environment = {
        **GITLAB,
        "CI_JOB_TOKEN": "t",
        "KANIKO_A_IO_USER": "u",
        "KANIKO_A_IO_PASSWORD": "p",
    }
    for helpers, expected in (((), (False, False)), (("env",), (True, False)),
                              (("gitlab",), (False, True))):  # fmt: skip
        chain = SystemKeychain(environment, helpers=helpers)
        hosts = ("a.io", "registry.gitlab.example:5050")
        assert tuple(bool(chain.credentials(host, "x")) for host in hosts) == expected


def test_all_that_was_tried_is_told_without_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    config = {"auths": {"b.io": {"auth": b64encode(b"me:s3cret").decode()}}, "credsStore": "x"}
    write(folder / "config.json", json.dumps(config))
    path = program(tmp_path / "bin", "x", "echo password: s3cret; exit 4")
    chain = SystemKeychain(
        {
            "DOCKER_CONFIG": str(folder),
            "REGISTRY_AUTH_FILE": str(tmp_path / "no.json"),
            "PATH": path,
            "KANIKO_A_IO_USER": "me",
            "CI_REGISTRY": "a.io",
        }
    )
    assert chain.credentials("a.io", "app") == ANONYMOUS
    assert chain.tried("a.io") == (
        f"{tmp_path}/no.json (not there)",
        f"{folder}/config.json (has b.io, not a.io)",
        "docker-credential-x (ended with status 4: password: ***)",
        "KANIKO_<HOST>_USER (KANIKO_A_IO_USER is set, KANIKO_A_IO_PASSWORD is not)",
        "GitLab's variables (the host is set, but no user and password for it)",
    )


def test_a_helper_may_be_named_for_a_path(tmp_path: Path) -> None:
    helpers = {"a.io": "one", "a.io/team": "two"}
    write(tmp_path / "config.json", json.dumps({"credHelpers": helpers}))
    for name in ("one", "two"):
        answer = json.dumps({"Username": name, "Secret": "p"})
        path = program(tmp_path / "bin", name, f"echo '{answer}'")
    chain = SystemKeychain({"DOCKER_CONFIG": str(tmp_path), "PATH": path})
    names = [chain.credentials("a.io", repository).username for repository in ("x", "team/x")]
    assert names == ["one", "two"]


def test_a_helper_that_hangs_is_ended_by_closing(tmp_path: Path) -> None:
    write(tmp_path / "config.json", json.dumps({"credsStore": "x"}))
    path = program(tmp_path / "bin", "x", f"echo $$ > {tmp_path}/pid; sleep 60 & sleep 60")
    chain = SystemKeychain({"DOCKER_CONFIG": str(tmp_path), "PATH": path})
    timer = threading.Timer(0.3, chain.close)
    timer.start()
    started = time.monotonic()
    assert chain.credentials("a.io", "app") == ANONYMOUS
    assert time.monotonic() - started < 5
    timer.join()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert chain.credentials("b.io", "app") == ANONYMOUS  # and none is started any more


def test_a_slow_helper_of_one_host_does_not_hold_up_another(tmp_path: Path) -> None:
    entry = {"auth": b64encode(b"me:p").decode()}
    config = {"credHelpers": {"slow.io": "slow"}, "auths": {"a.io": entry}}
    write(tmp_path / "config.json", json.dumps(config))
    path = program(tmp_path / "bin", "slow", "sleep 30")
    chain = SystemKeychain({"DOCKER_CONFIG": str(tmp_path), "PATH": path})
    thread = threading.Thread(target=chain.credentials, args=("slow.io", "app"))
    thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    assert chain.credentials("a.io", "app")
    assert time.monotonic() - started < 5
    chain.close()
    thread.join()


def test_what_a_helper_gave_long_ago_and_is_refused_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "config.json", json.dumps({"credsStore": "x"}))
    count = tmp_path / "count"
    answer = '{"Username": "me", "Secret": "%s"}'
    script = f"""echo >> {count}; printf '{answer}' $(wc -l < {count})"""
    chain = SystemKeychain(
        {"DOCKER_CONFIG": str(tmp_path), "PATH": program(tmp_path / "bin", "x", script)}
    )
    assert chain.credentials("a.io", "app").password == "1"
    first = chain.credentials("a.io", "app")
    assert not chain.renew("a.io", "app", first)  # got just now: it is simply wrong
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert chain.renew("a.io", "app", first)
    assert chain.renew("a.io", "app", first)  # another thread that had the same
    assert chain.credentials("a.io", "app").password == "2"


def test_no_cloud_is_loaded_for_another_host() -> None:
    """Loading them would cost each build what only a few need."""
    code = (
        "import sys; from pybuild.registry.keychain import SystemKeychain; "
        "SystemKeychain({'AWS_ACCESS_KEY_ID': 'x'}).credentials('r.io', 'a'); "
        "print([name for name in sys.modules if name.startswith('pybuild.registry.cloud.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['pybuild.registry.cloud.hosts']"
