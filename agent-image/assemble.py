"""Makes the agent image's trees from packages, wheels and sources: runtime, program and shell.

Runs in the `assembled` stage of the Dockerfile, on the machine that builds; nothing of the target
architecture is run. Everything written depends on the context alone: times are fixed, and compiled
modules are checked by nothing (unchecked-hash), so they never go stale or get written again.
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from debian import data_of, version_of  # beside this file
from relocate import PREFIX, collect_libraries, is_elf, relocate

MULTIARCH = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
PYTHON = "python3.11"
EPOCH = 1_700_000_000
# Modules that no builder needs; with them go ncurses, readline and Berkeley DB.
NO_MODULES = (
    *("test", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip", "distutils"),
    *(
        "pydoc_data",
        "pydoc.py",
        "curses",
        "dbm",
        "venv",
        "unittest",
        "wsgiref",
        "xmlrpc",
    ),
    *(
        "site.py",
        "sitecustomize.py",
        "EXTERNALLY-MANAGED",
        "LICENSE.txt",
        "__pycache__",
        "config-*",
    ),
    *("_test*", "_tkinter*", "_curses*", "readline.*", "_dbm*", "_gdbm*", "nis.*"),
    *(
        "ossaudiodev*",
        "_xxtestfuzz*",
        "xxlimited*",
        "_xxsubinterpreters*",
        "audioop*",
        "_ctypes_t*",
        "_uuid*",
    ),
)
GIT_PROGRAMS = ("git-remote-http", "git-sh-i18n--envsubst")  # the second for `git submodule`
GIT_SCRIPTS = ("git-submodule", "git-sh-setup", "git-sh-i18n")
GIT_NAMES = {
    "git-remote-https": "git-remote-http",
    **dict.fromkeys(("git-upload-pack", "git-receive-pack", "git-upload-archive"), "git"),
}
NOT_OF_WHEELS = re.compile(r".*\.data/|zstandard/_cffi")  # the latter is PyPy's
ALWAYS = ("libgcc_s.so.1",)  # looked for by name when a thread ends
# Debian's Python looks there for packages, below its own prefix; without `site` it starts faster.
PACKAGES = "kaniko/lib/python3/dist-packages"
LAUNCHER = """#!{prefix}/bin/python3 -IS
import sys

sys.path.append("/{packages}")
from pybuild.cli.{module} import main

sys.exit(main())
"""
PROGRAMS = {"executor": "executor", "warmer": "warmer", "pybuild": "main"}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "kaniko/nss.config": "hosts: files dns\n",
}
FOLDERS = {"tmp": 0o1777, "root": 0o755, "workspace": 0o755, "kaniko/.docker": 0o755}
UNNEEDED = re.compile(
    r"\./(usr/share/(man|locale|info|lintian|bash-completion|perl5|gitweb|bug|doc/[^/]+/(?!copyright))"
    r"|usr/lib/[^/]*/gconv|var/|lib/systemd|etc/)"
)


def main() -> int:
    context, target = Path(sys.argv[1]), Path(sys.argv[2])
    architecture = os.environ["TARGETARCH"]
    packages = sorted((context / "packages" / architecture).glob("*.deb"))
    wheels = sorted((context / "wheels" / architecture).glob("*.whl"))
    if not packages or not wheels:
        raise SystemExit(f"the context has nothing for {architecture}: see agent-image/fetch.py")
    unpacked = target / "unpacked"
    for package in packages:
        unpack(package, unpacked)
    runtime, program, shell = target / "runtime", target / "program", target / "shell"
    make_runtime(unpacked, runtime, wheels, MULTIARCH[architecture])
    note_origins(unpacked, runtime / "kaniko/licenses", packages, wheels)
    make_program(context, program)
    make_shell(context, unpacked, shell)
    shutil.rmtree(unpacked)
    for tree in (runtime, program, shell):
        settle(tree)
    return 0


def unpack(package: Path, target: Path) -> None:
    with data_of(package) as files:
        wanted = [member for member in files if not UNNEEDED.match(member.name)]
        files.extractall(target, wanted)


# --- runtime ----------------------------------------------------------------------------------


def make_runtime(unpacked: Path, root: Path, wheels: list[Path], multiarch: str) -> None:
    """Interpreter, libraries, git and authorities, with the few files a container has besides."""
    ours = root / "kaniko"
    library = ours / "lib" / PYTHON
    ignore = shutil.ignore_patterns(*NO_MODULES)
    shutil.copytree(unpacked / "usr/lib" / PYTHON, library, ignore=ignore)
    for wheel in wheels:
        unpack_wheel(wheel, root / PACKAGES)
    put_program(unpacked / "usr/bin" / PYTHON, ours / "bin" / PYTHON)
    (ours / "bin/python3").symlink_to(PYTHON)
    put_git(unpacked, ours)
    put_program(unpacked / "usr/bin/ssh", ours / "ssh")
    put_authorities(unpacked, ours / "ssl")
    certifi = root / PACKAGES / "certifi/cacert.pem"
    certifi.unlink()
    certifi.symlink_to(f"{PREFIX}/ssl/cert.pem")  # one set of authorities, not two
    shelves = [unpacked / "lib" / multiarch, unpacked / "usr/lib" / multiarch]
    brought = list((root / PACKAGES).glob("*.libs"))  # what wheels have beside their modules
    own = [path for path in ours.rglob("*") if is_elf(path) and path.parent not in brought]
    collect_libraries(own, [*brought, *shelves], ours / "lib")
    for folder in brought:
        shutil.rmtree(folder)
    for name in ALWAYS:
        put_program(next(shelf / name for shelf in shelves if (shelf / name).exists()),
                    ours / "lib" / name)  # fmt: skip
    relocate(path for path in ours.rglob("*") if is_elf(path))
    compile_modules(ours, root)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)


def unpack_wheel(wheel: Path, target: Path) -> None:
    """Its modules, and of what describes it the name, version and licences."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            described = ".dist-info/" in name
            kept = not described or "licen" in name.lower() or name.endswith("/METADATA")
            if kept and not NOT_OF_WHEELS.match(name):
                archive.extract(name, target)


def put_program(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def put_git(unpacked: Path, ours: Path) -> None:
    core = ours / "git-core"
    put_program(unpacked / "usr/bin/git", core / "git")
    for name in (*GIT_PROGRAMS, *GIT_SCRIPTS):
        put_program(unpacked / "usr/lib/git-core" / name, core / name)
    for name, meaning in GIT_NAMES.items():
        (core / name).symlink_to(meaning)
    (ours / "git-templates").mkdir()  # empty: hooks nobody runs
    (ours / "git").symlink_to("git-core/git")


def put_authorities(unpacked: Path, folder: Path) -> None:
    """The file lies beside the folder: a volume mounted on that must not take it away."""
    found = sorted((unpacked / "usr/share/ca-certificates").rglob("*.crt"))
    (folder / "certs").mkdir(parents=True)
    (folder / "cert.pem").write_text("".join(path.read_text() for path in found))
    (folder / "certs/ca-certificates.crt").symlink_to("../cert.pem")
    (folder.parent / "certs").symlink_to("ssl/certs")  # a short name for git's libcurl


def compile_modules(folder: Path, root: Path) -> None:
    """One after the other, sorted: what the marshalled bytes are can depend on what was before."""
    for path in sorted(folder.rglob("*.py")):
        py_compile.compile(
            str(path),
            dfile=f"/{path.relative_to(root)}",
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def note_origins(unpacked: Path, folder: Path, packages: list[Path], wheels: list[Path]) -> None:
    """What the image is made of, by version and digest, and Debian's copyright files."""
    folder.mkdir(parents=True)
    lines = []
    for file in packages:
        name, version = version_of(file)
        lines.append(f"deb {name} {version} sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}")
        copyright_file = unpacked / "usr/share/doc" / name / "copyright"
        if copyright_file.is_file():
            (folder / name).mkdir()
            shutil.copyfile(copyright_file, folder / name / "copyright")
    for file in wheels:
        name, version = file.name.split("-")[:2]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"wheel {name} {version} sha256:{digest}")
    (folder / "contents.txt").write_text("\n".join(lines) + "\n")


# --- program and shell ------------------------------------------------------------------------


def make_program(context: Path, root: Path) -> None:
    """pybuild itself, in a layer of its own: the only one that changes from commit to commit."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(context / "pybuild", root / PACKAGES / "pybuild", ignore=ignore)
    compile_modules(root, root)
    for name, module in PROGRAMS.items():
        launcher = root / "kaniko" / name
        launcher.write_text(LAUNCHER.format(prefix=PREFIX, packages=PACKAGES, module=module))
        launcher.chmod(0o755)


def make_shell(context: Path, unpacked: Path, root: Path) -> None:
    """busybox under all its names, `nohup` beside it, and a shell where everybody looks for one."""
    folder = root / "busybox"
    put_program(unpacked / "bin/busybox", folder / "busybox")
    for name in applets((folder / "busybox").read_bytes()):
        if name != "busybox":
            (folder / name).symlink_to("busybox")
    put_program(context / "agent-image/nohup", folder / "nohup")
    (root / "bin").mkdir()
    (root / "bin/sh").symlink_to("/busybox/sh")


def applets(program: bytes) -> list[str]:
    """The names that busybox answers to, from its own table: it can't be asked when it is another
    machine's. They are sorted C strings in a row, ended by an empty one."""
    start = program.index(b"\0[\0[[\0") + 1
    end = program.index(b"\0\0", start)
    return program[start:end].decode().split("\0")


def settle(root: Path) -> None:
    """Modes without a umask's doing, and one time for all."""
    for path in (*every(root), root):
        if not path.is_symlink():
            usual = 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644
            path.chmod(FOLDERS.get(str(path.relative_to(root)), usual))
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def every(root: Path) -> Iterator[Path]:
    """Children first: writing to a folder would change its time."""
    for folder, names, files in os.walk(root, topdown=False):
        for name in (*names, *files):
            yield Path(folder) / name


if __name__ == "__main__":
    sys.exit(main())
