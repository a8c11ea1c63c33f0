"""Google Artifact Registry and Container Registry: an access token as password.

Sources in the order of Google's own libraries ("How Application Default Credentials works"): the
file that GOOGLE_APPLICATION_CREDENTIALS names, gcloud's own, the metadata server (GCE, GKE with
workload identity). Formats: AIP-4110 to AIP-4117.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlencode

from pybuild.registry.cloud.aws_identity import (
    Aws,
    caller_identity_request,
    find_keys,
    imds_session,
    read_text,
)
from pybuild.registry.cloud.rsa import parse_private_key, signed_jwt
from pybuild.registry.cloud.web import Web, json_of, seconds_of, text_of
from pybuild.registry.credentials import Credentials, Found, NothingFound

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_URI = "https://oauth2.googleapis.com/token"
_METADATA = "169.254.169.254"
_USERNAME = "oauth2accesstoken"
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}

Values = Mapping[str, object]
_Token = tuple[str, float]  # the access token and its lifetime in seconds


class Google:
    title = "Google Cloud"

    def __init__(self, environment: Mapping[str, str], web: Web) -> None:
        self._environment = environment
        self._web = web

    def ask(self, host: str) -> Found:  # noqa: ARG002
        """Raises NothingFound, which tells all that was tried."""
        started = time.monotonic()
        tried: list[str] = []
        file, origin = self._file()
        if not file:
            tried.append("GOOGLE_APPLICATION_CREDENTIALS is not set")
        for name, found in ((origin, file), ("the metadata server", "")):
            if name == origin and not file:
                continue
            try:
                token, lifetime = self._from_file(found) if found else self._from_metadata()
            except NothingFound as missing:
                tried.append(f"{name}: {missing}")
                continue
            credentials = Credentials(_USERNAME, token, origin=f"{self.title}, {name}")
            return Found(credentials, started + lifetime)
        raise NothingFound("; ".join(tried))

    def _file(self) -> tuple[str, str]:
        """The file to read and what it is called to the user."""
        named = self._environment.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        if named:
            return named, f"GOOGLE_APPLICATION_CREDENTIALS ({named})"
        home = self._environment.get("HOME", "")
        folder = self._environment.get("CLOUDSDK_CONFIG") or (
            f"{home}/.config/gcloud" if home else ""
        )
        known = f"{folder}/application_default_credentials.json"
        return (known, known) if folder and Path(known).is_file() else ("", "")

    def _from_file(self, file: str) -> _Token:
        values = _parsed(read_text(file))
        return self._from_values(values)

    def _from_values(self, values: Values) -> _Token:
        kind = values.get("type")
        if kind == "service_account":
            return self._service_account(values)
        if kind == "authorized_user":
            return self._user(values)
        if kind == "external_account":
            return self._external(values)
        if kind == "impersonated_service_account":
            source = values.get("source_credentials")
            if not isinstance(source, dict):
                raise NothingFound("it has no source_credentials")
            if source.get("type") == "impersonated_service_account":
                raise NothingFound("its source_credentials are impersonated themselves")
            token, _ = self._from_values(source)
            return self._impersonated(values, token)
        raise NothingFound(f"its type {str(kind)[:40]!r} is not known here")

    def _from_metadata(self) -> _Token:
        values = self._environment
        host = values.get("GCE_METADATA_HOST") or values.get("GCE_METADATA_IP") or _METADATA
        url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
        answer = self._web.ask_metadata("GET", url, {"Metadata-Flavor": "Google"})
        if answer.status == 404:
            raise NothingFound("this machine or pod has no service account")
        return _token(json_of(answer, "it"), "it")

    def _service_account(self, values: Values) -> _Token:
        """A JWT signed by the account's key, for a token (RFC 7523)."""
        what = "the key file"
        uri = str(values.get("token_uri") or _TOKEN_URI)
        try:
            key = parse_private_key(text_of(values, "private_key", what))
            now = int(time.time())
            claims: dict[str, object] = {
                "iss": text_of(values, "client_email", what),
                "scope": _SCOPE,
                "aud": uri,
                "iat": now,
                "exp": now + 3600,
            }
            assertion = signed_jwt(key, {"kid": str(values.get("private_key_id", ""))}, claims)
        except ValueError as error:
            raise NothingFound(f"private_key of {what}: {error}") from None
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        return self._post(uri, {"grant_type": grant, "assertion": assertion})

    def _user(self, values: Values) -> _Token:
        """What `gcloud auth application-default login` writes: a refresh token (RFC 6749, 6)."""
        form = {name: text_of(values, name, "the file")
                for name in ("client_id", "client_secret", "refresh_token")}  # fmt: skip
        form["grant_type"] = "refresh_token"
        return self._post(str(values.get("token_uri") or _TOKEN_URI), form)

    # Workload identity federation (AIP-4117)

    def _external(self, values: Values) -> _Token:
        """Another cloud's or cluster's token for one of Google's (RFC 8693)."""
        what = "the file"
        audience = text_of(values, "audience", what)
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "audience": audience,
            "scope": _SCOPE,
            "subject_token_type": text_of(values, "subject_token_type", what),
            "subject_token": self._subject_token(values, audience),
        }
        token = self._post(text_of(values, "token_url", what), form)
        if values.get("service_account_impersonation_url"):
            return self._impersonated(values, token[0])
        return token

    def _subject_token(self, values: Values, audience: str) -> str:
        source = values.get("credential_source")
        if not isinstance(source, dict):
            raise NothingFound("the file has no credential_source")
        if str(source.get("environment_id", "")).startswith("aws"):
            return self._aws_token(source, audience)
        if isinstance(source.get("file"), str):
            text = read_text(source["file"])
        elif isinstance(source.get("url"), str):
            given = source.get("headers")
            headers = {str(name): str(value) for name, value in given.items()} \
                if isinstance(given, dict) else {}  # fmt: skip
            answer = self._web.ask_metadata("GET", source["url"], headers)
            if answer.status != 200:
                raise NothingFound(f"the address of credential_source answered {answer.status}")
            text = answer.body.decode("utf-8", "replace").strip()
        else:
            raise NothingFound("credential_source names neither file nor url; others are not run")
        form = source.get("format")
        if isinstance(form, dict) and form.get("type") == "json":
            field = text_of(form, "subject_token_field_name", "credential_source")
            return text_of(_parsed(text), field, "credential_source")
        return text

    def _aws_token(self, source: Values, audience: str) -> str:
        environment = self._environment
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
        if not region:
            base = text_of(source, "region_url", "credential_source")
            headers = imds_session(self._web, base.partition("/latest/")[0])
            answer = self._web.ask_metadata("GET", base, headers)
            region = answer.body.decode("latin-1").strip()[:-1]  # of a zone such as eu-west-1a
        aws = Aws(environment, self._web, region)
        keys, _ = find_keys(aws)
        url = text_of(source, "regional_cred_verification_url", "credential_source")
        return quote(caller_identity_request(aws, keys, url, audience), safe="")

    def _impersonated(self, values: Values, token: str) -> _Token:
        """A service account's token by who may impersonate it (IAM credentials API,
        generateAccessToken)."""
        url = text_of(values, "service_account_impersonation_url", "the file")
        body: dict[str, object] = {"scope": [_SCOPE]}
        if isinstance(values.get("delegates"), list):
            body["delegates"] = values["delegates"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = self._web.ask("POST", url, headers, json.dumps(body).encode())
        what = "the impersonation"
        found = json_of(answer, what)
        try:
            moment = datetime.fromisoformat(str(found.get("expireTime"))).timestamp()
            left = moment - time.time()
        except ValueError:
            left = 0.0
        return text_of(found, "accessToken", what), left

    def _post(self, url: str, form: Mapping[str, str]) -> _Token:
        answer = self._web.ask("POST", url, _FORM, urlencode(form).encode())
        what = url.partition("://")[2].partition("/")[0]
        return _token(json_of(answer, what), what)


def _token(values: Values, what: str) -> _Token:
    return text_of(values, "access_token", what), seconds_of(values, "expires_in")


def _parsed(text: str) -> Values:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise NothingFound("this is no JSON") from None  # the exception would show the secrets
    if not isinstance(values, dict):
        raise NothingFound("this is no JSON object")
    return values
