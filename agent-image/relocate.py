"""Makes programs and libraries independent of the root they run in: all they need is below /kaniko.

While a build has an image on `/`, that image's /etc/ld.so.preload, its libraries of the same names
and its settings of OpenSSL, git or the name service must not count for the builder. So programs
get an interpreter and a search path of their own (patchelf, which takes foreign machines' files as
well), and paths that are compiled in are overwritten with others of the same length.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

PREFIX = "/kaniko"
LIBRARIES = f"{PREFIX}/lib"
_ELF = b"\x7fELF"

_GIT = {
    "/usr/lib/git-core": "/kaniko/git-core",
    "share/git-core/templates": "/kaniko/git-templates",
    "/etc/gitconfig": "/kaniko/gitcfg",  # not there
    "/etc/gitattributes": "/kaniko/gitattribs",  # not there
}
# What is compiled in, and what stands there instead. It may not be longer; slashes fill it up,
# since suffixes and lengths of such strings may be in use elsewhere.
PATHS: Mapping[str, Mapping[str, str]] = {
    "ld-linux*": {
        "/etc/ld.so.cache": "/kaniko/ld.cache",  # not there: every library is in the search path
        "/etc/ld.so.preload": "/kaniko/ld.preload",  # not there
    },
    "libc.so.6": {
        "/etc/nsswitch.conf": "/kaniko/nss.config",
        "/usr/lib/locale": "/kaniko/locale",  # not there: C.UTF-8 is built in
    },
    "libcrypto.so.*": {"/usr/lib/ssl": "/kaniko/ssl"},
    "libgnutls.so.*": {
        "/etc/gnutls/config": "/kaniko/gnutls.cfg",  # not there
        "/etc/ssl/certs/ca-certificates.crt": "/kaniko/ssl/cert.pem",
    },
    "libcurl-gnutls.so.*": {"/etc/ssl/certs": "/kaniko/certs"},
    "git": _GIT,
    "git-remote-http": _GIT,
}


class DoesNotFit(Exception):
    """A package is not what this was written for; the message names the file."""


def is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF


def needed(path: Path) -> list[str]:
    """Names of the libraries that the file asks for (DT_NEEDED)."""
    return _patchelf("--print-needed", path).split()


def collect_libraries(files: Iterable[Path], shelves: Iterable[Path], target: Path) -> None:
    """Puts every library that `files` need, and what those need, from `shelves` into `target`.

    Raises DoesNotFit for one that is nowhere."""
    shelves = list(shelves)
    pending = {name for file in files for name in needed(file)}
    done: set[str] = set()
    while pending:
        name = pending.pop()
        done.add(name)
        source = next((shelf / name for shelf in shelves if (shelf / name).exists()), None)
        if source is None:
            raise DoesNotFit(f"no package has {name}")
        (target / name).write_bytes(source.read_bytes())
        (target / name).chmod(0o755)
        pending |= set(needed(source)) - done


def relocate(files: Iterable[Path]) -> None:
    """Programs (they have an interpreter) and libraries, wherever they lie below PREFIX."""
    for path in sorted(files):
        if _patchelf("--print-rpath", path):
            # A RUNPATH of a library's own would make the program's search path not count.
            _patchelf("--remove-rpath", path)
        interpreter = _interpreter(path)
        if interpreter:
            own = f"{LIBRARIES}/{interpreter.rpartition('/')[2]}"
            # RPATH, not RUNPATH: it counts for what libraries need too, and before LD_LIBRARY_PATH.
            _patchelf("--set-interpreter", own, "--force-rpath", "--set-rpath", LIBRARIES, path)
        for pattern, paths in PATHS.items():
            if fnmatch(path.name, pattern):
                _overwrite(path, paths)


def _interpreter(path: Path) -> str:
    asked = subprocess.run(
        ["patchelf", "--print-interpreter", path], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()  # a library has none, and that is an error to patchelf


def _overwrite(path: Path, paths: Mapping[str, str]) -> None:
    content = path.read_bytes()
    for old, new in paths.items():
        if old.encode() not in content:
            raise DoesNotFit(f"{path.name} does not hold {old}")
        content = content.replace(old.encode(), of_length(new, len(old)).encode())
    path.write_bytes(content)


def of_length(path: str, length: int) -> str:
    """The same path, with as many slashes behind PREFIX as it takes. Raises DoesNotFit."""
    if len(path) > length:
        raise DoesNotFit(f"{path} is longer than {length}")
    return path.replace(PREFIX, PREFIX + "/" * (length - len(path)), 1)


def _patchelf(*arguments: str | Path) -> str:
    done = subprocess.run(["patchelf", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DoesNotFit(f"patchelf {arguments[0]} of {arguments[-1]}: {done.stderr.strip()}")
    return done.stdout.strip()
