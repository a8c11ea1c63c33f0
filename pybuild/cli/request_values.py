"""The values of a JSON request, checked as they are read: each reader gives the typed value, or
says in BadRequest what the option has to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pybuild.errors import InputError


class BadRequest(InputError):
    """A request file can't be read, or says something that no build can mean."""

    code = "bad-request"


def text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` has to be a text, not {json_type(value)}")
    if "\0" in value:
        raise BadRequest(f"`{name}` holds a NUL character")
    return value


def texts(name: str, value: object) -> list[str]:
    """A list of texts; one text alone is taken for a list of one."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise BadRequest(f"`{name}` has to be a list, not {json_type(value)}")
    found = [text(name, item) for item in values]
    if not all(found):
        raise BadRequest(f"`{name}` holds an empty text")
    return found


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(
            f"`{name}` has to be true or false, not {json_type(value)}",
            hint=f"write {name}: true without quotes" if isinstance(value, str) else "",
        )
    return value


def number(name: str, value: object) -> int:
    """A whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequest(f"`{name}` has to be a whole number of 0 or more")
    return value


def table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadRequest(f"`{name}` has to be a map, not {json_type(value)}")
    return value


def parts(name: str, value: object, known: Sequence[str]) -> dict[str, object]:
    """A map with keys of `known` only; those that are null are left out."""
    given = table(name, value)
    for key in given:
        if key not in known:
            raise BadRequest(f"unknown option `{name}.{key}`", hint=nearest(key, known))
    return {key: item for key, item in given.items() if item is not None}


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    word = text(name, value)
    if word not in known:
        raise BadRequest(f"`{name}` can't be {word!r}", hint=f"one of {', '.join(known)}")
    return word


def key(name: str, word: str) -> str:
    """A key that stands before the `=` of a flag."""
    if not word or "=" in word or "\0" in word:
        raise BadRequest(f"`{name}` has a key that no flag can say: {word!r}")
    return word


def plain(name: str, value: object) -> str:
    """A text, number or boolean as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return text(name, value)


def json_type(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a map"}
    return names.get(type(value), "null")


def nearest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"did you mean {close[0]!r}?"
