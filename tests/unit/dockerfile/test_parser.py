from __future__ import annotations

import pytest

from pybuild.dockerfile.errors import DockerfileError
from pybuild.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    ShellForm,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from pybuild.dockerfile.parser import parse, parse_nodes, parse_trigger
from pybuild.errors import PybuildError, Source

PLACE = Source("Dockerfile", 2, 2, "")
SECOND = 1_000_000_000


def placed(text: str) -> Source:
    return Source("Dockerfile", 2, 1 + len(text.split("\n")), text)


def only(text: str) -> Instruction:
    (instruction,) = parse("FROM scratch\n" + text).stages[0].instructions
    return instruction


SIMPLE = [
    ("ARG A", lambda s: Arg((("A", None),), s)),
    ('ARG A=1 B="2 3" C', lambda s: Arg((("A", "1"), ("B", '"2 3"'), ("C", None)), s)),
    ("ENV A=1 B='2 3'", lambda s: Env((("A", "1"), ("B", "'2 3'")), s)),
    ("ENV A  b  c", lambda s: Env((("A", "b  c"),), s)),
    ("ENV A='a\\' B=a\\ b", lambda s: Env((("A", "'a\\'"), ("B", "a\\ b")), s)),
    ("LABEL a.b=c", lambda s: Label((("a.b", "c"),), s)),
    ("MAINTAINER A B <a@b>", lambda s: Maintainer("A B <a@b>", s)),
    ("WORKDIR /a b", lambda s: Workdir("/a b", s)),
    ("USER a:b", lambda s: User("a:b", s)),
    ("EXPOSE 80 8000-8010/udp", lambda s: Expose(("80", "8000-8010/udp"), s)),
    ('VOLUME ["/a b", "/c"]', lambda s: Volume(("/a b", "/c"), s)),
    ("VOLUME /a /b", lambda s: Volume(("/a", "/b"), s)),
    ("STOPSIGNAL SIGTERM", lambda s: Stopsignal("SIGTERM", s)),
    ('SHELL ["/bin/bash", "-c"]', lambda s: Shell(("/bin/bash", "-c"), s)),
    ("CMD a b", lambda s: Cmd(ShellForm("a b"), s)),
    ("CMD []", lambda s: Cmd(ExecForm(()), s)),
    ('ENTRYPOINT ["a", "b c"]', lambda s: Entrypoint(ExecForm(("a", "b c")), s)),
    ("entrypoint exec a", lambda s: Entrypoint(ShellForm("exec a"), s)),
    ("HEALTHCHECK NONE", lambda s: Healthcheck(("NONE",), 0, 0, 0, 0, 0, s)),
    ("healthcheck cmd a  b", lambda s: Healthcheck(("CMD-SHELL", "a  b"), 0, 0, 0, 0, 0, s)),
    (
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=2s --start-interval=1ms"
        ' --retries=3 CMD ["a", "b"]',
        lambda s: Healthcheck(
            ("CMD", "a", "b"), 90 * SECOND, 3 * SECOND // 2, 2 * SECOND, 1_000_000, 3, s
        ),
    ),
]


@pytest.mark.parametrize(("text", "expected"), SIMPLE, ids=[text for text, _ in SIMPLE])
def test_instruction(text: str, expected: object) -> None:
    assert only(text) == expected(placed(text))  # type: ignore[operator]


def test_copy_takes_all_its_flags() -> None:
    text = (
        "COPY --from=build --chown=a:b --chmod=u+x,go-w --link --parents "
        "--exclude=*.md --exclude=**/t a b /c/"
    )
    assert only(text) == Copy(
        sources=("a", "b"),
        destination="/c/",
        heredocs=(),
        from_="build",
        chown="a:b",
        chmod="u+x,go-w",
        link=True,
        parents=True,
        exclude=("*.md", "**/t"),
        source=placed(text),
    )


def test_add_takes_all_its_flags() -> None:
    text = (
        "ADD --chown=1 --chmod=755 --link=false --keep-git-dir=true --checksum=sha256:x "
        '--exclude=a --unpack=false ["a b", "/c"]'
    )
    assert only(text) == Add(
        sources=("a b",),
        destination="/c",
        heredocs=(),
        chown="1",
        chmod="755",
        link=False,
        keep_git_dir=True,
        checksum="sha256:x",
        exclude=("a",),
        unpack=False,
        source=placed(text),
    )
    add = only("ADD a b")
    assert isinstance(add, Add)
    assert add.unpack is None


def test_run_takes_all_its_flags() -> None:
    run = only(
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=s --network=none "
        "--security=insecure --device=nvidia.com/gpu=all -- --x y"
    )
    assert isinstance(run, Run)
    assert [mount.type for mount in run.mounts] == ["cache", "secret"]
    assert (run.network, run.security, run.devices) == ("none", "insecure", ("nvidia.com/gpu=all",))
    assert run.command == ShellForm("--x y")


RUN_FORMS = [
    ("RUN a", "a", None),
    ("RUN a \\\n  && b", "a   && b", None),
    ("RUN <<EOF\na\nb\nEOF", "a\nb\n", None),
    ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF", "a\nb\n", None),
    ("RUN <<EOF\n\tEOF\nEOF", "\tEOF\n", None),
    ("RUN a \\\n  # c\n b", "a  b", None),
    ("RUN <<EOF\n#!/bin/p\nb\nEOF", "#!/bin/p\nb\n", "#!/bin/p\nb\n"),
    ("RUN python <<EOF\n#!x\nEOF", "python <<EOF\n#!x\nEOF", None),
    ("RUN <<A cat; <<B cat\n1\nA\n2\nB", "<<A cat; <<B cat\n1\nA\n2\nB", None),
    ("RUN cat <<-'X' > /f\n\t$a\n\tX", "cat <<-'X' > /f\n\t$a\nX", None),
    ('RUN ["<<EOF"]', "", None),
    ("RUN cat <<< word", "cat <<< word", None),
]


@pytest.mark.parametrize(("text", "script", "program"), RUN_FORMS, ids=[r[0] for r in RUN_FORMS])
def test_what_a_run_gives_to_the_shell(text: str, script: str, program: str | None) -> None:
    run = only(text)
    assert isinstance(run, Run)
    assert run.script == script
    assert (run.program.data if run.program else None) == program


def test_copied_heredocs_are_told_from_paths() -> None:
    copy = only("COPY <<-A b <<'C' /d/\n\t1\n\tA\n$2\nC")
    assert isinstance(copy, Copy)
    found = [(doc.name, doc.data, doc.expand) for doc in copy.heredocs]
    assert (copy.sources, found) == (("b",), [("A", "1\n", True), ("C", "$2\n", False)])


def test_stages_and_arguments_before_them() -> None:
    found = parse("ARG V=1\nFROM --platform=$P a:$V AS Build-1.x\nRUN a\nFROM Build-1.x\nARG V\n")
    assert [arg.pairs for arg in found.meta_args] == [(("V", "1"),)]
    assert [(s.index, s.name, s.origin.image, s.origin.platform) for s in found.stages] == [
        (0, "build-1.x", "a:$V", "$P"),
        (1, "", "Build-1.x", ""),
    ]
    assert [len(stage.instructions) for stage in found.stages] == [1, 1]


def test_directives_are_kept() -> None:
    found = parse("# Syntax=docker/dockerfile:1\n# escape=`\n# check=skip=all\nFROM a\nRUN a `\n b")
    assert found.directives == {
        "syntax": "docker/dockerfile:1",
        "escape": "`",
        "check": "skip=all",
    }
    assert found.escape == "`"
    run = found.stages[0].instructions[0]
    assert isinstance(run, Run)
    assert run.script == "a  b"


def test_a_directive_after_a_comment_is_a_comment() -> None:
    assert parse("# made by hand\n# escape=`\nFROM a").escape == "\\"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        pytest.param("FROM a AS b\nFROM c AS B", ["duplicate-stage-name"], id="twice"),
        pytest.param("FROM a AS context", ["reserved-stage-name"], id="reserved"),
        pytest.param("FROM a\nRUN a \\\n\n b", ["no-empty-continuation"], id="empty line"),
        pytest.param("FROM a\nRUN a \\\n# c\n b", [], id="comment"),
        pytest.param("FROM a\nCMD [\"a\", 'b']", ["malformed-json"], id="single quote"),
        pytest.param("FROM a\nCMD [ 'a', 'b' ]", ["malformed-json"], id="single quotes, blank"),
        pytest.param('FROM a\nENTRYPOINT ["a", "b"', ["malformed-json"], id="not closed"),
        pytest.param('FROM a\nRUN ["a", "b",]', ["malformed-json"], id="comma at the end"),
        pytest.param("FROM a\nCMD [node, a.js]", ["malformed-json"], id="no quotes"),
        pytest.param("FROM a\nONBUILD CMD ['a']", ["malformed-json"], id="trigger"),
        pytest.param("FROM a\nHEALTHCHECK CMD ['a']", ["malformed-json"], id="health"),
        pytest.param('FROM a\nCMD ["a", "b"]', [], id="an array"),
        pytest.param('FROM a\nRUN [ "$A" ] && b, c', [], id="a test of a string"),
        pytest.param("FROM a\nRUN [ -f a ] || [[ b, == c ]]", [], id="a test of a file"),
        pytest.param("FROM a\nRUN [[ a, == b ]]", [], id="a test of bash"),
    ],
)
def test_warnings(text: str, rules: list[str]) -> None:
    assert [lint.rule for lint in parse(text).warnings] == rules


def test_an_escaped_escape_continues_nothing() -> None:
    first, second = parse("FROM a\nWORKDIR C:\\\\\nUSER b").stages[0].instructions
    assert isinstance(first, Workdir)
    assert isinstance(second, User)
    assert (first.path, second.user) == ("C:\\\\", "b")


def test_byte_order_mark_and_carriage_returns() -> None:
    found = parse("\ufeff# escape=`\r\nFROM a\r\nRUN b `\r\n  c\r\nCOPY <<E /d\r\nx\r\nE\r\n")
    run, copy = found.stages[0].instructions
    assert isinstance(run, Run)
    assert isinstance(copy, Copy)
    assert (found.escape, run.script) == ("`", "b   c")
    assert [(doc.name, doc.data) for doc in copy.heredocs] == [("E", "x\r\n")]


def test_onbuild_keeps_its_text_and_reads_it() -> None:
    onbuild = only("onbuild  RUN cat <<EOF >/x \\\n --y\na\nEOF")
    assert isinstance(onbuild, Onbuild)
    assert onbuild.text == "RUN cat <<EOF >/x  --y\na\nEOF"
    assert isinstance(onbuild.instruction, Run)
    assert onbuild.instruction.script == onbuild.text.removeprefix("RUN ")
    assert parse_trigger(onbuild.text, onbuild.source) == onbuild.instruction


def test_a_trigger_is_blamed_on_the_from_that_brought_it() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_trigger("COPY a", PLACE)
    assert caught.value.source == PLACE


@pytest.mark.parametrize("text", ["FROM a", "ONBUILD RUN a", "MAINTAINER a", "RUN a\nRUN b", "FOO"])
def test_refused_triggers(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse_trigger(text, PLACE)


# text below "FROM scratch", code, part of the message, part of the hint
ERRORS = [
    ("RUM a", "unknown-instruction", "RUM", "RUN"),
    ("FRM a", "unknown-instruction", "FRM", "FROM"),
    ("COPY --form=x a b", "unknown-flag", "--form", "--from"),
    ("ADD --from=x a b", "unknown-flag", "ADD", "COPY"),
    ("COPY --checksum=x a b", "unknown-flag", "COPY", "ADD"),
    ("ENV --x A=b", "unknown-flag", "ENV", "takes no flags"),
    ("CMD --x", "unknown-flag", "CMD", "--"),
    ("FROM --platfrom=x a", "unknown-flag", "--platfrom", "--platform"),
    ("COPY --from a b", "bad-flag", "--from", "--from="),
    ("COPY --from=a --from=b a b", "bad-flag", "twice", ""),
    ("COPY --link=1 a b", "bad-flag", "true or false", ""),
    ("COPY --link= a b", "bad-flag", "missing a value", ""),
    ("RUN --network=bridge a", "bad-flag", "bridge", "host"),
    ("RUN --security= a", "bad-flag", "security", "sandbox"),
    ("HEALTHCHECK --interval=5 CMD a", "bad-flag", "--interval=5", "30s"),
    ("HEALTHCHECK --timeout=999us CMD a", "bad-flag", "1ms", ""),
    ("HEALTHCHECK --timeout=-1s CMD a", "bad-flag", "1ms", ""),
    ("HEALTHCHECK --retries=-1 CMD a", "bad-flag", "-1", ""),
    ("HEALTHCHECK --retries=1_0 CMD a", "bad-flag", "1_0", ""),
    ("HEALTHCHECK --retries=2147483648 CMD a", "bad-flag", "2147483648", ""),
    ("HEALTHCHECK", "wrong-arguments", "at least one", ""),
    ("HEALTHCHECK CMD", "wrong-arguments", "missing command", ""),
    ("HEALTHCHECK NONE a", "wrong-arguments", "no arguments", ""),
    ("HEALTHCHECK TCP 7000", "wrong-arguments", "TCP", "CMD"),
    ("COPY a", "wrong-arguments", "at least two", "destination"),
    ("RUN", "wrong-arguments", "RUN", ""),
    ("RUN []", "wrong-arguments", "RUN", ""),
    ("USER", "wrong-arguments", "exactly one", ""),
    ("STOPSIGNAL", "wrong-arguments", "exactly one", ""),
    ("MAINTAINER", "wrong-arguments", "exactly one", ""),
    ("ARG", "wrong-arguments", "at least one", ""),
    ("ARG =1", "wrong-arguments", "blank", ""),
    ("ENV =1", "wrong-arguments", "blank", ""),
    ("LABEL", "wrong-arguments", "LABEL", ""),
    ('VOLUME ["/a", " "]', "wrong-arguments", "empty", ""),
    ("SHELL /bin/bash -c", "wrong-arguments", "JSON", "SHELL ["),
    ("SHELL []", "wrong-arguments", "SHELL", ""),
    ("FROM a b", "wrong-arguments", "one or three", "AS"),
    ("FROM", "wrong-arguments", "one or three", ""),
    ("FROM a IS b", "wrong-arguments", "one or three", ""),
    ("FROM a AS 1b", "bad-stage-name", "1b", "letter"),
    ("FROM a AS b/c", "bad-stage-name", "b/c", ""),
    ("ENV A", "dockerfile-syntax", "two arguments", "A=value"),
    ("ENV A=1 b", "dockerfile-syntax", "'b'", "quote"),
    ("CMD [1]", "dockerfile-syntax", "strings", "quote"),
    ("ONBUILD", "wrong-arguments", "ONBUILD", ""),
    ("ONBUILD ONBUILD RUN a", "bad-trigger", "ONBUILD", ""),
    ("ONBUILD from a", "bad-trigger", "FROM", ""),
    ("ONBUILD MAINTAINER a", "bad-trigger", "MAINTAINER", ""),
    ("ONBUILD COPY --x a b", "unknown-flag", "COPY", ""),
    ("RUN <<EOF\na", "bad-heredoc", "<<EOF", "EOF"),
    ("COPY a <<EOF\na\nEOF", "bad-heredoc", "destination", ""),
    ("COPY << EOF /a\nx\nEOF", "bad-heredoc", "one word", "without blanks"),
    ("RUN --mount=type=cach,target=/a b", "bad-mount", "cach", "cache"),
]


@pytest.mark.parametrize(("text", "code", "message", "hint"), ERRORS, ids=[e[0] for e in ERRORS])
def test_an_error_names_its_place_and_the_remedy(
    text: str, code: str, message: str, hint: str
) -> None:
    with pytest.raises(PybuildError) as caught:
        parse(f"FROM scratch\n{text}", file="sub/Dockerfile")
    error = caught.value
    assert (error.code, message in error.message, hint in error.hint) == (code, True, True)
    lines = text.count("\n") + 1
    assert error.source == Source("sub/Dockerfile", 2, 1 + lines, text)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        pytest.param("", "dockerfile-empty", None, id="nothing"),
        pytest.param("# a\n\n", "dockerfile-empty", None, id="comments"),
        pytest.param("\\\n", "dockerfile-empty", None, id="a lone escape"),
        pytest.param("ARG A\nRUN a\nFROM b", "no-stage", 2, id="before FROM"),
        pytest.param("ARG A", "no-stage", 1, id="no FROM"),
        pytest.param("# escape=x\nFROM a", "dockerfile-syntax", 1, id="escape"),
        pytest.param("# escape=`\n# escape=`\nFROM a", "dockerfile-syntax", 2, id="directive"),
    ],
)
def test_errors_of_the_whole_file(text: str, code: str, line: int | None) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert caught.value.code == code
    assert (caught.value.source.line if caught.value.source else None) == line


def test_the_text_of_a_place_is_as_written() -> None:
    text = "FROM a\n\n  run b \\\n# c\n   d\nUSER e"
    places = [node.source for node in parse_nodes(text).nodes]
    assert [(p.line, p.end_line, p.text) for p in places] == [
        (1, 1, "FROM a"),
        (3, 5, "  run b \\\n# c\n   d"),
        (6, 6, "USER e"),
    ]


def test_a_long_chain_of_onbuild_is_no_stack_overflow() -> None:
    with pytest.raises(DockerfileError):
        parse("FROM a\n" + "ONBUILD " * 5000 + "RUN b")


def test_a_deep_array_is_no_stack_overflow() -> None:
    with pytest.raises(DockerfileError):
        parse("FROM a\nSHELL " + "[" * 100_000)
