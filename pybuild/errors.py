"""What can go wrong, as values: what happened, where, what to do, and a code that stays the same.

Every error a user can meet is a subclass of `PybuildError` with a `code` of its own and a docstring
that docs/errors.md is made from. Packages define their own below the five families named here.
"""

from __future__ import annotations

import re
from typing import ClassVar

from msgspec import Struct


class Source(Struct, frozen=True):
    """A place in a file the user wrote: lines count from 1, `text` is what stands there."""

    file: str
    line: int
    end_line: int
    text: str


_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/\s\"'<>]*)@")


def without_passwords(text: str) -> str:
    """The text with the password of each address in it as `xxxxx`. A user name alone is a token
    where it is sent over HTTP, and hidden too; `ssh://git@host` stays."""
    return _AUTHORITY.sub(_hidden, text) if "@" in text else text


def _hidden(found: re.Match[str]) -> str:
    scheme, (user, colon, _) = found[1], found[2].partition(":")
    if colon:
        return f"{scheme}{user}:xxxxx@"
    return f"{scheme}xxxxx@" if scheme.lower() in ("http://", "https://") else found[0]


class PybuildError(Exception):
    """The base of everything that is reported to the user without a traceback."""

    code: ClassVar[str] = "error"
    advice: ClassVar[str] = ""  # the hint of errors that are raised without one of their own

    def __init__(self, message: str, *, hint: str = "", source: Source | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.advice
        self.source = source

    @property
    def exit_status(self) -> int:
        return 1

    def at(self, source: Source | None) -> PybuildError:
        """Names the place, unless a place closer to the cause is known already."""
        if self.source is None:
            self.source = source
        return self


class InputError(PybuildError):
    """Something the user gave can't be used: flags, Dockerfile, context, credentials file."""

    code = "input"


class NotCarriedOut(InputError):
    """The Dockerfile asks for something that is understood but not carried out yet."""

    code = "not-carried-out"


class RunFailed(PybuildError):
    """A RUN command ended with another status than 0; its status becomes the exit status."""

    code = "run-failed"

    def __init__(
        self, message: str, *, status: int, hint: str = "", source: Source | None = None
    ) -> None:
        super().__init__(message, hint=hint, source=source)
        self.status = status

    @property
    def exit_status(self) -> int:
        return self.status


class RegistryError(PybuildError):
    """A registry could not be reached, or refused."""

    code = "registry"


class ContentMismatch(PybuildError):
    """Bytes that arrived are not the bytes that were named: their digest or size differs."""

    code = "content-mismatch"


class HostileContent(PybuildError):
    """A layer, archive or context tries to reach outside its root, or is built to do harm."""

    code = "hostile-content"
    advice = "what it comes from is damaged, or made to do harm: take it from elsewhere"


class HostUnsupported(PybuildError):
    """This container or machine lacks something that the build needs."""

    code = "host-unsupported"


class Cancelled(PybuildError):
    """This part of the build was stopped since another one failed, whose error is the one told."""

    code = "cancelled"


class Interrupted(PybuildError):
    """The build was asked to stop by a signal."""

    code = "interrupted"

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"the build was stopped by signal {signal_number}")
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        return 128 + self.signal_number
