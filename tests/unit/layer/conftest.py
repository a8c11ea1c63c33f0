"""Layers are unpacked hundreds of times here: in memory where that keeps all they hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


def _keeps_attributes(directory: Path) -> bool:
    """tmpfs knows user attributes since Linux 6.6."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        try:
            os.setxattr(file.name, "user.test", b"1")
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def fast_directory() -> Path | None:
    usable = os.access(_MEMORY, os.W_OK) and _keeps_attributes(_MEMORY)
    return _MEMORY if usable else None


@pytest.fixture
def tmp_path(fast_directory: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_directory) as name:
        yield Path(name).resolve()
