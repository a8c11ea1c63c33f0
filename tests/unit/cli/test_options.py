"""Flags to the options of the packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybuild.cli.errors import BadFlag, FlagsContradict, NoDestination
from pybuild.cli.flags.flag import EXECUTOR, PLAN, WARMER
from pybuild.cli.options import build as of_build
from pybuild.cli.options import cache as of_cache
from pybuild.cli.options import registry as of_registry
from pybuild.cli.options import result as of_result
from pybuild.cli.options import secrets as of_secrets
from pybuild.cli.options import source as of_source
from pybuild.cli.outputs import outputs
from pybuild.cli.parse import Values, parse_flags
from pybuild.errors import InputError, PybuildError
from pybuild.image.media_type import Family
from pybuild.image.reference import BadReference
from pybuild.layer.compress import Compression, CompressionOptions
from pybuild.output.files import OutputFailed, Url


def parse(*argv: str, command: str = EXECUTOR) -> Values:
    return parse_flags(command, argv, {})


def test_hosts_that_are_written_as_addresses() -> None:
    found = of_registry.registry_options(
        parse("--insecure-registry=http://a:5000/", "--skip-tls-verify-registry=https://b/v2/")
    )
    assert found.insecure == {"a:5000"} and found.skip_tls_hosts == {"b"}


def test_registry_options(tmp_path: Path) -> None:
    for name in ("ca", "crt", "key"):
        (tmp_path / name).write_text("")
    found = of_registry.registry_options(
        parse(
            "--insecure", "--insecure-registry=a:5000", "--skip-tls-verify-registry=b",
            "--registry-mirror=m1", "--registry-mirror=m2/x", "--registry-map=q=r;q=s/t",
            f"--registry-certificate=c={tmp_path}/ca", "--push-retry=9",
            f"--registry-client-cert=c={tmp_path}/crt,{tmp_path}/key",
            "--skip-default-registry-fallback",
        )
    )  # fmt: skip
    assert found.insecure_push and not found.insecure_pull and found.insecure == {"a:5000"}
    assert found.skip_tls_hosts == {"b"} and not found.skip_tls_pull
    assert found.mirrors == ("m1", "m2/x") and found.map == {"q": ("r", "s/t")}
    assert found.certificates == {"c": tmp_path / "ca"} and not found.default_fallback
    assert found.client_certificates == {"c": (tmp_path / "crt", tmp_path / "key")}
    assert found.retry.tries == 10


def test_the_defaults_are_the_registrys_own() -> None:
    for command in (EXECUTOR, PLAN, WARMER):
        found = of_registry.registry_options(parse(command=command))
        assert found == type(found)()


def test_skip_tls_verify_is_for_pulls_too() -> None:
    assert of_registry.registry_options(parse("--skip-tls-verify")).skip_tls_pull


@pytest.mark.parametrize(
    "argv",
    [
        ["--registry-certificate=h=/nowhere/ca"],
        ["--registry-client-cert=h=/nowhere"],
        ["--registry-map=h"],
    ],
)
def test_bad_registry_flags(argv: list[str]) -> None:
    with pytest.raises(BadFlag):
        of_registry.registry_options(parse(*argv))


def test_build_args() -> None:
    values = parse("--build-arg=A=b=c", "--build-arg=E", "--build-arg=N=", "--build-arg=A=last")
    assert of_source.build_args(values, {"E": "e"}) == {"A": "last", "E": "e", "N": ""}
    for text in ("MISSING", "=x", ""):
        with pytest.raises(BadFlag):
            of_source.build_args(parse(f"--build-arg={text}"), {})


def test_labels() -> None:
    assert of_source.labels(parse("--label=a=1", "--label=a=2", "--label=b=")) == (
        ("a", "2"), ("b", ""),
    )  # fmt: skip
    with pytest.raises(BadFlag, match="foo"):
        of_source.labels(parse("--label=foo"))


def test_destinations() -> None:
    twice = of_result.destinations(parse("-d=r.io/a", "-d=r.io/a:latest", "-d=b"), needed=True)
    assert [str(ref) for ref in twice] == ["r.io/a:latest", "docker.io/library/b:latest"]
    assert of_result.destinations(parse("--no-push"), needed=True) == ()
    assert of_result.destinations(parse(command=PLAN), needed=False) == ()
    with pytest.raises(NoDestination):
        of_result.destinations(parse(), needed=True)
    with pytest.raises(BadFlag):
        of_result.destinations(parse(f"-d=r.io/a@sha256:{'0' * 64}"), needed=True)
    with pytest.raises(InputError):
        of_result.destinations(parse("-d=UPPER/Bad"), needed=True)


@pytest.mark.parametrize(
    ("argv", "target", "sources"),
    [
        ([], None, ()),
        (["-d=r.io/a:1", "--cache"], "r.io/a/cache", ("r.io/a/cache",)),
        (["-d=r.io/a:1", "--cache", "--cache-repo=r.io/c:old"], "r.io/c", ("r.io/c",)),
        (["-d=r.io/a:1", "--cache", "--cache-repo=oci:/x"], "/x", ("/x",)),
        (["--no-push", "--cache", "--cache-repo=r.io/c", "--no-push-cache"], None, ("r.io/c",)),
        (
            ["--cache", "--cache-repo=r.io/c", "--cache-from=r.io/d", "--cache-from=oci:/x",
             "--cache-from=r.io/c", "--cache-from=type=registry,ref=r.io/a:1"],
            "r.io/c", ("r.io/c", "r.io/d", "/x", "r.io/a:1"),
        ),
        (["--cache-from=r.io/d"], None, ("r.io/d",)),
        (["--cache=false", "--cache-from=r.io/d", "--inline-cache"], None, ()),
    ],
)  # fmt: skip
def test_cache_places(argv: list[str], target: str | None, sources: tuple[str, ...]) -> None:
    values = parse("--no-push", *argv)
    found = of_cache.cache_places(values, of_result.destinations(values, needed=True))
    assert (None if found.target is None else str(found.target)) == target
    assert tuple(map(str, found.sources)) == sources and bool(found) is bool(sources)


def test_an_inline_cache_is_asked_for_by_flag_or_as_docker_has_it() -> None:
    for argv, wanted in (
        (["--inline-cache"], True),
        (["--build-arg=BUILDKIT_INLINE_CACHE=1"], True),
        (["--build-arg=BUILDKIT_INLINE_CACHE=0"], False),
    ):
        found = of_cache.cache_places(parse("--no-push", *argv), ())
        assert found.inline is wanted and bool(found) is wanted


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--no-push", "--cache"], FlagsContradict),
        (["--no-push", "--cache", "--cache-repo=oci:"], BadFlag),
        (["--no-push", "--cache-from=type=gha"], BadFlag),
        (["--no-push", "--cache-from=type=s3,ref=x"], BadFlag),
        (["--no-push", "--cache-from=R.io/X"], BadReference),
    ],
)
def test_a_cache_that_is_nowhere(argv: list[str], error: type[PybuildError]) -> None:
    with pytest.raises(error):
        of_cache.cache_places(parse(*argv), ())


@pytest.mark.parametrize(
    ("argv", "runs", "copies"),
    [
        ([], True, True),
        (["--cache-run-layers=false"], False, True),
        (["--cache-copy-layers=false"], True, False),
        (["--cache-copy-layers"], True, True),
    ],
)
def test_what_is_kept(argv: list[str], runs: bool, copies: bool) -> None:
    kept = of_cache.kept(parse(*argv))
    assert (kept.runs, kept.copies) == (runs, copies)


def test_a_look_up_has_little_patience() -> None:
    patient = of_registry.registry_options(parse())
    hurried = of_cache.hurried(patient)
    assert hurried.retry.tries < patient.retry.tries
    assert hurried.timeout_seconds < patient.timeout_seconds


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], CompressionOptions()),
        (["--compression-level=0"], CompressionOptions()),
        (["--compression=zstd", "--compression-level=19"],
         CompressionOptions(Compression.ZSTD, 19)),
        (["--compression-level=9"], CompressionOptions(Compression.GZIP, 9)),
    ],
)  # fmt: skip
def test_compression(argv: list[str], expected: CompressionOptions) -> None:
    assert of_result.compression(parse(*argv), None) == expected


def test_compression_level_out_of_range() -> None:
    for argv in (["--compression-level=10"], ["--compression=zstd", "--compression-level=23"]):
        with pytest.raises(BadFlag):
            of_result.compression(parse(*argv), None)


def test_one_time_for_everything() -> None:
    assert of_result.epoch(parse(), {}) is None
    assert of_result.epoch(parse("--reproducible"), {}) == 0
    assert of_result.epoch(parse("--reproducible"), {"SOURCE_DATE_EPOCH": "7"}) == 7
    assert (
        of_result.epoch(parse("--build-arg=SOURCE_DATE_EPOCH=8"), {"SOURCE_DATE_EPOCH": "7"}) == 8
    )
    assert of_result.compression(parse(), 0).reproducible
    with pytest.raises(BadFlag):
        of_result.epoch(parse(), {"SOURCE_DATE_EPOCH": "yesterday"})


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ("",)),
        (["--target="], ("",)),
        (["--target=a"], ("a",)),
        (["--target=a,b"], ("a", "b")),
        (["--target=b", "--target=a, b,,c"], ("b", "a", "c")),
    ],
)
def test_targets(argv: list[str], expected: tuple[str, ...]) -> None:
    assert of_source.targets(parse(*argv)) == expected


def test_ignored_paths() -> None:
    assert of_build.ignored_paths(parse()) == ()
    assert of_build.ignored_paths(parse("--ignore-var-run", "--ignore-path=/a")) == (
        "/a", "/var/run",
    )  # fmt: skip
    assert of_build.ignored_paths(parse(command=PLAN)) == ()


def test_the_time_for_a_snapshot() -> None:
    assert of_build.snapshot_seconds({}) is None
    assert of_build.snapshot_seconds({"SNAPSHOT_TIMEOUT_DURATION": "1h30m"}) == 5400
    with pytest.raises(BadFlag, match="SNAPSHOT_TIMEOUT_DURATION"):
        of_build.snapshot_seconds({"SNAPSHOT_TIMEOUT_DURATION": "90"})


def test_git_options(tmp_path: Path) -> None:
    import threading

    def git(*argv: str) -> object:
        return of_source.context_options(parse(*argv), tmp_path, {}, threading.Event()).git

    from pybuild.context.open import GitOptions

    assert git() == GitOptions()
    assert git("--git=branch=b", "--git=depth=0", "--git=recurse-submodules=true") == GitOptions(
        "b", recurse_submodules=True, depth=0
    )
    for text in ("colour=red", "depth=x", "recurse-submodules=maybe"):
        with pytest.raises(BadFlag):
            git(f"--git={text}")


def test_outputs(tmp_path: Path) -> None:
    found = outputs(parse(f"--tar-path={tmp_path}/i.tar", "--digest-file=d"), (), {})
    assert found.archive == tmp_path / "i.tar" and found.digest_file == Path("d")
    assert [str(tag) for tag in found.tags] == ["docker.io/unset-repo/unset-image-name:latest"]
    with pytest.raises(OutputFailed):
        outputs(parse(f"--tar-path={tmp_path}/none/i.tar"), (), {})
    address = "https://me:secret@x.example.com/y?signature=secret"
    url = outputs(parse(f"--digest-file={address}"), (), {}).digest_file
    assert isinstance(url, Url) and url.text == address
    assert str(url) == "https://x.example.com/y" and "secret" not in repr(url)
    with pytest.raises(BadFlag):
        outputs(parse("--digest-file=http://x/y"), (), {})
    found = outputs(parse(), (), {"BUILDER_OUTPUT": str(tmp_path)})
    assert found.images_file == tmp_path / "images"
    (tmp_path / "file").touch()
    with pytest.raises(OutputFailed, match="BUILDER_OUTPUT"):
        outputs(parse(), (), {"BUILDER_OUTPUT": str(tmp_path / "file")})


@pytest.mark.parametrize(
    ("argv", "family", "annotations"),
    [
        pytest.param((), None, (), id="the base's"),
        pytest.param(("--image-format=docker",), Family.DOCKER, (), id="docker"),
        pytest.param(("--image-format=oci",), Family.OCI, (), id="oci"),
        pytest.param(("--compression=zstd",), Family.OCI, (), id="zstd is in no other"),
        pytest.param(
            ("--annotation=b=2=3", "--annotation", "a=1"),
            Family.OCI,
            (("a", "1"), ("b", "2=3")),
            id="annotations are in no other",
        ),
    ],
)
def test_what_the_manifest_is(
    argv: tuple[str, ...], family: Family | None, annotations: tuple[tuple[str, str], ...]
) -> None:
    values = parse(*argv)
    assert of_result.family(values) is family
    assert of_result.image_annotations(values) == annotations


@pytest.mark.parametrize("flag", ["--compression=zstd", "--annotation=a=b"])
def test_docker_s_manifest_has_neither_zstd_nor_annotations(flag: str) -> None:
    with pytest.raises(FlagsContradict, match="image-format=docker"):
        of_result.family(parse(flag, "--image-format=docker"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("id=a,src={file}", b"in file\n", id="file"),
        pytest.param("source={file},id=a,type=file", b"in file\n", id="file by type"),
        pytest.param("id=a,env=TOKEN", b"in variable", id="variable"),
        pytest.param("id=a,type=env,src=TOKEN", b"in variable", id="source is a variable"),
        pytest.param("id=TOKEN", b"in variable", id="id is a variable"),
        pytest.param("id={file}", b"in file\n", id="id is a file"),
        pytest.param("id=TOKEN,type=env", b"in variable", id="id is a variable, by type"),
    ],
)
def test_secrets(tmp_path: Path, text: str, value: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"in file\n")
    values = parse("--secret=" + text.format(file=file))
    (secret,) = of_secrets.secrets(values, {"TOKEN": "in variable"}).values()
    assert secret.value == value
    assert "in " not in repr(secret)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("src=/x", "lacks its id"),
        ("hunter2", "a part that it does not know"),
        ("id=a,value=hunter2", "a part that it does not know"),
        ("id=a,env=NONE", "no variable NONE"),
        ("id=a,src=/no/such/hunter", "can't be read: No such file"),
        ("id=a", "can't be read"),
        ("id=a,src=/dev/zero", "larger than"),
        ("id=a,type=hunter", "can't have the type"),
    ],
)
def test_bad_secrets(text: str, message: str) -> None:
    with pytest.raises(BadFlag, match=message) as caught:
        of_secrets.secrets(parse(f"--secret={text}"), {})
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_the_last_secret_of_an_id_counts() -> None:
    values = parse("--secret=id=a,env=X", "--secret=id=a,env=Y")
    assert of_secrets.secrets(values, {"X": "1", "Y": "2"})["a"].value == b"2"
    assert of_secrets.secrets(parse(command=PLAN), {}) == {}
    planned = parse("--secret=id=a,env=X", command=PLAN)
    assert of_secrets.secrets(planned, {"X": "1"})["a"].value == b"1"


def test_where_caches_of_runs_are_kept(tmp_path: Path) -> None:
    fallback = tmp_path / "work"
    own = fallback / "pybuild-mounts"
    assert of_cache.mount_caches(parse(f"--cache-dir={tmp_path}/new"), fallback) == (
        tmp_path / "new/mounts"
    )
    assert of_cache.mount_caches(parse("--cache-dir=/dev/null"), fallback) == own
    there = Path("/cache").is_dir()  # kaniko's default, where it is mounted
    assert of_cache.mount_caches(parse(), fallback) == (Path("/cache/mounts") if there else own)


def test_folders_of_layers_are_known_before_the_root_is_taken_over(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "a/mine", tmp_path / "theirs"
    flags = (f"--cache-repo=oci:{mine}", f"--cache-from=oci:{theirs}", "--cache-from=r.io/x")
    assert of_cache.layer_folders(parse(*flags)) == (str(mine), str(theirs))
    assert not mine.exists()
    of_cache.layer_folders(parse("--cache", *flags))
    assert mine.is_dir() and not theirs.exists()


@pytest.mark.parametrize(
    ("argv", "place", "told"),
    [
        pytest.param(("--git=branch=b",), "https://h/r.git", 0, id="git"),
        pytest.param(("--git=branch=b",), "git://h/r", 0, id="kaniko's git"),
        pytest.param(("--git=branch=b",), "/folder", 1, id="a folder"),
        pytest.param(
            ("--git=branch=b",), "https://me:Secret@h/a.tar?sig=Secret", 1, id="an archive"
        ),
        pytest.param(("--context=/f", "--bucket=b"), "/f", 1, id="a bucket and a folder"),
        pytest.param(("--bucket=b",), "gs://b", 0, id="a bucket"),
        pytest.param((), "/folder", 0, id="neither"),
    ],
)
def test_flags_about_another_context_are_told_of(
    argv: tuple[str, ...], place: str, told: int
) -> None:
    notes = list(of_source.without_effect(parse(*argv), place))
    assert len(notes) == told and "Secret" not in " ".join(notes)
