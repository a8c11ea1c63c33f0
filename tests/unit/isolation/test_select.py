"""Which isolation is taken, and what is said where none can be. Nothing here takes over a root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybuild.errors import InputError
from pybuild.isolation import select
from pybuild.isolation.container import signs_of_container
from pybuild.isolation.errors import IsolationUnsupported, NotInContainer
from pybuild.isolation.ground import Ground
from pybuild.isolation.mounts import Setup
from pybuild.isolation.namespace import Namespace
from pybuild.isolation.probe import Found, Problem, _explain
from pybuild.isolation.select import Wishes, choose, probe_all

NO_NAMESPACE = Found(None, "clone(CLONE_NEWUSER): EPERM (Operation not permitted)", "unconfined")


@pytest.fixture
def no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_namespace", lambda *_: NO_NAMESPACE)


@pytest.fixture(autouse=True)
def never_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a test was about to replace the machine's root")

    monkeypatch.setattr(select, "Takeover", refuse)


@pytest.mark.usefixtures("no_namespace")
def test_a_machine_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "signs_of_container", list)
    monkeypatch.setattr(select, "find_takeover", lambda: Found(None, ""))
    for name in ("auto", "takeover"):
        with pytest.raises(NotInContainer):
            choose(name, tmp_path)


@pytest.mark.usefixtures("no_namespace")
def test_when_nothing_works_each_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "find_takeover", lambda: Found(None, "CAP_CHOWN missing", "add"))
    monkeypatch.setattr(select, "find_rootless", lambda *_: Found(None, "no names", "an image"))
    with pytest.raises(IsolationUnsupported) as caught:
        choose("auto", tmp_path, Wishes())
    assert "CLONE_NEWUSER" in caught.value.message
    assert "CAP_CHOWN" in caught.value.message
    assert "no names" in caught.value.message
    assert caught.value.hint == "unconfined"


@pytest.mark.usefixtures("no_namespace")
def test_asking_for_namespace_never_gives_another(tmp_path: Path) -> None:
    with pytest.raises(IsolationUnsupported, match="namespace can't work here"):
        choose("namespace", tmp_path)


def test_rootless_wants_an_image_that_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "ground_of", lambda: Ground("/", ()))
    with pytest.raises(IsolationUnsupported, match="not made to be taken over") as caught:
        choose("rootless", tmp_path)
    assert "rootless" in caught.value.hint


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown isolation chroot"):
        choose("chroot", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_ADMIN")
def test_here_namespace_is_taken_and_leaves_nothing(tmp_path: Path) -> None:
    chosen = choose("auto", tmp_path)
    assert isinstance(chosen, Namespace)
    assert chosen.setup == Setup()
    assert "overlay" in chosen.reason
    chosen.close()
    chosen.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_ADMIN")
def test_where_overlay_has_no_place_another_directory_is_taken_then_a_plain_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    chosen = choose("namespace", tmp_path / "file/none", Wishes(candidates=(elsewhere,)))
    assert "no overlay on" in chosen.reason
    assert isinstance(chosen, Namespace)
    assert chosen.setup.overlay
    chosen.close()


def test_probe_all_names_every_isolation(tmp_path: Path) -> None:
    results = probe_all(tmp_path)
    assert [result.name for result in results] == ["namespace", "takeover", "rootless"]
    assert all(result.reason for result in results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("problem", "user_namespace", "reason", "hint"),
    [
        (Problem("clone", 1, ""), True, "clone(CLONE_NEWUSER", "seccompProfile"),
        (Problem("clone", 28, ""), True, "ENOSPC", "max_user_namespaces"),
        (Problem("id-map", 1, "uid_map"), True, "uid_map: EPERM", "CAP_SETUID"),
        (Problem("propagation", 13, "/"), True, "propagation /: EACCES", "AppArmor"),
        (Problem("program-not-executable", 13, ""), False, "execve", "noexec"),
        (Problem("bind", 1, "x"), False, "bind x: EPERM", "seccomp"),
    ],
)
def test_a_refusal_names_the_call_and_the_cure(
    problem: Problem, user_namespace: bool, reason: str, hint: str
) -> None:
    text, cure = _explain(problem, user_namespace=user_namespace)
    assert reason in text
    assert hint in cure


@pytest.mark.parametrize(
    ("files", "env", "signs"),
    [
        pytest.param({}, {}, 0, id="a machine"),
        pytest.param({"run/.containerenv": ""}, {}, 1, id="podman"),
        pytest.param({".dockerenv": ""}, {}, 1, id="docker"),
        pytest.param({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 1, id="kubernetes"),
        pytest.param({}, {"container": "oci"}, 1, id="systemd's word"),
        pytest.param({"proc/1/cgroup": "0::/kubepods/pod1\n"}, {}, 1, id="cgroup"),
        pytest.param({"proc/1/cgroup": "0::/init.scope\n"}, {}, 0, id="systemd"),
        pytest.param(
            {"proc/self/mountinfo": "1 0 0:1 / / rw - overlay overlay rw\n"}, {}, 1, id="overlay"
        ),
        pytest.param(
            {"proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda rw\n"}, {}, 0, id="a disk"
        ),
    ],
)
def test_signs_of_container(
    tmp_path: Path, files: dict[str, str], env: dict[str, str], signs: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert len(signs_of_container(tmp_path, env)) == signs
