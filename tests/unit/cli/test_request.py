from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.cli.request import (
    BadRequest,
    Facts,
    destinations,
    labels,
    read_request,
    request_command,
    request_to_flags,
    sources,
)
from pybuild.cli.request_result import failure_of, pushed_of, result_of, result_path, write_result
from pybuild.events import BuildFailed, BuildFinished, ImagePushed, LayerSummary, StageSummary

PUSHING = {"destinations": ["r.example/app:1"]}
PUSHED = ["--destination=r.example/app:1"]
LOGIN = {"url": "r.example", "usernameEnv": "U", "passwordEnv": "P"}
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
            ["--no-push", "--label=a.b=x y", "--label=n=1"],
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
            {"image": "r/a", "tags": ["1", "2"], "mirrors": ["m/a"], "destinations": ["x:1"]},
            [f"--destination={name}" for name in ("r/a:1", "r/a:2", "m/a:1", "m/a:2", "x:1")],
            id="mirrors",
        ),
        pytest.param(
            {**NOT_PUSHING, "subPath": "a b", "platform": "linux/arm64"},
            ["--context-sub-path=a b", "--custom-platform=linux/arm64", "--no-push"],
            id="sub path, platform",
        ),
        pytest.param(
            {**NOT_PUSHING, "buildArgsFromEnv": ["HTTP_PROXY"], "annotations": {"a": 1}},
            ["--build-arg=HTTP_PROXY", "--annotation=a=1", "--no-push"],
            id="build args from the environment",
        ),
        pytest.param(
            {**NOT_PUSHING, "registryMap": {"docker.io": ["a", "b/c"], "quay.io": "d"}},
            [
                *(f"--registry-map={x}" for x in ("docker.io=a", "docker.io=b/c", "quay.io=d")),
                "--no-push",
            ],
            id="registry map",
        ),
        pytest.param(
            {**PUSHING, "retries": 2},
            [*PUSHED, "--push-retry=2", "--image-download-retry=2", "--image-fs-extract-retry=2"],
            id="retries",
        ),
        pytest.param(
            {**PUSHING, "retries": 2, "dryRun": True},
            [*PUSHED, "--image-download-retry=2"],
            id="retries of a plan",
        ),
        pytest.param(
            {
                **PUSHING,
                "cache": {
                    "ttl": "1h",
                    "copyLayers": False,
                    "runLayers": True,
                    "readOnly": True,
                    "inline": False,
                    "from": ["a", "b"],
                },
            },
            [
                *PUSHED,
                "--cache",
                "--cache-ttl=1h",
                "--cache-copy-layers=false",
                "--cache-run-layers=true",
                "--no-push-cache",
                "--cache-from=a",
                "--cache-from=b",
            ],
            id="all of a cache",
        ),
        pytest.param(
            {**PUSHING, "cache": {"readOnly": True}, "dryRun": True},
            [*PUSHED, "--cache"],
            id="a plan never writes to the cache",
        ),
        pytest.param(
            {
                **PUSHING,
                "reproducible": True,
                "sourceDateEpoch": 5,
                "compression": "zstd",
                "compressionLevel": 3,
                "format": "oci",
            },
            [
                *PUSHED,
                "--reproducible",
                "--compression=zstd",
                "--compression-level=3",
                "--image-format=oci",
            ],
            id="bytes",
        ),
        pytest.param(
            {**PUSHING, "sbom": "cyclonedx", "reports": "/r", "provenance": True},
            [*PUSHED, "--sbom=cyclonedx=/r/sbom.cdx.json", "--report=/r"],
            id="reports",
        ),
        pytest.param({**PUSHING, "sbom": True}, [*PUSHED, "--sbom=spdx"], id="SBOM here"),
        pytest.param({**PUSHING, "sbom": False}, PUSHED, id="no SBOM"),
        pytest.param(
            {**PUSHING, "extraArgs": ["--single-snapshot", "--ignore-path=/a b"]},
            [*PUSHED, "--single-snapshot", "--ignore-path=/a b"],
            id="extra arguments",
        ),
        pytest.param(
            {**PUSHING, "registries": [LOGIN], "dockerConfig": "FILE", "invocation": "u"},
            PUSHED,
            id="credentials are no flags",
        ),
        pytest.param(
            {**PUSHING, "command": "push", "path": "out", "digest": "sha256:0", "retries": 1},
            [*PUSHED, "--push-retry=1", "--image-download-retry=1"],
            id="push",
        ),
        pytest.param(
            {**PUSHING, "command": "manifest", "sources": ["a:1"], "annotations": {"a": "b"}},
            [*PUSHED, "--annotation=a=b"],
            id="index",
        ),
        pytest.param(
            {"command": "login", "registries": [LOGIN], "configFolder": "/c"}, [], id="login"
        ),
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
        pytest.param({"mirrors": ["a"]}, "without `image`", id="mirrors without image"),
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
        pytest.param({**PUSHING, "cache": {"tll": "1h"}}, "unknown option `cache.tll`", id="ttl"),
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
        pytest.param({**PUSHING, "command": "pull"}, "can't be 'pull'", id="command"),
        pytest.param({**PUSHING, "path": "x"}, "`path` is no option of a build", id="path"),
        pytest.param(
            {**PUSHING, "command": "push", "target": "x"}, "no option of a push", id="target"
        ),
        pytest.param({**PUSHING, "retries": -1}, "whole number", id="negative"),
        pytest.param({**PUSHING, "retries": True}, "whole number", id="boolean"),
        pytest.param({**PUSHING, "compression": "xz"}, "can't be 'xz'", id="compression"),
        pytest.param({**PUSHING, "sourceDateEpoch": "today"}, "whole number", id="epoch"),
        pytest.param({**PUSHING, "extraArgs": [1]}, "has to be a text", id="extra"),
        pytest.param({**PUSHING, "sbom": "html"}, "can't be 'html'", id="SBOM"),
        pytest.param(
            {**PUSHING, "ociLabels": {"licence": "x"}}, "`ociLabels.licence`", id="OCI label"
        ),
        pytest.param(
            {**PUSHING, "registries": [{"url": "r", "password": "hunter2"}]},
            "unknown option `registries[0].password`",
            id="a password itself",
        ),
        pytest.param({**PUSHING, "registries": [{"url": "r"}]}, "needs `url`", id="no variables"),
    ],
)
def test_what_no_build_can_mean(request_: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        request_to_flags(request_)
    assert message in caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_what_a_push_and_an_index_are_made_of() -> None:
    assert sources(PUSHING) == []
    assert sources({**PUSHING, "command": "push", "path": "-x"}) == ["./-x"]
    assert sources({**PUSHING, "command": "push", "path": "/a/b"}) == ["/a/b"]
    assert sources({**PUSHING, "command": "manifest", "sources": ["a", "b"]}) == ["a", "b"]
    for wrong in (
        {"command": "push"},
        {"command": "manifest"},
        {"command": "manifest", "sources": ["--insecure"]},
    ):
        with pytest.raises(BadRequest):
            sources({**PUSHING, **wrong})


FACTS = Facts("abc", "https://git.example/app", 7, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param({"labels": {"a": True}}, {"a": "true"}, id="none of OCI"),
        pytest.param(
            {"ociLabels": True, "image": "r.example/team/app"},
            {
                "org.opencontainers.image.source": "https://git.example/app",
                "org.opencontainers.image.revision": "abc",
                "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
                "org.opencontainers.image.title": "app",
            },
            id="facts",
        ),
        pytest.param(
            {
                "ociLabels": {"source": "https://u:hunter2@h/a", "created": "", "ref.name": "main"},
                "labels": {"org.opencontainers.image.revision": "mine"},
            },
            {
                "org.opencontainers.image.source": "https://h/a",
                "org.opencontainers.image.revision": "mine",
                "org.opencontainers.image.ref.name": "main",
            },
            id="given over facts, the user's over all, no password",
        ),
    ],
)
def test_labels(request_: dict[str, object], expected: dict[str, str]) -> None:
    assert labels(request_, FACTS) == expected


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
        "platform": "",
        "pushed": True,
        "size": 42,
        "layers": 2,
        "cacheHits": 6,
        "cacheMisses": 4,
        "durationMs": 1234,
        "labels": {},
        "output": {},
        "reports": {},
        "outputs": [],
    }
    assert json.loads(json.dumps(result)) == result


def test_the_result_of_a_push() -> None:
    events = [ImagePushed("r/a:1", "sha256:1", 5), ImagePushed("r/b:1", "sha256:1", 5)]
    result = pushed_of(events, 1.5)
    assert (result["imageRef"], result["tags"]) == ("r/a@sha256:1", ["1"])
    assert (result["destinations"], result["pushed"]) == (["r/a:1", "r/b:1"], True)
    assert (result["size"], result["durationMs"]) == (5, 1500)


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
