"""Every flag of kaniko's `executor` and `warmer`, walked one by one.

The two tables were typed from kaniko's own help and documents, not from our table of flags: type,
default, spellings, environment, and values that each flag has to take or refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from _pytest.mark.structures import ParameterSet
from msgspec import Struct

from pybuild.cli.errors import BadFlag, UnexpectedArgument, UnknownFlag
from pybuild.cli.flags.flag import EXECUTOR, WARMER
from pybuild.cli.flags.table import flags_of, long_names, short_names
from pybuild.cli.parse import Values, parse_flags

SWITCH, TEXT, NUMBER, DURATION, MANY, PAIRS = "bool", "text", "int", "duration", "many", "pairs"


class Known(Struct, frozen=True):
    """A flag as kaniko has it. `default` is kaniko's; `ours` what is done here on purpose where
    that differs. `good` and `bad` are values besides those that the type says."""

    name: str
    type: str
    default: str = ""
    short: str = ""
    old: str = ""
    variable: str = ""
    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    ours: str = ""
    told: str = ""  # a value that changes nothing here, and is told of


# fmt: off
EXECUTOR_FLAGS = (
    Known("dockerfile", TEXT, "Dockerfile", short="f"),
    Known("context", TEXT, "/workspace/", short="c", good=("dir:///w", "git://h/r.git#refs/heads/x")),
    Known("context-sub-path", TEXT),
    Known("bucket", TEXT, short="b"),
    Known("destination", MANY, short="d", good=("gcr.io/p/i:t", "localhost:5000/a")),
    Known("no-push", SWITCH, variable="KANIKO_NO_PUSH"),
    Known("no-push-cache", SWITCH),
    Known("tar-path", TEXT, old="tarPath"),
    Known("oci-layout-path", TEXT),
    Known("digest-file", TEXT),
    Known("image-name-with-digest-file", TEXT),
    Known("image-name-tag-with-digest-file", TEXT),
    Known("target", MANY, good=("a,b",)),
    Known("build-arg", MANY, good=("A=b=c", "A=", "HOME", "A=b,c")),
    Known("label", MANY, good=("a=b",)),
    Known("annotation", PAIRS),
    Known("secret", MANY, good=("id=a,src=/f", "id=a,env=B", "id=a,type=env")),
    Known("custom-platform", TEXT, old="customPlatform", good=("linux/arm64", "linux/arm/v7")),
    Known("snapshot-mode", TEXT, "full", old="snapshotMode", good=("full", "redo", "time"),
          bad=("fast", ""), told="redo"),
    Known("single-snapshot", SWITCH),
    Known("use-new-run", SWITCH, told="true"),
    Known("cache", SWITCH),
    Known("cache-repo", TEXT, good=("oci:/x", "r.io/c")),
    Known("cache-dir", TEXT, "/cache"),
    Known("cache-ttl", DURATION, "336h", good=("6h", "1h30m", "0s"), bad=("5", "a day")),
    Known("cache-copy-layers", SWITCH),
    Known("cache-run-layers", SWITCH, "true"),
    Known("compressed-caching", SWITCH, "true", told="true"),
    Known("compression", TEXT, "gzip", good=("gzip", "zstd"), bad=("lz4",)),
    Known("compression-level", NUMBER, "-1", good=("9",)),
    Known("image-format", TEXT, good=("docker", "oci"), bad=("rar",)),
    Known("reproducible", SWITCH),
    Known("force", SWITCH),
    Known("cleanup", SWITCH, variable="KANIKO_CLEANUP", told="true"),
    Known("pre-cleanup", SWITCH, variable="KANIKO_PRE_CLEANUP", told="true"),
    Known("preserve-context", SWITCH, variable="KANIKO_PRESERVE_CONTEXT", told="true"),
    Known("materialize", SWITCH),
    Known("dryrun", SWITCH),
    Known("ignore-path", MANY, good=("/var/cache/*",)),
    # Docker keeps /var/run, and who does not ask for kaniko's way gets Docker's.
    Known("ignore-var-run", SWITCH, "true", old="whitelist-var-run", ours="false"),
    Known("image-fs-extract-retry", NUMBER, "0"),
    Known("image-download-retry", NUMBER, "0"),
    Known("push-retry", NUMBER, "0"),
    Known("push-ignore-immutable-tag-errors", SWITCH),
    Known("skip-push-permission-check", SWITCH),
    Known("insecure", SWITCH),
    Known("insecure-pull", SWITCH),
    Known("insecure-registry", MANY, good=("r:5000",)),
    Known("skip-tls-verify", SWITCH),
    Known("skip-tls-verify-pull", SWITCH),
    Known("skip-tls-verify-registry", MANY, good=("r:5000",)),
    Known("registry-certificate", PAIRS, good=("my.registry=/ca.crt",)),
    Known("registry-client-cert", PAIRS, good=("my.registry=/cert,/key",)),
    Known("registry-map", MANY, variable="KANIKO_REGISTRY_MAP", good=("a=b/c;d=e",)),
    Known("registry-mirror", MANY, variable="KANIKO_REGISTRY_MIRROR", good=("m.io/prefix",)),
    Known("skip-default-registry-fallback", SWITCH),
    Known("credential-helpers", MANY, good=("env", "google", "ecr", "acr", "gitlab", "")),
    Known("git", PAIRS, good=("branch=main", "single-branch=true", "recurse-submodules=true",
                              "insecure-skip-tls=true", "depth=1")),
    Known("kaniko-dir", TEXT, variable="KANIKO_DIR"),
    Known("force-build-metadata", SWITCH, told="true"),
    Known("skip-unused-stages", SWITCH, told="false"),
    Known("verbosity", TEXT, "info", short="v", bad=("loud",),
          good=("trace", "debug", "info", "warn", "error", "fatal", "panic", "INFO")),
    # Colours on a terminal, none in a file: kaniko's default writes escapes into CI logs.
    Known("log-format", TEXT, "color", good=("text", "color", "json"), bad=("xml",), ours="auto"),
    Known("log-timestamp", SWITCH),
)
WARMER_FLAGS = (
    Known("image", MANY, short="i", good=("debian:12", "debian@sha256:" + "0" * 64)),
    Known("dockerfile", TEXT, short="d"),
    Known("build-arg", MANY, good=("A=b",)),
    Known("cache-dir", TEXT, "/cache", short="c"),
    Known("force", SWITCH, short="f"),
    Known("cache-ttl", DURATION, "336h", bad=("5",)),
    Known("customPlatform", TEXT, good=("linux/arm64",)),
    Known("insecure-pull", SWITCH),
    Known("skip-tls-verify-pull", SWITCH),
    Known("insecure-registry", MANY),
    Known("skip-tls-verify-registry", MANY),
    Known("registry-certificate", PAIRS, good=("my.registry=/ca.crt",)),
    Known("registry-client-cert", PAIRS, good=("my.registry=/cert,/key",)),
    Known("registry-map", MANY, variable="KANIKO_REGISTRY_MAP", good=("a=b",)),
    Known("registry-mirror", MANY, variable="KANIKO_REGISTRY_MIRROR"),
    Known("skip-default-registry-fallback", SWITCH),
    Known("verbosity", TEXT, "info", short="v", good=("debug",), bad=("loud",)),
    Known("log-format", TEXT, "color", good=("text", "color", "json"), bad=("xml",), ours="auto"),
    Known("log-timestamp", SWITCH),
)
# fmt: on
TABLES = {EXECUTOR: EXECUTOR_FLAGS, WARMER: WARMER_FLAGS}


def rows(wanted: Callable[[Known], bool] = lambda _: True) -> list[ParameterSet]:
    return [
        pytest.param(command, known, id=f"{command} --{known.name}")
        for command, table in TABLES.items()
        for known in table
        if wanted(known)
    ]


EXAMPLES = {
    SWITCH: ("true", "false", "1", "0", "t", "F", "TRUE"),
    TEXT: (),
    NUMBER: ("0", "3", "12"),
    DURATION: ("30m", "336h"),
    MANY: ("one",),
    PAIRS: ("key=value",),
}
REFUSED = {
    SWITCH: ("yes", "2", ""),
    NUMBER: ("many", "1.5", ""),
    DURATION: ("5", ""),
    PAIRS: ("no-equals-sign",),
}


def canonical(known: Known, command: str) -> str:
    """Our name of the flag: kaniko's, of two spellings one."""
    flag = next(f for f in flags_of(command) if known.name in long_names(f, command))
    return flag.name


def as_kept(known: Known, value: str) -> str:
    if known.type == SWITCH:
        return "true" if value in ("1", "t", "T", "true", "TRUE", "True") else "false"
    return value.lower() if known.name == "verbosity" else value


def parse(command: str, *argv: str, **environment: str) -> Values:
    return parse_flags(command, argv, environment)


def examples(known: Known) -> tuple[str, ...]:
    free = known.type == TEXT and not known.bad
    return (*EXAMPLES[known.type], *(("some/text",) if free else ()), *known.good)


@pytest.mark.parametrize(("command", "known"), rows())
def test_what_a_flag_takes(command: str, known: Known) -> None:
    name = canonical(known, command)
    for value in examples(known):
        expected = (as_kept(known, value),)
        spellings = [f"--{known.name}", *([f"--{known.old}"] if known.old else [])]
        for spelling in spellings:
            assert parse(command, f"{spelling}={value}").many(name) == expected
            if known.type != SWITCH:
                assert parse(command, spelling, value).many(name) == expected
        if known.short:
            assert parse(command, f"-{known.short}={value}").many(name) == expected
        if known.short and known.type != SWITCH:
            assert parse(command, f"-{known.short}", value).many(name) == expected
    if known.type == SWITCH:
        assert parse(command, f"--{known.name}").many(name) == ("true",)


@pytest.mark.parametrize(("command", "known"), rows())
def test_what_a_flag_refuses(command: str, known: Known) -> None:
    for value in (*REFUSED.get(known.type, ()), *known.bad):
        with pytest.raises(BadFlag) as caught:
            parse(command, f"--{known.name}={value}")
        assert f"--{known.name} can't be {value!r}" in caught.value.message and caught.value.hint
    if known.type == SWITCH:
        with pytest.raises(UnexpectedArgument) as stray:
            parse(command, f"--{known.name}", "true")
        assert f"={'true'}" in stray.value.hint
        return
    with pytest.raises(BadFlag, match="lacks its value"):
        parse(command, f"--{known.name}")
    with pytest.raises(UnknownFlag) as one_word:
        parse(command, f"--{known.name} host=/file")
    assert "one argument that holds a blank" in one_word.value.message
    assert f"--{known.name}=host=/file" in one_word.value.hint


@pytest.mark.parametrize(("command", "known"), rows())
def test_the_default(command: str, known: Known) -> None:
    values = parse(command)
    expected = known.ours or known.default or ("false" if known.type == SWITCH else "")
    assert values.text(canonical(known, command)) == expected
    assert values.given == frozenset() and values.notes == ()


@pytest.mark.parametrize(("command", "known"), rows())
def test_how_often_it_may_be_given(command: str, known: Known) -> None:
    first, last = (*examples(known), *examples(known))[:2]
    found = parse(command, f"--{known.name}={first}", f"--{known.name}={last}")
    kept = (as_kept(known, first), as_kept(known, last))
    name = canonical(known, command)
    if known.type in (MANY, PAIRS):
        assert found.many(name) == kept
    else:
        assert found.text(name) == kept[-1]


@pytest.mark.parametrize(("command", "known"), rows(lambda known: bool(known.variable)))
def test_the_environment(command: str, known: Known) -> None:
    value, other = ("true", "false") if known.type == SWITCH else ("a=1", "b=2")
    name = canonical(known, command)
    given = parse(command, **{known.variable: value})
    assert given.many(name) == (value,) and name in given.given
    assert parse(command, **{known.variable: ""}).given == frozenset()
    both = parse(command, f"--{known.name}={other}", **{known.variable: value}).many(name)
    if known.type == MANY:
        assert both == (other, value)
    else:  # only KANIKO_NO_PUSH overrides its flag
        assert both == (value if known.name == "no-push" else other,)
    if known.type == SWITCH:
        with pytest.raises(BadFlag, match=known.variable):
            parse(command, **{known.variable: "maybe"})


@pytest.mark.parametrize(("command", "known"), rows(lambda known: bool(known.told)))
def test_a_flag_that_changes_nothing_says_so_in_one_line(command: str, known: Known) -> None:
    (note,) = parse(command, f"--{known.name}={known.told}").notes
    assert re.fullmatch(rf"--{known.name}(=\w+)? changes nothing here: \w.{{10,100}}", note)


@pytest.mark.parametrize("command", [EXECUTOR, WARMER])
def test_there_are_no_flags_but_kanikos_and_those_marked_as_ours(command: str) -> None:
    table = TABLES[command]
    names = {name for known in table for name in (known.name, known.old) if name}
    known = {name for flag in flags_of(command) for name in long_names(flag, command)}
    ours = {flag.name for flag in flags_of(command) if not flag.kaniko}
    assert known - names - ours <= {"custom-platform"}  # the warmer's customPlatform, as here
    shorts = {name for flag in flags_of(command) for name in short_names(flag, command)}
    assert shorts == {known.short for known in table if known.short}


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("FF_KANIKO_COPY_AS_ROOT", "1", ""),
        ("FF_KANIKO_COPY_AS_ROOT", "false", "=false changes nothing here: what it turns off"),
        ("FF_KANIKO_SQUASH_STAGES", "0", "=0 changes nothing here"),
        ("FF_KANIKO_OCI_SCRATCH_BASE", "0", ""),
        ("FF_KANIKO_OCI_SCRATCH_BASE", "True", "--image-format=oci"),
        ("FF_KANIKO_NO_SUCH_SWITCH", "1", "is not known"),
        ("FF_KANIKO_COPY_AS_ROOT", "nonsense", ""),  # kaniko takes its default then
        ("KANIKO_TELEMETRY_ENDPOINT", "https://x", "nothing is ever sent"),
        ("KANIKO_TELEMETRY_ENDPOINT", "", ""),
        ("KANIKO_TELEMETRY_OMIT_DOCKERFILE", "1", "nothing is ever sent"),
        ("KANIKO_IGNORE_ASSERTIONS", "1", "always ends the build"),
        ("BENCHMARK_FILE", "/b.json", "--log-format=json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://x", ""),
    ],
)
@pytest.mark.parametrize("command", [EXECUTOR, WARMER])
def test_variables_that_change_nothing(
    command: str, variable: str, value: str, expected: str
) -> None:
    notes = parse(command, **{variable: value}).notes
    assert len(notes) == (1 if expected else 0)
    assert not expected or (notes[0].startswith(variable) and expected in notes[0])
