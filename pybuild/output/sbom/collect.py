"""Finds the files of an image that tell of software, and reads them.

The index of the image says where to look, so that nothing is unpacked but the files that are read,
and what an upper layer removed is not there.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from pybuild.output.sbom import languages, system
from pybuild.output.sbom.package import Distribution, Package
from pybuild.output.sbom.system import Unreadable
from pybuild.rootfs.entry import Entry, Kind

TEXT_LIMIT = 64 << 20  # of a file that is read as a whole, in bytes
_GO_LEAST = 400 << 10  # no linked Go program is smaller
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
_DPKG = re.compile(r"var/lib/dpkg/(status|status\.d/(?!.*\.md5sums)[^/]+)")
_APK = re.compile(r"(usr/)?lib/apk/db/installed")
_RPM = re.compile(r"(usr/lib/sysimage/rpm|var/lib/rpm)/rpmdb\.sqlite")
_RPM_OTHER = re.compile(r"(usr/lib/sysimage/rpm|var/lib/rpm)/(Packages|Packages\.db)")
_PYTHON = re.compile(r".*\.(dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_NODE = re.compile(r"(.*/)?node_modules/(@[^/]+/)?[^/@]+/package\.json")


class ImageFiles(Protocol):
    """The files of an image: a tree of entries, and where the bytes of some can be read."""

    def children(self, path: str) -> Iterator[Entry]: ...

    def resolve(self, path: str, *, follow_last: bool) -> str: ...

    def files(self, paths: Iterable[str]) -> Mapping[str, Path]: ...


class Found(Struct, frozen=True):
    """What an image holds. `unread` names files that should tell of more, with the reason."""

    distribution: Distribution
    packages: tuple[Package, ...]
    unread: tuple[tuple[str, str], ...]


class _File(Struct, frozen=True):
    """One that is read: where it lies, the name that it has in the image, and whose it is."""

    place: Path
    shown: str
    system: Distribution

    def text(self) -> str:
        return _text(self.place)


Reader = Callable[[_File], Iterator[Package]]


def collect(image: ImageFiles) -> Found:
    """Reads what tells of software. Never fails for what is in a file: that is in `unread`."""
    wanted = dict(_interesting(image))
    release = [image.resolve(path, follow_last=True) for path in _OS_RELEASE]
    places = image.files([*wanted, *(path for path in release if path not in wanted)])
    texts = (_text(places[path]) for path in release if path in places)
    found = system.distribution(next(texts, ""))
    packages: list[Package] = []
    unread: list[tuple[str, str]] = []
    licenses: dict[str, tuple[str, ...]] = {}
    for path, read in sorted(wanted.items()):
        if path not in places:
            continue
        try:
            if named := _COPYRIGHT.fullmatch(path):
                licenses[named[1]] = system.dpkg_licenses(_text(places[path]))
            else:
                packages += read(_File(places[path], f"/{path}", found))
        except Unreadable as error:
            unread.append((f"/{path}", str(error)))
    full = (_with_licenses(package, licenses) for package in packages)
    return Found(found, tuple(sorted(set(full))), tuple(unread))


def _with_licenses(package: Package, licenses: Mapping[str, tuple[str, ...]]) -> Package:
    if package.kind != "deb" or package.licenses:
        return package
    return replace(package, licenses=licenses.get(package.name, ()))


def _interesting(image: ImageFiles) -> Iterator[tuple[str, Reader]]:
    pending = [""]
    while pending:
        for entry in image.children(pending.pop()):
            if entry.kind is Kind.DIRECTORY:
                pending.append(entry.path)
            elif entry.kind is Kind.FILE and (read := _reader_of(entry)) is not None:
                yield entry.path, read


def _reader_of(entry: Entry) -> Reader | None:
    path = entry.path
    for pattern, read in _READERS:
        if pattern.fullmatch(path):
            return read
    if languages.is_java_archive(path):
        return _java
    # which programs are Go's only their bytes tell
    return _go if entry.mode & 0o111 and entry.size >= _GO_LEAST else None


def _text(place: Path) -> str:
    with place.open("rb") as file:
        return file.read(TEXT_LIMIT).decode(errors="replace")


def _dpkg(file: _File) -> Iterator[Package]:
    return system.dpkg(file.text(), file.system, file.shown)


def _apk(file: _File) -> Iterator[Package]:
    return system.apk(file.text(), file.system, file.shown)


def _rpm(file: _File) -> Iterator[Package]:
    return system.rpm(file.place, file.system, file.shown)


def _rpm_other(file: _File) -> Iterator[Package]:
    raise Unreadable(f"of rpm's databases only rpmdb.sqlite is read, not {file.place.name}")


def _python(file: _File) -> Iterator[Package]:
    return languages.python(file.text(), file.shown)


def _node(file: _File) -> Iterator[Package]:
    return languages.node(file.text(), file.shown)


def _java(file: _File) -> Iterator[Package]:
    with file.place.open("rb") as opened:
        yield from languages.java(opened, file.shown)


def _go(file: _File) -> Iterator[Package]:
    with file.place.open("rb") as opened:
        if opened.read(4) != b"\x7fELF":
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from languages.go(content, file.shown)


_READERS: tuple[tuple[re.Pattern[str], Reader], ...] = (
    (_COPYRIGHT, _dpkg),
    (_DPKG, _dpkg),
    (_APK, _apk),
    (_RPM, _rpm),
    (_RPM_OTHER, _rpm_other),
    (_PYTHON, _python),
    (_NODE, _node),
)
