"""References to images: `registry/repository:tag@digest` and the short forms of Docker Hub.

The grammar is that of the distribution project's reference package; what a short name stands for
is Docker's: no registry means docker.io, and there a name without a slash lies below `library/`.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from pybuild.errors import InputError
from pybuild.image.digest import BadDigest, Digest, parse_digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_OLD_DEFAULT_REGISTRY = "index.docker.io"
_LONGEST_NAME = 255

_LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\]"
_REGISTRY = rf"(?:{_HOST})(?::[0-9]+)?"
_PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"{_PART}(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

# Whole texts, so used with `fullmatch`. REFERENCE has the groups name, tag and digest.
REGISTRY = re.compile(_REGISTRY)
NAME = re.compile(rf"(?:({_REGISTRY})/)?({_REPOSITORY})")
REFERENCE = re.compile(rf"((?:{_REGISTRY}/)?{_REPOSITORY})(?::({_TAG}))?(?:@({_DIGEST}))?")
IDENTIFIER = re.compile("[a-f0-9]{64}")


class BadReference(InputError):
    """A text that should name an image does not."""

    code = "bad-reference"


class Reference(Struct, frozen=True):
    """`tag` is "" where there is none; with a digest, the digest says what is meant."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository; the repository alone where no registry is known."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    @property
    def familiar(self) -> str:
        """As Docker shows it: without docker.io, and without library/ before an official name."""
        if self.registry != DEFAULT_REGISTRY:
            return str(self)
        official = self.repository.removeprefix(_OFFICIAL)
        short = self.repository if "/" in official else official
        return str(replace(self, registry="", repository=short))

    def with_tag(self, tag: str) -> Reference:
        """The same repository under a tag, without digest; raises BadReference."""
        if not re.fullmatch(_TAG, tag):
            raise BadReference(
                f"{tag!r} is no tag",
                hint="a tag has up to 128 letters, digits, '_', '.' and '-'",
            )
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository and tag, fixed to a digest."""
        return replace(self, digest=digest)


def parse_reference(
    text: str, *, registry: str = DEFAULT_REGISTRY, tag: str = DEFAULT_TAG
) -> Reference:
    """What a user writes; `tag` is filled in when neither tag nor digest is given.

    `registry` is the one meant by a name without registry. Raises BadReference.
    """
    found = parse_normalized(text, registry=registry)
    return found if found.tag or found.digest else replace(found, tag=tag)


def parse_normalized(text: str, *, registry: str = DEFAULT_REGISTRY) -> Reference:
    """As `parse_reference`, no tag filled in."""
    if IDENTIFIER.fullmatch(text):
        raise BadReference(f"{text!r} is no image reference", hint="an image ID can't be used here")
    written, remote = split_registry(text)
    chosen = DEFAULT_REGISTRY if written == _OLD_DEFAULT_REGISTRY else written or registry
    repository = remote.partition("@")[0].partition(":")[0]
    if repository != repository.lower():
        raise BadReference(
            f"{text!r} is no image reference: a repository is lower case",
            hint=f"write {text.replace(repository, repository.lower())}",
        )
    if chosen == DEFAULT_REGISTRY and "/" not in remote:
        remote = _OFFICIAL + remote
    found = _parse(f"{chosen}/{remote}", text)
    # What was chosen is the registry, also where the grammar alone would take it for a part.
    return replace(found, registry=chosen, repository=found.name.removeprefix(chosen + "/"))


def parse_strict(text: str) -> Reference:
    """By the grammar alone: nothing filled in, the registry "" where none is written.

    The first part is a registry here if the grammar allows it. Raises BadReference.
    """
    return _parse(text, text)


def split_registry(text: str) -> tuple[str, str]:
    """The registry as written ("" if none) and the rest, by Docker's rule.

    The first of several parts is a registry if it has a dot, a colon or a capital letter, or is
    `localhost`.
    """
    first, slash, rest = text.partition("/")
    is_registry = first == "localhost" or "." in first or ":" in first or first != first.lower()
    return (first, rest) if slash and is_registry else ("", text)


def _parse(full: str, text: str) -> Reference:
    match = REFERENCE.fullmatch(full)
    name = NAME.fullmatch(match[1]) if match else None
    if match is None or name is None:
        raise BadReference(
            f"{text!r} is no image reference",
            hint="write registry/repository:tag, or registry/repository@sha256:…",
        )
    if len(name[2]) > _LONGEST_NAME:
        raise BadReference(f"a repository's name has at most {_LONGEST_NAME} characters")
    try:
        digest = parse_digest(match[3]) if match[3] else None
    except BadDigest as error:
        raise BadReference(f"{text!r} is no image reference: {error.message}") from None
    return Reference(name[1] or "", name[2], match[2] or "", digest)
