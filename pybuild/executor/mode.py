"""--chmod: octal, or symbolic as chmod(1) has it."""

from __future__ import annotations

import re
import stat

from pybuild.executor.errors import BadMode

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*)")
_READ_WRITE_EXECUTE = {"r": 0o444, "w": 0o222, "x": 0o111}
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}


def check_mode(text: str) -> None:
    """Raises BadMode unless `change_mode` takes the text."""
    change_mode(text, 0o644, is_directory=False)


def change_mode(text: str, mode: int, *, is_directory: bool) -> int:
    """The twelve permission bits after `--chmod=text`. Raises BadMode."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return int(text, 8)
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if not match:
            raise BadMode(f"--chmod={text} is no mode", hint="write it as 0755 or as u=rwx,go=rx")
        who = "ugo" if match[1] in ("", "a") else match[1].replace("a", "ugo")
        for sign, letters in _ACTION.findall(match[2]):
            mode = _apply(mode, who, sign, letters, is_directory)
    return mode


def _apply(mode: int, who: str, sign: str, letters: str, is_directory: bool) -> int:
    mask = 0
    for name in set(who):
        mask |= _WHO[name]
    bits = 0
    for letter in letters:
        bits |= _READ_WRITE_EXECUTE.get(letter, 0) & mask
        if letter == "X" and (is_directory or mode & 0o111):
            bits |= 0o111 & mask
        if letter == "s":
            bits |= (stat.S_ISUID | stat.S_ISGID) & mask
        if letter == "t":
            bits |= stat.S_ISVTX
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    return (mode & ~mask) | bits
