"""What can be wrong with a build context."""

from __future__ import annotations

from pybuild.errors import ContentMismatch, InputError


class ContextMissing(InputError):
    """The folder given as context does not exist, or is no folder."""

    code = "context-missing"


class ContextUnknown(InputError):
    """The context is written in a form that no kind of context has."""

    code = "context-unknown"


class ContextUnreadable(InputError):
    """A file of the context exists but can't be read by the user who builds."""

    code = "context-unreadable"


class DockerfileMissing(InputError):
    """No Dockerfile at the place named, neither from the working folder nor in the context."""

    code = "dockerfile-missing"


class GitRefMissing(InputError):
    """The repository has no such branch, tag or commit."""

    code = "git-ref-missing"
    advice = "name a branch, a tag or a commit behind the #"


class GitRepositoryMissing(InputError):
    """The host answered, but has no such repository (or hides it from us)."""

    code = "git-repository-missing"
    advice = "check the address; hosts also say this of what the credentials may not see"


class GitDenied(InputError):
    """The git host refused the credentials, or wants some and none were given."""

    code = "git-denied"


class GitUnreachable(InputError):
    """The git host could not be reached."""

    code = "git-unreachable"
    advice = "check the address, the network and the proxy settings"


class GitFailed(InputError):
    """git ended with an error of another kind, or is not installed, or took too long."""

    code = "git-failed"


class ContextDenied(InputError):
    """The server of the context refused the credentials, or wants some and none were found."""

    code = "context-denied"


class ContextNotFound(InputError):
    """The server of the context answered, and has no such object (or hides it from us)."""

    code = "context-not-found"
    advice = "check the address; servers also say this of what the credentials may not see"


class ContextRefused(InputError):
    """The server of the context answered with a status that is of no use."""

    code = "context-refused"


class ContextUnreachable(InputError):
    """The server of the context could not be reached, or broke off each time."""

    code = "context-unreachable"
    advice = "check the address, the network and the proxy settings"


class ContextInsecure(InputError):
    """The context would come over plain HTTP, and nothing says what its bytes have to be."""

    code = "context-insecure"


class ContextDiffers(ContentMismatch):
    """A downloaded context has not the checksum or the size that was promised, or changed while
    it was downloaded."""

    code = "context-differs"


class NoArchive(InputError):
    """What was given as an archive is none: neither a tar nor a compressed one."""

    code = "no-archive"


class StdinEmpty(InputError):
    """The context should come from standard input, which is a terminal, or has nothing."""

    code = "stdin-empty"
