"""argv to values, in the forms kaniko's users write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.cli.errors import BadFlag, UnexpectedArgument, UnknownFlag
from pybuild.cli.flags.flag import BUILD, EXECUTOR, PLAN, WARMER
from pybuild.cli.flags.table import flags_of, long_names, short_names
from pybuild.cli.parse import Values, parse_duration, parse_flags
from pybuild.errors import PybuildError


def parse(*argv: str, command: str = EXECUTOR, **environment: str) -> Values:
    return parse_flags(command, argv, environment, positionals=1 if command == BUILD else 0)


@pytest.mark.parametrize(
    ("argv", "name", "expected"),
    [
        pytest.param(["--dockerfile=D"], "dockerfile", ("D",), id="equals"),
        pytest.param(["--dockerfile", "D"], "dockerfile", ("D",), id="blank"),
        pytest.param(["-f", "D"], "dockerfile", ("D",), id="short"),
        pytest.param(["-fD"], "dockerfile", ("D",), id="short, joined"),
        pytest.param(["-f=D"], "dockerfile", ("D",), id="short, equals"),
        pytest.param(["--dockerfile=a=b"], "dockerfile", ("a=b",), id="equals in the value"),
        pytest.param(
            ["--dockerfile", "-x"], "dockerfile", ("-x",), id="a value that starts with -"
        ),
        pytest.param(["--dockerfile="], "dockerfile", ("",), id="empty"),
        pytest.param(["-f", "A", "-f", "B"], "dockerfile", ("A", "B"), id="the last one counts"),
        pytest.param([], "dockerfile", ("Dockerfile",), id="default"),
        pytest.param(["-d", "a", "-d", "b"], "destination", ("a", "b"), id="repeatable"),
        pytest.param([], "destination", (), id="repeatable, none"),
        pytest.param(["--build-arg", "A=b,c"], "build-arg", ("A=b,c",), id="commas do not part"),
        pytest.param(["--tarPath=x"], "tar-path", ("x",), id="kaniko's old name"),
        pytest.param(["--cache"], "cache", ("true",), id="boolean, bare"),
        pytest.param(["--cache=T"], "cache", ("true",), id="boolean, Go's word"),
        pytest.param(["--cache=0"], "cache", ("false",), id="boolean, off"),
        pytest.param(["--cache", "--force"], "cache", ("true",), id="boolean before a flag"),
    ],
)
def test_forms(argv: list[str], name: str, expected: tuple[str, ...]) -> None:
    assert parse(*argv).many(name) == expected


def test_typed_values() -> None:
    values = parse(
        "--cache", "--push-retry=3", "--cache-ttl=1h30m", "--git", "branch=x", "--git=depth=0"
    )
    assert values.switch("cache") and not values.switch("insecure")
    assert values.number("push-retry") == 3 and values.seconds("cache-ttl") == 5400
    assert values.pairs("git") == {"branch": "x", "depth": "0"}
    assert values.text("target") == "" and "target" not in values.given


@pytest.mark.parametrize(
    ("argv", "error", "message", "hint"),
    [
        pytest.param(["--cache", "true"], UnexpectedArgument, "'true' after --cache",
                     "--cache=true", id="the --cache true mistake"),
        pytest.param(["-f", "D", "false"], UnexpectedArgument, "'false'", "needs its flag",
                     id="a word that belongs to nothing"),
        pytest.param(["--registry-certificate host=/f"], UnknownFlag, "one argument that holds",
                     "--registry-certificate=host=/f", id="a YAML item with a blank"),
        pytest.param(["--destnation=x"], UnknownFlag, "--destnation", "--destination", id="typo"),
        pytest.param(["--xyzzy"], UnknownFlag, "--xyzzy", "--help", id="unknown"),
        pytest.param(["-x"], UnknownFlag, "-x", "--help", id="unknown, short"),
        pytest.param(["--dockerfile"], BadFlag, "lacks its value", "--dockerfile=", id="no value"),
        pytest.param(["--cache=yes"], BadFlag, "--cache can't be 'yes'", "true or", id="bool"),
        pytest.param(["--push-retry=x"], BadFlag, "'x'", "number", id="number"),
        pytest.param(["--push-retry=²"], BadFlag, "'²'", "number", id="no ASCII digit"),
        pytest.param(["--compression=lz4"], BadFlag, "'lz4'", "gzip, zstd", id="choice"),
        pytest.param(["--log-format=xml"], BadFlag, "'xml'", "json", id="log format"),
        pytest.param(["--cache-ttl=5"], BadFlag, "'5'", "unit", id="duration without unit"),
        pytest.param(["--registry-certificate=x"], BadFlag, "'x'", "HOST=FILE", id="pair"),
        pytest.param(["--snapshot-mode=fast"], BadFlag, "'fast'", "full, redo, time", id="mode"),
    ],
)  # fmt: skip
def test_mistakes(argv: list[str], error: type[PybuildError], message: str, hint: str) -> None:
    with pytest.raises(error) as caught:
        parse(*argv)
    assert message in caught.value.message and hint in caught.value.hint


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(BadFlag, match="KANIKO_NO_PUSH"):
        parse(KANIKO_NO_PUSH="maybe")


def test_a_variable_that_overrides_its_flag_is_told_of() -> None:
    (note,) = parse("--no-push", KANIKO_NO_PUSH="false").notes
    assert note == "the variable KANIKO_NO_PUSH says --no-push=false"
    assert parse("--kaniko-dir=/a", KANIKO_DIR="/b").notes == ()


def test_the_environment() -> None:
    assert parse("--no-push=false", KANIKO_NO_PUSH="true").switch("no-push")  # kaniko's order
    assert parse("--kaniko-dir=/a", KANIKO_DIR="/b").text("kaniko-dir") == "/a"
    assert parse(KANIKO_DIR="/b").text("kaniko-dir") == "/b"
    mirrors = parse("--registry-mirror=a", KANIKO_REGISTRY_MIRROR="b").many("registry-mirror")
    assert mirrors == ("a", "b")
    (note,) = parse(KANIKO_PRE_CLEANUP="1").notes
    assert note.startswith("--pre-cleanup changes nothing here: ")


def test_flags_without_effect_are_told_of() -> None:
    values = parse("--cleanup", "--use-new-run", "--snapshot-mode=redo", "--reproducible=false")
    assert len(values.notes) == 3
    assert any("--cleanup changes nothing here: everything is always put back" in note
               for note in values.notes)  # fmt: skip
    assert parse("--cleanup=false", "--snapshot-mode=full", "--skip-unused-stages").notes == ()


def test_our_own_commands_know_dockers_names() -> None:
    values = parse("ctx", "-t", "a", "--tag=b", "--file=D", "--platform=linux/arm64", command=BUILD)
    assert values.many("destination") == ("a", "b") and values.positional == ("ctx",)
    assert values.text("dockerfile") == "D" and values.text("custom-platform") == "linux/arm64"
    assert values.text("context") == "." and parse().text("context") == "/workspace/"
    for argv in (["--tag=b"], ["--file=D"], ["-t", "x"]):
        with pytest.raises(UnknownFlag):
            parse(*argv)


def test_two_dashes_end_the_flags() -> None:
    assert parse("--cache", "--", "--odd", command=BUILD).positional == ("--odd",)
    with pytest.raises(UnexpectedArgument):
        parse("a", "b", command=BUILD)


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--cache", "--help", "--nonsense"]])
def test_help(argv: list[str]) -> None:
    assert parse(*argv).help


@pytest.mark.parametrize("command", [EXECUTOR, WARMER, BUILD, PLAN])
def test_no_name_is_there_twice(command: str) -> None:
    flags = flags_of(command)
    long = [name for flag in flags for name in long_names(flag, command)]
    short = [name for flag in flags for name in short_names(flag, command)]
    assert len(long) == len(set(long)) and len(short) == len(set(short))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("336h", 1_209_600), ("1h30m", 5400), ("1.5s", 1.5), ("300ms", 0.3), ("0", 0), ("-2m", -120)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_whatever_is_typed_is_read_or_refused_by_name(argv: list[str]) -> None:
    try:
        parse(*argv)
    except PybuildError as error:
        assert error.message and error.code != "error"
