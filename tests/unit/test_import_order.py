"""The packages import only what is listed before them, and starting loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pybuild"

# docs/architecture.md has the same list with what each is for. `k8s` and `jenkins` stand alone.
ORDER = (
    "errors", "events", "image", "dockerfile", "plan", "rootfs", "layer", "registry", "store",
    "context", "isolation", "cache", "executor", "output", "report", "k8s", "jenkins", "cli",
)  # fmt: skip
RANK = {name: number for number, name in enumerate(ORDER)}
BASE = {"errors", "events"}
# What these may import besides errors and events, where being listed before is not enough.
ONLY = {
    "errors": set[str](),
    "events": set[str](),
    "image": set[str](),
    "dockerfile": set[str](),
    "plan": {"image", "dockerfile"},
    "rootfs": {"image"},
    "layer": {"image", "rootfs"},
    "registry": {"image"},
    "store": {"image", "registry"},
    "context": {"image", "dockerfile", "rootfs", "layer", "registry"},
    "isolation": {"image", "rootfs", "layer"},
    "report": set[str](),
    "k8s": set[str](),
    "jenkins": set[str](),
}
PURE = ("errors", "events", "image", "dockerfile", "plan")
IMPURE_MODULES = {"os", "socket", "subprocess", "threading", "time", "logging", "pathlib", "random"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(module: Path) -> str:
    """`pybuild/image/layer.py` is of image, `pybuild/errors.py` of errors; the top's own of ""."""
    name = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def imports_of(module: Path) -> set[str]:
    """The full names of all that a module imports, inside functions and for types too."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} is a relative import"
            names.add(node.module or "")
            if node.module == "pybuild":
                names |= {f"pybuild.{alias.name}" for alias in node.names}
    return names


def ours(names: set[str]) -> set[str]:
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "pybuild" and len(part) > 1} - {"__version__"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_is_listed_before(module: Path) -> None:
    package = package_of(module)
    if not package:
        assert not ours(imports_of(module))
        return
    assert package in RANK, f"{package} has no place in the order: give it one here"
    wanted = ours(imports_of(module)) - {package}
    late = {name for name in wanted if RANK[name] >= RANK[package]}
    assert not late, f"{package} may not import {late}, which come after it"
    if package in ONLY:
        assert wanted <= ONLY[package] | BASE


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if package_of(module) in PURE],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_pure_packages_do_no_io(module: Path) -> None:
    tops = {name.split(".")[0] for name in imports_of(module)}
    assert not tops & IMPURE_MODULES


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_prints_or_logs(module: Path) -> None:
    tree = ast.parse(module.read_text())
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert not any(isinstance(func, ast.Name) and func.id == "print" for func in calls)
    assert "logging" not in imports_of(module)


def test_everything_is_caught_in_one_place_only() -> None:
    found = [
        f"{module.relative_to(PACKAGE)}:{node.lineno}"
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and isinstance(node.type, ast.Name)
        and node.type.id == "Exception"
    ]
    assert len(found) <= 1, found


HEAVY = {
    "requests", "rich", "git", "ssl", "http.client", "urllib.request", "tarfile", "subprocess",
    "concurrent.futures", "zstandard", "isal", "argparse", "asyncio", "email", "logging", "json",
    "tempfile", "socket", "kubernetes", "jenkins", "yaml",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`, beyond its own."""
    script = (
        "import sys; before = set(sys.modules)\n"
        f"import io; real = sys.stdout; sys.stdout = io.StringIO()\n{code}\n"
        "sys.stdout = real; print('\\n'.join(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("call", "most"),
    [
        ("from pybuild.cli.executor import main; main(['--help'])", 100),
        ("from pybuild.cli.warmer import main; main(['--help'])", 100),
        ("from pybuild.cli.main import main; main(['--help'])", 100),
        ("from pybuild.cli.executor import main; main(['version'])", 100),
    ],
)
def test_starting_is_cheap(call: str, most: int) -> None:
    """Counted, not timed: an import too many fails on a fast machine too."""
    loaded = modules_after(call)
    assert not loaded & HEAVY
    assert len(loaded) <= most, sorted(loaded)


def test_a_build_without_registry_git_or_terminal_loads_none_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    loaded = modules_after(
        f"from pybuild.cli.main import main; main(['build', '-q', '--no-push', {str(tmp_path)!r}])"
    )
    assert not loaded & {"requests", "rich", "git", "zstandard", "argparse", "asyncio", "email"}
