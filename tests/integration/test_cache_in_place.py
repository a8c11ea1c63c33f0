"""The layer cache in a container whose root a build takes over: a folder of layers that lies on
that root outlives it, and a build that has to begin again has put the root back before."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest

from tests.support import bundle
from tests.support.isolation_driver import busybox_tar

DRIVER = Path(__file__).parents[1] / "support/isolation_driver.py"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman's --rootfs"),
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
]
DOCKERFILE = "FROM scratch\nADD base.tar /\nRUN echo one > /a\nRUN cat /a > /b\n"
BUILD = (
    "/kaniko/executor --context=dir:///workspace/context --no-push --isolation=takeover "
    "--destination=x/y:1 --cache --cache-repo=oci:/layers --log-format=plain"
)
SCRIPT = f"""
list() {{ {bundle.PYTHON} -I -c '
import sys; sys.path.insert(0, "/driver")
from isolation_driver import listing
print(sorted(listing().items()))' > /workspace/$1; }}
{BUILD} > /workspace/cold 2>&1 || exit 1
{BUILD} > /workspace/warm 2>&1 || exit 2
list before
{bundle.PYTHON} -I -c '
import gzip, pathlib
for path in pathlib.Path("/layers/blobs/sha256").iterdir():
    data = path.read_bytes()
    if data[:2] == bytes((31, 139)) and b"one" in gzip.decompress(data):
        path.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
'
echo 'RUN cat /a /b > /c' >> /workspace/context/Dockerfile
{BUILD} --tar-path=/workspace/image.tar > /workspace/lost 2>&1 || exit 3
list after
"""


def test_a_cache_on_the_root_that_is_taken_over(tmp_path: Path) -> None:
    container = bundle.container_root(tmp_path / "root")
    workspace = tmp_path / "workspace"
    (workspace / "context").mkdir(parents=True)
    (workspace / "context/base.tar").write_bytes(busybox_tar())
    (workspace / "context/Dockerfile").write_text(DOCKERFILE)
    try:
        ran = bundle.run_in_container(
            container,
            ["/busybox/sh", "-c", SCRIPT],
            pod=bundle.Pod.RUNTIME_DEFAULT,
            volumes={str(workspace): "/workspace", str(DRIVER.parent): "/driver"},
        )
    finally:
        shutil.rmtree(container, ignore_errors=True)
    logs = {name: _read(workspace / name) for name in ("cold", "warm", "lost")}
    assert ran.returncode == 0, (ran.stderr, logs)
    assert logs["warm"].count("cached") >= 3 and "not in the cache" not in logs["warm"]
    assert "begins again without it" in logs["lost"]
    assert "RUN cat /a /b > /c" in logs["lost"] and (workspace / "image.tar").stat().st_size > 0
    before, after = (
        dict(ast.literal_eval((workspace / name).read_text())) for name in ("before", "after")
    )
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert all(path.startswith("/layers") for path in changed - {"/kaniko"}), changed


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
