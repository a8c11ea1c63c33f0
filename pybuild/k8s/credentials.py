"""The Secret `dockercred`: registry credentials in the form that every manifest here mounts."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from pybuild.k8s.errors import CredentialsUnusable, SecretInTheWay
from pybuild.k8s.jobs import APP, LABEL

TYPE = "kubernetes.io/dockerconfigjson"
KEY = ".dockerconfigjson"
_HUB = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io", "hub.docker.com", "")
Object = dict[str, Any]


def config_of(server: str, username: str, password: str) -> str:
    """A config.json with one registry's credentials. Raises CredentialsUnusable."""
    if not username or not password:
        what = "user name" if not username else "password"
        raise CredentialsUnusable(f"the {what} is empty", hint="has the variable a value?")
    host = server.removeprefix("https://").removeprefix("http://").rstrip("/")
    key = _HUB if host.split("/")[0] in _HUB_NAMES else host
    auth = b64encode(f"{username}:{password}".encode()).decode()
    entry = {"username": username, "password": password, "auth": auth}
    return json.dumps({"auths": {key: entry}})


def usable_config(text: str, file: str) -> str:
    """A config.json as it is, with only what counts in a Pod. Raises CredentialsUnusable.

    Names of programs that keep passwords are left out: a Pod has none of a desktop's.
    """
    try:
        config = json.loads(text)
    except ValueError:
        # The exception holds the text, and with it secrets.
        raise CredentialsUnusable(f"{file} is no JSON") from None
    auths = config.get("auths") if isinstance(config, dict) else None
    if not isinstance(auths, dict):
        raise CredentialsUnusable(
            f"{file} has no `auths`", hint="is it Docker's config.json? run `docker login` first"
        )
    kept = {host: entry for host, entry in auths.items() if _has_password(entry)}
    if not kept:
        helper = config.get("credsStore") or ", ".join((config.get("credHelpers") or {}).values())
        raise CredentialsUnusable(
            f"{file} holds no password"
            + (f": the program docker-credential-{helper} has them" if helper else ""),
            hint="give --server, --username and --password-stdin in its place",
        )
    return json.dumps({"auths": kept})


def _has_password(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    return any(entry.get(key) for key in ("auth", "password", "identitytoken", "registrytoken"))


def secret_of(name: str, config: str) -> Object:
    """The Secret's manifest."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {LABEL: APP}},
        "type": TYPE,
        "data": {KEY: b64encode(config.encode()).decode()},
    }


def check_replaceable(name: str, there: Object | None) -> None:
    """Raises SecretInTheWay: the type of a Secret can't be changed."""
    if there is not None and there.get("type") != TYPE:
        raise SecretInTheWay(
            f"there is a Secret {name} of type {there.get('type')}, not {TYPE}",
            hint=f"delete it, or take another name: pybuild k8s secret NAME; then --secret=NAME "
            f"for builds instead of {name}",
        )
    if there is not None and there.get("immutable"):
        raise SecretInTheWay(f"the Secret {name} is immutable", hint="delete it first")
