"""argv to values, in kaniko's forms: `--flag=v`, `--flag v`, booleans bare or `=true`, `-f v`.

Own code, since argparse knows no boolean with an optional `=value` that leaves the next word alone,
takes abbreviations, prints its usage before an error, and costs 15 ms of start-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from pybuild.cli.errors import BadFlag, UnexpectedArgument, UnknownFlag
from pybuild.cli.flags.environment import notes_of
from pybuild.cli.flags.flag import KANIKO, Flag, Kind
from pybuild.cli.flags.table import default_of, flags_of, long_names, short_names
from pybuild.errors import InputError

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})  # what Go's strconv.ParseBool takes
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Values(Struct, frozen=True):
    """What a command line says: the texts of each flag, defaults filled in, all checked.

    `given` names the flags that argv or the environment set; `notes` say what happens to flags
    that have no effect of their own; `positional` are the words that belong to no flag.
    """

    texts: Mapping[str, tuple[str, ...]]
    given: frozenset[str]
    positional: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    help: bool = False

    def text(self, name: str) -> str:
        return self.texts[name][-1] if self.texts[name] else ""

    def many(self, name: str) -> tuple[str, ...]:
        return self.texts[name]

    def switch(self, name: str) -> bool:
        return self.text(name) in _TRUE

    def number(self, name: str) -> int:
        return int(self.text(name))

    def seconds(self, name: str) -> float:
        return parse_duration(self.text(name))

    def pairs(self, name: str) -> dict[str, str]:
        return {key: value for key, _, value in (text.partition("=") for text in self.texts[name])}


def parse_flags(
    command: str, argv: Sequence[str], environment: Mapping[str, str], *, positionals: int = 0
) -> Values:
    """Reads the words after a command; takes at most `positionals` that belong to no flag.

    Raises UnknownFlag, BadFlag, UnexpectedArgument.
    """
    flags = flags_of(command)
    by_name = {name: flag for flag in flags for name in long_names(flag, command)}
    by_short = {name: flag for flag in flags for name in short_names(flag, command)}
    texts: dict[str, list[str]] = {}
    words: list[str] = []
    rest = list(reversed(argv))
    previous: Flag | None = None  # a boolean that was given bare, just before
    while rest:
        word = rest.pop()
        if word == "--":
            words.extend(reversed(rest))
            break
        if word in ("--help", "-h"):
            return Values({}, frozenset(), help=True)
        if not word.startswith("-") or word == "-":
            if len(words) >= positionals:
                raise _stray(word, previous, command)
            words.append(word)
            previous = None
            continue
        flag, shown, value = _flag_of(word, by_name, by_short, command)
        previous = flag if value is None and flag.kind is Kind.BOOLEAN else None
        if value is None:
            if flag.kind is Kind.BOOLEAN:
                value = "true"
            elif not rest:
                raise BadFlag(f"{shown} lacks its value", hint=f"{shown}={flag.value}")
            else:
                value = rest.pop()
        texts.setdefault(flag.name, []).append(_checked(flag, shown, value))
    notes = _from_environment(flags, environment, texts)
    notes += [note for flag in flags if (note := _effect(flag, texts.get(flag.name)))]
    notes += notes_of(environment)
    given = frozenset(texts)
    for flag in flags:
        default = default_of(flag, command)
        texts.setdefault(flag.name, [default] if default and not flag.repeatable else [])
    return Values(
        {name: tuple(values) for name, values in texts.items()}, given, tuple(words), tuple(notes)
    )


def _flag_of(
    word: str, by_name: Mapping[str, Flag], by_short: Mapping[str, Flag], command: str
) -> tuple[Flag, str, str | None]:
    """The flag a word names, as it was written, and the value in the same word if it has one."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        flag = by_name.get(name)
        if flag is not None:
            return flag, f"--{name}", value if equals else None
        raise _unknown(word, name, by_name, command)
    flag = by_short.get(word[1])
    if flag is None:
        raise _unknown(word, word[1:], by_name, command)
    value = word[2:].removeprefix("=")
    return flag, word[:2], value if len(word) > 2 else None


def _unknown(word: str, name: str, by_name: Mapping[str, Flag], command: str) -> InputError:
    first, blank, rest = word[2:].partition(" ")
    if blank and first in by_name:
        return UnknownFlag(
            f"{word!r} is one argument that holds a blank",
            hint=f"write --{first}={rest.strip()}, or two list items: --{first} and {rest.strip()}",
        )
    import difflib

    near = difflib.get_close_matches(name.split("=")[0].lower(), list(by_name), 1)
    hint = f"did you mean --{near[0]}?" if near else f"`{_program(command)} --help` lists the flags"
    return UnknownFlag(f"{_program(command)} has no flag {word.partition('=')[0]}", hint=hint)


def _stray(word: str, previous: Flag | None, command: str) -> UnexpectedArgument:
    if previous is not None and word in _TRUE | _FALSE:
        return UnexpectedArgument(
            f"{word!r} after --{previous.name} belongs to no flag",
            hint=f"a boolean takes its value with '=': --{previous.name}={word}",
        )
    hint = "every value needs its flag before it, and blanks need quotes"
    return UnexpectedArgument(f"{_program(command)} can't use the argument {word!r}", hint=hint)


def _program(command: str) -> str:
    return command if command in KANIKO else f"pybuild {command}"


def _checked(flag: Flag, shown: str, value: str) -> str:
    """The value if the flag can have it. Raises BadFlag."""

    def bad(what: str) -> BadFlag:
        return BadFlag(f"{shown} can't be {value!r}", hint=what)

    if flag.kind is Kind.BOOLEAN and value not in _TRUE | _FALSE:
        raise bad("true or false")
    if flag.kind is Kind.NUMBER and not value.removeprefix("-").isascii():
        raise bad("a whole number")
    if flag.kind is Kind.NUMBER and not value.removeprefix("-").isdigit():
        raise bad("a whole number")
    if flag.kind is Kind.PAIR and not (value.partition("=")[0] and "=" in value):
        raise bad(f"{flag.value}, with an equals sign")
    if flag.choices:
        if value.lower() not in flag.choices:
            raise bad(f"one of {', '.join(flag.choices)}")
        return value.lower()
    if flag.kind is Kind.DURATION:
        parse_duration(value, shown)
    if flag.kind is Kind.BOOLEAN:
        return "true" if value in _TRUE else "false"
    return value


def _from_environment(
    flags: Sequence[Flag], environment: Mapping[str, str], texts: dict[str, list[str]]
) -> list[str]:
    """What to tell: a variable that overrides a flag is not seen in any manifest."""
    notes = []
    for flag in flags:
        value = environment.get(flag.environment, "") if flag.environment else ""
        if not value or (flag.name in texts and not flag.environment_wins and not flag.repeatable):
            continue
        checked = _checked(flag, f"the variable {flag.environment}", value)
        if flag.repeatable:
            texts.setdefault(flag.name, []).append(checked)
        else:
            if flag.environment_wins:
                notes.append(f"the variable {flag.environment} says --{flag.name}={checked}")
            texts[flag.name] = [checked]
    return notes


def _effect(flag: Flag, values: Sequence[str] | None) -> str:
    """ "" for a flag that has work to do, or says what happens anyway; else what to tell."""
    last = values[-1] if values else ""
    if not flag.why or not values or last in flag.harmless:
        return ""
    shown = "" if flag.kind is Kind.BOOLEAN and last == "true" else f"={last}"
    return f"--{flag.name}{shown} changes nothing here: {flag.why}"


def parse_duration(text: str, shown: str = "the duration") -> float:
    """Seconds of a duration in Go's form: `336h`, `1h30m`, `1.5s`. Raises BadFlag."""
    import re

    if text in ("0", "+0", "-0"):
        return 0.0
    parts = re.findall(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text.lstrip("+-"):
        raise BadFlag(
            f"{shown} can't be {text!r}", hint="a number with its unit, such as 30m, 336h or 1h30m"
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds


def parted(texts: tuple[str, ...], mark: str) -> tuple[str, ...]:
    """The parts of all texts, without blanks around them and without empty ones."""
    return tuple(part.strip() for text in texts for part in text.split(mark) if part.strip())
