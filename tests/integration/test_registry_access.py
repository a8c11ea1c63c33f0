"""Who may push and pull, as people run it: the command line against guarded registries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pybuild.events import Event, Notice
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.manifest import make_manifest
from pybuild.image.media_type import OCI_CONFIG, OCI_LAYER, Family
from pybuild.image.reference import parse_reference
from pybuild.registry.client import Client
from pybuild.registry.credentials import AnonymousKeychain
from pybuild.registry.keychain import SystemKeychain
from pybuild.registry.options import RegistryOptions
from tests.support.clouds import ECR_HOST, GAR_HOST, Clouds, running_clouds
from tests.support.project import EXECUTOR, Finished, Project
from tests.support.proxy import Instead, RegistryProxy, Tunnel, running_proxy
from tests.support.registry import (
    Certificates,
    RealRegistry,
    is_available,
    make_certificates,
    running_registry,
)
from tests.support.token_server import TokenServer, running_token_server

pytestmark = pytest.mark.skipif(not is_available(), reason="docker-registry is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write("Dockerfile", "FROM scratch\nCOPY a /a\n")
    project.write("a", os.urandom(20_000))
    return project


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("plain")) as running:
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with running_token_server(tmp_path_factory.mktemp("tokens")) as running:
        yield running


@pytest.fixture(scope="module")
def tokened(
    tmp_path_factory: pytest.TempPathFactory, token_server: TokenServer
) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("tokened"), tokens=token_server) as running:
        yield running


@pytest.fixture
def tokens(token_server: TokenServer) -> TokenServer:
    token_server.users = {"me": "s3cret", "reader": "s3cret"}
    token_server.rights = {}
    token_server.refresh_tokens = {}
    token_server.asked.clear()
    token_server.seconds, token_server.announced, token_server.anonymous = 300.0, 300, False
    return token_server


def build(
    project: Project, *flags: str, environment: Mapping[str, str | None] | None = None
) -> Finished:
    return project.executor("--context=.", *flags, environment=environment)


def docker_config(project: Project, auths: Mapping[str, str], **more: object) -> dict[str, str]:
    """An environment whose config.json has `user:password` by key."""
    entries = {key: {"auth": b64encode(pair.encode()).decode()} for key, pair in auths.items()}
    project.home.joinpath("config.json").write_text(json.dumps({"auths": entries, **more}))
    return {"DOCKER_CONFIG": str(project.home)}


def has(registry: RealRegistry, name: str) -> bool:
    with Client(RegistryOptions(), AnonymousKeychain(), lambda event: None) as client:
        return client.try_manifest(parse_reference(f"{registry.host}/{name}")) is not None


def open_uploads(registry: RealRegistry) -> list[str]:
    return [str(path) for path in registry.folder.glob("data/**/_uploads/*/data")]


# The token server


def test_a_token_for_a_build_and_its_base(
    project: Project, tokens: TokenServer, tokened: RealRegistry
) -> None:
    environment = docker_config(project, {tokened.host: "me:s3cret"})
    first = build(project, f"-d={tokened.host}/team/base:1", environment=environment)
    assert first.status == 0, first.text
    project.write("Dockerfile", f"FROM {tokened.host}/team/base:1\nLABEL a=b\n")
    tokens.asked.clear()
    second = build(project, f"-d={tokened.host}/team/app:1", environment=environment)
    assert second.status == 0, second.text
    scopes = {scope for _, asked in tokens.asked for scope in asked}
    assert scopes == {"repository:team/base:pull", "repository:team/app:pull,push"}
    assert "s3cret" not in first.text + second.text
    assert open_uploads(tokened) == []


@pytest.mark.parametrize(
    ("auths", "code", "part"),
    [
        ({}, "unauthorized", "no credentials were sent, looked into: "),
        ({"HOST": "me:wr0ng"}, "unauthorized", "the credentials are from "),
        ({"HOST": "reader:s3cret"}, "push-denied", "the credentials are from "),
        # The longest path counts, also where it is the one that may not.
        ({"HOST": "me:s3cret", "HOST/team": "reader:s3cret"}, "push-denied", "config.json"),
    ],
)
def test_a_refusal_before_the_build(
    project: Project,
    tokens: TokenServer,
    tokened: RealRegistry,
    auths: dict[str, str],
    code: str,
    part: str,
) -> None:
    tokens.rights = {"reader:team/app": "pull"}
    named = {key.replace("HOST", tokened.host): pair for key, pair in auths.items()}
    environment = docker_config(project, named)
    run = build(project, f"-d={tokened.host}/team/app:no", environment=environment)
    assert (run.status, run.codes) == (1, [code]), run.text
    assert part in run.error
    assert str(project.home) in run.error
    assert "wr0ng" not in run.text and "s3cret" not in run.text


def test_a_path_s_own_credentials(
    project: Project, tokens: TokenServer, tokened: RealRegistry
) -> None:
    tokens.rights = {"reader:team/app": "pull", "me:team/app": "pull,push"}
    auths = {tokened.host: "reader:s3cret", f"{tokened.host}/team/app": "me:s3cret"}
    run = build(
        project, f"-d={tokened.host}/team/app:path", environment=docker_config(project, auths)
    )
    assert run.status == 0, run.text


def test_an_identity_token(project: Project, tokens: TokenServer, tokened: RealRegistry) -> None:
    tokens.refresh_tokens = {"identity": "me"}
    config = {"auths": {tokened.host: {"auth": "MDAwMDo=", "identitytoken": "identity"}}}
    environment = {"DOCKER_AUTH_CONFIG": json.dumps(config)}
    run = build(project, f"-d={tokened.host}/team/app:2", environment=environment)
    assert run.status == 0, run.text


def test_a_token_that_ends_in_the_middle_of_an_upload(
    project: Project, tokens: TokenServer, tokened: RealRegistry
) -> None:
    """The registry says 401 between two parts of an upload, which goes on with another token."""
    content = os.urandom(6 << 20)  # more than goes in one request

    def slowly() -> Iterator[bytes]:
        yield content[: len(content) // 2]
        time.sleep(2.5)
        yield content[len(content) // 2 :]

    tokens.seconds = 2.0  # the registry's leeway included; 300 s is what we are told
    environment = docker_config(project, {tokened.host: "me:s3cret"})
    descriptor = Descriptor(OCI_LAYER, digest_of(content), len(content))
    events: list[Event] = []
    with (
        running_proxy(tokened.host) as proxy,
        Client(
            RegistryOptions(), SystemKeychain(docker_config_for(environment, proxy)), events.append
        ) as client,
    ):
        ref = parse_reference(f"{proxy.host}/long/push:1")
        client.push_blob(ref, descriptor, slowly)
        config = b"{}"
        config_descriptor = Descriptor(OCI_CONFIG, digest_of(config), len(config))
        client.push_blob(ref, config_descriptor, lambda: iter([config]))
        client.push_manifest(ref, make_manifest(config_descriptor, [descriptor], Family.OCI))
        refused = [asked.method for asked in proxy.asked if asked.status == 401]
        assert "PUT" in refused
        assert proxy.count("PATCH", "long/push") == 1  # nothing was sent twice
        assert b"".join(client.open_blob(ref, descriptor)) == content
    assert len(tokens.asked) >= 2
    assert not [event for event in events if isinstance(event, Notice)]


def docker_config_for(environment: Mapping[str, str], proxy: RegistryProxy) -> dict[str, str]:
    """The same with the proxy's name."""
    auth = b64encode(b"me:s3cret").decode()
    config = {"auths": {proxy.host: {"auth": auth}}}
    return {**environment, "DOCKER_AUTH_CONFIG": json.dumps(config)}


# Sources of credentials on the command line


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    folder = tmp_path_factory.mktemp("guarded")
    with running_registry(folder, users={"me": "s3cret"}) as running:
        yield running


@pytest.mark.parametrize(
    ("flags", "works"),
    [
        ((), True),
        (("--credential-helpers=env,ecr",), True),
        (("--credential-helpers=default", "--credential-helpers=env"), True),
        (("--credential-helpers=google",), False),
        (("--credential-helpers=",), False),
    ],
)
def test_credential_helpers(
    project: Project, guarded: RealRegistry, flags: tuple[str, ...], works: bool
) -> None:
    name = guarded.host.replace(".", "_").replace(":", "_")
    environment = {f"KANIKO_{name}_USER": "me", f"KANIKO_{name}_PASSWORD": "s3cret"}
    run = build(project, f"-d={guarded.host}/env:1", *flags, environment=environment)
    assert (run.status == 0) is works, run.text
    if not works:
        assert run.codes == ["unauthorized"]
    assert "s3cret" not in run.text


def test_a_credential_helper_that_there_is_not(project: Project) -> None:
    run = build(project, "-d=r.example/a:1", "--credential-helpers=amazon")
    assert (run.status, run.codes) == (1, ["bad-option"])
    assert "env, google, ecr, acr, gitlab" in run.hint


def test_a_helper_that_hangs_does_not_outlive_a_term(
    project: Project, guarded: RealRegistry
) -> None:
    program = project.home / "docker-credential-slow"
    program.write_text('#!/bin/sh\necho asked > "$HOME/asked"\nsleep 61 & sleep 61\n')
    program.chmod(0o755)
    environment = docker_config(project, {}, credsStore="slow")
    environment["PATH"] = f"{project.home}:{os.environ['PATH']}"
    running = project.start("--context=.", f"-d={guarded.host}/slow:1", environment=environment)
    deadline = time.monotonic() + 20
    while not (project.home / "asked").exists():
        assert time.monotonic() < deadline, running.err
        time.sleep(0.02)
    started = time.monotonic()
    running.signal(signal.SIGTERM)
    run = running.finish()
    assert time.monotonic() - started < 4
    assert (run.status, run.codes) == (143, ["interrupted"]), run.text
    assert project.leftovers() == []


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with running_clouds(tmp_path_factory.mktemp("clouds")) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "pair"),
    [(ECR_HOST, "AWS:ecr-password"), (GAR_HOST, "oauth2accesstoken:google-metadata")],
    ids=["ecr", "artifact-registry"],
)
def test_a_build_for_a_cloud_s_registry(
    tmp_path: Path, project: Project, clouds: Clouds, host: str, pair: str
) -> None:
    """Real names all the way: the cloud's API and its registry are found through one proxy."""
    clouds.instance_role, clouds.google_metadata = "node", True
    name, _, password = pair.partition(":")
    certificates = make_certificates(tmp_path / "ca", host)
    bundle = tmp_path / "bundle.crt"
    texts = [path.read_text() for path in (certificates.authority, clouds.authority)]
    bundle.write_text("".join(texts))
    folder = tmp_path / "registry"
    with (
        running_registry(folder, users={name: password}, certificates=certificates) as running,
        Tunnel(running.host) as to_registry,
        _Forked(clouds.tunnel, {host: to_registry.host}) as proxy,
    ):
        environment = clouds.environment(project.home, SSL_CERT_FILE=str(bundle))
        environment["HTTPS_PROXY"] = f"http://{proxy.host}"
        run = build(project, f"-d={host}/team/app:1", environment=environment)
    assert run.status == 0, run.text
    assert password not in run.text


class _Forked(Tunnel):
    """A proxy that hands some names to another one."""

    def __init__(self, target: str, others: Mapping[str, str]) -> None:
        super().__init__(target)
        self._others = others

    def serve(self, ours: object) -> None:
        import socket

        assert isinstance(ours, socket.socket)
        head = ours.recv(4096)
        name = head.split(b" ")[1].rpartition(b":")[0].decode()
        place = self._others.get(name)
        address = (place.partition(":")[0], int(place.partition(":")[2])) if place else self._target
        theirs = socket.create_connection(address)
        theirs.sendall(head)
        self.join(ours, theirs)


# The check before the build, and several destinations


def test_the_check_leaves_nothing_open(project: Project, plain: RealRegistry) -> None:
    with running_proxy(plain.host) as proxy:
        for _ in range(2):  # the second time all blobs are there, and nothing is uploaded
            proxy.forget()
            run = build(project, f"-d={proxy.host}/check:1", "--reproducible")
            assert run.status == 0, run.text
        assert proxy.count("POST", "/blobs/uploads/") == 1
        assert proxy.count("DELETE", "/blobs/uploads/") == 1
    assert open_uploads(plain) == []


def test_who_may_not_delete_leaves_nothing_open_either(
    project: Project, tokens: TokenServer, tokened: RealRegistry
) -> None:
    """distribution wants the right to delete for giving an upload up; no push asks for that."""
    tokens.rights = {"me:team/check": "pull,push"}
    environment = docker_config(project, {tokened.host: "me:s3cret"})
    for _ in range(2):
        flags = (f"-d={tokened.host}/team/check:1", "--reproducible")
        run = build(project, *flags, environment=environment)
        assert run.status == 0, run.text
    assert open_uploads(tokened) == []


def test_the_check_can_be_skipped(project: Project, plain: RealRegistry) -> None:
    with running_proxy(plain.host) as proxy:
        assert build(project, f"-d={proxy.host}/skip:1", "--reproducible").status == 0
        proxy.rule = lambda method, path: Instead(403) if method == "POST" else None
        run = build(project, f"-d={proxy.host}/skip:1", "--reproducible")
        assert (run.status, run.codes) == (1, ["push-denied"])
        # All of its blobs are there, so that nothing else needs the right to upload.
        run = build(
            project, f"-d={proxy.host}/skip:1", "--reproducible", "--skip-push-permission-check"
        )
        assert run.status == 0, run.text


def test_a_registry_that_is_read_only(tmp_path: Path, project: Project) -> None:
    with running_registry(tmp_path / "registry", read_only=True) as running:
        run = build(project, f"-d={running.host}/app:1")
    assert (run.status, run.codes) == (1, ["request-refused"]), run.text
    assert f"can't push to {running.host}/app: {running.host} answered 405" in run.error


def test_several_destinations(project: Project, plain: RealRegistry, other: RealRegistry) -> None:
    names = [f"{plain.host}/many/a:1", f"{plain.host}/many/b:1", f"{other.host}/many/c:1",
             f"{plain.host}/many/a:2"]  # fmt: skip
    run = build(project, *(f"-d={name}" for name in names), "--digest-file=../out/digest")
    assert run.status == 0, run.text
    digest = (project.out / "digest").read_text()
    with Client(RegistryOptions(), AnonymousKeychain(), lambda event: None) as client:
        found = {client.manifest(parse_reference(name)).digest for name in names}
    assert found == {digest}


@pytest.mark.parametrize("where", ["PUT", "PATCH|PUT .*/uploads/"], ids=["manifest", "blobs"])
def test_one_destination_that_fails_does_not_stop_the_others(
    project: Project, plain: RealRegistry, other: RealRegistry, where: str
) -> None:
    import re

    pattern = re.compile(where if "|" in where else f"{where} .*/manifests/")

    def rule(method: str, path: str) -> Instead | None:
        refused = pattern.match(f"{method} {path}")
        return Instead(403, b'{"errors":[{"code":"DENIED"}]}') if refused else None

    tag = "manifest" if where == "PUT" else "blobs"
    with running_proxy(other.host) as proxy:
        proxy.rule = rule
        names = [f"{proxy.host}/part/a:{tag}", f"{plain.host}/part/b:{tag}"]
        run = build(project, *(f"-d={name}" for name in names), "--digest-file=../out/digest")
    assert (run.status, run.codes) == (1, ["push-incomplete"]), run.text
    assert f"the image is at {names[1]}, but {names[0]} lacks it" in run.error
    assert (has(other, f"part/a:{tag}"), has(plain, f"part/b:{tag}")) == (False, True)
    assert not (project.out / "digest").exists()


def test_a_request_s_result_tells_each_destination(
    project: Project, plain: RealRegistry, other: RealRegistry
) -> None:
    names = [f"{other.host}/told/a:1", f"{plain.host}/told/b:1"]
    request = project.home / "request.json"
    with running_proxy(other.host) as proxy:
        proxy.rule = lambda method, path: Instead(403) if "/manifests/" in path else None
        names[0] = f"{proxy.host}/told/a:1"
        request.write_text(json.dumps({"schema": 1, "destinations": names}))
        done = subprocess.run(
            [str(EXECUTOR.with_name("pybuild")), "request", str(request)],
            cwd=project.context,
            env=project.environment({}),
            capture_output=True,
            timeout=60,
        )
    result = json.loads((project.home / "result.json").read_text())
    assert done.returncode == 1
    assert result["error"]["code"] == "push-incomplete"
    assert result["destinations"] == names[1:]


def test_an_immutable_tag(project: Project, plain: RealRegistry) -> None:
    text = "cannot be overwritten because the tag is immutable."
    body = json.dumps({"errors": [{"code": "TAG_INVALID", "message": text}]}).encode()

    def rule(method: str, path: str) -> Instead | None:
        return Instead(400, body) if (method, path) == ("PUT", "/v2/fixed/manifests/1") else None

    with running_proxy(plain.host) as proxy:
        proxy.rule = rule
        run = build(project, f"-d={proxy.host}/fixed:1")
        assert (run.status, run.codes) == (1, ["tag-immutable"]), run.text
        run = build(
            project,
            f"-d={proxy.host}/fixed:1",
            "--push-ignore-immutable-tag-errors",
            "--digest-file=../out/digest",
        )
        assert run.status == 0, run.text
    digest = (project.out / "digest").read_text()
    assert has(plain, f"fixed@{digest}")
    assert not has(plain, "fixed:1")


def test_the_upstream_client_s_name_is_told(project: Project, plain: RealRegistry) -> None:
    environment = {"UPSTREAM_CLIENT_TYPE": "UpstreamClient(skaffold)"}
    assert build(project, f"-d={plain.host}/agent:1", environment=environment).status == 0
    assert ",UpstreamClient(skaffold)" in plain.log.read_text()


# Mirrors and trust


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("ca"))


def pushed_base(project: Project, registry: RealRegistry, name: str) -> None:
    assert build(project, f"-d={registry.host}/{name}").status == 0


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_mirror_of_docker_hub(project: Project, plain: RealRegistry, scheme: str) -> None:
    pushed_base(project, plain, "hub/library/base:1")
    project.write("Dockerfile", "FROM base:1\nLABEL a=b\n")
    flags = (f"--registry-mirror={scheme}{plain.host}/hub", "--skip-default-registry-fallback")
    run = build(project, f"-d={plain.host}/from-hub:1", *flags)
    assert run.status == 0, run.text


def test_a_map_and_what_follows_it(
    project: Project, plain: RealRegistry, other: RealRegistry
) -> None:
    pushed_base(project, plain, "prefix/team/base:1")
    project.write("Dockerfile", "FROM registry.example/team/base:1\nLABEL a=b\n")
    environment = {"KANIKO_REGISTRY_MAP": f"registry.example={other.host};"
                                          f"registry.example={plain.host}/prefix"}  # fmt: skip
    run = build(project, f"-d={plain.host}/mapped:1", environment=environment)
    assert run.status == 0, run.text
    assert f"trying {plain.host} instead" in run.err


@pytest.mark.parametrize("how", ["flag", "SSL_CERT_FILE", "SSL_CERT_DIR", "skipped"])
def test_tls_on_the_command_line(
    tmp_path: Path, project: Project, certificates: Certificates, how: str
) -> None:
    environment: dict[str, str] = {}
    flags: list[str] = []
    with running_registry(tmp_path / "registry", certificates=certificates) as running:
        host = running.host
        if how == "flag":
            flags.append(f"--registry-certificate={host}={certificates.authority}")
        if how == "SSL_CERT_FILE":
            environment[how] = str(certificates.authority)
        if how == "SSL_CERT_DIR":
            folder = tmp_path / "certs"
            folder.mkdir()
            (folder / "own.crt").write_bytes(certificates.authority.read_bytes())
            environment[how] = f"/nowhere:{folder}"
        if how == "skipped":
            flags.append(f"--skip-tls-verify-registry={host}")
        run = build(project, f"-d={host}/tls:1", *flags, environment=environment)
        assert run.status == 0, run.text
        run = build(project, f"-d={host}/tls:1")
        assert (run.status, run.codes) == (1, ["certificate-not-trusted"])


def test_a_client_s_certificate(
    tmp_path: Path, project: Project, certificates: Certificates
) -> None:
    ours = make_certificates(tmp_path / "ours", "client")
    folder = tmp_path / "registry"
    with running_registry(folder, certificates=certificates, clients=ours.authority) as running:
        trust = f"--registry-certificate={running.host}={certificates.authority}"
        run = build(project, f"-d={running.host}/client:1", trust)
        assert (run.status, run.codes) == (1, ["certificate-not-trusted"]), run.text
        assert f"--registry-client-cert={running.host}=" in run.hint
        shown = f"--registry-client-cert={running.host}={ours.certificate},{ours.key}"
        run = build(project, f"-d={running.host}/client:1", trust, shown)
        assert run.status == 0, run.text


@pytest.mark.parametrize(
    ("flags", "works"),
    [
        (("--insecure-registry=registry.invalid",), True),
        (("--insecure",), True),
        (("--insecure-pull",), False),
        (("--insecure-registry=other.invalid",), False),
        ((), False),
    ],
)
def test_plain_http_through_a_proxy(
    project: Project, plain: RealRegistry, flags: tuple[str, ...], works: bool
) -> None:
    """A name that only the proxy knows, spoken to without TLS only where a flag says so."""
    with running_proxy(plain.host) as proxy:
        environment = {"http_proxy": f"http://{proxy.host}", "NO_PROXY": "10.0.0.0/8,other.invalid"}
        run = build(project, "-d=registry.invalid/plain:1", *flags, environment=environment)
        assert (run.status == 0) is works, run.text
        assert bool(proxy.asked) is works


@pytest.mark.parametrize("how", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_add_over_https_trusts_the_same_authorities(
    tmp_path: Path, project: Project, certificates: Certificates, how: str
) -> None:
    """A registry is an HTTPS server like any other: its /v2/ is what is added."""
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "own.crt").write_bytes(certificates.authority.read_bytes())
    value = folder if how == "SSL_CERT_DIR" else certificates.authority
    with running_registry(tmp_path / "registry", certificates=certificates) as running:
        project.write("Dockerfile", f"FROM scratch\nADD https://{running.host}/v2/ /answer\n")
        flags = ("--no-push", "--tar-path=../out/image.tar")
        run = build(project, *flags, environment={how: str(value)})
        assert run.status == 0, run.text
        run = build(project, *flags)
        assert (run.status, run.codes) == (1, ["download-failed"]), run.text
        assert "certificate is not trusted" in run.error and "SSL_CERT_FILE" in run.hint
