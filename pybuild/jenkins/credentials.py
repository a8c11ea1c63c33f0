"""Who we are for a controller: from the environment, a file or netrc(5), never the command line."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pybuild.jenkins.controller import Address
from pybuild.jenkins.errors import CredentialsUnusable

_TOKENS = ("JENKINS_API_TOKEN", "JENKINS_TOKEN", "JENKINS_PASSWORD")
_USERS = ("JENKINS_USER_ID", "JENKINS_USER", "JENKINS_USERNAME")


def address(
    url: str, user: str, token_file: str, authority: str, environment: Mapping[str, str]
) -> Address:
    """Token: a file that is named, then the environment, then netrc. Raises CredentialsUnusable."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CredentialsUnusable(
            "no controller is named", hint="--url=https://jenkins.example.com, or JENKINS_URL"
        )
    if parts.password or parts.username:
        raise CredentialsUnusable(
            "the address of the controller has credentials in it, which logs and lists of "
            "processes show",
            hint="JENKINS_USER_ID and JENKINS_API_TOKEN, --token-file, or ~/.netrc",
        )
    if authority and not Path(authority).is_file():
        raise CredentialsUnusable(f"--certificate={authority}: there is no such file")
    user = user or next((environment[name] for name in _USERS if environment.get(name)), "")
    if token_file:
        token = _read(token_file)
    else:
        token = next((environment[name] for name in _TOKENS if environment.get(name)), "")
    if not token and (known := _from_netrc(parts.hostname, environment)):
        user, token = known
    if token and not user:
        raise CredentialsUnusable(
            "there is a token, and no user that it belongs to", hint="--user=NAME, JENKINS_USER_ID"
        )
    return Address(url, user, token, authority)


def _read(file: str) -> str:
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsUnusable(f"--token-file={file} can't be read") from error
    if not token:
        raise CredentialsUnusable(f"--token-file={file} is empty")
    return token


def _from_netrc(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    file = Path(environment.get("NETRC") or Path(environment.get("HOME", "/")) / ".netrc")
    if not file.is_file():
        return None
    try:
        found = netrc.netrc(str(file)).authenticators(host)
    except (OSError, netrc.NetrcParseError) as error:
        raise CredentialsUnusable(f"{file} can't be read as netrc") from error
    return (found[0], found[2]) if found and found[2] else None
