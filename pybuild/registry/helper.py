"""Asking credential helper programs (Docker's docker-credential-helpers protocol)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from pybuild.registry.credentials import Credentials, Found, NothingFound

if TYPE_CHECKING:
    import subprocess

_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
# Helpers that know nothing say so on stdout and end with status 1.
_KNOWS_NOTHING = ("credentials not found", "no credentials", "not found in native keychain")
# What could be a token or key in a helper's own words: long and unbroken, or after such a name.
_SECRET = re.compile(
    r"(?i)((?:password|passwd|secret|token|key|authorization|bearer|basic)\W{1,3})\S+"
    r"|[A-Za-z0-9+/=_.~-]{24,}"
)
_ANSWER_LIMIT = 1 << 20


class NoSuchProgram(NothingFound):
    """There is no helper of that name in PATH."""


class HelperPrograms:
    """Runs the programs, each in a process group of its own. Thread-safe."""

    def __init__(self, environment: Mapping[str, str], timeout_seconds: float) -> None:
        self._environment = environment
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def close(self) -> None:
        """Ends those that run, with all that they started."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _end(process)

    def ask(self, helper: str, server: str) -> Found:
        """What `docker-credential-<helper> get` has for `server`.

        Raises NothingFound; one that does not end in time is ended with all that it started.
        """
        import shutil

        if not _NAME.match(helper):
            raise NothingFound("this is no name of a program")
        program = shutil.which(f"docker-credential-{helper}", path=self._environment.get("PATH"))
        if program is None:
            raise NoSuchProgram("no such program in PATH")
        status, output, complaint = self._run(program, server)
        if status:
            text = (output.strip() or complaint.strip()).decode("utf-8", "replace")
            if any(phrase in text.lower() for phrase in _KNOWS_NOTHING):
                raise NothingFound("knows none")
            raise NothingFound(f"ended with status {status}: {without_secrets(text)}")
        username, secret = _parse_answer(output[:_ANSWER_LIMIT])
        if not username and not secret:
            raise NothingFound("knows none")
        if username == "<token>":
            return Found(Credentials(identity_token=secret))
        return Found(Credentials(username, secret))

    def _run(self, program: str, server: str) -> tuple[int, bytes, bytes]:
        import subprocess

        with self._lock:
            if self._closed:
                raise NothingFound("not asked any more")
            try:
                process = subprocess.Popen(
                    [program, "get"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=dict(self._environment),
                    start_new_session=True,
                )
            except OSError as error:
                raise NothingFound(f"can't be started: {error.strerror}") from error
            self._running.add(process)
        try:
            with process:
                try:
                    output, complaint = process.communicate(server.encode(), timeout=self._timeout)
                except subprocess.TimeoutExpired:
                    _end(process)
                    raise NothingFound(f"gave no answer within {self._timeout:g} s") from None
        finally:
            with self._lock:
                self._running.discard(process)
        if self._closed:
            raise NothingFound("was stopped")
        return process.returncode, output, complaint


def _end(process: subprocess.Popen[bytes]) -> None:
    import os
    import signal

    if process.returncode is None:  # not waited for yet, so that the id is still its own
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _parse_answer(output: bytes) -> tuple[str, str]:
    try:
        answer = json.loads(output)
    except ValueError:
        raise NothingFound("its answer is no JSON") from None
    if not isinstance(answer, dict):
        raise NothingFound("its answer is no JSON object")
    username, secret = answer.get("Username", ""), answer.get("Secret", "")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise NothingFound("its answer has no user name and secret")
    return username, secret


def without_secrets(text: str) -> str:
    """The first line, at most 200 characters, with all that could be a secret left out."""
    line = text.strip().partition("\n")[0]
    return _SECRET.sub(lambda match: f"{match[1] or ''}***", line)[:200]
