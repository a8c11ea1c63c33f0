"""Three clouds in this process: the few answers of theirs that give a registry's credentials.

Shapes as in their documentation: Amazon (STS, ECR, IMDSv2, container credentials), Google (OAuth,
STS, IAM credentials, metadata server), Azure (Entra ID, managed identity, ACR's exchange). What a
client has to prove is checked here by code of its own. The APIs are reached by their real names
through `tunnel`, the metadata servers by `plain`.
"""

from __future__ import annotations

import hmac
import json
import ssl
import subprocess
import threading
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.proxy import Tunnel
from tests.support.registry import Certificates, make_certificates

ACCOUNT = "123456789012"
ECR_HOST = f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com"
ACR_HOST = "team.azurecr.io"
GAR_HOST = "europe-docker.pkg.dev"
NAMES = (
    "*.amazonaws.com", "*.ecr.eu-central-1.amazonaws.com", "*.eu-central-1.amazonaws.com",
    "*.us-east-1.amazonaws.com", "*.ecr-public.us-east-1.amazonaws.com",
    "*.dkr.ecr.eu-central-1.amazonaws.com", "*.googleapis.com",
    "*.pkg.dev", "gcr.io", "*.azurecr.io", "*.microsoftonline.com",
)  # fmt: skip


@dataclass(frozen=True)
class CloudRequest:
    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def __str__(self) -> str:
        return f"{self.method} {self.host}{urlsplit(self.path).path}"


@dataclass
class Clouds:
    """`keys` are AWS's: access key to (secret key, session token). `fail` maps the beginning of
    "METHOD host/path" to answers that come first; a status of 0 is none at all."""

    plain: str = ""
    tunnel: str = ""
    authority: Path = Path()
    requests: list[CloudRequest] = field(default_factory=list)
    fail: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    web_tokens: set[str] = field(default_factory=set)
    instance_role: str = ""
    container_token: str = ""
    google_public_key: Path | None = None
    google_subjects: set[str] = field(default_factory=set)
    google_metadata: bool = False
    azure_assertions: set[str] = field(default_factory=set)
    azure_secrets: set[str] = field(default_factory=set)
    azure_identity: bool = False
    lifetime: float = 3600.0

    @property
    def log(self) -> list[str]:
        return [str(request) for request in self.requests]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """So that real names lead here, and nothing of the machine's own is found."""
        return {
            "HOME": str(home),
            "HTTPS_PROXY": f"http://{self.tunnel}",
            "SSL_CERT_FILE": str(self.authority),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.plain}",
            "GCE_METADATA_HOST": self.plain,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{self.plain}",
            **more,
        }

    # The answers: status and body

    def answer(self, request: CloudRequest) -> tuple[int, object]:
        for start, answers in self.fail.items():
            if str(request).startswith(start) and answers:
                return answers.pop(0)
        path = urlsplit(request.path).path
        if "x-amz-target" in request.headers:
            return self._ecr(request)
        if request.host.startswith("sts.") and request.host.endswith("amazonaws.com"):
            return self._aws_sts(request)
        if path.startswith(("/latest/", "/v1/credentials")):
            return self._aws_metadata(request, path)
        if path.startswith("/computeMetadata/"):
            return self._google_metadata(request)
        if request.host.endswith(".googleapis.com"):
            return self._google(request, path)
        if path == "/oauth2/exchange":
            return self._acr(request)
        return self._azure(request, path)

    # Amazon

    def _ecr(self, request: CloudRequest) -> tuple[int, object]:
        public = request.headers["x-amz-target"].startswith("SpencerFrontendService.")
        problem = self._signature_problem(request, "ecr-public" if public else "ecr")
        if problem:
            return 400, {"__type": "InvalidSignatureException", "message": problem}
        token = b64encode(b"AWS:ecr-password").decode()
        entry: dict[str, object] = {
            "authorizationToken": token,
            "expiresAt": time.time() + self.lifetime,
        }
        if not public:
            entry["proxyEndpoint"] = f"https://{ECR_HOST}"
        return 200, {"authorizationData": entry if public else [entry]}

    def _aws_sts(self, request: CloudRequest) -> tuple[int, object]:
        form = request.form
        action = form.get("Action", "")
        if action == "AssumeRoleWithWebIdentity":
            good = form["WebIdentityToken"] in self.web_tokens
            problem = "" if good else "The token is not valid"
        else:
            problem = self._signature_problem(request, "sts")
        space = 'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"'
        if problem:
            code = "InvalidIdentityToken"
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{problem}</Message>"
            return 400, f"<ErrorResponse {space}>{error}</Error></ErrorResponse>"
        self.keys["ASIASTS"] = ("sts-secret", "sts-session")
        keys = self._keys("ASIASTS")
        inner = "".join(
            f"<{name}>{keys[other]}</{name}>"
            for name, other in (
                ("AccessKeyId", "AccessKeyId"), ("SecretAccessKey", "SecretAccessKey"),
                ("SessionToken", "Token"), ("Expiration", "Expiration"),
            )
        )  # fmt: skip
        result = f"<{action}Result><Credentials>{inner}</Credentials></{action}Result>"
        return 200, f"<{action}Response {space}>{result}</{action}Response>"

    def _aws_metadata(self, request: CloudRequest, path: str) -> tuple[int, object]:
        if path.startswith("/v1/credentials"):
            if request.headers.get("authorization") != self.container_token:
                return 401, {"message": "no"}
            self.keys["ASIAPOD"] = ("pod-secret", "pod-session")
            return 200, self._keys("ASIAPOD")
        if path == "/latest/api/token" and request.method == "PUT":
            return 200, "imds-session"
        if request.headers.get("x-aws-ec2-metadata-token") != "imds-session":
            return 401, ""
        role = path.removeprefix("/latest/meta-data/iam/security-credentials/")
        if not self.instance_role or role not in ("", self.instance_role):
            return 404, ""
        if not role:
            return 200, self.instance_role
        self.keys["ASIAEC2"] = ("ec2-secret", "ec2-session")
        return 200, {"Code": "Success", **self._keys("ASIAEC2")}

    def _keys(self, access: str) -> dict[str, str]:
        secret, token = self.keys[access]
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        return {"AccessKeyId": access, "SecretAccessKey": secret, "Token": token,
                "Expiration": end}  # fmt: skip

    def _signature_problem(self, request: CloudRequest, service: str) -> str:
        """Checks a request as AWS does, from the headers that were sent."""
        given = request.headers.get("authorization", "").removeprefix("AWS4-HMAC-SHA256 ")
        parts = dict(part.strip().split("=", 1) for part in given.split(",") if "=" in part)
        access, date, region, named, _ = parts.get("Credential", "////").split("/")
        if access not in self.keys:
            return "The security token included in the request is invalid"
        secret, token = self.keys[access]
        if request.headers.get("x-amz-security-token", "") != token or named != service:
            return "The session token or the service is wrong"
        names = parts["SignedHeaders"].split(";")
        if "host" not in names or "x-amz-date" not in names:
            return "host and date are not signed"
        lines = [request.method, urlsplit(request.path).path, urlsplit(request.path).query]
        lines += [f"{name}:{request.headers[name]}" for name in names]
        lines += ["", ";".join(names), sha256(request.body).hexdigest()]
        scope = f"{date}/{region}/{named}/aws4_request"
        digest = sha256("\n".join(lines).encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{digest}"
        key = ("AWS4" + secret).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), sha256).digest()
        wanted = hmac.new(key, text.encode(), sha256).hexdigest()
        return "" if wanted == parts["Signature"] else "The signature does not match"

    # Google

    def _google(self, request: CloudRequest, path: str) -> tuple[int, object]:
        if request.host.startswith("iamcredentials."):
            if request.headers.get("authorization") != "Bearer google-federated":
                return 403, {"error": {"code": 403, "message": "Permission denied"}}
            end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
            return 200, {"accessToken": "google-impersonated", "expireTime": end}
        form = request.form
        if request.host.startswith("sts."):
            if unquote(form["subject_token"]) not in self.google_subjects:
                return 400, {"error": "invalid_grant", "error_description": "bad subject token"}
            return 200, self._google_token("google-federated")
        if form["grant_type"] == "refresh_token":
            good = form["refresh_token"] == "refresh-me"
            return (200, self._google_token("google-user")) if good else (400, {"error": "no"})
        problem = self._jwt_problem(form["assertion"])
        if problem:
            return 400, {"error": "invalid_grant", "error_description": problem}
        return 200, self._google_token("google-account")

    def _google_token(self, text: str) -> dict[str, object]:
        return {"access_token": text, "expires_in": int(self.lifetime), "token_type": "Bearer"}

    def _jwt_problem(self, assertion: str) -> str:
        signed, _, signature = assertion.rpartition(".")
        header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
        folder = self.authority.parent
        (folder / "signature").write_bytes(_decoded(signature))
        checked = subprocess.run(
            ["openssl", "dgst", "-sha256", "-verify", str(self.google_public_key), "-signature",
             str(folder / "signature")],
            input=signed.encode(), capture_output=True, check=False,
        )  # fmt: skip
        if checked.returncode or header["alg"] != "RS256":
            return "Invalid JWT Signature."
        if not claims["iat"] <= time.time() + 1 <= claims["exp"] <= claims["iat"] + 3600:
            return "Invalid JWT: Token must be a short-lived token"
        return "" if claims["aud"].endswith("/token") and claims["scope"] else "Invalid JWT"

    def _google_metadata(self, request: CloudRequest) -> tuple[int, object]:
        if request.headers.get("metadata-flavor") != "Google":
            return 403, "Missing Metadata-Flavor"
        if not self.google_metadata:
            return 404, "The service account was not found"
        return 200, self._google_token("google-metadata")

    # Azure

    def _azure(self, request: CloudRequest, path: str) -> tuple[int, object]:
        if request.method == "GET":  # managed identity, of a machine or of an app
            header = request.headers.get("metadata") == "true"
            header = header or request.headers.get("x-identity-header") == "app-header"
            if not header or not self.azure_identity:
                return 400, {"error": "invalid_request", "error_description": "Identity not found"}
            return 200, {"access_token": "azure-token", "expires_in": "86399"}
        form = request.form
        good = form.get("client_assertion") in self.azure_assertions
        good = good or form.get("client_secret") in self.azure_secrets
        if not good or not path.endswith("/oauth2/v2.0/token"):
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: no"}
        return 200, {"token_type": "Bearer", "expires_in": 3599, "access_token": "azure-token"}

    def _acr(self, request: CloudRequest) -> tuple[int, object]:
        form = request.form
        if form["access_token"] != "azure-token" or form["service"] != request.host:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "not yours"}]}
        return 200, {"refresh_token": "acr-refresh"}


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextmanager
def running_clouds(folder: Path) -> Iterator[Clouds]:
    certificates = make_certificates(folder, *NAMES)
    clouds = Clouds(authority=certificates.authority)
    with ExitStack() as stack:
        clouds.plain = stack.enter_context(_server(clouds, None))
        tls = stack.enter_context(_server(clouds, certificates))
        clouds.tunnel = stack.enter_context(Tunnel(tls)).host
        yield clouds


@contextmanager
def _server(clouds: Clouds, certificates: Certificates | None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = CloudRequest(
                self.command, headers["host"].partition(":")[0], self.path, headers, body
            )
            clouds.requests.append(request)
            status, value = clouds.answer(request)
            if not status:
                self.close_connection = True
                return
            text = value if isinstance(value, str) else json.dumps(value)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = handle_any

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: `requests` has it."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that gave up."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate, certificates.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
