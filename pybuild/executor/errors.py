"""What can go wrong while a plan is carried out, besides RUN itself."""

from __future__ import annotations

from pybuild.errors import ContentMismatch, HostUnsupported, InputError
from pybuild.plan.make import BadDestination


class SourceMissing(InputError):
    """COPY or ADD names a file that is not in the context, stage or image, or is ignored."""

    code = "copy-source-missing"


class BadMode(InputError):
    """--chmod is neither octal nor symbolic."""

    code = "bad-mode"


class WorkFolderUnusable(InputError):
    """The folder that the builder keeps its files in can't be made."""

    code = "work-folder-unusable"


class SecretMissing(InputError):
    """A RUN needs a secret that was not given."""

    code = "secret-missing"


class SnapshotTooSlow(HostUnsupported):
    """What a RUN changed was not found in the time that SNAPSHOT_TIMEOUT_DURATION gives."""

    code = "snapshot-too-slow"


class DownloadFailed(InputError):
    """ADD could not download what it names."""

    code = "download-failed"


class ChecksumMismatch(ContentMismatch):
    """What ADD downloaded does not have the checksum that was asked for."""

    code = "checksum-mismatch"


__all__ = [
    "BadDestination",
    "BadMode",
    "ChecksumMismatch",
    "DownloadFailed",
    "SecretMissing",
    "SnapshotTooSlow",
    "SourceMissing",
    "WorkFolderUnusable",
]
