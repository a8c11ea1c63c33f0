"""A file behind a plain http or https address, with a user name and password where it has one."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit, urlunsplit

from msgspec import Struct

from pybuild.context.checks import Check, by_headers, by_user
from pybuild.context.download import Remote, Request
from pybuild.context.errors import ContextInsecure, ContextUnknown
from pybuild.errors import PybuildError
from pybuild.registry.options import Purpose, RegistryOptions


class WebFile(Struct, frozen=True):
    """`url` may hold user and password; neither they nor the query are ever shown."""

    url: str
    checksum: str = ""

    def __repr__(self) -> str:
        return f"WebFile({self.shown!r})"

    @property
    def shown(self) -> str:
        return shown(self.url)

    def request(self, wanted: Mapping[str, str]) -> Request:
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        headers = dict(wanted)
        if user:
            name, _, password = user.partition(":")
            pair = f"{unquote(name)}:{unquote(password)}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        return Request(
            urlunsplit((parts.scheme, host, parts.path or "/", parts.query, "")), headers
        )

    def validator(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """RFC 9110, 13.1.5: a strong entity tag, else the date."""
        tag = headers.get("etag", "")
        if tag and not tag.startswith("W/"):
            return {"If-Range": tag}
        date = headers.get("last-modified", "")
        return {"If-Range": date} if date and not tag else {}

    def checks(self, headers: Mapping[str, str]) -> tuple[Check, ...]:
        return (*by_user(self.checksum), *by_headers(headers))

    def moved(self, status: int, headers: Mapping[str, str], body: bytes) -> Remote | None:  # noqa: ARG002
        return None

    def refused(self, status: int, body: bytes) -> PybuildError | None:  # noqa: ARG002
        return None


def shown(url: str) -> str:
    """An address without user, password, query and fragment, each of which may be a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def as_address(text: str, what: str) -> str:
    """An endpoint that a variable names, which may leave out https://. Raises ContextUnknown."""
    if not text:
        return ""
    address = (text if "://" in text else f"https://{text}").rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ContextUnknown(f"{what} {shown(address)} is no http or https address")
    return address


def xml_element(body: bytes, name: str) -> str:
    """Of an error's XML, whose elements are flat. No parser: the text may come from anywhere."""
    found = re.search(rf"<{name}>([^<]{{0,300}})</{name}>".encode(), body)
    text = found[1].decode("utf-8", "replace") if found else ""
    return " ".join(text.split())


def check_plain(url: str, checksum: str, options: RegistryOptions) -> None:
    """Plain HTTP is taken where a checksum says what must come, from this machine, and from hosts
    that a flag names. Raises ContextInsecure."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "https" or checksum or options.may_be_plain(host, Purpose.PULL):
        return
    raise ContextInsecure(
        f"{shown(url)} would come over plain HTTP, where anybody on the way can change it",
        hint=f"use https://, or add #sha256=HEX to the address, or --insecure-registry={host}",
    )
