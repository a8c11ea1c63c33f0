"""What can be wrong with a Dockerfile, each with a code of its own."""

from __future__ import annotations

from collections.abc import Iterable

from pybuild.errors import InputError


class DockerfileError(InputError):
    """The base of everything that is wrong with a Dockerfile."""

    code = "dockerfile"


class DockerfileSyntax(DockerfileError):
    """A line of the Dockerfile does not follow the grammar."""

    code = "dockerfile-syntax"


class UnknownInstruction(DockerfileError):
    """The first word of a line is no instruction."""

    code = "unknown-instruction"


class EmptyDockerfile(DockerfileError):
    """The Dockerfile holds no instruction."""

    code = "dockerfile-empty"


class NoStage(DockerfileError):
    """An instruction other than ARG stands before the first FROM, or there is no FROM."""

    code = "no-stage"


class WrongArguments(DockerfileError):
    """An instruction has too few or too many arguments, or one it can't use."""

    code = "wrong-arguments"


class UnknownFlag(DockerfileError):
    """The instruction does not take this flag."""

    code = "unknown-flag"


class BadFlag(DockerfileError):
    """A flag has no value, a wrong one, or is given twice."""

    code = "bad-flag"


class BadMount(DockerfileError):
    """The value of RUN --mount can't be used."""

    code = "bad-mount"


class BadStageName(DockerfileError):
    """The name after AS can't name a build stage."""

    code = "bad-stage-name"


class BadTrigger(DockerfileError):
    """ONBUILD can't hold this instruction."""

    code = "bad-trigger"


class BadHeredoc(DockerfileError):
    """A here-document does not end, or stands where none can."""

    code = "bad-heredoc"


class BadSubstitution(InputError):
    """A variable can't be expanded: open quotes, an unknown form, or `${x:?}` of an unset one."""

    code = "bad-substitution"
    advice = "a `${` needs its `}` in the same word, and a quote its second one"


class BadPattern(InputError):
    """A wildcard pattern (COPY, .dockerignore, --exclude) is malformed."""

    code = "bad-pattern"


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` was probably meant to be, or ""."""
    from difflib import get_close_matches  # only for an error's hint

    by_case = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), by_case, n=1, cutoff=0.6)
    return by_case[found[0]] if found else ""
