"""Stand-ins for the three clouds' object stores, on loopback: moto's S3 server, Azurite for Azure,
and an emulator of Google's storage. Each is a real HTTP server with its own idea of the API.

`Store.put` writes an object past the server's authorization; `Store.environment` is what a build is
given to reach it.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

from pybuild.registry.cloud.sigv4 import AwsKeys, signed_headers

AZURITE = "3.35.0"
AZURE_ACCOUNT = "devstoreaccount1"
# The account key of every Azurite, published in its manual.
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_START_SECONDS = 40.0


@dataclass
class Store:
    """`host` is host:port; `context` gives an object's name as a build takes it."""

    host: str
    put: Callable[[str, str, bytes], None]
    context: Callable[[str, str], str]
    environment: Mapping[str, str] = field(default_factory=dict)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(10)


def request(
    host: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _done(answer: tuple[int, bytes]) -> bytes:
    assert answer[0] in (200, 201, 409), answer
    return answer[1]


@contextmanager
def s3_server(folder: Path, *, region: str = "us-east-1") -> Iterator[Store]:
    """moto's, which checks signatures once a user with keys was made."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    script = "from moto.server import main; main()"
    command = [sys.executable, "-c", script, "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, folder / "moto.log", MOTO_S3_DEFAULT_KEY_BUFFER_SIZE="104857600"):
        keys = _aws_keys(host)

        def put(bucket: str, key: str, content: bytes, **headers: str) -> None:
            root = AwsKeys("root", "root")
            for path, body in ((f"/{bucket}", b""), (f"/{bucket}/{quote(key)}", content)):
                url = f"http://{host}{path}"
                more = headers if body else {}
                signed = signed_headers(root, "PUT", url, more, body, service="s3", region=region)
                _done(request(host, "PUT", path, signed, body))

        store = Store(
            host,
            put,
            lambda bucket, key: f"s3://{bucket}/{key}",
            {
                "S3_ENDPOINT": f"http://{host}",
                "S3_FORCE_PATH_STYLE": "true",
                "AWS_REGION": region,
                "AWS_ACCESS_KEY_ID": keys.access_key,
                "AWS_SECRET_ACCESS_KEY": keys.secret_key,
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )
        yield store


def enforce_signatures(store: Store) -> None:
    """From now on moto wants every request to be signed by a user that it knows."""
    _done(request(store.host, "POST", "/moto-api/reset-auth", {}, b"0"))


def _aws_keys(host: str) -> AwsKeys:
    """A user who may read S3."""
    import xml.etree.ElementTree as ElementTree

    def iam(**form: str) -> ElementTree.Element:
        from urllib.parse import urlencode

        body = urlencode({"Version": "2010-05-08", **form}).encode()
        url = f"http://{host}/"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        signed = signed_headers(AwsKeys("root", "root"), "POST", url, headers, body, service="iam",
                                region="us-east-1")  # fmt: skip
        return ElementTree.fromstring(_done(request(host, "POST", "/", signed, body)))

    iam(Action="CreateUser", UserName="builder")
    statement = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam(Action="PutUserPolicy", UserName="builder", PolicyName="read", PolicyDocument=policy)
    made = iam(Action="CreateAccessKey", UserName="builder")
    texts = {node.tag.rpartition("}")[2]: node.text or "" for node in made.iter()}
    return AwsKeys(texts["AccessKeyId"], texts["SecretAccessKey"])


@contextmanager
def gcs_server(folder: Path) -> Iterator[Store]:
    """The emulator knows no credentials: those are tested apart from it."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1",
               f"--port={port}", "--in-memory"]  # fmt: skip
    with _running(command, port, folder / "gcs.log", STORAGE_EMULATOR_HOST=f"http://{host}"):

        def put(bucket: str, key: str, content: bytes) -> None:
            as_json = {"Content-Type": "application/json"}
            body = json.dumps({"name": bucket}).encode()
            _done(request(host, "POST", "/storage/v1/b?project=p", as_json, body))
            path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
            plain = {"Content-Type": "application/octet-stream"}
            _done(request(host, "POST", path, plain, content))

        def context(bucket: str, key: str) -> str:
            return f"gs://{bucket}/{key}"

        yield Store(host, put, context, {"STORAGE_EMULATOR_HOST": host})


@contextmanager
def azure_server(folder: Path) -> Iterator[Store]:
    """Azurite, which checks keys and shared access signatures as Azure does."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    script = _azurite() / "node_modules/azurite/dist/src/blob/main.js"
    command = ["node", str(script), "--blobHost=127.0.0.1", f"--blobPort={port}", "--silent",
               "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]  # fmt: skip
    with _running(command, port, folder / "azurite.log"):

        def put(container: str, name: str, content: bytes) -> None:
            path = f"/{AZURE_ACCOUNT}/{container}"
            _done(_azure(host, "PUT", path, "restype=container", b""))
            _done(_azure(host, "PUT", f"{path}/{quote(name)}", "", content))

        def context(container: str, name: str) -> str:
            return f"https://{AZURE_ACCOUNT}.blob.core.windows.net/{container}/{name}"

        endpoint = f"http://{host}/{AZURE_ACCOUNT}"
        environment = {"AZURE_STORAGE_ENDPOINT": endpoint, "AZURE_STORAGE_ACCESS_KEY": AZURE_KEY}
        yield Store(host, put, context, environment)


def _azure(host: str, method: str, path: str, query: str, body: bytes) -> tuple[int, bytes]:
    """A request signed with the account's key; written apart from the builder's own signing."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    if not query:
        headers["x-ms-blob-type"] = "BlockBlob"
    own = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode() if body else ""
    size = str(len(body)) if body else ""
    resource = f"/{AZURE_ACCOUNT}{path}" + (f"\n{query.replace('=', ':')}" if query else "")
    text = f"{method}\n\n\n{size}\n{md5}\n\n\n\n\n\n\n\n{own}{resource}"
    digest = hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    if md5:
        headers["Content-MD5"] = md5
    return request(host, method, f"{path}?{query}" if query else path, headers, body)


def azure_sas(container: str, name: str, *, minutes: int = 60) -> str:
    """A query that lets its holder read one blob ("Create a service SAS", version 2020-12-06)."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60 * minutes))
    resource = f"/blob/{AZURE_ACCOUNT}/{container}/{name}"
    fields = ["r", "", end, resource, "", "", "", "2020-12-06", "b", "", "", "", "", "", "", ""]
    digest = hmac.digest(base64.b64decode(AZURE_KEY), "\n".join(fields).encode(), "sha256")
    signature = quote(base64.b64encode(digest).decode(), safe="")
    return f"sp=r&se={quote(end, safe='')}&sv=2020-12-06&sr=b&sig={signature}"


def _azurite() -> Path:
    """Installed once a machine, by npm: 186 MB, half a minute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybuild-dev"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"azurite-{AZURITE}"
    with (cache / "azurite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            fresh = cache / f"azurite-{os.getpid()}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            command = ["npm", "install", "--no-audit", "--no-fund", "--omit=dev",
                       "--ignore-scripts", f"azurite@{AZURITE}"]  # fmt: skip
            subprocess.run(command, cwd=fresh, check=True, stdin=subprocess.DEVNULL,
                           capture_output=True)  # fmt: skip
            fresh.rename(folder)
    return folder
