"""What a build leaves beside its push: which manifest, annotations, files about the result."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pybuild.image.manifest import Manifest, parse_manifest
from pybuild.image.media_type import Family, compression_of, family_of
from tests.support import fake_registry
from tests.support.fake_registry import FakeRegistry
from tests.support.images import add_base
from tests.support.project import Project
from tests.support.registry import make_certificates

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the base image")


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with fake_registry.running() as running:
        add_base(running, "busybox")
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def built(
    project: Project, registry: FakeRegistry, *flags: str, base: str = "", **environment: str
) -> Manifest:
    """The manifest of a small image, as the registry has it."""
    base = base or f"{registry.host}/base/busybox"
    project.write("Dockerfile", f"FROM {base}\nCOPY a /a\nLABEL b=c\n")
    project.write("a", "a\n")
    destination = f"--destination={registry.host}/app:1"
    found = project.executor(destination, "--context=.", *flags, environment=environment)
    assert found.status == 0, found.text
    return pushed(registry, "app", "1")


def pushed(registry: FakeRegistry, repository: str, tag: str) -> Manifest:
    media_type, raw = registry.manifests[repository][tag]
    found = parse_manifest(raw, media_type)
    assert isinstance(found, Manifest)
    return found


@pytest.mark.parametrize("family", ["docker", "oci"])
def test_the_whole_image_is_of_the_family_that_was_asked_for(
    project: Project, registry: FakeRegistry, family: str
) -> None:
    manifest = built(project, registry, "--reproducible", f"--image-format={family}")
    types = [
        manifest.media_type,
        *(blob.media_type for blob in (manifest.config, *manifest.layers)),
    ]
    assert {family_of(name) for name in types} == {Family(family)}
    first = built(project, registry, "--reproducible")
    # the family changes names, never bytes
    assert [blob.digest for blob in manifest.layers] == [blob.digest for blob in first.layers]


def test_zstd_layers_stand_in_an_oci_manifest_whatever_the_base_is(
    project: Project, registry: FakeRegistry
) -> None:
    manifest = built(project, registry, "--compression=zstd")
    assert manifest.family is Family.OCI
    kinds = [compression_of(blob.media_type) for blob in manifest.layers]
    assert kinds == ["gzip", "zstd"]
    assert {family_of(blob.media_type) for blob in manifest.layers} == {Family.OCI}
    scratch = built(project, registry, "--compression=zstd", base="scratch")
    assert scratch.family is Family.OCI


def test_annotations_are_the_manifest_s_and_labels_the_config_s(
    project: Project, registry: FakeRegistry
) -> None:
    flags = ("--annotation=org.opencontainers.image.title=An app", "--annotation", "a=1=2")
    manifest = built(project, registry, *flags, "--label=in=config")
    wanted = {"a": "1=2", "org.opencontainers.image.title": "An app"}
    assert dict(manifest.annotations) == wanted
    assert "annotations" not in json.loads(built(project, registry).raw)


def test_builder_output_names_every_destination_after_the_push(
    project: Project, registry: FakeRegistry
) -> None:
    manifest = built(
        project,
        registry,
        f"--destination={registry.host}/other/app:2",
        BUILDER_OUTPUT=str(project.out / "made/here"),
    )
    lines = (project.out / "made/here/images").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"name": f"{registry.host}/app:1", "digest": str(manifest.digest)},
        {"name": f"{registry.host}/other/app:2", "digest": str(manifest.digest)},
    ]


class _Put(BaseHTTPRequestHandler):
    status = 200

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        server = self.server
        assert isinstance(server, _Sink)
        server.got.append((self.path, self.headers["Content-Type"], self.rfile.read(size).decode()))
        self.send_response(server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Sink(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Put)
        self.got: list[tuple[str, str, str]] = []
        self.status = 200


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[tuple[_Sink, str, Path]]:
    """A server that takes texts by PUT, its address, and the authority that vouches for it."""
    (tmp_path / "tls").mkdir()
    made = make_certificates(tmp_path / "tls")
    server = _Sink()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server, f"https://localhost:{server.server_port}", made.authority
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_digest_is_sent_to_an_address(
    project: Project, registry: FakeRegistry, sink: tuple[_Sink, str, Path]
) -> None:
    server, address, authority = sink
    manifest = built(
        project,
        registry,
        f"--digest-file={address}/digest?signature=Very-Secret",
        f"--image-name-with-digest-file={project.out}/name",
        REQUESTS_CA_BUNDLE=str(authority),
    )
    digest = str(manifest.digest)
    assert server.got == [("/digest?signature=Very-Secret", "text/plain", digest)]
    assert (project.out / "name").read_text() == f"{registry.host}/app@{digest}\n"


def test_an_address_that_refuses_fails_the_build_without_its_secrets(
    project: Project, registry: FakeRegistry, sink: tuple[_Sink, str, Path]
) -> None:
    server, address, authority = sink
    server.status = 403
    project.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
    found = project.executor(
        f"--destination={registry.host}/refused:1",
        "--context=.",
        f"--digest-file={address}/digest?signature=Very-Secret",
        environment={"REQUESTS_CA_BUNDLE": str(authority)},
    )
    assert (found.status, found.codes) == (1, ["output-failed"])
    assert f"{address}/digest" in found.error and "403" in found.error
    assert "Very-Secret" not in found.text


def urls_of(file: Path) -> list[str]:
    """What a document names beside the image itself."""
    body = json.loads(file.read_bytes())
    if "components" in body:
        return [one["purl"] for one in body["components"] if "purl" in one]
    packages = body["packages"][1:]
    return [one["externalRefs"][0]["referenceLocator"] for one in packages]


def test_an_sbom_tells_what_the_image_holds_and_not_what_was_removed(
    project: Project, registry: FakeRegistry
) -> None:
    project.write("lib/python3/site-packages/kept-1.dist-info/METADATA", "Name: kept\nVersion: 1\n")
    project.write("lib/python3/site-packages/gone-2.dist-info/METADATA", "Name: gone\nVersion: 2\n")
    project.write("app/node_modules/@a/b/package.json", '{"name": "@a/b", "version": "3"}')
    project.write("app/node_modules/bad/package.json", "{")
    project.write("status", "Package: libc6\nStatus: install ok installed\nVersion: 2\n")
    project.write(
        "Dockerfile",
        f"FROM {registry.host}/base/busybox\nCOPY lib /usr/lib\nCOPY app /app\n"
        "COPY status /var/lib/dpkg/status\nRUN rm -r /usr/lib/python3/site-packages/gone-2*\n",
    )
    found = project.executor(
        f"--destination={registry.host}/bom:1",
        "--context=.",
        f"--sbom=spdx={project.out}/a.json",
        f"--sbom=cyclonedx={project.out}/made/b.json",
    )
    assert found.status == 0, found.text
    wanted = ["pkg:deb/debian/libc6@2", "pkg:npm/%40a/b@3", "pkg:pypi/kept@1"]
    assert urls_of(project.out / "a.json") == urls_of(project.out / "made/b.json") == wanted
    assert "/app/node_modules/bad/package.json (it is no JSON)" in found.err
    digest = str(pushed(registry, "bom", "1").digest)
    assert json.loads((project.out / "a.json").read_bytes())["packages"][0]["versionInfo"] == digest


def test_an_attached_sbom_is_found_from_the_image(project: Project, registry: FakeRegistry) -> None:
    flags = ("--sbom-attach", "--sbom=cyclonedx", "--sbom=spdx", "--reproducible")
    manifest = built(project, registry, *flags)
    assert (project.context / "sbom.cdx.json").exists()
    tag = str(manifest.digest).replace(":", "-")  # a registry that lists no referrers
    for _ in range(2):  # again, to the same list
        listed = json.loads(registry.manifests["app"][tag][1])
        kinds = [entry["artifactType"] for entry in listed["manifests"]]
        assert kinds == ["application/vnd.cyclonedx+json", "application/spdx+json"]
        for entry in listed["manifests"]:
            body = json.loads(registry.manifests["app"][entry["digest"]][1])
            assert body["subject"]["digest"] == str(manifest.digest)
            assert body["artifactType"] == entry["artifactType"]
            (blob,) = body["layers"]
            name = "sbom.spdx.json" if "spdx" in blob["mediaType"] else "sbom.cdx.json"
            assert registry.blobs["app"][blob["digest"]] == (project.context / name).read_bytes()
        assert built(project, registry, *flags).digest == manifest.digest


def test_no_command_runs_for_a_registry_that_refuses_the_push(project: Project) -> None:
    with fake_registry.running() as refusing:
        add_base(refusing, "busybox")
        refusing.deny("push")
        project.write("Dockerfile", f"FROM {refusing.host}/base/busybox\nRUN echo $((6 * 7))\n")
        found = project.executor(f"--destination={refusing.host}/app:1", "--context=.")
        assert (found.status, found.codes) == (1, ["push-denied"])
        assert not any(line.endswith("42") for line in found.text.splitlines())
        assert refusing.blob_gets == 1  # the base's config: not even its layer was asked for


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        pytest.param(["--sbom=json"], "bad-option", id="unknown format"),
        pytest.param(["--sbom-attach", "--no-push"], "flags-contradict", id="nothing pushed"),
    ],
)
def test_mistakes(project: Project, flags: list[str], code: str) -> None:
    project.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
    found = project.executor("--destination=127.0.0.1:1/a:1", "--context=.", *flags)
    assert (found.status, found.codes) == (1, [code])
