from __future__ import annotations

import pytest

from pybuild.dockerfile.errors import BadMount
from pybuild.dockerfile.mounts import MountSpec, parse_mount


def test_options_have_one_name_each() -> None:
    spec = parse_mount("type=bind,SRC=a,dst=/b,ro=false,from=c")
    assert spec == MountSpec(
        "bind", (("source", "a"), ("target", "/b"), ("readonly", "false"), ("from", "c"))
    )
    assert (spec.source, spec.target, spec.from_, spec.read_only) == ("a", "/b", "c", False)


def test_a_field_can_be_quoted() -> None:
    assert parse_mount('type=cache,"target=/a,b"').target == "/a,b"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param("target=/a", "type", "bind", id="default type"),
        pytest.param("target=/a", "read_only", True, id="bind is read-only"),
        pytest.param("target=/a,rw", "read_only", False, id="unless rw"),
        pytest.param("target=/a,rw=false", "read_only", True, id="rw=false"),
        pytest.param("type=cache,target=/a", "read_only", False, id="a cache is not"),
        pytest.param("type=cache,target=/a,ro", "read_only", True, id="unless ro"),
        pytest.param("type=cache,target=/a", "sharing", "shared", id="default sharing"),
        pytest.param("type=cache,target=/a,sharing=LOCKED", "sharing", "locked", id="sharing"),
        pytest.param("type=tmpfs,target=/a,size=64m", "size", 64 << 20, id="size"),
        pytest.param("type=tmpfs,target=/a,size=1.5GiB", "size", 3 << 29, id="fractional size"),
        pytest.param("type=secret,id=a,mode=0440", "mode", 0o440, id="mode"),
        pytest.param("type=secret,id=a,uid=7,gid=8", "uid", 7, id="uid"),
        pytest.param("type=secret,id=a", "mode", None, id="no mode"),
        pytest.param("type=secret,id=a,required", "required", True, id="required"),
        pytest.param("type=secret,id=a,env=TOKEN", "env", "TOKEN", id="env"),
        pytest.param("type=ssh", "required", False, id="ssh"),
    ],
)
def test_accessor(text: str, name: str, expected: object) -> None:
    assert getattr(parse_mount(text), name) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "no value", id="empty"),
        pytest.param("type=volume,target=/a", "volume", id="type"),
        pytest.param("type=cache,tagret=/a", "tagret", id="option"),
        pytest.param("target", "target=value", id="no value"),
        pytest.param("type=bind,target=/a,uid=1", "uid=", id="uid of a bind"),
        pytest.param("type=bind,target=/a,size=1m", "size=", id="size of a bind"),
        pytest.param("type=bind,target=/a,sharing=locked", "sharing=", id="sharing of a bind"),
        pytest.param("type=cache,target=/a,sharing=all", "sharing=all", id="sharing"),
        pytest.param("type=cache,target=/a,mode=9", "mode=9", id="mode"),
        pytest.param("type=cache,target=/a,uid=-1", "uid=-1", id="uid"),
        pytest.param("type=cache,target=/a,ro=yes", "readonly=yes", id="switch"),
        pytest.param("type=tmpfs,target=/a,size=big", "size=big", id="size"),
        pytest.param("type=secret", "needs id=", id="no secret"),
        pytest.param("type=secret,id=a,source=b", "not both", id="two secrets"),
        pytest.param("type=secret,id=a,from=b", "from=", id="secret from"),
        pytest.param("type=bind,from=$x", "variables", id="from a variable"),
    ],
)
def test_bad_mount(text: str, message: str) -> None:
    with pytest.raises(BadMount) as caught:
        parse_mount(text)
    assert message in caught.value.message


def test_variables_are_judged_when_they_are_replaced() -> None:
    spec = parse_mount("type=$T,target=/c/$N,uid=$U")
    values = {"$T": "cache", "/c/$N": "/c/n", "$U": "5"}
    good = spec.expanded(lambda value: values[value])
    assert (good.type, good.target, good.uid) == ("cache", "/c/n", 5)
    with pytest.raises(BadMount):
        spec.expanded(lambda value: {**values, "$T": "bind"}[value])
