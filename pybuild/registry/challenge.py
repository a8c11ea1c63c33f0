"""What a 401 asks for: the WWW-Authenticate header (RFC 9110, 11.6.1; distribution-spec token)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Schemes and parameters share the comma as separator; a parameter is what has a "=" behind it.
_PART = re.compile(
    rf"""[\s,]*(?:
        (?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))
        | (?P<scheme>{_TOKEN})(?=[\s,]|$)
    )""",
    re.VERBOSE,
)


class Challenge(Struct, frozen=True):
    """One scheme, in lower case, and its parameters (names in lower case)."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        return self.parameters.get(name, "")


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """All challenges of one header, or of several joined by commas. What is broken is left out."""
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while match := _PART.match(header, position):
        position = match.end()
        if match["scheme"]:
            found.append((match["scheme"].lower(), {}))
        elif found:
            quoted = match["quoted"]
            value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1][match["name"].lower()] = value
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def preferred(challenges: Iterable[Challenge]) -> Challenge | None:
    """Bearer with a realm before Basic; None where neither is offered."""
    basic: Challenge | None = None
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.get("realm"):
            return challenge
        if challenge.scheme == "basic" and basic is None:
            basic = challenge
    return basic


class Scope(Struct, frozen=True, order=True):
    """Access to one repository: `repository:name:pull,push` in the token protocol."""

    repository: str
    push: bool = False
    delete: bool = False

    def __str__(self) -> str:
        actions = ("pull", "push" if self.push else "", "delete" if self.delete else "")
        return f"repository:{self.repository}:{','.join(filter(None, actions))}"

    def covers(self, other: Scope) -> bool:
        same = self.repository == other.repository
        return same and self.push >= other.push and self.delete >= other.delete


def covers(held: Iterable[Scope], wanted: Iterable[Scope]) -> bool:
    """Whether a token for `held` serves for all that is wanted."""
    have = tuple(held)
    return all(any(scope.covers(need) for scope in have) for need in wanted)
