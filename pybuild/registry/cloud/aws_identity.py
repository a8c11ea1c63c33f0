"""Who we are at AWS, looked for in the order of AWS's own programs: the environment, a web
identity (EKS), the profile files, the container's role (EKS pod identity, ECS), the instance's.

Sources: AWS SDKs and Tools Reference Guide ("Standardized credential providers"), STS API
reference, EC2 User Guide ("Use IMDSv2").
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from configparser import Error as BadIni
from configparser import RawConfigParser
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

from msgspec import Struct

from pybuild.registry.cloud.sigv4 import AwsKeys, signed_headers
from pybuild.registry.cloud.web import Answer, Web, json_of, text_of
from pybuild.registry.credentials import NothingFound
from pybuild.registry.options import is_loopback, split_host

_IMDS = "http://169.254.169.254"
_ECS = "http://169.254.170.2"
# ECS's and EKS's own addresses (SDK guide, "Container credential provider").
_CONTAINER_HOSTS = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
_ROLES_DEEP = 4  # profiles that lead to each other


class Aws(Struct, frozen=True):
    """What all requests to AWS need. `region` and `suffix` (amazonaws.com) are those of what is
    asked for, where the environment names no other."""

    environment: Mapping[str, str]
    web: Web
    region: str
    suffix: str = "amazonaws.com"

    def endpoint(self, service: str, default: str) -> str:
        """AWS_ENDPOINT_URL_STS and the like, AWS_ENDPOINT_URL, or the default; no closing slash."""
        if self.environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
            name = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}"
            for url in (self.environment.get(name), self.environment.get("AWS_ENDPOINT_URL")):
                if url:
                    return url.rstrip("/")
        return default

    @property
    def sts(self) -> str:
        region = self.sts_region
        return self.endpoint("sts", f"https://sts.{region}.{self.suffix}")

    @property
    def sts_region(self) -> str:
        names = ("AWS_REGION", "AWS_DEFAULT_REGION")
        return next((self.environment[name] for name in names if self.environment.get(name)), "") \
            or self.region  # fmt: skip


def find_keys(aws: Aws) -> tuple[AwsKeys, str]:
    """Keys and where they are from. Raises NothingFound, which tells all that was tried."""
    tried: list[str] = []
    for name, find in _FINDERS:
        try:
            keys = find(aws)
        except NothingFound as missing:
            tried.append(f"{name}: {missing}")
            continue
        if keys is not None:
            return keys, name
    raise NothingFound("; ".join(tried) or "no AWS credentials in the environment")


def _from_environment(aws: Aws) -> AwsKeys | None:
    values = aws.environment
    access, secret = values.get("AWS_ACCESS_KEY_ID", ""), values.get("AWS_SECRET_ACCESS_KEY", "")
    if not access and not secret:
        raise NothingFound("not set")
    if not access or not secret:
        raise NothingFound("only one of the two is set")
    return AwsKeys(access, secret, values.get("AWS_SESSION_TOKEN", ""))


def _from_web_identity(aws: Aws) -> AwsKeys | None:
    values = aws.environment
    file, role = values.get("AWS_WEB_IDENTITY_TOKEN_FILE", ""), values.get("AWS_ROLE_ARN", "")
    if not file:
        return None
    if not role:
        raise NothingFound("AWS_ROLE_ARN is not set")
    return assume_with_web_identity(aws, file, role, values.get("AWS_ROLE_SESSION_NAME", ""))


def assume_with_web_identity(aws: Aws, file: str, role: str, session: str) -> AwsKeys:
    """STS AssumeRoleWithWebIdentity: the pod's token for keys of a role."""
    token = read_text(file)
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role,
        "RoleSessionName": session or f"pybuild-{int(time.time())}",
        "WebIdentityToken": token,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = aws.web.ask("POST", aws.sts + "/", headers, urlencode(form).encode())
    return _keys_from_sts(answer)


def _assume_role(aws: Aws, keys: AwsKeys, profile: Mapping[str, str]) -> AwsKeys:
    """STS AssumeRole, signed with the keys of another profile."""
    form = {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": profile["role_arn"],
        "RoleSessionName": profile.get("role_session_name", "") or f"pybuild-{int(time.time())}",
    }
    if external := profile.get("external_id"):
        form["ExternalId"] = external
    body = urlencode(form).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    url = aws.sts + "/"
    signed = signed_headers(keys, "POST", url, headers, body, service="sts", region=aws.sts_region)
    return _keys_from_sts(aws.web.ask("POST", url, signed, body))


def _keys_from_sts(answer: Answer) -> AwsKeys:
    from xml.etree import ElementTree

    try:
        tree = ElementTree.fromstring(answer.body)
    except ElementTree.ParseError:
        raise NothingFound(f"STS answered {answer.status} without XML") from None
    values = {node.tag.rpartition("}")[2]: (node.text or "").strip() for node in tree.iter()}
    if answer.status != 200:
        code, message = values.get("Code", ""), values.get("Message", "")
        raise NothingFound(f"STS answered {answer.status} ({code}: {message[:200]})")
    return AwsKeys(
        text_of(values, "AccessKeyId", "STS's answer"),
        text_of(values, "SecretAccessKey", "STS's answer"),
        text_of(values, "SessionToken", "STS's answer"),
        _moment(values.get("Expiration", "")),
    )


# Profile files


def profile_setting(environment: Mapping[str, str], setting: str) -> str:
    """What the profile in use says of something that is no secret, or "". Raises NothingFound
    where the files can't be read."""
    profile = _profiles(environment).get(_profile_name(environment) or "default", {})
    return profile.get(setting, "")


def _profile_name(environment: Mapping[str, str]) -> str:
    return environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or ""


def _from_profile(aws: Aws) -> AwsKeys | None:
    name = _profile_name(aws.environment)
    profiles = _profiles(aws.environment)
    if not profiles and not name:
        return None
    if name and name not in profiles:
        raise NothingFound(f"there is no profile {name}")
    return _keys_of_profile(aws, profiles, name or "default", _ROLES_DEEP)


def _keys_of_profile(
    aws: Aws, profiles: Mapping[str, Mapping[str, str]], name: str, deep: int
) -> AwsKeys | None:
    profile = profiles.get(name, {})
    role = profile.get("role_arn")
    if role and profile.get("web_identity_token_file"):
        session = profile.get("role_session_name", "")
        return assume_with_web_identity(aws, profile["web_identity_token_file"], role, session)
    if role and deep and (source := profile.get("source_profile")):
        if source == name:  # its own keys are meant
            keys = _static_keys(profile)
        else:
            keys = _keys_of_profile(aws, profiles, source, deep - 1)
        if keys is None:
            raise NothingFound(f"the profile {source} has no keys")
        return _assume_role(aws, keys, profile)
    if role and (source := profile.get("credential_source")):
        find = _CREDENTIAL_SOURCES.get(source)
        keys = find(aws) if find else None
        if keys is None:
            raise NothingFound(f"credential_source {source} has no keys")
        return _assume_role(aws, keys, profile)
    if keys := _static_keys(profile):
        return keys
    for kind in ("credential_process", "sso_session", "sso_start_url"):
        if kind in profile:
            raise NothingFound(f"the profile {name} wants {kind}, which is not supported here")
    return None


def _static_keys(profile: Mapping[str, str]) -> AwsKeys | None:
    access = profile.get("aws_access_key_id", "")
    secret = profile.get("aws_secret_access_key", "")
    token = profile.get("aws_session_token", "")
    return AwsKeys(access, secret, token) if access and secret else None


def _profiles(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Both files as one; what the credentials file says wins."""
    home = Path(environment.get("HOME") or "/root") / ".aws"
    config = environment.get("AWS_CONFIG_FILE") or str(home / "config")
    secrets = environment.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / "credentials")
    found: dict[str, dict[str, str]] = {}
    for file in (config, secrets):
        for section, values in _sections(file).items():
            name = section.removeprefix("profile ").strip()
            found.setdefault(name, {}).update(values)
    return found


def _sections(file: str) -> dict[str, dict[str, str]]:
    parser = RawConfigParser(default_section="", strict=False, allow_no_value=True)
    try:
        parser.read_string(Path(file).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise NothingFound(f"{file} can't be read") from None
    except BadIni:
        raise NothingFound(f"{file} is no INI file") from None  # the error shows what is in it
    return {
        name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()
    }


# What the machine knows


def _from_container(aws: Aws) -> AwsKeys | None:
    values = aws.environment
    relative = values.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "")
    url = values.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    if not relative and not url:
        return None
    if relative:
        url = f"{_ECS}/{relative.lstrip('/')}"
    host = url.partition("://")[2].partition("/")[0]
    own = is_loopback(host) or split_host(host)[0] in _CONTAINER_HOSTS
    if not own and not url.startswith("https://"):
        raise NothingFound(f"{host} is none of the addresses that AWS uses for this")
    headers = {"Accept": "application/json"}
    if file := values.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        headers["Authorization"] = read_text(file)
    elif token := values.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        headers["Authorization"] = token
    return _keys_from_json(aws.web.ask_metadata("GET", url, headers), host)


def _from_instance(aws: Aws) -> AwsKeys | None:
    """IMDSv2: a session token first; instances that allow only version 1 are none of today's."""
    values = aws.environment
    if values.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise NothingFound("off by AWS_EC2_METADATA_DISABLED")
    base = imds(values)
    headers = imds_session(aws.web, base)
    where = f"{base}/latest/meta-data/iam/security-credentials/"
    answer = aws.web.ask_metadata("GET", where, headers)
    role = answer.body.decode("utf-8", "replace").partition("\n")[0].strip()
    if answer.status != 200 or not role:
        raise NothingFound("the instance has no role")
    return _keys_from_json(aws.web.ask_metadata("GET", where + role, headers), "the instance")


def imds(environment: Mapping[str, str]) -> str:
    return environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").rstrip("/") or _IMDS


def imds_session(web: Web, base: str) -> dict[str, str]:
    """The header that IMDSv2 wants. Raises NothingFound."""
    asked = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    answer = web.ask_metadata("PUT", f"{base}/latest/api/token", asked)
    if answer.status != 200:
        raise NothingFound(f"the metadata server answered {answer.status}")
    return {"X-aws-ec2-metadata-token": answer.body.decode("latin-1").strip()}


def _keys_from_json(answer: Answer, what: str) -> AwsKeys:
    values = json_of(answer, what)
    expiration = values.get("Expiration")
    return AwsKeys(
        text_of(values, "AccessKeyId", what),
        text_of(values, "SecretAccessKey", what),
        text_of(values, "Token", what),
        _moment(expiration if isinstance(expiration, str) else ""),
    )


def caller_identity_request(aws: Aws, keys: AwsKeys, url: str, target: str) -> str:
    """A signed GetCallerIdentity, written down for Google's STS to carry out: it proves who we
    are at AWS (Google Cloud, "Workload identity federation with AWS")."""
    url = url.replace("{region}", aws.sts_region)
    headers = signed_headers(
        keys,
        "POST",
        url,
        {"x-goog-cloud-target-resource": target},
        b"",
        service="sts",
        region=aws.sts_region,
    )
    headers["host"] = url.partition("://")[2].partition("/")[0]
    listed = [{"key": name, "value": value} for name, value in headers.items()]
    return json.dumps({"url": url, "method": "POST", "headers": listed})


def read_text(file: str) -> str:
    """A token from a file. Raises NothingFound."""
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise NothingFound(f"{file} can't be read") from None


def _moment(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time, 0 where there is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


_CREDENTIAL_SOURCES: Mapping[str, Callable[[Aws], AwsKeys | None]] = {
    "Environment": _from_environment,
    "EcsContainer": _from_container,
    "Ec2InstanceMetadata": _from_instance,
}
_FINDERS: tuple[tuple[str, Callable[[Aws], AwsKeys | None]], ...] = (
    ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", _from_environment),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", _from_web_identity),
    ("the AWS profile files", _from_profile),
    ("AWS_CONTAINER_CREDENTIALS", _from_container),
    ("the EC2 metadata server", _from_instance),
)
