"""What can be wrong with the paths of a root filesystem that we do not trust."""

from __future__ import annotations

from pybuild.errors import ContentMismatch, HostileContent, InputError


class BrokenIndex(ContentMismatch):
    """A packed index of a layer was cut off, altered, or written by another version."""

    code = "broken-index"


class SymlinkLoop(InputError):
    """A path in an image or a context leads through more symbolic links than a kernel follows."""

    code = "symlink-loop"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"too many symbolic links on the way to /{path}",
            hint="look for links that point at each other",
        )


class NotADirectory(HostileContent):
    """A path leads through something that is no directory."""

    code = "not-a-directory"

    def __init__(self, path: str) -> None:
        super().__init__(f"/{path} is needed as a directory, and is none")


class UnknownUser(InputError):
    """A user name is not in the image's /etc/passwd."""

    code = "unknown-user"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"user {name!r} is not in the image's /etc/passwd",
            hint="create it with a RUN before this instruction, or give its number",
        )


class UnknownGroup(InputError):
    """A group name is not in the image's /etc/group."""

    code = "unknown-group"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"group {name!r} is not in the image's /etc/group",
            hint="create it with a RUN before this instruction, or give its number",
        )
