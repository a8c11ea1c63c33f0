"""User names, passwords and tokens as values, and the two roles that find them."""

from __future__ import annotations

from math import inf
from typing import Protocol

from msgspec import Struct


class Credentials(Struct, frozen=True):
    """A user name with password, or a token. None of the secrets shows in `repr`.

    `identity_token` is an OAuth2 refresh token for the token server, `registry_token` a bearer
    token for the registry itself. All empty: anonymous.
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    origin: str = ""  # which file or helper gave them

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, origin={self.origin!r})"

    def __eq__(self, other: object) -> bool:
        """Two are the same if they say the same, wherever they came from."""
        if not isinstance(other, Credentials):
            return NotImplemented
        return self._secrets() == other._secrets()

    def __hash__(self) -> int:
        return hash(self._secrets())

    def _secrets(self) -> tuple[str, str, str, str]:
        return (self.username, self.password, self.identity_token, self.registry_token)

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)


ANONYMOUS = Credentials()


class Keychain(Protocol):
    def credentials(self, registry: str, repository: str) -> Credentials:
        """What to say who we are; ANONYMOUS where nothing is known. Raises BrokenConfig."""
        ...

    def renew(self, registry: str, repository: str, refused: Credentials) -> bool:
        """Whether others than those that were refused are to be had now, as where a token ended
        before its time."""
        ...

    def tried(self, registry: str) -> tuple[str, ...]:
        """The sources that were looked into for this registry and what they held; no secrets."""
        ...

    def close(self) -> None:
        """Ends what is being waited for; from then on nothing is found."""
        ...


class AnonymousKeychain:
    """Knows nobody."""

    def credentials(self, registry: str, repository: str) -> Credentials:  # noqa: ARG002
        return ANONYMOUS

    def renew(self, registry: str, repository: str, refused: Credentials) -> bool:  # noqa: ARG002
        return False

    def tried(self, registry: str) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def close(self) -> None:
        pass


class NothingFound(Exception):
    """A source has no credentials; the text says why, for the user, and holds no secret."""


class Found(Struct, frozen=True):
    """What a source gave; `until` (time.monotonic()) is when it ends."""

    credentials: Credentials
    until: float = inf


class Source(Protocol):
    """Knows the credentials of some hosts."""

    @property
    def title(self) -> str:
        """What it is called to the user."""
        ...

    def ask(self, host: str) -> Found:
        """Raises NothingFound."""
        ...
