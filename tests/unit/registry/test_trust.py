"""Which authorities count."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybuild.registry import trust
from pybuild.registry.tls import make_context
from tests.support.registry import make_certificates


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The certificates of two authorities of our own."""
    made = [make_certificates(tmp_path_factory.mktemp("ca")).authority for _ in range(2)]
    return made[0], made[1]


def test_nothing_was_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trust, "KANIKO_CERTIFICATES", tmp_path / "no")
    assert trust.added_files({}) == ()
    assert trust.added_bundle({}) is None


def test_what_is_mounted_into_kaniko_s_folder_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: tuple[Path, Path]
) -> None:
    """As Kubernetes mounts a secret: links, and a folder that is not gone into."""
    monkeypatch.setattr(trust, "KANIKO_CERTIFICATES", tmp_path)
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "own.crt").write_bytes(authorities[0].read_bytes())
    (tmp_path / "own.crt").symlink_to("..data/own.crt")
    (tmp_path / "deadbeef.0").symlink_to("own.crt")  # c_rehash's second name
    assert trust.added_files({}) == (tmp_path / "own.crt",)
    bundle = trust.added_bundle({})
    assert bundle is not None
    assert authorities[0].read_bytes().strip() in bundle


def test_files_and_folders_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: tuple[Path, Path]
) -> None:
    monkeypatch.setattr(trust, "KANIKO_CERTIFICATES", tmp_path / "no")
    (tmp_path / "README").write_text("nothing of use\n")
    (tmp_path / "own.crt").write_bytes(authorities[1].read_bytes())
    environment = {"SSL_CERT_FILE": str(authorities[0]), "SSL_CERT_DIR": f"/nowhere:{tmp_path}"}
    files = trust.authority_files(environment)
    assert files == (authorities[0], tmp_path / "README", tmp_path / "own.crt")
    bundle = trust.added_bundle(environment)
    assert bundle is not None
    assert bundle.count(b"-----BEGIN CERTIFICATE-----") == 2
    assert b"nothing of use" not in bundle
    known = make_context(None, None, environment).get_ca_certs()
    assert len([one for one in known if "Authority of the tests" in str(one["subject"])]) == 2
