"""The facts that the package managers of languages leave: Python, Node, Java, Go."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from pybuild.output.sbom.package import Package
from pybuild.output.sbom.system import Unreadable

if TYPE_CHECKING:
    from mmap import mmap

    Content = bytes | mmap  # a program is looked into where it lies

_NESTED_ARCHIVES = 3
_ARCHIVE_LIMIT = 256 << 20  # of an archive inside an archive, in bytes
_TEXT_LIMIT = 1 << 20
_MEMBERS_LIMIT = 200_000
_LICENSE_LIMIT = 200  # some put the whole text where its name belongs


def python(text: str, place: str) -> Iterator[Package]:
    """METADATA or PKG-INFO (PyPA, core metadata)."""
    head = text.partition("\n\n")[0]
    values: dict[str, str] = {}
    classifiers = []
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if not colon or line[0] in " \t":
            continue
        if key == "Classifier" and value.strip().startswith("License ::"):
            classifiers.append(value.rpartition("::")[2].strip())
        values.setdefault(key, value.strip())
    if not values.get("Name"):
        return
    stated = values.get("License-Expression") or values.get("License", "")
    if not stated or stated == "UNKNOWN" or len(stated) > _LICENSE_LIMIT:
        licenses = tuple(classifiers)
    else:
        licenses = (stated,)
    name = re.sub(r"[-_.]+", "-", values["Name"]).lower()
    yield Package("pypi", name, values.get("Version", ""), licenses=licenses, place=place)


def node(text: str, place: str) -> Iterator[Package]:
    """package.json of an installed package (npm, package.json). Raises Unreadable."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("it is no JSON") from error
    if not isinstance(body, dict):
        return
    name, version = body.get("name"), body.get("version")
    if not isinstance(name, str) or not isinstance(version, str) or not name:
        return
    scope, _, last = name.rpartition("/")
    stated = body.get("license", body.get("licenses"))
    licenses = tuple(_license_texts(stated))
    yield Package("npm", last, version, scope, licenses=licenses, place=place)


def _license_texts(stated: object) -> Iterator[str]:
    if isinstance(stated, str) and stated:
        yield stated[:_LICENSE_LIMIT]
    elif isinstance(stated, dict):
        yield from _license_texts(stated.get("type"))
    elif isinstance(stated, list):
        for one in stated[:10]:
            if not isinstance(one, list):
                yield from _license_texts(one)


def java(file: IO[bytes], place: str, depth: int = 0) -> Iterator[Package]:
    """A jar, war or ear and those inside it: by Maven's pom.properties, else by the manifest, else
    by the name of the file. Raises Unreadable."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield from _archive(archive, place, depth)
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"it is no readable archive ({error})") from error


def _archive(archive: zipfile.ZipFile, place: str, depth: int) -> Iterator[Package]:
    members = archive.infolist()
    if len(members) > _MEMBERS_LIMIT:
        raise Unreadable(f"it has more than {_MEMBERS_LIMIT} members")
    own = []
    for member in members:
        if re.fullmatch(r"META-INF/maven/[^/]+/[^/]+/pom\.properties", member.filename):
            values = _properties(_text(archive, member))
            if values.get("artifactId"):
                own.append(
                    Package(
                        "maven",
                        values["artifactId"],
                        values.get("version", ""),
                        values.get("groupId", ""),
                        place=place,
                    )
                )
    yield from own or _by_manifest(archive, place)
    if depth < _NESTED_ARCHIVES:
        for member in members:
            if is_java_archive(member.filename) and member.file_size <= _ARCHIVE_LIMIT:
                inner = f"{place}!/{member.filename}"
                try:
                    yield from java(io.BytesIO(archive.read(member)), inner, depth + 1)
                except Unreadable:
                    continue


def is_java_archive(path: str) -> bool:
    return path.endswith((".jar", ".war", ".ear", ".jpi", ".hpi"))


def _text(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    with archive.open(member) as file:
        return file.read(_TEXT_LIMIT).decode(errors="replace")


def _properties(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _by_manifest(archive: zipfile.ZipFile, place: str) -> Iterator[Package]:
    values: dict[str, str] = {}
    try:
        text = _text(archive, archive.getinfo("META-INF/MANIFEST.MF"))
    except KeyError:
        text = ""
    for line in text.replace("\r\n", "\n").replace("\n ", "").partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    stem = place.rpartition("/")[2].rpartition(".")[0]
    named = re.fullmatch(r"(.+?)-(\d[^/]*)", stem)
    name = values.get("Bundle-SymbolicName", "").partition(";")[0] or (named[1] if named else stem)
    version = values.get("Bundle-Version") or values.get("Implementation-Version", "")
    version = version or (named[2] if named else "")
    if name and (version or text):
        group = values.get("Implementation-Vendor-Id", "")
        yield Package("maven", name, version, group, place=place)


# What Go's linker leaves (Go, src/debug/buildinfo): a magic, the size of a pointer, flags, then two
# strings: inline from byte 32 where bit 1 of the flags is set, else two pointers to string headers.
_GO_MAGIC = b"\xff Go buildinf:"
_GO_HEADER = 32
_GO_SENTINEL = 16  # bytes before and after the module text
_GO_SEARCH_LIMIT = 64 << 20


def go(content: Content, place: str) -> Iterator[Package]:
    """The modules that a Go program was linked from. Nothing for any other file."""
    at = content.find(_GO_MAGIC, 0, _GO_SEARCH_LIMIT)
    while at >= 0 and at % 16:
        at = content.find(_GO_MAGIC, at + 1, _GO_SEARCH_LIMIT)
    if at < 0 or at + _GO_HEADER > len(content):
        return
    if content[at + 15] & 2:
        version, rest = _go_inline(content, at + _GO_HEADER)
        modules, _ = _go_inline(content, rest)
    else:
        version, modules = _go_by_pointers(content, at)
    text = version.decode(errors="replace")
    if not text:
        return
    yield Package("golang", "stdlib", text.removeprefix("go").partition(" ")[0], place=place)
    listed = modules[_GO_SENTINEL:-_GO_SENTINEL].decode(errors="replace")
    yield from _go_modules(listed, place)


def _go_modules(listed: str, place: str) -> Iterator[Package]:
    last: Package | None = None
    for line in listed.splitlines():
        fields = line.split("\t")
        if fields[0] not in ("mod", "dep", "=>") or len(fields) < 3:
            continue
        namespace, _, name = fields[1].rpartition("/")
        found = Package("golang", name, fields[2], namespace, place=place)
        if fields[0] != "=>" and last is not None:
            yield last
        last = found  # "=>" replaces the module of the line before
    if last is not None:
        yield last


def _go_inline(content: Content, at: int) -> tuple[bytes, int]:
    """A string after its length as a varint, and where the next one starts."""
    size = shift = 0
    while at < len(content) and shift < 64:
        byte = content[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return content[at : at + size], at + size


def _go_by_pointers(content: Content, at: int) -> tuple[bytes, bytes]:
    """Programs of Go before 1.18: the pointers are addresses of the running program."""
    size, big = content[at + 14], content[at + 15] & 1
    if size not in (4, 8):
        return b"", b""
    word = (">" if big else "<") + ("I" if size == 4 else "Q")

    def number(where: int) -> int:
        if where < 0 or where + size > len(content):
            return -1
        return int(struct.unpack_from(word, content, where)[0])

    def string(pointer: int) -> bytes:
        header = _file_offset(content, pointer)
        start, length = _file_offset(content, number(header)), number(header + size)
        if header < 0 or start < 0 or length < 0:
            return b""
        return content[start : start + length]

    return string(number(at + 16)), string(number(at + 16 + size))


def _file_offset(content: Content, address: int) -> int:
    """Where in an ELF file (elf(5), program headers) the byte at an address lies; -1 if nowhere."""
    if content[:4] != b"\x7fELF" or address < 0:
        return -1
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    try:
        if wide:
            (table,) = struct.unpack_from(order + "Q", content, 32)
            size, count = struct.unpack_from(order + "HH", content, 54)
        else:
            (table,) = struct.unpack_from(order + "I", content, 28)
            size, count = struct.unpack_from(order + "HH", content, 42)
        for number in range(count):
            at = table + number * size
            if wide:
                offset, start, _, length = struct.unpack_from(order + "QQQQ", content, at + 8)
            else:
                offset, start, _, length = struct.unpack_from(order + "IIII", content, at + 4)
            if start <= address < start + length:
                return int(offset + address - start)
    except struct.error:
        return -1
    return -1
