"""What can be wrong with images on disk."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class LayoutBroken(InputError):
    """A folder is no OCI image layout, or a file in it is not what the specification says."""

    code = "layout-broken"


class ImageMissing(InputError):
    """The layout has no image of that name."""

    code = "image-not-in-layout"


class OutputNotWritable(InputError):
    """A folder or file that an image should be written to can't be written."""

    code = "output-not-writable"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the path where writing fails. A full disk stays an OSError: the builder as a whole
    has one answer to that."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            error.filename = str(path.absolute())
            raise
        raise OutputNotWritable(
            f"{path} can't be written: {(error.strerror or str(error)).lower()}"
            f"{_where(error, path)}",
            hint="name another place, or give this user the right to write there",
        ) from error


def _where(error: OSError, path: Path) -> str:
    name = error.filename
    return f" ({name})" if isinstance(name, str) and name != str(path) else ""
