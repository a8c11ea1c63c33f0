"""Mounts as values: the option string of overlay, and what a RUN's root is made of."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from pybuild.isolation import runner
from pybuild.isolation.command import RunMount
from pybuild.isolation.errors import TooManyLayers
from pybuild.isolation.mounts import (
    Entering,
    OverlayStack,
    Setup,
    overlay_options,
    root_operations,
)
from pybuild.isolation.namespace import identity_map


def stack(*lowers: str) -> OverlayStack:
    return OverlayStack(Path("/w/l"), lowers, "9", "../w/9", Path("/w/m/1"))


@pytest.mark.parametrize(
    ("user_xattrs", "marks"),
    [(False, "redirect_dir=nofollow,metacopy=off"), (True, "userxattr")],
)
def test_options_name_the_highest_layer_first(user_xattrs: bool, marks: str) -> None:
    text = overlay_options(stack("1", "2", "3"), Setup(user_xattrs=user_xattrs))
    assert text == f"lowerdir=3:2:1,upperdir=9,workdir=../w/9,index=off,{marks},volatile"


@pytest.mark.parametrize(
    ("names", "works"),
    [
        pytest.param([str(number) for number in range(500)], True, id="as many as the kernel"),
        pytest.param([str(number) for number in range(501)], False, id="one more"),
        pytest.param(["x" * 40] * 90, True, id="nearly a page"),
        pytest.param(["x" * 40] * 100, False, id="more than a page"),
    ],
)
def test_what_one_mount_cannot_hold_is_refused(names: list[str], works: bool) -> None:
    if works:
        assert len(overlay_options(stack(*names), Setup())) < mmap.PAGESIZE
    else:
        with pytest.raises(TooManyLayers):
            overlay_options(stack(*names), Setup())


@pytest.mark.parametrize(
    ("setup", "flags"),
    [
        (Setup(), runner.CLONE_NEWPID),
        (Setup(pid_namespace=False), 0),
        (Setup(user_namespace=True), runner.CLONE_NEWUSER | runner.CLONE_NEWPID),
    ],
)
def test_namespaces(setup: Setup, flags: int) -> None:
    always = runner.CLONE_NEWNS | runner.CLONE_NEWIPC | runner.CLONE_NEWUTS
    assert setup.clone_flags() == always | flags


def test_the_old_root_is_left_last_and_propagation_is_cut_first() -> None:
    for entering in Entering:
        found = root_operations(stack("1"), Setup(entering=entering), ())
        assert (found[0], found[-1]) == (("private",), (entering.value,))


def test_without_a_pid_namespace_the_containers_proc_is_shown_with_its_own_masks() -> None:
    found = root_operations(stack("1"), Setup(pid_namespace=False), ())
    assert ("bind", b"/proc", b"proc", False) in found
    assert not [operation for operation in found if operation[0] in ("mask", "read_only")]


def test_mounts_come_outermost_first_and_replace_the_containers_files() -> None:
    mounts = (
        RunMount("bind", "/a/b/c", Path("/one"), read_only=True),
        RunMount("tmpfs", "/a", size=5, uid=1, gid=2, mode=0o750),
        RunMount("file", "/etc/hosts", Path("/two")),
    )
    found = root_operations(Path("/plain"), Setup(), mounts)
    flags = runner.MS_NOSUID | runner.MS_NODEV
    assert found[1] == ("plain", b"/plain")
    assert found[-4:-1] == (
        ("temporary", b"a", flags, b"uid=1,gid=2,size=5", 0o750),
        ("bind", b"/two", b"etc/hosts", False),
        ("bind", b"/one", b"a/b/c", True),
    )
    assert ("bind", b"/etc/hosts", b"etc/hosts", True) not in found


def test_every_operation_is_one_that_the_runner_has() -> None:
    for operation in root_operations(stack("1"), Setup(), ()):
        name = operation[1] if operation[0] == "optional" else operation[0]
        assert callable(getattr(runner.Root, str(name)))


@pytest.mark.parametrize(
    ("ours", "map_text"),
    [
        ("         0          0 4294967295\n", b"0 0 4294967295\n"),
        ("0 100000 65536\n", b"0 0 65536\n"),
        ("0 1000 1\n1 100000 65535\n", b"0 0 1\n1 1 65535\n"),
    ],
)
def test_all_ids_of_the_container_are_mapped_to_themselves(ours: str, map_text: bytes) -> None:
    assert identity_map(ours) == map_text
