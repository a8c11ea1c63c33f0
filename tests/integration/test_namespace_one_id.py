"""RUN in namespaces by an ordinary user: a default Pod with runAsUser 1000, seccomp unset."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import bundle
from tests.support.bases import SMALL, push_bases
from tests.support.oracle.builders import Bench, Refused
from tests.support.oracle.case import Case, load_cases
from tests.support.oracle.flatten import Flattener
from tests.support.oracle.record import read_record, unexplained
from tests.support.oracle.registry import running_registry
from tests.support.oracle.takeover import _LOOP, TakeoverBuilder

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(bundle.missing_commands()), reason="needs root and podman"
    ),
    pytest.mark.xdist_group("one-id"),
]

UID = 1000
ABOUT_OWNERS = re.compile(
    r"RUN.*(chown|setcap|setfattr|useradd|adduser|mknod|chmod|install)|^USER", re.M
)
CASES = [
    case
    for case in load_cases()
    # the files that a cache starts with are copies, and those are our user's
    if case.name != "run-mount-cache"
    and case.only == ""
    and not case.error
    and ABOUT_OWNERS.search((case.directory / case.dockerfile).read_text(errors="replace"))
]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.container_root(tmp_path_factory.mktemp("container") / "root")


def serve(
    container: Path, workspace: Path, request: dict[str, Any], *options: str
) -> dict[str, Any]:
    os.chown(workspace, UID, UID)
    driver = Path(__file__).parents[1] / "support/isolation_driver.py"
    ran = bundle.run_in_container(
        container,
        [bundle.PYTHON, "-I", "/driver/isolation_driver.py"],
        pod=bundle.Pod.DEFAULT,
        volumes={str(workspace): "/workspace", str(driver.parent): "/driver"},
        env={"SECRET": "s3cret"},
        options=[f"--user={UID}:{UID}", *options],
        stdin=json.dumps({"workdir": "/workspace/.pybuild", **request}),
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="seccomp unset"),
        pytest.param(("--cap-drop=ALL", "--security-opt=no-new-privileges"), id="no privileges"),
    ],
)
def test_owners_are_recorded(container: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "secret").write_text("x")
    first = (
        "id -u; grep CapEff /proc/self/status; touch /made; chown 1234:99 /made; chmod 4755 /made;"
        " chown 5 /etc/passwd; rm /etc/kept; rm -r /var/data; mkdir /var/data; mknod /node c 1 5;"
        " mkdir /closed; touch /closed/x; chmod 0555 /closed; mkdir /secret; chmod 0 /secret;"
        " stat -c %u:%g:%a /made; ls -A /; test -e /workspace && echo LEAK; env;"
        " cat /proc/1/environ"
    )
    other = (
        "mkdir -p /new/bin /new/etc /out; cp /bin/busybox /new/bin/; ln -s busybox /new/bin/sh;"
        " ln -s busybox /new/bin/chown; ln -s busybox /new/bin/stat; ln -s busybox /new/bin/mkdir;"
        " ln -s /etc/file /new/link; ln -s ../../out /new/etc/up; touch /new/etc/file /etc/file;"
        " chroot /new /bin/sh -c 'chown 7:8 /link; chown -h 9 /link; cd etc; chown :5 file;"
        " stat -c %u:%g /link /etc/file; mkdir up/x 2>/dev/null || echo none; mkdir d; chown 3 d;"
        " chown 1 /nope 2>/dev/null || echo none';"
        " stat -c %u:%g /etc/file /new/etc/file /new/etc/d; ls /out; unshare -Ur id || echo no"
    )
    second = "stat -c %u:%g /made /etc/passwd; stat -c %F /node; touch /closed/y; id -u"
    answer = serve(
        container, tmp_path, {"isolation": "auto", "stages": [[first, second], [other]]}, *options
    )
    assert answer["name"] == "namespace"
    assert "owners as records of uid 1000" in answer["reason"]
    ran, after = answer["stages"][0]
    assert ran["out"].startswith("0\nCapEff:\t00000000a80425fb\n1234:99:4755\n"), ran["err"]
    assert "LEAK" not in ran["out"]
    assert "s3cret" not in ran["out"]
    assert ran["owners"]["made"] == "1234:99 4755"
    assert ran["owners"]["etc/passwd"] == "5:0 644"
    assert ran["owners"]["node"] == "0:0 644 CHAR 1:5"
    assert ran["owners"]["closed"] == "0:0 555"
    assert ran["owners"]["secret"] == "0:0 0"
    assert {"whiteout etc/kept", "directory var/data"} <= set(ran["changes"])
    assert after["out"] == "1234:99\n5:0\ncharacter special file\n0\n", after["err"]
    (chrooted,) = answer["stages"][1]
    assert chrooted["out"] == "9:0\n7:5\nnone\nnone\n0:0\n7:5\n3:0\nno\n", chrooted["err"]
    assert list((tmp_path / ".pybuild").iterdir()) == []


def test_the_reason_says_why_no_namespace_is_made(container: Path, tmp_path: Path) -> None:
    os.chown(tmp_path, UID, UID)
    ran = bundle.run_in_container(
        container,
        [
            *(bundle.PYTHON, "-I", "-c"),
            "from pathlib import Path; from pybuild.isolation.probe import find_namespace\n"
            "from pybuild.isolation.process import Runner\nhelper = Runner()\n"
            "print(find_namespace(helper, (Path('/workspace'),))); helper.close()",
        ],
        pod=bundle.Pod.RUNTIME_DEFAULT,
        volumes={str(tmp_path): "/workspace"},
        options=[f"--user={UID}:{UID}"],
    )
    assert "setup=None" in ran.stdout
    assert "clone(CLONE_NEWUSER | CLONE_NEWNS): EPERM" in ran.stdout


@pytest.fixture(scope="module")
def bench(container: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Any]]:
    """A container in which case after case is built."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry")
    volume = tmp_path_factory.mktemp("cases")
    volume.chmod(0o777)
    command = bundle.container_command(
        container,
        [bundle.PYTHON, "-I", "-c", _LOOP],
        pod=bundle.Pod.DEFAULT,
        volumes={str(volume): "/workspace"},
        options=["--timeout=600", f"--user={UID}:{UID}"],
    )
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with running_registry() as registry:
        push_bases(registry, SMALL)
        with subprocess.Popen(command, **streams) as process:  # type: ignore[call-overload]
            builder = TakeoverBuilder(process, volume, "namespace", UID)
            yield Bench(registry, Flattener(registry), volume), builder
            process.stdin.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_image_is_what_root_gets(case: Case, bench: tuple[Bench, Any]) -> None:
    """But for what one folder for all layers does to hard links, as in rootless."""
    try:
        found = bench[0].outcome(case, bench[1])
    except Refused as problem:
        pytest.fail(str(problem))
    problems = unexplained(case, read_record(case), found, "rootless")
    # what a RUN in place has in its environment, for one, is not needed here
    assert [text for text in problems if "but there is none" not in text] == []
