"""The git program: its environment, its deadline, and what its refusals mean.

It is run through GitPython's command object, in a session of its own so that its helpers end with
it, without prompts, and with credentials handed over by GIT_ASKPASS only: none is ever in argv, in
a URL, in a log or in an error.
"""

from __future__ import annotations

import os
import random
import re
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

from msgspec import Struct

from pybuild.context.errors import (
    GitDenied,
    GitFailed,
    GitRefMissing,
    GitRepositoryMissing,
    GitUnreachable,
)
from pybuild.context.git_ssh import ssh_command
from pybuild.context.git_url import GitSource, redact
from pybuild.errors import InputError, Interrupted
from pybuild.events import EventSink, Level, Notice
from pybuild.registry.trust import added_bundle

if TYPE_CHECKING:
    from pybuild.context.open import ContextOptions

_POLL_SECONDS = 0.2

# Answers prompts such as "Password for 'https://user@host:443': ", for the one host that the
# credentials are meant for: a submodule or a redirect elsewhere is told nothing.
_ASKPASS = """#!{python} -IS
import os, re, sys
prompt = sys.argv[1] if len(sys.argv) > 1 else ""
asked = re.search(r"'(\\w+://)(?:[^/@']*@)?([^/']+)", prompt)
if not asked or asked[1] + asked[2] != os.environ["PYBUILD_GIT_HOST"]:
    sys.exit(1)
name = "USERNAME" if prompt.lower().startswith("username") else "PASSWORD"
print(os.environ["PYBUILD_GIT_" + name])
"""


class GitProgram(Struct, frozen=True):
    """The git program with the environment and deadline of one fetch."""

    source: GitSource
    options: ContextOptions
    private: Path  # a folder only we can read, for the settings and the askpass program
    sink: EventSink = lambda _: None

    @property
    def depth(self) -> tuple[str, ...]:
        depth = self.options.git.depth
        return ("--depth", str(depth)) if depth > 0 else ()

    def run(
        self, *arguments: str, cwd: Path, watch: Callable[[bytes], None] | None = None
    ) -> bytes:
        """git's standard output; raises one of the Git… errors, or Interrupted."""
        status, output, errors = self._once(arguments, cwd, watch)
        if status != 0:
            raise self._error(arguments[0], errors)
        return output

    def online(
        self, *arguments: str, cwd: Path, watch: Callable[[bytes], None] | None = None
    ) -> bytes:
        """As `run`, for what talks to a server: tried again when the connection fails."""
        policy = self.options.web.retry
        for attempt in range(1, policy.tries + 1):
            status, output, errors = self._once(arguments, cwd, watch)
            if status == 0:
                return output
            error = self._error(arguments[0], errors)
            lasting = not isinstance(error, GitUnreachable) or _UNKNOWN_HOST in errors.lower()
            if lasting or attempt == policy.tries:
                break
            wait = policy.wait_seconds(attempt, random.random())
            text = (
                f"{error.message}; trying again in {wait:.1f} s ({attempt + 1} of {policy.tries})"
            )
            self.sink(Notice(Level.WARNING, text, "context-retry"))
            if self.options.cancelled.wait(wait):
                raise Interrupted(signal.SIGTERM)
        if attempt > 1:
            error.message = f"{error.message} (attempt {attempt} of {policy.tries})"
            error.args = (error.message,)
        raise error

    def _once(
        self, arguments: tuple[str, ...], cwd: Path, watch: Callable[[bytes], None] | None
    ) -> tuple[int, bytes, str]:
        """The exit status, standard output and standard error."""
        if shutil.which("git", path=self.options.environment.get("PATH")) is None:
            where = redact(self.source.remote, self.source.credentials)
            raise GitFailed(f"{where} is a git repository, and git is not installed here")
        from git.cmd import Git

        handle = Git(str(cwd)).execute(
            ["git", *arguments],
            as_process=True,
            env=self._environment(),
            start_new_session=True,
            umask=0o022,
        )
        process = handle.proc
        assert process is not None
        try:
            output, errors = self._follow(process, watch)
        finally:
            _end(process)
        return process.returncode, output, errors.decode("utf-8", "replace")

    @property
    def ref(self) -> str:
        """What the address asks for, else --git=branch=…, else the repository's own choice."""
        return self.source.ref or self.options.git.branch or "HEAD"

    def ref_missing(self, ref: str) -> GitRefMissing:
        where = redact(self.source.remote, self.source.credentials)
        place = "the part after '#'" if self.source.ref else "--git=branch=…"
        return GitRefMissing(
            f"{where} has no branch, tag or commit {ref}",
            hint=f"{place} is the ref; write refs/heads/NAME or refs/tags/NAME in full, "
            "or a whole commit",
        )

    def _follow(
        self, process: Popen[bytes], watch: Callable[[bytes], None] | None
    ) -> tuple[bytes, bytes]:
        """Reads both streams to their ends, until the deadline or a cancel."""
        deadline = time.monotonic() + self.options.timeout_seconds
        output, errors = bytearray(), bytearray()
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, errors)
            while selector.get_map():
                if self.options.cancelled.is_set():
                    raise Interrupted(signal.SIGTERM)
                if time.monotonic() > deadline:
                    raise GitFailed(
                        f"git took longer than {self.options.timeout_seconds:g} seconds"
                    )
                for key, _ in selector.select(_POLL_SECONDS):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                    if watch is not None and key.data is errors:
                        watch(data)
        process.wait()
        return bytes(output), bytes(errors)

    def _environment(self) -> dict[str, str]:
        given = self.options.environment
        credentials = self.source.credentials
        settings = self.private / "gitconfig"
        askpass = self.private / "askpass"
        if not settings.exists():
            settings.write_text(_settings(given, bool(credentials)))
            askpass.write_text(_ASKPASS.format(python=sys.executable))
            askpass.chmod(0o700)
        scheme, _, rest = self.source.remote.partition("://")
        environment = {
            **given,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_GLOBAL": str(settings),
            "LC_ALL": "C",
            **self._trust(),
        }
        if "GIT_SSH_COMMAND" not in given and "GIT_SSH" not in given and scheme == "ssh":
            environment["GIT_SSH_COMMAND"] = ssh_command(given, self.private)
        if self.options.git.insecure_skip_tls:
            environment["GIT_SSL_NO_VERIFY"] = "1"
        if credentials:
            environment |= {
                "GIT_ASKPASS": str(askpass),
                "PYBUILD_GIT_HOST": f"{scheme}://{rest.partition('/')[0]}",
                "PYBUILD_GIT_USERNAME": credentials.username or "git",
                "PYBUILD_GIT_PASSWORD": credentials.password,
            }
        return environment

    def _trust(self) -> dict[str, str]:
        """Further authorities: git takes one file, and reads no SSL_CERT_DIR."""
        given = self.options.environment
        if any(given.get(name) for name in _OWN_TRUST):
            return {}
        bundle = self.private / "authorities.pem"
        if not bundle.exists():
            bundle.write_bytes(added_bundle(given) or b"")
        return {"GIT_SSL_CAINFO": str(bundle)} if bundle.stat().st_size else {}

    def _trusting(self) -> str:
        for name in _OWN_TRUST:
            if self.options.environment.get(name):
                return f"{name} alone says whom git trusts: add its authority there, or unset it"
        return "put its authority's certificate into a folder that SSL_CERT_DIR names"

    def _error(self, action: str, errors: str) -> InputError:
        """Tells the reasons people can act on apart by what git, curl and ssh say in English."""
        text = redact(errors, self.source.credentials)
        where = redact(self.source.remote, self.source.credentials)
        low = text.lower()
        reason = _reason(text)
        if any(words in low for words in _SAYS_REF):
            return self.ref_missing(self.source.commit or self.ref)
        # git's own protocol knows no credentials: there it means the same as "not found".
        not_exported = "repository not exported" in low
        if any(words in low for words in _SAYS_DENIED) and not not_exported:
            given = bool(self.source.credentials)
            refused = "refused the credentials given" if given else "wants credentials"
            return GitDenied(
                f"{where} {refused}, or has no such repository: {reason}", hint=_denied_hint(low)
            )
        if any(words in low for words in _SAYS_MISSING):
            return GitRepositoryMissing(f"there is no git repository {where}: {reason}")
        if any(words in low for words in _SAYS_DOWN):
            return GitUnreachable(f"{where} can't be reached: {reason}")
        hint = ""
        if "certificate" in low:
            hint = f"{self._trusting()}, or give --git=insecure-skip-tls=true"
        elif action == "lfs":
            hint = "GIT_LFS_SKIP_SMUDGE=1 leaves the pointers as they are"
        return GitFailed(f"git {action} of {where} failed: {reason}", hint=hint)


_SAYS_LITTLE = ("fatal: could not read from", "fatal: clone of ", "please make sure",
                "and the repository exists", "remote: counting")  # fmt: skip
_OWN_TRUST = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH")  # git's own variables win over ours
_SAYS_REF = (
    "couldn't find remote ref",
    "not our ref",
    "no such ref",
    "unadvertised object",
    "upload-pack: not our ref",
    "reference is not a tree",
)
_SAYS_DENIED = (
    "authentication failed",
    "could not read username",
    "could not read password",
    "terminal prompts disabled",
    "unable to read askpass",
    "permission denied",
    "access denied",
    "host key verification failed",
    "error: 403",
    "error: 401",
)
_SAYS_MISSING = (
    "not found",
    "does not appear to be a git repository",
    "does not exist",
    "repository not exported",
    "error: 404",
    "no such file or directory",
)
_SAYS_DOWN = (
    "could not resolve host",
    "couldn't resolve host",
    "connection refused",
    "failed to connect",
    "couldn't connect",
    "unable to connect",
    "unable to look up",
    "timed out",
    "network is unreachable",
    "no route to host",
    "connection reset",
    "connection closed by",
    "early eof",
    "rpc failed",
    "unexpected disconnect",
    "hung up unexpectedly",
    "empty reply from server",
    "transfer closed with",
    "recv failure",
    "operation too slow",
    "error: 429",
    "error: 500",
    "error: 502",
    "error: 503",
    "error: 504",
)
_UNKNOWN_HOST = "could not resolve host"  # what curl says; of a resolver that is busy too, rarely


def _denied_hint(low: str) -> str:
    if "host key" in low:
        return (
            "the host's key is not known here: mount a known_hosts into ~/.ssh "
            "(ssh-keyscan HOST writes its lines)"
        )
    if "publickey" in low or "permission denied (" in low:
        return (
            "mount a private key that the host knows into ~/.ssh (id_ed25519, id_rsa or "
            "ssh-privatekey), or start an SSH agent, or set GIT_SSH_COMMAND"
        )
    return "set GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD, or mount a ~/.netrc"


def _reason(text: str) -> str:
    """The line that says most: git's last `fatal:` or `error:`, else the last line."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    # "fatal: Could not read from remote repository" follows what ssh said, which says more, and
    # "fatal: clone of …" what went wrong with a submodule.
    telling = [line for line in lines if not line.lower().startswith(_SAYS_LITTLE)]
    marked = [line for line in telling if line.startswith(("fatal:", "error:", "ssh:"))]
    chosen = (marked or telling or lines or ["no reason given"])[-1]
    return re.sub(r"^(?:fatal|error): ", "", chosen)


def _settings(environment: Mapping[str, str], has_credentials: bool) -> str:
    """A global git configuration that adds ours to the user's.

    A file, not GIT_CONFIG_COUNT: git takes that one out of the environment of the upload-pack it
    starts for file://, which would then refuse a repository of another owner.
    """
    home = environment.get("HOME", "")
    xdg = environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    own = [environment.get("GIT_CONFIG_GLOBAL", "")] if "GIT_CONFIG_GLOBAL" in environment else [
        f"{xdg}/git/config" if xdg else "", f"{home}/.gitconfig" if home else ""
    ]  # fmt: skip
    lines = [f"[include]\n\tpath = {path}" for path in own if path]
    lines.append("[safe]\n\tdirectory = *")
    lines.append("[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tautocrlf = false")
    lines.append(
        "[http]\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n"  # a server that hangs
        "[advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false"
    )
    # Files of Git LFS are fetched together afterwards, if git-lfs is there, and no checkout fails
    # because it is not.
    lines.append('[filter "lfs"]\n\tprocess =\n\tsmudge =\n\tclean =\n\trequired = false')
    if has_credentials:  # a stored password of yesterday must not be tried before today's
        lines.append("[credential]\n\thelper =")
    return "\n".join(lines) + "\n"


def _end(process: Popen[bytes]) -> None:
    """Ends what still runs of git and its helpers."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
