"""Whom USER and --chown name."""

from __future__ import annotations

import pytest

from pybuild.rootfs.errors import UnknownGroup, UnknownUser
from pybuild.rootfs.ids import Ids, lookup_owner, lookup_user

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:App:/home/app:/bin/sh
broken line
12:x:77:78::/twelve:
nohome:x:5:6
"""
GROUP = b"root:x:0:\napp:x:1001:\nwheel:x:10:app,root\nextra:x:11:other,app\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("", Ids(0, 0, (10,), "/root"), id="default-is-root"),
        pytest.param("app", Ids(1000, 1001, (10, 11), "/home/app"), id="name"),
        pytest.param("1000", Ids(1000, 1001, (10, 11), "/home/app"), id="number-with-entry"),
        pytest.param("4242", Ids(4242, 0, (), "/"), id="number-without-entry"),
        pytest.param("12", Ids(12, 0, (), "/"), id="a-number-is-never-a-name"),
        pytest.param("app:wheel", Ids(1000, 10, (), "/home/app"), id="group-by-name"),
        pytest.param("app:77", Ids(1000, 77, (), "/home/app"), id="group-by-number"),
        pytest.param("1:2", Ids(1, 2, (), "/"), id="numbers"),
        pytest.param("nohome", Ids(5, 6, (), "/"), id="short-line"),
    ],
)
def test_user(spec: str, expected: Ids) -> None:
    assert lookup_user(spec, PASSWD, GROUP) == expected


@pytest.mark.parametrize("spec", ["nobody", "nobody:app", "99999999999", "-1"])
def test_unknown_user(spec: str) -> None:
    with pytest.raises(UnknownUser):
        lookup_user(spec, PASSWD, GROUP)


def test_unknown_group() -> None:
    with pytest.raises(UnknownGroup):
        lookup_user("app:nogroup", PASSWD, GROUP)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("app", (1000, 1001), id="a-name-gives-its-group"),
        pytest.param("1000", (1000, 1000), id="a-number-is-the-group-too"),
        pytest.param("app:wheel", (1000, 10), id="both-names"),
        pytest.param("1:2", (1, 2), id="both-numbers"),
        pytest.param(":wheel", (0, 10), id="group-only"),
    ],
)
def test_owner(spec: str, expected: tuple[int, int]) -> None:
    assert lookup_owner(spec, PASSWD, GROUP) == expected


def test_root_needs_no_files() -> None:
    assert lookup_owner("root:root", None, None) == (0, 0)
    assert lookup_user("root", None, None) == Ids(0, 0, (), "/")
    with pytest.raises(UnknownUser):
        lookup_owner("app", None, None)
