"""The ways a git repository is written as a build context, as a value. Pure.

kaniko's form is `git://host/repo.git[#ref[#commit]]` (fetched over https), Docker's is
`https://host/repo.git[#ref[:folder]]`, `git@host:repo.git` or `ssh://…`; both fragments may be
mixed, since no ref holds a colon or a hash sign (git-check-ref-format(1)). In place of a fragment
Docker takes a query: `?branch=…&subdir=…&checksum=COMMIT`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from msgspec import Struct

from pybuild.context.errors import ContextUnknown

_SCP = re.compile(r"(?P<user>[A-Za-z0-9._-]+)@(?P<host>[A-Za-z0-9.-]+):(?P<path>[^/].*)\Z")
_REMOTE = re.compile(r"(?:https?|git|ssh|file)://", re.IGNORECASE)
_PULL_METHODS = ("https", "http", "git", "ssh")


class GitCredentials(Struct, frozen=True):
    username: str = ""  # may be a token
    password: str = ""

    def __repr__(self) -> str:
        return "GitCredentials(…)"

    def __bool__(self) -> bool:
        return bool(self.username or self.password)


class GitSource(Struct, frozen=True):
    """`remote` holds no password; `ref` is "" for the default branch; `commit` is the one asked
    for besides the ref, or ""; `folder` is relative, "" for the whole repository."""

    remote: str
    ref: str = ""
    commit: str = ""
    folder: str = ""
    credentials: GitCredentials = GitCredentials()
    submodules: bool = True  # Docker fetches them; kaniko only when told to
    keep_git_dir: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.remote).hostname or ""


def is_git_url(text: str) -> bool:
    """Whether the text names a git repository rather than a folder, an archive or a bucket."""
    if _SCP.match(text):
        return True
    if not _REMOTE.match(text):
        return False
    scheme = text.split(":", 1)[0].lower()
    path = urlsplit(text).path.rstrip("/")
    return scheme in ("git", "ssh", "file") or path.endswith(".git")


def parse_git_url(text: str, environment: Mapping[str, str]) -> GitSource:
    """Reads the URL and, for https and http, the credentials of the environment.

    Raises ContextUnknown for a URL without host or path, or a bad GIT_PULL_METHOD.
    """
    base, *fragments = text.split("#")
    if len(fragments) > 2:
        raise ContextUnknown(
            f"the git context {without_password(text)} has more than two '#'",
            hint="write git://host/repository.git#ref, or …#ref#commit, or …#ref:folder",
        )
    parts = [fragment.partition(":") for fragment in fragments]
    ref = parts[0][0] if parts else ""
    commit = parts[1][0] if len(parts) > 1 else ""
    folder = next((part[2] for part in reversed(parts) if part[2]), "")
    base, query = _without_query(base)
    if query and fragments:
        raise ContextUnknown(
            f"the git context {without_password(text)} has both a '#' and ?{next(iter(query))}=",
            hint="write one of …#ref:folder and …?ref=REF&subdir=FOLDER",
        )
    ref = ref or _ref_of(query)
    commit = commit or query.get("checksum", "") or query.get("commit", "")
    folder = folder or query.get("subdir", "")
    remote, credentials = _remote_of(base, environment)
    submodules = not base.lower().startswith("git://")
    return GitSource(
        remote,
        _full_ref(ref),
        commit,
        folder.strip("/"),
        credentials,
        submodules=_wish(query, "submodules", submodules),
        keep_git_dir=_wish(query, "keep-git-dir", False),
    )


_QUERY_KEYS = frozenset(
    {"ref", "branch", "tag", "commit", "checksum", "subdir", "submodules", "keep-git-dir"}
)


def _without_query(base: str) -> tuple[str, dict[str, str]]:
    """A query of Docker's taken off; one with any other key belongs to the server."""
    address, _, text = base.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    return (address, query) if query and query.keys() <= _QUERY_KEYS else (base, {})


def _ref_of(query: Mapping[str, str]) -> str:
    if query.get("branch"):
        return f"refs/heads/{query['branch']}"
    return f"refs/tags/{query['tag']}" if query.get("tag") else query.get("ref", "")


def _wish(query: Mapping[str, str], key: str, otherwise: bool) -> bool:
    return query[key].lower() in ("", "1", "true") if key in query else otherwise


def _remote_of(base: str, environment: Mapping[str, str]) -> tuple[str, GitCredentials]:
    scp = _SCP.match(base)
    if scp:
        return f"ssh://{scp['user']}@{scp['host']}/{scp['path']}", GitCredentials()
    url = urlsplit(base)
    scheme = url.scheme.lower()
    if scheme == "git":
        scheme = environment.get("GIT_PULL_METHOD", "") or "https"
        if scheme not in _PULL_METHODS:
            raise ContextUnknown(
                f"GIT_PULL_METHOD is {scheme!r}", hint=f"use one of {', '.join(_PULL_METHODS)}"
            )
    if not url.path.strip("/") or not (url.hostname or scheme == "file"):
        raise ContextUnknown(f"the git context {without_password(base)} names no repository")
    if scheme in ("file", "git"):
        return urlunsplit((scheme, url.netloc, url.path, url.query, "")), GitCredentials()
    host = url.netloc.rpartition("@")[2]
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    if scheme == "ssh":
        netloc = f"{user}@{host}" if user else host
        return urlunsplit((scheme, netloc, url.path, "", "")), GitCredentials()
    remote = urlunsplit((scheme, host, url.path, url.query, ""))
    return remote, _credentials(unquote(user), unquote(password), environment)


def _credentials(user: str, password: str, environment: Mapping[str, str]) -> GitCredentials:
    """The URL's own first, then GIT_TOKEN as user name, then GIT_USERNAME and GIT_PASSWORD.

    A user without password in the URL is completed from the environment.
    """
    token = environment.get("GIT_TOKEN", "")
    if password:
        return GitCredentials(user, password)
    if user:
        # A name alone may be a token itself, which hosts take with any password.
        return GitCredentials(user, environment.get("GIT_PASSWORD", "") or token)
    if token:
        # GitHub takes a token as user name, GitLab and others as password: so it is both.
        return GitCredentials(environment.get("GIT_USERNAME", "") or token, token)
    return GitCredentials(environment.get("GIT_USERNAME", ""), environment.get("GIT_PASSWORD", ""))


def _full_ref(ref: str) -> str:
    """kaniko's short way to name a pull or merge request is what its head is called there."""
    return f"{ref}/head" if re.fullmatch(r"refs/(?:pull|merge-requests)/\d+", ref) else ref


def without_password(text: str) -> str:
    """A URL as it may be shown: a password, and a user that may be a token, are cut out."""
    return re.sub(r"(?<=://)[^/@#\s]+@", lambda found: _shown_user(found[0]), text)


def _shown_user(userinfo: str) -> str:
    user, colon, _ = userinfo[:-1].partition(":")
    # Names people use are short; what is long or has a password after it is a secret.
    return f"{user}@" if not colon and len(user) < 16 else "***@"


def redact(text: str, credentials: GitCredentials) -> str:
    """`text` without the password, also where it stands percent-encoded, and without userinfo."""
    for secret in (credentials.password, credentials.username):
        if secret and (secret == credentials.password or len(secret) >= 16):
            for form in {secret, quote(secret), quote(secret, safe="")}:
                text = text.replace(form, "***")
    return without_password(text)
