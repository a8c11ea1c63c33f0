from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.cli.request import (
    BadRequest,
    destinations,
    failure_of,
    read_request,
    request_command,
    request_to_flags,
    result_of,
    result_path,
    write_result,
)
from pybuild.events import BuildFailed, BuildFinished, LayerSummary, StageSummary

PUSHING = {"destinations": ["r.example/app:1"]}
NOT_PUSHING = {"push": False}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(
            {"image": "r.example/app", "tags": ["1", "1.2"]},
            ["--destination=r.example/app:1", "--destination=r.example/app:1.2"],
            id="image and tags",
        ),
        pytest.param(
            {"image": "r.example:5000/app", "tags": "1", "destinations": ["r.example:5000/app:1"]},
            ["--destination=r.example:5000/app:1"],
            id="one tag as a text, a reference twice",
        ),
        pytest.param(NOT_PUSHING, ["--no-push"], id="no push needs no destination"),
        pytest.param(
            {**NOT_PUSHING, "context": ".", "dockerfile": "a b", "target": "x"},
            ["--context=.", "--dockerfile=a b", "--target=x", "--no-push"],
            id="texts",
        ),
        pytest.param(
            {**NOT_PUSHING, "target": "", "context": None}, ["--no-push"], id="empty is default"
        ),
        pytest.param(
            {**NOT_PUSHING, "buildArgs": {"A": "1 '\"$(x)\n", "B": None, "C": 3, "D": True}},
            [
                "--build-arg=A=1 '\"$(x)\n",
                "--build-arg=B",
                "--build-arg=C=3",
                "--build-arg=D=true",
                "--no-push",
            ],
            id="build args",
        ),
        pytest.param(
            {**NOT_PUSHING, "labels": {"a.b": "x y", "n": 1}},
            ["--label=a.b=x y", "--label=n=1", "--no-push"],
            id="labels",
        ),
        pytest.param(
            {**PUSHING, "dryRun": True, "output": {"type": "tar", "path": "a"}},
            ["--destination=r.example/app:1"],
            id="a plan writes nothing",
        ),
        pytest.param(
            {**NOT_PUSHING, "insecureRegistries": ["a:1"], "registryMirrors": ["m", "n"]},
            [
                "--insecure-registry=a:1",
                "--registry-mirror=m",
                "--registry-mirror=n",
                "--no-push",
            ],
            id="registries",
        ),
        pytest.param(
            {**NOT_PUSHING, "secrets": {"npm": {"file": "/s/npm"}, "key": {"env": "KEY"}}},
            ["--secret=id=npm,src=/s/npm", "--secret=id=key,env=KEY", "--no-push"],
            id="secrets",
        ),
        pytest.param(
            {**PUSHING, "dryRun": True, "secrets": {"npm": {"file": "/s/npm"}}},
            ["--destination=r.example/app:1", "--secret=id=npm,src=/s/npm"],
            id="secrets of a plan",
        ),
        pytest.param({**NOT_PUSHING, "cache": True}, ["--cache", "--no-push"], id="cache"),
        pytest.param({**NOT_PUSHING, "cache": False}, ["--no-push"], id="no cache"),
        pytest.param(
            {**NOT_PUSHING, "cache": {"repo": "r/c", "dir": "/cache"}},
            ["--cache", "--cache-repo=r/c", "--cache-dir=/cache", "--no-push"],
            id="cache as a map",
        ),
        pytest.param(
            {**NOT_PUSHING, "output": {"type": "tar", "path": "a.tar"}},
            ["--no-push", "--tar-path=a.tar"],
            id="tar",
        ),
        pytest.param(
            {**NOT_PUSHING, "output": {"type": "oci", "path": "out"}, "verbosity": "debug"},
            ["--no-push", "--oci-layout-path=out", "--verbosity=debug"],
            id="layout",
        ),
        pytest.param({**NOT_PUSHING, "schema": 1}, ["--no-push"], id="schema"),
        pytest.param(
            {**PUSHING, "push": None, "cache": None, "dryRun": None, "tags": None},
            ["--destination=r.example/app:1"],
            id="null is absent",
        ),
    ],
)
def test_request_to_flags(request_: dict[str, object], expected: list[str]) -> None:
    assert request_to_flags(request_) == expected


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param({"image": "a"}, "without `tags`", id="image without tags"),
        pytest.param({"tags": ["1"]}, "without `image`", id="tags without image"),
        pytest.param({}, "nowhere to push", id="nothing"),
        pytest.param({"push": True}, "nowhere to push", id="push without destination"),
        pytest.param({**PUSHING, "schema": 2}, "schema 2", id="later schema"),
        pytest.param({**PUSHING, "dockerFile": "x"}, "unknown option 'dockerFile'", id="unknown"),
        pytest.param({**PUSHING, "context": 1}, "`context` has to be a text", id="no text"),
        pytest.param({**PUSHING, "context": "a\0"}, "NUL", id="NUL"),
        pytest.param({"destinations": [""]}, "empty text", id="empty destination"),
        pytest.param({"destinations": {"a": 1}}, "has to be a list, not a map", id="no list"),
        pytest.param({**PUSHING, "push": "false"}, "true or false, not a text", id="quoted"),
        pytest.param({**PUSHING, "buildArgs": ["A=1"]}, "has to be a map, not a list", id="no map"),
        pytest.param({**PUSHING, "buildArgs": {"A": [1]}}, "has to be a text", id="list as value"),
        pytest.param({**PUSHING, "buildArgs": {"A=B": ""}}, "no flag can say", id="bad key"),
        pytest.param({**PUSHING, "labels": {"A": None}}, "has to be a text, not null", id="label"),
        pytest.param({**PUSHING, "cache": "yes"}, "true, false or a map", id="cache as a text"),
        pytest.param({**PUSHING, "cache": {"ttl": "1h"}}, "unknown option `cache.ttl`", id="ttl"),
        pytest.param(
            {**PUSHING, "output": {"type": "zip", "path": "a"}}, "'tar' or 'oci'", id="zip"
        ),
        pytest.param({**PUSHING, "output": {"type": "tar"}}, "and `path`", id="no path"),
        pytest.param({**PUSHING, "secrets": ["a"]}, "has to be a map", id="secrets: a list"),
        pytest.param(
            {**PUSHING, "secrets": {"a": "hunter2"}},
            "`secrets.a` does not say where",
            id="a secret itself",
        ),
        pytest.param(
            {**PUSHING, "secrets": {"a": {"value": "hunter2"}}},
            "does not say where",
            id="a secret as value",
        ),
        pytest.param(
            {**PUSHING, "secrets": {"a": {"file": "x", "env": "y"}}},
            "does not say where",
            id="a secret in two places",
        ),
        pytest.param({**PUSHING, "secrets": {"a": {"file": "x,y"}}}, "has a comma", id="comma"),
        pytest.param({**PUSHING, "secrets": {"a,b": {"env": "y"}}}, "no flag can say", id="id"),
        pytest.param({**PUSHING, "verbosity": "loud"}, "can't be 'loud'", id="level"),
    ],
)
def test_what_no_build_can_mean(request_: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        request_to_flags(request_)
    assert message in caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(BadRequest) as caught:
        request_to_flags({**PUSHING, "dockerFile": "x"})
    assert caught.value.hint == "did you mean 'dockerfile'?"


def test_a_dry_run_is_a_plan() -> None:
    assert request_command({**PUSHING, "dryRun": True}) == "plan"
    assert request_command(PUSHING) == "build"
    assert request_to_flags({**PUSHING, "dryRun": True}) == ["--destination=r.example/app:1"]


TEXTS = st.text(st.characters(exclude_characters="\0"), min_size=1)


@given(st.dictionaries(TEXTS.filter(lambda text: "=" not in text), TEXTS), st.lists(TEXTS))
def test_every_value_arrives_in_one_argument(args: dict[str, str], wanted: list[str]) -> None:
    flags = request_to_flags({"push": False, "buildArgs": args, "destinations": wanted})
    given_args = [
        flag.removeprefix("--build-arg=") for flag in flags if "--build-arg=" in flag[:12]
    ]
    assert [arg.partition("=")[::2] for arg in given_args] == list(args.items())
    assert destinations({"destinations": wanted}) if wanted else True
    assert [flag.partition("=")[2] for flag in flags if flag.startswith("--destination=")] == list(
        dict.fromkeys(wanted)
    )


def finished(**changed: object) -> BuildFinished:
    layer = LayerSummary("sha256:1", 10, "new", "pushed", "COPY")
    stage = StageSummary("0", 1.0, steps_run=2, steps_cached=3, skipped=False)
    values: dict[str, object] = {
        "references": ("r.example:5000/app:1", "r.example:5000/app:2", "other/app:1"),
        "digest": "sha256:abc",
        "size": 42,
        "layers": (layer, layer),
        "stages": (stage, stage),
        "seconds": 1.2344,
        **changed,
    }
    return BuildFinished(**values)  # type: ignore[arg-type]


def test_the_result_of_a_build() -> None:
    result = result_of(finished(), pushed=True)
    assert result == {
        "schema": 1,
        "image": "r.example:5000/app",
        "digest": "sha256:abc",
        "imageRef": "r.example:5000/app@sha256:abc",
        "tags": ["1", "2"],
        "destinations": ["r.example:5000/app:1", "r.example:5000/app:2", "other/app:1"],
        "pushed": True,
        "size": 42,
        "layers": 2,
        "cacheHits": 6,
        "cacheMisses": 4,
        "durationMs": 1234,
        "outputs": [],
    }
    assert json.loads(json.dumps(result)) == result


def test_the_result_of_a_build_without_a_name() -> None:
    result = result_of(finished(references=()), pushed=False)
    assert (result["image"], result["imageRef"], result["tags"]) == ("", "", [])


def test_the_result_of_a_failure() -> None:
    failed = BuildFailed("run-failed", "it failed", "look", "Dockerfile", 3, "RUN false", 7)
    error = failure_of(failed)["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["line"], error["exitStatus"]) == ("run-failed", 3, 7)


def test_the_result_lies_beside_the_request_and_belongs_to_its_owner(tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text("{}")
    if os.geteuid() == 0:
        os.chown(request, 1234, 1235)
    write_result(request, {"schema": 1})
    result = result_path(request)
    assert json.loads(result.read_text()) == {"schema": 1}
    assert (result.stat().st_uid, result.stat().st_gid) == (
        request.stat().st_uid,
        request.stat().st_gid,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "result.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param("{", "not JSON", id="broken"),
        pytest.param("[]", "no JSON object", id="a list"),
        pytest.param("\xff", "not JSON", id="no UTF-8"),
    ],
)
def test_a_request_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "request.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadRequest) as caught:
        read_request(path)
    assert message in caught.value.message
