"""The credentials that clouds give, from servers that check what they are asked."""

from __future__ import annotations

import json
import subprocess
import time
from calendar import timegm
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.registry.cloud.hosts import EcrPlace, cloud_of, ecr_place
from pybuild.registry.cloud.rsa import parse_private_key
from pybuild.registry.cloud.sigv4 import AwsKeys, signed_headers
from pybuild.registry.credentials import ANONYMOUS, Credentials
from pybuild.registry.keychain import SystemKeychain
from tests.support.clouds import ACR_HOST, ECR_HOST, GAR_HOST, Clouds, running_clouds

ECR = Credentials("AWS", "ecr-password")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with running_clouds(tmp_path_factory.mktemp("clouds")) as running:
        yield running


@pytest.fixture
def clouds(servers: Clouds) -> Clouds:
    """With nothing that anybody may do."""
    fresh = Clouds(servers.plain, servers.tunnel, servers.authority)
    for name in Clouds.__dataclass_fields__:
        setattr(servers, name, getattr(fresh, name))
    return servers


def keychain(clouds: Clouds, home: Path, **environment: str) -> SystemKeychain:
    return SystemKeychain(clouds.environment(home, **environment))


def ask(clouds: Clouds, home: Path, host: str, **environment: str) -> Credentials:
    return keychain(clouds, home, **environment).credentials(host, "app")


def why(clouds: Clouds, home: Path, host: str, **environment: str) -> str:
    """What is told where nothing was found."""
    chain = keychain(clouds, home, **environment)
    assert chain.credentials(host, "app") == ANONYMOUS
    return "\n".join(chain.tried(host))


def write(path: Path, content: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        (ECR_HOST, "ecr"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "ecr"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "ecr"),
        ("public.ecr.aws", "ecr"),
        ("gcr.io", "google"),
        ("eu.gcr.io", "google"),
        (GAR_HOST, "google"),
        (ACR_HOST, "acr"),
        ("team.azurecr.cn:443", "acr"),
        ("docker.io", ""),
        ("mirror.gcr.io", ""),
        ("gcr.io.example", ""),
        ("evilgcr.io", ""),
        ("pkg.dev", ""),
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com.example", ""),
        ("12.dkr.ecr.eu-central-1.amazonaws.com", ""),
        ("azurecr.io.example", ""),
        ("localhost:5000", ""),
    ],
)
def test_whose_a_registry_is(host: str, cloud: str) -> None:
    assert cloud_of(host) == cloud


def test_where_ecr_s_api_is() -> None:
    assert ecr_place(ECR_HOST) == EcrPlace("eu-central-1")
    assert ecr_place("123456789012.dkr-ecr.eu-west-1.on.aws") == EcrPlace("eu-west-1")
    fips = ecr_place("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com")
    assert fips == EcrPlace("us-east-1", fips=True)
    assert ecr_place("public.ecr.aws") == EcrPlace()


def test_no_other_host_makes_a_cloud_be_asked(clouds: Clouds, tmp_path: Path) -> None:
    clouds.google_metadata = clouds.azure_identity = True
    for host in ("docker.io", "registry.example", "localhost:5000"):
        assert ask(clouds, tmp_path, host, AWS_ACCESS_KEY_ID="A") == ANONYMOUS
    assert clouds.requests == []


# Amazon


# Of AWS's published test suite, and of its documentation's example.
@pytest.mark.parametrize(
    ("method", "url", "content_type", "body", "service", "signature"),
    [
        ("GET", "https://example.amazonaws.com/", "", b"", "service",
         "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "https://example.amazonaws.com/", "", b"", "service",
         "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("GET", "https://example.amazonaws.com/?Param2=value2&Param1=value1", "", b"", "service",
         "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ("POST", "https://example.amazonaws.com/", "application/x-www-form-urlencoded",
         b"Param1=value1", "service",
         "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
        ("GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
         "application/x-www-form-urlencoded; charset=utf-8", b"", "iam",
         "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
    ],
)  # fmt: skip
def test_signatures_are_aws_s(
    method: str, url: str, content_type: str, body: bytes, service: str, signature: str
) -> None:
    keys = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    headers = {"Content-Type": content_type} if content_type else {}
    now = timegm((2015, 8, 30, 12, 36, 0))
    signed = signed_headers(
        keys, method, url, headers, body, service=service, region="us-east-1", now=now
    )
    assert signed["Authorization"].endswith(f"Signature={signature}")
    assert "wJalr" not in repr(keys)


def test_keys_in_the_environment(clouds: Clouds, tmp_path: Path) -> None:
    clouds.keys = {"AKIA": ("secret", "session")}
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret"}
    found = ask(clouds, tmp_path, ECR_HOST, **keys, AWS_SESSION_TOKEN="session")
    assert found == ECR
    assert found.origin == "Amazon ECR, keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    assert clouds.log == ["POST api.ecr.eu-central-1.amazonaws.com/"]


def test_the_public_registry(clouds: Clouds, tmp_path: Path) -> None:
    clouds.keys = {"AKIA": ("secret", "")}
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert ask(clouds, tmp_path, "public.ecr.aws", **keys) == ECR
    assert clouds.log == ["POST api.ecr-public.us-east-1.amazonaws.com/"]


def test_a_pod_s_web_identity(clouds: Clouds, tmp_path: Path) -> None:
    clouds.web_tokens = {"pod-token"}
    found = ask(
        clouds,
        tmp_path,
        ECR_HOST,
        AWS_WEB_IDENTITY_TOKEN_FILE=write(tmp_path / "token", "pod-token\n"),
        AWS_ROLE_ARN="arn:aws:iam::123456789012:role/build",
    )
    assert found == ECR
    assert clouds.log[0] == "POST sts.eu-central-1.amazonaws.com/"
    assert clouds.requests[0].form["RoleArn"] == "arn:aws:iam::123456789012:role/build"


def test_endpoints_from_the_environment(clouds: Clouds, tmp_path: Path) -> None:
    clouds.web_tokens = {"pod-token"}
    web = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": write(tmp_path / "token", "pod-token"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/build",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_STS": "https://sts.us-east-1.amazonaws.com/",
        "AWS_ENDPOINT_URL": "https://all.us-east-1.amazonaws.com",
    }
    assert ask(clouds, tmp_path, ECR_HOST, **web) == ECR
    hosts = [request.host for request in clouds.requests]
    assert hosts == ["sts.us-east-1.amazonaws.com", "all.us-east-1.amazonaws.com"]
    assert "/eu-central-1/ecr/" in clouds.requests[1].headers["authorization"]


@pytest.mark.parametrize("how", ["eks-pod-identity", "ecs"])
def test_a_container_s_role(clouds: Clouds, tmp_path: Path, how: str) -> None:
    clouds.container_token = "container-token"
    where = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{clouds.plain}/v1/credentials"}
    if how == "ecs":
        where["AWS_CONTAINER_AUTHORIZATION_TOKEN"] = "container-token"
    else:
        file = write(tmp_path / "token", "container-token\n")
        where["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = file
    assert ask(clouds, tmp_path, ECR_HOST, **where) == ECR


def test_a_container_s_role_is_not_asked_for_just_anywhere(clouds: Clouds, tmp_path: Path) -> None:
    where = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://elsewhere.example/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-token",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    told = why(clouds, tmp_path, ECR_HOST, **where)
    assert "elsewhere.example is none of the addresses that AWS uses" in told
    assert "off by AWS_EC2_METADATA_DISABLED" in told
    assert clouds.requests == []


def test_an_instance_s_role(clouds: Clouds, tmp_path: Path) -> None:
    clouds.instance_role = "node"
    assert ask(clouds, tmp_path, ECR_HOST) == ECR
    assert [request.method for request in clouds.requests] == ["PUT", "GET", "GET", "POST"]


@pytest.mark.parametrize("profile", ["", "static", "role", "pod", "node"])
def test_profile_files(clouds: Clouds, tmp_path: Path, profile: str) -> None:
    clouds.keys = {"AKIA": ("secret", "")}
    clouds.web_tokens = {"pod-token"}
    clouds.instance_role = "node"
    token = write(tmp_path / "token", "pod-token")
    role = "role_arn = arn:aws:iam::123456789012:role/build"
    write(
        tmp_path / ".aws/credentials",
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n"
        "[static]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n",
    )
    write(
        tmp_path / ".aws/config",
        f"[profile role]\n{role}\nsource_profile = default\nexternal_id = x\n"
        f"[profile pod]\n{role}\nweb_identity_token_file = {token}\n"
        f"[profile node]\n{role}\ncredential_source = Ec2InstanceMetadata\n",
    )
    more = {"AWS_PROFILE": profile} if profile else {}
    assert ask(clouds, tmp_path, ECR_HOST, **more) == ECR


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("[default]\nsso_session = x\n", "the profile default wants sso_session"),
        ("[default]\ncredential_process = cat /etc/secret\n", "wants credential_process"),
        ("[default]\nrole_arn = a\nsource_profile = other\n", "the profile other has no keys"),
        ("aws_secret_access_key = s3cret\n", "config is no INI file"),
    ],
)
def test_a_profile_that_is_of_no_use(
    clouds: Clouds, tmp_path: Path, config: str, part: str
) -> None:
    write(tmp_path / ".aws/config", config)
    told = why(clouds, tmp_path, ECR_HOST, AWS_EC2_METADATA_DISABLED="true")
    assert part in told
    assert "s3cret" not in told


def test_all_that_was_tried_at_amazon_is_told(clouds: Clouds, tmp_path: Path) -> None:
    told = why(clouds, tmp_path, ECR_HOST, AWS_ROLE_ARN="x", AWS_WEB_IDENTITY_TOKEN_FILE="/no")
    for part in (
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: not set",
        "AWS_WEB_IDENTITY_TOKEN_FILE: /no can't be read",
        "the EC2 metadata server: the instance has no role",
    ):
        assert part in told


def test_a_refusal_of_amazon_is_told_without_the_secret(clouds: Clouds, tmp_path: Path) -> None:
    clouds.keys = {"AKIA": ("another", "")}
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    told = why(clouds, tmp_path, ECR_HOST, **keys)
    assert "answered 400 (The signature does not match)" in told
    assert "s3cret" not in told
    token = write(tmp_path / "token", "s3cret")
    web = {"AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_ARN": "x"}
    told = why(clouds, tmp_path, ECR_HOST, **web)
    assert "InvalidIdentityToken" in told
    assert "s3cret" not in told


# Google


@pytest.fixture(scope="module")
def rsa_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """PKCS #8, PKCS #1, and the file of the public half."""
    folder = tmp_path_factory.mktemp("rsa")
    private, old, public = folder / "key", folder / "old", folder / "public"
    size = ["-pkeyopt", "rsa_keygen_bits:2048"]
    _openssl("genpkey", "-algorithm", "RSA", *size, "-out", str(private))
    _openssl("rsa", "-in", str(private), "-traditional", "-out", str(old))
    _openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private.read_text(), old.read_text(), public


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def test_signatures_are_openssl_s(rsa_key: tuple[str, str, Path], tmp_path: Path) -> None:
    private, old, _ = rsa_key
    (tmp_path / "key").write_text(private)
    (tmp_path / "message").write_bytes(b"message")
    command = [
        "openssl",
        "dgst",
        "-sha256",
        "-sign",
        str(tmp_path / "key"),
        str(tmp_path / "message"),
    ]
    expected = subprocess.run(command, check=True, capture_output=True).stdout
    assert [parse_private_key(text).sign(b"message") for text in (private, old)] == [expected] * 2


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="no RSA private key"):
        parse_private_key(text)


def google(token: str) -> Credentials:
    return Credentials("oauth2accesstoken", token)


def test_a_service_account_s_key(
    clouds: Clouds, tmp_path: Path, rsa_key: tuple[str, str, Path]
) -> None:
    private, _, clouds.google_public_key = rsa_key
    account = {
        "type": "service_account",
        "client_email": "build@project.iam.gserviceaccount.com",
        "private_key": private,
        "private_key_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    file = write(tmp_path / "key.json", account)
    found = ask(clouds, tmp_path, GAR_HOST, GOOGLE_APPLICATION_CREDENTIALS=file)
    assert found == google("google-account")
    assert file in found.origin


@pytest.mark.parametrize("source", ["file", "url", "json", "aws"])
def test_workload_identity_federation(clouds: Clouds, tmp_path: Path, source: str) -> None:
    clouds.google_subjects = {"subject"}
    place: dict[str, object] = {"file": write(tmp_path / "subject", "subject")}
    more: dict[str, str] = {}
    if source == "url":
        clouds.instance_role = "subject"  # whatever answers with this text
        clouds.fail["GET 127.0.0.1/subject"] = [(200, "subject")]
        place = {"url": f"http://{clouds.plain}/subject", "headers": {"X": "y"}}
    if source == "json":
        place = {
            "file": write(tmp_path / "subject.json", {"jwt": "subject"}),
            "format": {"type": "json", "subject_token_field_name": "jwt"},
        }
    if source == "aws":
        place = {
            "environment_id": "aws1",
            "regional_cred_verification_url":
                "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
        }  # fmt: skip
        more = {
            "AWS_ACCESS_KEY_ID": "AKIA",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "eu-west-1",
        }
        clouds.google_subjects = _Anything()
    config = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": place,
    }
    file = write(tmp_path / "config.json", config)
    found = ask(clouds, tmp_path, GAR_HOST, GOOGLE_APPLICATION_CREDENTIALS=file, **more)
    assert found == google("google-federated")
    if source == "aws":
        proof = json.loads(_subject(clouds))
        assert proof["url"].startswith("https://sts.eu-west-1.amazonaws.com?Action=GetCaller")
        names = {header["key"].lower() for header in proof["headers"]}
        assert {"authorization", "host", "x-amz-date", "x-goog-cloud-target-resource"} <= names


def _subject(clouds: Clouds) -> str:
    from urllib.parse import unquote

    return unquote(clouds.requests[-1].form["subject_token"])


class _Anything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


def test_an_impersonated_account(clouds: Clouds, tmp_path: Path) -> None:
    clouds.google_subjects = {"subject"}
    url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/b@p:generateAccessToken"
    config = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": write(tmp_path / "subject", "subject")},
        "service_account_impersonation_url": url,
    }
    file = write(tmp_path / "config.json", config)
    found = ask(clouds, tmp_path, GAR_HOST, GOOGLE_APPLICATION_CREDENTIALS=file)
    assert found == google("google-impersonated")


def test_a_user_s_own_login_is_found_where_gcloud_leaves_it(clouds: Clouds, tmp_path: Path) -> None:
    login = {
        "type": "authorized_user",
        "client_id": "i",
        "client_secret": "s",
        "refresh_token": "refresh-me",
    }
    write(tmp_path / ".config/gcloud/application_default_credentials.json", login)
    assert ask(clouds, tmp_path, "gcr.io") == google("google-user")


def test_the_metadata_server_of_google(clouds: Clouds, tmp_path: Path) -> None:
    clouds.google_metadata = True
    found = ask(clouds, tmp_path, "eu.gcr.io")
    assert (found, found.origin) == (google("google-metadata"), "Google Cloud, the metadata server")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("s3cret", "this is no JSON"),
        ({"type": "other"}, "its type 'other' is not known here"),
        ({"type": "service_account", "private_key": "s3cret"}, "private_key of the key file"),
        ({"type": "external_account", "audience": "a", "subject_token_type": "t",
          "credential_source": {"executable": {"command": "s3cret"}}}, "others are not run"),
        ({"type": "authorized_user", "client_id": "i", "client_secret": "s3cret"},
         "has no `refresh_token`"),
        ({"type": "service_account", "client_email": "x", "private_key": "s3cret",
          "token_uri": "http://evil.example/token"}, "private_key of the key file"),
        ({"type": "authorized_user", "client_id": "i", "client_secret": "s3cret",
          "refresh_token": "s3cret", "token_uri": "http://evil.example/token"},
         "evil.example is to be asked without TLS"),
    ],
)  # fmt: skip
def test_a_google_file_that_is_of_no_use(
    clouds: Clouds, tmp_path: Path, content: object, part: str
) -> None:
    file = write(tmp_path / "file", content)
    told = why(clouds, tmp_path, GAR_HOST, GOOGLE_APPLICATION_CREDENTIALS=file)
    assert f"GOOGLE_APPLICATION_CREDENTIALS ({file})" in told
    assert part in told
    assert "the metadata server: this machine or pod has no service account" in told
    assert "s3cret" not in told


# Azure

AZURE = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client"}
ACR = Credentials("00000000-0000-0000-0000-000000000000", identity_token="acr-refresh")


def test_a_workload_identity_of_azure(clouds: Clouds, tmp_path: Path) -> None:
    clouds.azure_assertions = {"pod-token"}
    file = write(tmp_path / "token", "pod-token")
    found = ask(clouds, tmp_path, ACR_HOST, AZURE_FEDERATED_TOKEN_FILE=file, **AZURE)
    assert (found, found.origin) == (ACR, "Azure, AZURE_FEDERATED_TOKEN_FILE")
    assert clouds.log == [
        "POST login.microsoftonline.com/tenant/oauth2/v2.0/token",
        f"POST {ACR_HOST}/oauth2/exchange",
    ]
    assert clouds.requests[0].form["scope"] == "https://containerregistry.azure.net/.default"


def test_a_client_secret_and_another_authority(clouds: Clouds, tmp_path: Path) -> None:
    clouds.azure_secrets = {"s3cret"}
    authority = {"AZURE_AUTHORITY_HOST": "https://other.microsoftonline.com/"}
    found = ask(clouds, tmp_path, ACR_HOST, AZURE_CLIENT_SECRET="s3cret", **AZURE, **authority)
    assert found == ACR
    assert clouds.requests[0].host == "other.microsoftonline.com"


@pytest.mark.parametrize("app", [False, True], ids=["machine", "app-service"])
def test_a_managed_identity(clouds: Clouds, tmp_path: Path, app: bool) -> None:
    clouds.azure_identity = True
    more = {"AZURE_CLIENT_ID": "client"}
    if app:
        more |= {
            "IDENTITY_ENDPOINT": f"http://{clouds.plain}/msi/token",
            "IDENTITY_HEADER": "app-header",
        }
    assert ask(clouds, tmp_path, ACR_HOST, **more) == ACR
    query = clouds.requests[0].query
    assert (query["client_id"], query["resource"]) == (
        "client",
        "https://containerregistry.azure.net",
    )


def test_all_that_was_tried_at_azure_is_told(clouds: Clouds, tmp_path: Path) -> None:
    told = why(clouds, tmp_path, ACR_HOST, AZURE_CLIENT_SECRET="s3cret", **AZURE)
    assert "AZURE_FEDERATED_TOKEN_FILE: not set" in told
    assert "AZURE_CLIENT_SECRET: Entra ID answered 401" in told
    assert "managed identity: it answered 400 (Identity not found)" in told
    assert "s3cret" not in told


# All of them


def test_a_metadata_server_that_is_still_starting(clouds: Clouds, tmp_path: Path) -> None:
    clouds.google_metadata = True
    clouds.fail["GET 127.0.0.1/computeMetadata"] = [(0, ""), (503, "")]
    assert ask(clouds, tmp_path, GAR_HOST) == google("google-metadata")


def test_a_cloud_that_does_not_answer_costs_little_time(clouds: Clouds, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        told = why(clouds, tmp_path, GAR_HOST, GCE_METADATA_HOST=host)
        assert time.monotonic() - started < 4
    assert f"{host} did not answer within 1.5 s" in told


def test_tokens_are_asked_for_anew_before_they_end(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds.google_metadata = True
    chain = keychain(clouds, tmp_path)
    asked = []
    now = time.monotonic()
    for later in (0, 1800, 3600 - 30, 3600 + 1800):
        monkeypatch.setattr(time, "monotonic", lambda later=later: now + later)
        chain.credentials(GAR_HOST, "app")
        asked.append(len(clouds.requests))
    assert asked == [1, 1, 2, 2]


def test_a_token_that_can_t_be_renewed_is_used_to_its_end(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds.google_metadata = True
    chain = keychain(clouds, tmp_path)
    assert chain.credentials(GAR_HOST, "app")
    now = time.monotonic()
    clouds.google_metadata = False
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600 - 30)
    assert chain.credentials(GAR_HOST, "app") == google("google-metadata")
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600 + 40)
    assert chain.credentials(GAR_HOST, "app") == ANONYMOUS


@pytest.mark.parametrize(
    ("helper", "host", "expected"),
    [
        ("ecr-login", ECR_HOST, ECR),
        ("gcr", "gcr.io", google("google-metadata")),
        ("gcloud", GAR_HOST, google("google-metadata")),
        ("acr-env", ACR_HOST, ACR),
        ("acr-env", "registry.example", ANONYMOUS),
    ],
)
@pytest.mark.parametrize("kind", ["credHelpers", "credsStore"])
def test_helpers_that_are_not_installed_are_built_in(
    clouds: Clouds, tmp_path: Path, helper: str, host: str, expected: Credentials, kind: str
) -> None:
    clouds.google_metadata = clouds.azure_identity = True
    clouds.instance_role = "node"
    value = {host: helper} if kind == "credHelpers" else helper
    write(tmp_path / "config.json", {kind: value})
    environment = clouds.environment(tmp_path, DOCKER_CONFIG=str(tmp_path), PATH="/nowhere")
    chain = SystemKeychain(environment, helpers=())
    assert chain.credentials(host, "app") == expected


def test_a_switched_off_cloud_is_not_asked(clouds: Clouds, tmp_path: Path) -> None:
    clouds.google_metadata = True
    chain = SystemKeychain(clouds.environment(tmp_path), helpers=("env", "ecr"))
    assert chain.credentials(GAR_HOST, "app") == ANONYMOUS
    assert clouds.requests == []
    assert "google (switched off by --credential-helpers)" in chain.tried(GAR_HOST)


def test_closing_ends_a_wait(clouds: Clouds, tmp_path: Path) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": url}
        chain = keychain(clouds, tmp_path, **keys)
        threading.Timer(0.3, chain.close).start()
        started = time.monotonic()
        assert chain.credentials(ECR_HOST, "app") == ANONYMOUS
        assert time.monotonic() - started < 3
