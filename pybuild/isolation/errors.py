"""What can go wrong between a RUN instruction and its process."""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Sequence

from pybuild.errors import HostUnsupported, InputError, PybuildError, RunFailed

SHOWN_PATHS = 5


def describe_errno(number: int) -> str:
    """For example `EPERM (Operation not permitted)`."""
    return f"{errno_names.errorcode.get(number, str(number))} ({os.strerror(number)})"


class IsolationUnsupported(HostUnsupported):
    """The isolation that was asked for, or every one, can't work in this container."""

    code = "isolation-unsupported"


class NotInContainer(HostUnsupported):
    """This isolation replaces `/`, and this looks like a machine rather than a container."""

    code = "not-in-container"


class IsolationFailed(HostUnsupported):
    """A RUN could not be entered although the isolation was found to work: a step of the kernel's
    was refused."""

    code = "isolation-failed"

    def __init__(self, step: str, number: int, detail: str) -> None:
        what = f"{step}: {detail}: " if detail else f"{step}: "
        super().__init__(
            f"a RUN could not be entered: {what}{describe_errno(number)}",
            hint="run `pybuild doctor` in this container; another --isolation may work",
        )
        self.step = step
        self.errno = number


class RunnerLost(PybuildError):
    """The process that starts RUN commands ended unexpectedly, most often for want of memory."""

    code = "runner-lost"

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"the process that starts RUN commands is gone: {detail}",
            hint="check whether the container ran out of memory (OOMKilled)",
        )


class ProgramMissing(RunFailed):
    """The program of a RUN in exec form, or the shell, is not in the image; status 127."""

    code = "program-missing"

    def __init__(self, program: str, search_path: str) -> None:
        where = "" if "/" in program else f" in PATH ({search_path})"
        hint = "is it installed in this stage, and under this name?"
        if program.endswith("sh"):
            hint = 'the image has no such shell; RUN\'s exec form, ["program", …], needs none'
        super().__init__(f"executable not found{where}: {program}", status=127, hint=hint)


class ProgramNotExecutable(RunFailed):
    """The program of a RUN is there but can't be started; status 126."""

    code = "program-not-executable"

    def __init__(self, program: str, number: int) -> None:
        hints = {
            errno_names.EACCES: "check its mode (chmod +x) and the USER that RUN works as",
            errno_names.ENOEXEC: "is it built for another platform, or a script without `#!`?",
            errno_names.ENOENT: "its interpreter (`#!` line or dynamic loader) is not in the image",
        }
        super().__init__(
            f"cannot execute {program}: {describe_errno(number)}",
            status=126,
            hint=hints.get(number, ""),
        )


class WorkingDirectoryMissing(InputError):
    """The working directory of a RUN is not in the image, or is not a directory."""

    code = "working-directory-missing"

    def __init__(self, directory: str, number: int) -> None:
        super().__init__(
            f"RUN can't enter its working directory {directory}: {describe_errno(number)}",
            hint="WORKDIR makes it; was it removed by a later RUN?",
        )


class TooManyLayers(HostUnsupported):
    """The stack has more layers than one overlay mount can hold."""

    code = "too-many-layers"

    def __init__(self, layers: int, limit: str) -> None:
        super().__init__(
            f"{layers} layers are too many for one overlay mount ({limit})",
            hint="squash the base image, or join RUN and COPY instructions",
        )


class RunFlagUnsupported(HostUnsupported):
    """A RUN flag asks for something that this isolation can't give."""

    code = "run-flag-unsupported"


class PutBackFailed(PybuildError):
    """The container's own files could not all be put back after a build in place."""

    code = "put-back-failed"


class BuilderFilesLost(RunFailed):
    """A RUN in place removed the folder in which the build keeps its layers."""

    code = "builder-files-lost"

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"the command removed the builder's own folder {folder}, and the layers in it",
            status=1,
            hint="a RUN in place must not remove what is not the image's; "
            "use an isolation where it does not see it",
        )


class MountMoved(RunFailed):
    """A RUN in place renamed a folder that leads to one of the container's mounts."""

    code = "mount-moved"

    def __init__(self, now: str, before: str) -> None:
        super().__init__(
            f"the command renamed {before} to {now}; the container has a mount below it",
            status=1,
            hint="mount the volume elsewhere, or use an isolation where a RUN does not see it",
        )


ADD_A_NAME = (
    "add the name to the agent image: `make agent-image TARGET=rootless MORE_FOLDERS=NAME`, or "
    "MORE_LINKS=NAME for a file"
)


class TopNameMissing(HostUnsupported):
    """A name at the top of the image that this container does not have, and an ordinary user can't
    make; a RUN would not see it."""

    code = "top-name-missing"

    def __init__(self, names: Sequence[str]) -> None:
        told = ", ".join(f"/{name}" for name in names)
        super().__init__(
            f"a RUN of isolation rootless can't be given {told}: this user can make no name in /",
            hint=ADD_A_NAME,
        )


class TopNameRefused(RunFailed):
    """A RUN of an ordinary user failed where it wanted to make or remove a name in `/`."""

    code = "top-name-refused"

    def __init__(self, name: str, status: int, *, there: bool) -> None:
        wanted = "remove or replace" if there else "make"
        hint = "empty it instead, or write elsewhere" if there else ADD_A_NAME
        super().__init__(
            f"the command ended with status {status}; it wanted to {wanted} /{name}, and an "
            "ordinary user can make and remove no names in /",
            status=status,
            hint=f"{hint}; or let the build have root in its container",
        )


class RootPathKept(RunFailed):
    """A RUN of isolation rootless left a path in a file that the image will not have."""

    code = "root-path-kept"

    def __init__(self, paths: Sequence[str]) -> None:
        shown = ", ".join(f"/{path}" for path in paths[:SHOWN_PATHS])
        more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
        super().__init__(
            f"the command wrote a path below /.root into {shown}{more}: that is this container's, "
            "and the image has no such folder",
            status=1,
            hint="--allow-root-path takes these files as they are; with a base image that has /bin "
            "and /lib as links (merged /usr) no such paths come up",
        )
