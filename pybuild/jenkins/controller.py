"""A controller, by `python-jenkins`, which authenticates, takes crumbs and keeps the session.

Answers are read here and not by the client's own methods: those say "does not exist" for a
controller that is just starting, and put parameters into addresses, which servers log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from pybuild.errors import without_passwords
from pybuild.jenkins.errors import (
    ControllerError,
    ControllerRefused,
    ControllerUnreachable,
    JenkinsMissing,
    JobUnknown,
)

if TYPE_CHECKING:
    import requests

_SECONDS = 30.0  # of one request
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_STATUS = re.compile(r"\[(\d{3})\]")


class Address(Struct, frozen=True):
    """Where a controller is and who we are; `token` is never shown. `authority` is a file with
    certificates that are trusted in place of the system's."""

    url: str
    user: str = ""
    token: str = ""
    authority: str = ""

    def __repr__(self) -> str:
        return f"Address({without_passwords(self.url)!r}, {self.user!r})"


class Controller:
    """`pause` waits so many seconds and is True once we are asked to stop; `patience` is how many
    seconds a controller may be away while something of it is read."""

    def __init__(
        self, address: Address, pause: Callable[[float], bool], patience: float = 600.0
    ) -> None:
        try:
            import jenkins  # type: ignore[import-untyped]
        except ImportError as error:
            raise JenkinsMissing("`pybuild jenkins` needs python-jenkins") from error
        self._jenkins = jenkins
        self._shown = without_passwords(address.url)
        known = (address.user, address.token) if address.token else (None, None)
        self._client: Any = jenkins.Jenkins(address.url, *known, timeout=_SECONDS)
        if address.authority:
            self._client._session.verify = address.authority
        self._pause = pause
        self._patience = patience
        self.root: str = self._client.server

    def job_url(self, name: str) -> str:
        """The address of a job, with a slash at its end; `name` has its folders in it."""
        url: str = self._client.build_job_url(name.strip("/"))
        return url.removesuffix("build")

    def read(self, url: str, **query: str | int) -> requests.Response:
        """A GET that waits for a controller that restarts. Raises JobUnknown for what is not
        there, ControllerRefused, ControllerUnreachable."""
        waited, pause = 0.0, _FIRST_PAUSE
        while True:
            try:
                return self._send("GET", url, query, {})
            except ControllerUnreachable:
                if waited >= self._patience or self._pause(pause):
                    raise
            waited, pause = waited + pause, min(pause * 2, _LONGEST_PAUSE)

    def read_json(self, url: str, tree: str) -> dict[str, Any]:
        """The JSON of `url`, of which `tree` says what is wanted. Raises as `read`."""
        reply = self.read(f"{url}api/json", tree=tree)
        try:
            found = json.loads(reply.content)
        except ValueError as error:
            raise ControllerError(
                f"{self._shown} answered something that is no JSON",
                hint="is it the address of the controller, and no login page in front of it?",
            ) from error
        return found if isinstance(found, dict) else {}

    def post(self, url: str, data: Mapping[str, str]) -> requests.Response:
        """Sent once: whether a request that failed was carried out is not known. A crumb that is
        of another session is taken anew."""
        try:
            return self._send("POST", url, {}, data)
        except ControllerRefused as error:
            if "crumb" not in error.message:
                raise
        self._client.crumb = None
        return self._send("POST", url, {}, data)

    def _send(
        self, method: str, url: str, query: Mapping[str, str | int], data: Mapping[str, str]
    ) -> requests.Response:
        import requests

        request = requests.Request(method, url, params=dict(query), data=dict(data))
        crumbed = method == "POST"
        try:
            reply: requests.Response = self._client.jenkins_request(request, add_crumb=crumbed)
            return reply
        except self._jenkins.NotFoundException as error:
            raise JobUnknown(f"{self._shown} has nothing at {self._path(url)}") from error
        except self._jenkins.TimeoutException as error:
            raise self._away("it does not answer") from error
        except self._jenkins.JenkinsException as error:
            raise self._refusal(str(error)) from error
        except requests.HTTPError as error:
            raise self._answered(error) from error
        except requests.exceptions.SSLError as error:
            raise ControllerError(
                f"the certificate of {self._shown} is not trusted",
                hint="--certificate=FILE names the authority that signed it",
            ) from error
        except requests.RequestException as error:
            raise self._away(type(error).__name__) from error

    def _refusal(self, told: str) -> ControllerError:
        """What the client says for 401, 403 and 500, with the page that came."""
        found = _STATUS.search(told)
        status = found[1] if found else ""
        if status == "500":
            return self._away("it answered 500")
        crumb = ", for want of a valid crumb" if "crumb" in told.lower() else ""
        return ControllerRefused(f"{self._shown} answered {status or 'with a refusal'}{crumb}")

    def _answered(self, error: requests.HTTPError) -> ControllerError:
        status = error.response.status_code
        if status in (502, 503, 504):
            return self._away(f"it answered {status}")
        path = self._path(error.response.url)
        return ControllerError(f"{self._shown} answered {status} for {path}")

    def _away(self, why: str) -> ControllerUnreachable:
        return ControllerUnreachable(
            f"{self._shown} can't be reached: {why}", hint="is the address right, and is it up?"
        )

    def _path(self, url: str) -> str:
        return "/" + url.partition("?")[0].removeprefix(self.root)
