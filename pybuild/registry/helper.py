"""Asking a credential helper program (Docker's docker-credential-helpers protocol)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
# Helpers that know nothing say so on stdout and end with status 1.
_KNOWS_NOTHING = ("credentials not found", "no credentials", "not found in native keychain")
# What could be a token or key in a helper's own words: long and unbroken, or after such a name.
_SECRET = re.compile(
    r"(?i)((?:password|passwd|secret|token|key|authorization|bearer|basic)\W{1,3})\S+"
    r"|[A-Za-z0-9+/=_.~-]{24,}"
)
_ANSWER_LIMIT = 1 << 20


class HelperFailed(Exception):
    """A helper gave no usable answer; the text holds no secret."""


def ask_helper(
    helper: str, server: str, *, environment: Mapping[str, str], timeout_seconds: float
) -> tuple[str, str] | None:
    """User name and secret that `docker-credential-<helper> get` has for `server`, or None.

    Raises HelperFailed; a helper that does not end in time is killed with all its children.
    """
    import os
    import shutil
    import signal
    import subprocess
    from contextlib import suppress

    if not _NAME.match(helper):
        raise HelperFailed("this is no name of a program")
    program = shutil.which(f"docker-credential-{helper}", path=environment.get("PATH"))
    if program is None:
        raise HelperFailed("no such program in PATH")
    try:
        process = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise HelperFailed(f"can't be started: {error.strerror}") from error
    with process:
        try:
            output, complaint = process.communicate(server.encode(), timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise HelperFailed(f"gave no answer within {timeout_seconds:g} s") from None
    if process.returncode:
        text = (output.strip() or complaint.strip()).decode("utf-8", "replace")
        if any(phrase in text.lower() for phrase in _KNOWS_NOTHING):
            return None
        raise HelperFailed(f"ended with status {process.returncode}: {without_secrets(text)}")
    return _parse_answer(output[:_ANSWER_LIMIT])


def _parse_answer(output: bytes) -> tuple[str, str] | None:
    try:
        answer = json.loads(output)
    except ValueError:
        raise HelperFailed("its answer is no JSON") from None
    if not isinstance(answer, dict):
        raise HelperFailed("its answer is no JSON object")
    username, secret = answer.get("Username", ""), answer.get("Secret", "")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise HelperFailed("its answer has no user name and secret")
    return (username, secret) if username or secret else None


def without_secrets(text: str) -> str:
    """The first line, at most 200 characters, with all that could be a secret left out."""
    line = text.strip().partition("\n")[0]
    return _SECRET.sub(lambda match: f"{match[1] or ''}***", line)[:200]
