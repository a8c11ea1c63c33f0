"""RUN --mount: its value as written, and what its options mean once variables are replaced."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from pybuild.dockerfile.errors import BadMount, nearest

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_ALIASES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_KEYS = (
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "readwrite",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
)
_SWITCHES = ("readonly", "readwrite", "required")
_ONLY_IN = {
    "required": ("secret", "ssh"),
    "size": ("tmpfs",),
    "sharing": ("cache",),
    "mode": ("secret", "ssh", "cache"),
    "uid": ("secret", "ssh", "cache"),
    "gid": ("secret", "ssh", "cache"),
    "env": ("secret",),
}
# strconv.ParseBool's words
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?(?:([kmgtp])i?b?|b)?\Z", re.IGNORECASE)
_ID_LIMIT = 1 << 32


class MountSpec(Struct, frozen=True):
    """One --mount. Option names are the long ones (`source`, `target`, `readonly`, …).

    Values may hold variables until `expanded`; the accessors are meant for what that returns.
    """

    type: str
    options: tuple[tuple[str, str], ...]

    def option(self, name: str) -> str:
        """The value given last, "" if none."""
        return next((value for key, value in reversed(self.options) if key == name), "")

    @property
    def target(self) -> str:
        return self.option("target")

    @property
    def source(self) -> str:
        return self.option("source")

    @property
    def from_(self) -> str:
        return self.option("from")

    @property
    def id(self) -> str:
        return self.option("id")

    @property
    def sharing(self) -> str:
        return self.option("sharing").lower() or "shared"

    @property
    def env(self) -> str:
        """The variable that a secret is put into, "" if none."""
        return self.option("env")

    @property
    def read_only(self) -> bool:
        """As asked for; else caches and tmpfs can be written, the others can't."""
        for key, value in reversed(self.options):
            if key == "readonly":
                return value in _TRUE
            if key == "readwrite":
                return value in _FALSE
        return self.type not in ("cache", "tmpfs")

    @property
    def required(self) -> bool:
        return self.option("required") in _TRUE

    @property
    def uid(self) -> int | None:
        return int(self.option("uid")) if self.option("uid") else None

    @property
    def gid(self) -> int | None:
        return int(self.option("gid")) if self.option("gid") else None

    @property
    def mode(self) -> int | None:
        return int(self.option("mode"), 8) if self.option("mode") else None

    @property
    def size(self) -> int | None:
        """Bytes, of a tmpfs."""
        return _size(self.option("size")) if self.option("size") else None

    def expanded(self, expand: Callable[[str], str]) -> MountSpec:
        """With `expand` applied to each value; raises BadMount."""
        return _checked(tuple((key, expand(value)) for key, value in self._all()))

    def _all(self) -> tuple[tuple[str, str], ...]:
        return (("type", self.type), *self.options)


def parse_mount(text: str) -> MountSpec:
    """`type=cache,target=/x,…`; raises BadMount. With variables in it, less can be judged."""
    options: list[tuple[str, str]] = []
    for field in _fields(text):
        written, equals, value = field.partition("=")
        key = _ALIASES.get(written.lower(), written.lower())
        if key not in _KEYS:
            near = nearest(key, (*_KEYS, *_ALIASES))
            hint = f"did you mean {near}?" if near else "known are " + ", ".join(_KEYS)
            raise BadMount(f"--mount has no option {written!r}", hint=hint)
        if not equals and key not in _SWITCHES:
            raise BadMount(f"--mount: {field!r} must be {key}=value")
        if key == "from" and re.search(r"\$.", value):
            raise BadMount(
                "--mount: from= does not take variables",
                hint="name a stage instead: FROM $image AS name",
            )
        options.append((key, value if equals else "true"))
    if any("$" in value for _, value in options):
        kind = next((value for key, value in reversed(options) if key == "type"), "bind")
        return MountSpec(kind, tuple(option for option in options if option[0] != "type"))
    return _checked(tuple(options))


def _fields(text: str) -> list[str]:
    if '"' not in text:
        fields = text.split(",")
    else:
        import csv  # only for quoted fields

        try:
            fields = next(csv.reader([text], strict=True), [])
        except csv.Error as error:
            raise BadMount(f"--mount={text}: {error}") from None
    if not any(fields):
        raise BadMount("--mount has no value", hint="write --mount=type=cache,target=/path")
    return fields


def _checked(options: tuple[tuple[str, str], ...]) -> MountSpec:
    kind = next((value for key, value in reversed(options) if key == "type"), "bind").lower()
    if kind not in TYPES:
        near = nearest(kind, TYPES)
        hint = f"did you mean {near}?" if near else "known are " + ", ".join(TYPES)
        raise BadMount(f"there is no mount type {kind!r}", hint=hint)
    spec = MountSpec(kind, tuple(option for option in options if option[0] != "type"))
    for key, value in spec.options:
        _check_option(kind, key, value)
    if kind == "secret":
        if spec.from_:
            raise BadMount("a secret mount has no from=")
        if not (spec.source or spec.target or spec.id):
            raise BadMount("a secret mount needs id=, source= or target=")
        if spec.source and spec.id:
            raise BadMount("a secret mount takes id= or source=, not both")
    return spec


def _check_option(kind: str, key: str, value: str) -> None:
    allowed = _ONLY_IN.get(key, TYPES)
    if kind not in allowed:
        raise BadMount(
            f"{key}= does not belong to a mount of type {kind}",
            hint=f"it belongs to {' and '.join(allowed)}",
        )
    if key in _SWITCHES:
        fits = value in _TRUE or value in _FALSE
    elif key == "sharing":
        fits = value.lower() in SHARING
    elif key == "mode":
        fits = bool(re.fullmatch("[0-7]+", value)) and int(value, 8) < _ID_LIMIT
    elif key in ("uid", "gid"):
        fits = bool(re.fullmatch("[0-9]+", value)) and int(value) < _ID_LIMIT
    elif key == "size":
        fits = _SIZE.match(value) is not None
    else:
        fits = True
    if not fits:
        raise BadMount(f"--mount: {key}={value} can't be used", hint=_HINTS[key])


_HINTS = {
    "readonly": "write readonly, readonly=true or readonly=false",
    "readwrite": "write readwrite, readwrite=true or readwrite=false",
    "required": "write required, required=true or required=false",
    "sharing": "write " + ", ".join(SHARING),
    "mode": "write an octal number such as 0755",
    "uid": "write a number",
    "gid": "write a number",
    "size": "write a size such as 64m",
}


def _size(text: str) -> int:
    match = _SIZE.match(text)
    if match is None:
        raise BadMount(f"{text!r} is no size", hint=_HINTS["size"])
    unit = (match[2] or "").lower()
    return int(float(match[1]) * 1024 ** (" kmgtp".index(unit) if unit else 0))
