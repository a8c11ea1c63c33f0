"""From a registry's refusal to the error that the user sees."""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec import Struct

from pybuild.errors import RegistryError
from pybuild.registry.errors import (
    BlobUnknown,
    ManifestUnknown,
    PullDenied,
    PushDenied,
    RateLimited,
    RegistryBroken,
    RepositoryUnknown,
    RequestRefused,
    TagImmutable,
    Unauthorized,
)
from pybuild.registry.options import Purpose
from pybuild.registry.retry import Transient, retry_after_seconds
from pybuild.registry.wire import Reply

ERROR_BODY_LIMIT = 1 << 20
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Answer(Struct, frozen=True):
    """A refusal, read to its end. `codes` and `text` are the registry's own (distribution-spec,
    "Error Codes")."""

    status: int
    reason: str
    codes: tuple[str, ...]
    text: str
    challenge: str
    retry_after: str


class Asked(Struct, frozen=True):
    """What was asked, for the error text: `doing` completes "can't ..."."""

    doing: str
    host: str
    registry: str
    repository: str
    purpose: Purpose
    about: type[RegistryError] = ManifestUnknown  # what a 404 means
    denied: type[RegistryError] = PullDenied  # what a 403 means


def read_answer(reply: Reply) -> Answer:
    """Raises OSError or BadReply where the answer breaks off."""
    codes, text = parse_problem(reply.read(ERROR_BODY_LIMIT), reply.header("content-type"))
    return Answer(
        reply.status,
        reply.reason,
        codes,
        text,
        reply.header("www-authenticate"),
        reply.header("retry-after"),
    )


def parse_problem(body: bytes, content_type: str) -> tuple[tuple[str, ...], str]:
    """The codes and the message in an error body: the specification's JSON, a token server's
    {"details"} or {"error_description"}, or the first line of plain text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        plain = content_type.startswith("text/plain")
        return (), _line(body.decode("utf-8", "replace")) if plain else ""
    if not isinstance(value, dict):
        return (), ""
    errors = value.get("errors")
    codes: list[str] = []
    texts: list[str] = []
    for error in errors if isinstance(errors, list) else [value]:
        if not isinstance(error, dict):
            continue
        if isinstance(error.get("code"), str):
            codes.append(error["code"])
        for name in ("message", "details", "error_description", "error"):
            if isinstance(error.get(name), str) and error[name]:
                texts.append(error[name])
                break
    return tuple(codes), _line("; ".join(dict.fromkeys(texts)))


def _line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return "".join(letter for letter in line if letter.isprintable())[:300]


def said(answer: Answer) -> str:
    """`403 Forbidden (DENIED: requested access to the resource is denied)`."""
    words = ": ".join(
        part for part in (", ".join(dict.fromkeys(answer.codes)), answer.text) if part
    )
    status = f"{answer.status} {answer.reason}".strip()
    return f"{status} ({words})" if words else status


def problem_of(
    asked: Asked, answer: Answer, *, used: str, tried: Sequence[str]
) -> RegistryError | Transient:
    """The error for an answer that was not expected. `used` names where the credentials that
    were sent came from ("" if none were), `tried` the sources that were looked into."""
    text = f"can't {asked.doing}: {asked.host} answered {said(answer)}"
    status = answer.status
    if status == 429 or "TOOMANYREQUESTS" in answer.codes:
        limited = RateLimited(
            text,
            hint="wait a while, log in (known users may ask more often), or set "
            "--registry-mirror to a mirror of your own",
        )
        return Transient(limited, retry_after_seconds(answer.retry_after))
    if status in _TRANSIENT:
        broken = RegistryBroken(text, hint="the registry's own log says more")
        return Transient(broken, retry_after_seconds(answer.retry_after))
    if status >= 500:
        return RegistryBroken(text, hint="the registry's own log says more")
    if asked.purpose is Purpose.PUSH and is_immutable(answer):
        return TagImmutable(text)
    if status in (401, 403):
        return _denied(asked, answer, text, used=used, tried=tried)
    if status == 404:
        return _unknown(asked, answer, text)
    hint = "the registry's own log says more, or that of a proxy in front of it"
    if status == 413:
        hint = "a proxy in front of the registry limits the size of uploads"
    return RequestRefused(text, hint=hint)


def _denied(
    asked: Asked, answer: Answer, text: str, *, used: str, tried: Sequence[str]
) -> RegistryError:
    verb = "push to" if asked.denied is PushDenied else "pull from"
    if used:
        text += f"; the credentials are from {used}"
        scoped = answer.status == 403 or "insufficient_scope" in answer.challenge
        if scoped or "DENIED" in answer.codes:
            return asked.denied(
                text, hint=f"these credentials need the right to {verb} {asked.repository}"
            )
        return Unauthorized(
            text, hint=f"check the user name and password (or token) for {asked.registry} there"
        )
    looked = "; ".join(tried) if tried else "nothing"
    text += f"; no credentials were sent, looked into: {looked}"
    hint = (
        f"put credentials for {asked.registry} into config.json in the folder that $DOCKER_CONFIG "
        "names (in a Pod: mount the docker-registry secret there)"
    )
    if asked.denied is PullDenied:
        hint += "; a misspelt repository gets the same answer from many registries"
    return asked.denied(text, hint=hint) if answer.status == 403 else Unauthorized(text, hint=hint)


def _unknown(asked: Asked, answer: Answer, text: str) -> RegistryError:
    if "NAME_UNKNOWN" in answer.codes or (
        asked.purpose is Purpose.PUSH and asked.about is RepositoryUnknown
    ):
        hint = "check the repository's name"
        if asked.purpose is Purpose.PUSH:
            hint += "; this registry wants a repository to be made before the first push"
        return RepositoryUnknown(text, hint=hint)
    hints = {
        ManifestUnknown: "check the tag or digest: the repository does not have it",
        BlobUnknown: "the image is damaged there: push it again, or take another tag",
    }
    return asked.about(text, hint=hints.get(asked.about, ""))


def is_immutable(answer: Answer) -> bool:
    """Whether a manifest was refused since its tag may not be moved: Amazon says "cannot be
    overwritten because the tag is immutable", Google "has enabled tag immutability", Harbor
    "configured as immutable"."""
    told = "immutab" in answer.text.lower()
    return answer.status in (400, 403, 405, 409, 412) and (told or "TAG_INVALID" in answer.codes)
