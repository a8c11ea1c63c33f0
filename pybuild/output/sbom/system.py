"""The facts that the package managers of distributions keep: dpkg, apk, rpm."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from pybuild.output.sbom.package import Distribution, Package


class Unreadable(Exception):
    """A file that should tell of packages does not; `str()` says why."""


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Blocks of `Key: value` parted by empty lines (deb-control(5)); of a folded value, the first
    line."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            if found:
                yield found
            found = {}
        elif line[0] not in " \t":
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip(), value.strip())
    if found:
        yield found


def distribution(text: str) -> Distribution:
    """os-release(5)."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            values[key.strip()] = value.strip().strip("\"'")
    name = values.get("PRETTY_NAME") or values.get("NAME", "")
    return Distribution(values.get("ID", ""), values.get("VERSION_ID", ""), name)


def dpkg(text: str, system: Distribution, place: str) -> Iterator[Package]:
    """dpkg's status file, or one of status.d that images without dpkg have (dpkg(1), FILES)."""
    for block in paragraphs(text):
        # what distroless images keep has no Status: it is there because it is installed
        installed = block.get("Status", "install ok installed").endswith(" installed")
        if not installed or "Package" not in block:
            continue
        source, _, version = block.get("Source", "").partition(" ")
        upstream = source + (f"@{version.strip('()')}" if version else "")
        yield Package(
            "deb",
            block["Package"],
            block.get("Version", ""),
            system.id or "debian",
            (
                ("arch", block.get("Architecture", "")),
                ("distro", system.qualifier),
                ("upstream", upstream),
            ),
            place=place,
        )


def dpkg_licenses(text: str) -> tuple[str, ...]:
    """The short names in a machine-readable copyright file (DEP 5); () for another."""
    head = text[:200]
    if "Format:" not in head and "Format-Specification:" not in head:
        return ()
    found: dict[str, None] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key == "License" and value.strip():
            found[value.strip()[:200]] = None
    return tuple(found)


def apk(text: str, system: Distribution, place: str) -> Iterator[Package]:
    """Alpine's database of installed packages (apk-v2(5))."""
    for block in paragraphs(text):
        if "P" not in block:
            continue
        name, origin = block["P"], block.get("o", "")
        qualifiers = (
            ("arch", block.get("A", "")),
            ("distro", system.qualifier),
            ("upstream", "" if origin == name else origin),
        )
        licenses = (block["L"],) if block.get("L") else ()
        namespace = system.id or "alpine"
        yield Package("apk", name, block.get("V", ""), namespace, qualifiers, licenses, place)


# rpm's tags (rpm, docs/manual/tags.md) and the types of their values
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_LICENSE, _ARCH, _SOURCE = 1014, 1022, 1044
_TEXT_TYPES = (6, 8, 9)  # string, array of strings (the first one), translated string
_INT32 = 4
_KEYS = "gpg-pubkey"  # keys are kept as if they were packages


def rpm(path: Path, system: Distribution, place: str) -> Iterator[Package]:
    """rpm's database in SQLite, as Fedora, RHEL 9 and what comes of them have it. `path` is read,
    never written. Raises Unreadable."""
    try:
        import sqlite3
    except ImportError as error:
        raise Unreadable("this Python has no SQLite") from error
    try:
        with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as database:
            rows = database.execute("SELECT blob FROM Packages").fetchall()
    except sqlite3.Error as error:
        raise Unreadable(f"it is no database of rpm ({error})") from error
    for (blob,) in rows:
        tags = _rpm_header(bytes(blob))
        name = tags.get(_NAME, "")
        if not isinstance(name, str) or not name or name == _KEYS:
            continue
        release = f"-{tags[_RELEASE]}" if _RELEASE in tags else ""
        qualifiers = (
            ("arch", str(tags.get(_ARCH, ""))),
            ("distro", system.qualifier),
            ("epoch", str(tags.get(_EPOCH, ""))),
            ("upstream", str(tags.get(_SOURCE, ""))),
        )
        licenses = (str(tags[_LICENSE]),) if tags.get(_LICENSE) else ()
        version = f"{tags.get(_VERSION, '')}{release}"
        yield Package("rpm", name, version, system.id or "redhat", qualifiers, licenses, place)


def _rpm_header(blob: bytes) -> dict[int, str | int]:
    """The tags of a header (rpm, docs/manual/format_header.md): numbers of entries and of bytes,
    the entries, the bytes. What does not fit is left out."""
    if len(blob) < 8:
        return {}
    count, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * count
    if start + size > len(blob):
        return {}
    found: dict[int, str | int] = {}
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + 16 * number)
        at = start + offset
        if at >= len(blob):
            continue
        if kind in _TEXT_TYPES:
            end = blob.find(b"\0", at)
            found[tag] = blob[at : end if end >= 0 else len(blob)].decode(errors="replace")
        elif kind == _INT32 and at + 4 <= len(blob):
            (found[tag],) = struct.unpack_from(">i", blob, at)
    return found
