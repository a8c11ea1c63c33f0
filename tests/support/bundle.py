"""The builder as one folder that runs in a root with nothing else, and containers made from it.

`bundle()` gives a relocated runtime (interpreter, standard library, runtime dependencies, every
shared library they need and the dynamic loader) that has to lie at /kaniko; it is made once for
each set of inputs and kept in the developer's cache. `container_root` puts it and this checkout's
pybuild into a directory that looks like the agent image, and `run_in_container` runs a command in
it with podman, under the rules that a Pod has (`Pod`).
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME_DEFAULT = Path(__file__).with_name("runtime-default.json")
_SECCOMP = f"--security-opt=seccomp={RUNTIME_DEFAULT}"
RECIPE = 3  # raise it when what is made changes
PREFIX = "kaniko"
CONTAINER_SECONDS = 110
LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages")
NEEDED_COMMANDS = ("podman", "runc", "patchelf", "busybox")
BUSYBOX = Path("/bin/busybox")


class Pod(Enum):
    """What podman has to be told for a container to be allowed what a Pod's container is. Its own
    default profile lets user namespaces through, so it stands for neither."""

    DEFAULT = (
        "--security-opt=seccomp=unconfined",
        "--cap-add=MKNOD,NET_RAW,AUDIT_WRITE",
    )
    RUNTIME_DEFAULT = (
        _SECCOMP,
        "--cap-add=MKNOD,NET_RAW,AUDIT_WRITE",
    )
    RESTRICTED = (
        "--user=1000:1000",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        _SECCOMP,
    )
    """Pod Security "restricted"."""
    RANDOM_USER = ("--user=1000680000:0", *RESTRICTED[1:])
    """OpenShift's."""


def missing_commands() -> list[str]:
    """What has to be installed before containers can be run here."""
    return [name for name in NEEDED_COMMANDS if shutil.which(name) is None]


def bundle() -> Path:
    """The folder that has to be seen as /kaniko; made when the cache has none for these inputs."""
    distributions = sorted(_runtime_distributions())
    versions = [f"{name}={importlib.metadata.version(name)}" for name in distributions]
    inputs = "\n".join([str(RECIPE), sys.version, str(_interpreter()), *versions])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybuild-dev"
    target = cache / f"bundle-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    if not target.is_dir():
        draft = cache / f".{target.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        _make(draft, distributions)
        try:
            draft.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    return target


def _interpreter() -> Path:
    return Path(sys.executable).resolve()


def _runtime_distributions() -> set[str]:
    """What pybuild needs by its pyproject.toml, and what that needs; extras left out."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    pending: list[str] = list(project["dependencies"])
    while pending:
        requirement, _, marker = pending.pop().partition(";")
        name = re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0]
        if "extra" not in marker and name not in found and _is_installed(name):
            found.add(name)
            pending += importlib.metadata.requires(name) or ()
    return found


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _make(draft: Path, distributions: Sequence[str]) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = draft / "lib" / version
    site = library / "site-packages"
    ignore = shutil.ignore_patterns(*LEFT_OUT, "config-*", "_tkinter*", "_test*", "nis.*")
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=ignore, symlinks=True)
    site.mkdir()
    for name in distributions:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)
    _compile(site, draft)
    program = draft / "bin" / version
    program.parent.mkdir()
    shutil.copy(_interpreter(), program)
    (draft / "bin/python3").symlink_to(version)
    libraries = _libraries([program, *draft.rglob("*.so")])
    for path in libraries:
        shutil.copy(path, draft / "lib" / Path(path).name)
    for path in draft.rglob("*.so*"):  # a RUNPATH of their own would make the program's not count
        if subprocess.check_output(["patchelf", "--print-rpath", path]).strip():
            subprocess.run(["patchelf", "--remove-rpath", path], check=True)
    loader = next(Path(path).name for path in libraries if Path(path).name.startswith("ld-linux"))
    patch = ["patchelf", "--set-interpreter", f"/{PREFIX}/lib/{loader}"]
    # RPATH, not RUNPATH: it counts for the libraries' own needs too
    patch += ["--force-rpath", "--set-rpath", f"/{PREFIX}/lib", str(program)]
    subprocess.run(patch, check=True)
    for name in ("executor", "warmer", "main"):
        script = draft / ("pybuild" if name == "main" else name)
        script.write_text(
            f"#!/{PREFIX}/bin/python3 -I\n"
            f"import sys\nfrom pybuild.cli.{name} import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)


def _compile(directory: Path, prefix: Path) -> None:
    """As it will be seen: a container must not have to write what it imports."""
    compileall.compile_dir(directory, quiet=2, stripdir=str(prefix), prependdir=f"/{PREFIX}")


def _libraries(programs: Sequence[Path]) -> set[str]:
    """All shared libraries, the loader among them, by what ldd finds on this machine."""
    found: set[str] = set()
    for program in programs:
        output = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for line in output.splitlines():
            path = re.search(r"(/\S+) \(0x", line)
            if path:
                found.add(path[1])
    return found


def container_root(directory: Path) -> Path:
    """A root like the agent image's: static applets in /busybox, the runtime at /kaniko and little
    else. `directory` must not exist."""
    for name in ("busybox", "bin", "etc", "tmp", "workspace", "proc", "sys", "dev", "root", "run"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, directory / "busybox/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (directory / "busybox" / applet).symlink_to("busybox")
    (directory / "bin/sh").symlink_to("/busybox/sh")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    # hard links: the container gets an overlay of its own, so the cache is never written through
    subprocess.run(["cp", "-al", bundle(), directory / PREFIX], check=True)
    site = next((directory / PREFIX / "lib").glob("python3.*")) / "site-packages"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "pybuild", site / "pybuild", ignore=ignore)
    _compile(site / "pybuild", directory / PREFIX)
    return directory


def container_command(
    root: Path,
    command: Sequence[str],
    *,
    pod: Pod,
    volumes: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    rootfs: str = "O",
) -> list[str]:
    """The command line of podman. `volumes`: directory here → path there. The root is below an
    overlay as a container's usually is, so nothing is written to it; with `rootfs` "" it is written
    to, and `/` is whose it is (podman gives an overlay's to the container's user)."""
    return [
        *("podman", "--runtime", "runc", "run", "--rm", "-i", "--net=host"),
        f"--timeout={CONTAINER_SECONDS}",  # a client that is killed leaves its container behind
        *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=10000:10000"),
        *pod.value,
        *(f"--volume={source}:{target}" for source, target in (volumes or {}).items()),
        *(f"--env={name}={value}" for name, value in _environment(env or {})),
        *options,
        *("--rootfs", f"{root}:{rootfs}".rstrip(":")),
        *command,
    ]


def _environment(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "PATH", "/usr/local/bin:/kaniko:/busybox"
    yield from env.items()


def run_in_container(
    root: Path,
    command: Sequence[str],
    *,
    pod: Pod,
    volumes: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    stdin: str = "",
    timeout_seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Runs to the end; a failure is the caller's to judge."""
    full = container_command(root, command, pod=pod, volumes=volumes, env=env, options=options)
    return subprocess.run(
        full, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )


PYTHON = f"/{PREFIX}/bin/python3"
