"""What files of package managers tell, real ones where this machine has them."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from pybuild.output.sbom import languages, system
from pybuild.output.sbom.package import Distribution, Package
from pybuild.output.sbom.system import Unreadable

DEBIAN = Distribution("debian", "12", "Debian GNU/Linux 12")
ALPINE = Distribution("alpine", "3.20.1", "Alpine Linux v3.20")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="D 12"\n',
                     Distribution("debian", "12", "D 12"), id="debian"),
        pytest.param("NAME='Arch L'\nID=arch\n# ID=no\n", Distribution("arch", "", "Arch L"),
                     id="no version"),
        pytest.param("", Distribution(), id="nothing"),
    ],
)  # fmt: skip
def test_distribution(text: str, expected: Distribution) -> None:
    assert system.distribution(text) == expected


STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u4
Description: C library
 with more lines: here
 .

Package: gone
Status: deinstall ok config-files
Version: 1

Package: tzdata
Status: hold ok installed
Architecture: all
Version: 2024a-0+deb12u1
"""


def test_dpkg() -> None:
    found = list(system.dpkg(STATUS, DEBIAN, "/var/lib/dpkg/status"))
    assert [package.url for package in found] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc%402.36-9",
        "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12",
    ]
    one = next(system.dpkg("Package: a\nVersion: 1\n", Distribution(), "/var/lib/dpkg/status.d/a"))
    assert (one.name, one.namespace) == ("a", "debian")


def test_dpkg_tells_what_dpkg_itself_tells() -> None:
    status = Path("/var/lib/dpkg/status")
    if not status.exists():
        pytest.skip("this machine has no dpkg")
    told = subprocess.check_output(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"], text=True
    )
    rows = {line.partition(" ")[2] for line in told.splitlines() if line.startswith("installed ")}
    found = system.dpkg(status.read_text(errors="replace"), DEBIAN, "")
    assert {f"{package.name} {package.version}" for package in found} == rows


def test_licenses_of_debian() -> None:
    text = (
        "Format: https://www.debian.org/doc/\n\nFiles: *\nLicense: GPL-2+\n text\n\nLicense: MIT\n"
    )
    assert system.dpkg_licenses(text) == ("GPL-2+", "MIT")
    assert system.dpkg_licenses("This was packaged by\nLicense: free\n") == ()


def test_apk() -> None:
    text = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\n\nP:ssl_client\nV:1.36\nA:x86_64\n"
    text += "L:GPL-2.0-only\no:busybox\nF:usr/bin\nR:ssl_client\n\n"
    found = list(system.apk(text, ALPINE, "/lib/apk/db/installed"))
    assert [(package.url, package.licenses) for package in found] == [
        ("pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1", ("MIT",)),
        ("pkg:apk/alpine/ssl_client@1.36?arch=x86_64&distro=alpine-3.20.1&upstream=busybox",
         ("GPL-2.0-only",)),
    ]  # fmt: skip


SPEC = """\
Name: hello-pkg
Version: 1.2
Release: 3
Epoch: 4
Summary: s
License: MIT and BSD
BuildArch: noarch
%description
d
%files
"""


@pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="needs rpmbuild (Debian: rpm)")
def test_rpm(tmp_path: Path) -> None:
    (tmp_path / "p.spec").write_text(SPEC)
    top, root = tmp_path / "top", tmp_path / "root"
    run = ["rpmbuild", "-bb", "--define", f"_topdir {top}", str(tmp_path / "p.spec")]
    subprocess.run(run, check=True, capture_output=True)
    (made,) = top.rglob("*.rpm")
    root.mkdir()
    install = ["rpm", "--root", str(root), "-i", "--nodeps", "--define", "_dbpath /var/lib/rpm"]
    subprocess.run([*install, str(made)], check=True, capture_output=True)
    database = root / "var/lib/rpm/rpmdb.sqlite"
    (found,) = system.rpm(database, Distribution("fedora", "41"), "/x")
    assert found.url == (
        "pkg:rpm/fedora/hello-pkg@1.2-3?arch=noarch&distro=fedora-41&epoch=4"
        "&upstream=hello-pkg-1.2-3.src.rpm"
    )
    assert found.licenses == ("MIT and BSD",)
    (tmp_path / "broken").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(Unreadable):
        list(system.rpm(tmp_path / "broken", DEBIAN, "/x"))


def test_python_tells_what_its_metadata_tells() -> None:
    for name in ("msgspec", "requests", "rich"):
        text = importlib.metadata.distribution(name).read_text("METADATA")
        assert text is not None
        (found,) = languages.python(text, "/x")
        assert found.url == f"pkg:pypi/{name}@{importlib.metadata.version(name)}"
        assert found.licenses


@pytest.mark.parametrize(
    ("text", "name", "licenses"),
    [
        pytest.param("Name: A_b.C\nVersion: 1\nLicense: MIT\n\nName: no\n", "a-b-c", ("MIT",),
                     id="a normal name"),
        pytest.param("Name: a\nLicense: UNKNOWN\nClassifier: License :: OSI :: MIT License\n",
                     "a", ("MIT License",), id="classifier"),
        pytest.param("Name: a\nLicense: " + "x" * 300 + "\n", "a", (), id="a whole text"),
        pytest.param("Name: a\nLicense: b\nLicense-Expression: MIT OR X\n", "a", ("MIT OR X",),
                     id="expression"),
    ],
)  # fmt: skip
def test_python(text: str, name: str, licenses: tuple[str, ...]) -> None:
    (found,) = languages.python(text, "/x")
    assert (found.name, found.licenses) == (name, licenses)
    assert list(languages.python("Version: 1\n", "/x")) == []


@pytest.mark.parametrize(
    ("text", "urls", "licenses"),
    [
        pytest.param('{"name": "left-pad", "version": "1.3.0", "license": "WTFPL"}',
                     ["pkg:npm/left-pad@1.3.0"], ("WTFPL",), id="plain"),
        pytest.param('{"name": "@types/node", "version": "1.0.0", "license": {"type": "MIT"}}',
                     ["pkg:npm/%40types/node@1.0.0"], ("MIT",), id="scope, old license"),
        pytest.param('{"name": "a", "version": "1", "licenses": [{"type": "X"}, "Y"]}',
                     ["pkg:npm/a@1"], ("X", "Y"), id="licenses"),
        pytest.param('{"type": "module"}', [], (), id="no package"),
        pytest.param('{"name": 1, "version": null}', [], (), id="wrong types"),
        pytest.param("[]", [], (), id="a list"),
    ],
)  # fmt: skip
def test_node(text: str, urls: list[str], licenses: tuple[str, ...]) -> None:
    found = list(languages.node(text, "/x"))
    assert [package.url for package in found] == urls
    assert [package.licenses for package in found] == [licenses] * len(urls)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_node_that_is_none(text: str) -> None:
    with pytest.raises(Unreadable):
        list(languages.node(text, "/x"))


def jar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


POM = b"#comment\ngroupId=org.example\nartifactId=core\nversion=2.1\n"
INNER = jar({"META-INF/maven/org.example/core/pom.properties": POM})
OSGI = (
    b"Manifest-Version: 1.0\r\nBundle-SymbolicName: com.exam\r\n ple.b;x=y\r\nBundle-Version: 3\r\n"
)


def urls(content: bytes, place: str = "/app.jar") -> list[tuple[str, str]]:
    found = languages.java(io.BytesIO(content), place)
    return [(package.url, package.place) for package in found]


def test_java() -> None:
    assert urls(INNER) == [("pkg:maven/org.example/core@2.1", "/app.jar")]
    assert urls(jar({"META-INF/MANIFEST.MF": OSGI})) == [("pkg:maven/com.example.b@3", "/app.jar")]
    assert urls(jar({"a": b""}), "/lib/guava-31.1-jre.jar") == [
        ("pkg:maven/guava@31.1-jre", "/lib/guava-31.1-jre.jar")
    ]
    fat = jar({"META-INF/MANIFEST.MF": b"", "BOOT-INF/lib/core.jar": INNER, "lib/bad.jar": b"PK"})
    assert urls(fat) == [("pkg:maven/org.example/core@2.1", "/app.jar!/BOOT-INF/lib/core.jar")]


def test_archives_in_archives_end() -> None:
    content = INNER
    for _ in range(8):
        content = jar({"in.jar": content})
    assert urls(content) == []


def test_java_that_is_none() -> None:
    with pytest.raises(Unreadable):
        urls(b"no archive")


def go_program(version: bytes, modules: bytes) -> bytes:
    def inline(text: bytes) -> bytes:
        size, out = len(text), b""
        while True:
            out += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
            size >>= 7
            if not size:
                return out + text

    head = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16)
    sentinel = bytes(16)
    return b"\x7fELF" + bytes(60) + head + inline(version) + inline(sentinel + modules + sentinel)


def test_go() -> None:
    modules = (
        b"path\tcmd/a\nmod\texample.com/a\t(devel)\t\n"
        b"dep\tgithub.com/b/c\tv1.2.3\th1:x=\ndep\told/x\tv1.0.0\n=>\tnew/y/v2\tv2.0.0\th1:y=\n"
    )
    found = languages.go(go_program(b"go1.22.1 X:boring", modules), "/bin/a")
    assert [package.url for package in found] == [
        "pkg:golang/stdlib@1.22.1",
        "pkg:golang/example.com/a@%28devel%29",
        "pkg:golang/github.com/b/c@v1.2.3",
        "pkg:golang/new/y/v2@v2.0.0",
    ]
    assert list(languages.go(b"\x7fELF" + bytes(10_000), "/bin/a")) == []


@pytest.mark.skipif(shutil.which("go") is None, reason="needs go")
def test_go_tells_what_go_itself_tells() -> None:
    program = Path(shutil.which("go") or "").resolve()
    told = subprocess.check_output(["go", "version", str(program)], text=True).split()
    (found, *_) = languages.go(program.read_bytes(), "/x")
    assert found == Package("golang", "stdlib", told[1].removeprefix("go"), place="/x")


@pytest.mark.parametrize("size", [14, 16, 31, 33, 70, 100])
def test_a_cut_program_is_no_trouble(size: int) -> None:
    content = go_program(b"go1.22", b"mod\ta\tb\n")
    list(languages.go(content[64 : 64 + size], "/x"))
    old = bytearray(content)
    old[64 + 15] = 0  # the older form, with pointers that lead nowhere
    assert list(languages.go(bytes(old), "/x")) == []
