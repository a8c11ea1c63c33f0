"""How contexts are written."""

from __future__ import annotations

import pytest

from pybuild.cli.options.source import context_place
from pybuild.cli.parse import parse_flags
from pybuild.context.errors import ContextUnknown
from pybuild.context.kinds import (
    Address,
    Archive,
    AzureBlob,
    Bucket,
    Folder,
    Kind,
    Repository,
    Stdin,
    parse_context,
    with_bucket,
)

SUM = "ab" * 32


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", Folder(".")),
        ("/workspace/", Folder("/workspace/")),
        ("git", Folder("git")),
        ("dir:///w", Folder("/w")),
        ("tar://c.tgz", Archive("c.tgz")),
        ("tar:///a/c.tgz", Archive("/a/c.tgz")),
        ("tar://stdin", Stdin()),
        ("-", Stdin(may_be_dockerfile=True)),
        ("git://h/r.git#main", Repository("git://h/r.git#main")),
        ("https://h/r.git", Repository("https://h/r.git")),
        ("git@h:r.git", Repository("git@h:r.git")),
        ("s3://b/k/c.tar.gz", Bucket("s3", "b", "k/c.tar.gz")),
        ("s3://b", Bucket("s3", "b", "context.tar.gz")),
        ("gs://b/", Bucket("gs", "b", "context.tar.gz")),
        ("gs://b/a#1", Bucket("gs", "b", "a#1")),
        ("https://h/c.tar?x=1", Address("https://h/c.tar?x=1")),
        ("HTTP://h/c.tar", Address("http://h/c.tar")),
        (f"https://h/c.tar#sha256={SUM}", Address("https://h/c.tar", f"sha256:{SUM}")),
        (f"https://h/c.tar#sha256:{SUM.upper()}", Address("https://h/c.tar", f"sha256:{SUM}")),
        (
            "https://mine.blob.core.windows.net/c/d/e%20f.tar?sig=s",
            AzureBlob("mine", "core.windows.net", "c", "d/e f.tar", "sig=s"),
        ),
        (
            "https://mine.blob.core.chinacloudapi.cn/c/b",
            AzureBlob("mine", "core.chinacloudapi.cn", "c", "b"),
        ),
        ("https://mine.blob.core.cloudapi.de/c/b", AzureBlob("mine", "core.cloudapi.de", "c", "b")),
        (
            f"https://mine.blob.core.usgovcloudapi.net/c/b#sha256={SUM}",
            AzureBlob("mine", "core.usgovcloudapi.net", "c", "b", "", f"sha256:{SUM}"),
        ),
        ("https://m.blob.core.windows.net.evil/b", Address("https://m.blob.core.windows.net.evil/b")),
    ],
)  # fmt: skip
def test_forms(text: str, kind: Kind) -> None:
    assert parse_context(text) == kind


@pytest.mark.parametrize(
    "text",
    ["ftp://h/c", "s3://", "gs:///k", "tar://", "https:///c", "https://h/c#main",
     "https://h/c#sha256=ab",
     f"https://h/c#md5={SUM}", "https://mine.blob.core.windows.net/c", "kaniko://x"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(ContextUnknown) as caught:
        parse_context(text)
    assert caught.value.message


def test_a_refused_address_shows_no_password() -> None:
    with pytest.raises(ContextUnknown) as caught:
        parse_context("https://me:secret@h/c.tar?sig=secret#main")
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("context", "bucket", "result"),
    [
        ("", "b", "gs://b"),
        ("", "s3://b/k", "s3://b/k"),
        ("gs://a", "b/k.tar", "gs://b/k.tar"),
        ("/folder", "b", "/folder"),
        ("/folder", "", "/folder"),
    ],
)
def test_the_old_bucket_flag(context: str, bucket: str, result: str) -> None:
    """As kaniko: it stands for the context, but where that is a folder."""
    assert with_bucket(context, bucket) == result


@pytest.mark.parametrize(
    ("argv", "context"),
    [
        ([], "/workspace/"),
        (["-b", "b/c.tar"], "gs://b/c.tar"),
        (["--bucket=s3://b", "--context=gs://x"], "s3://b"),
        (["--bucket=b", "--context=/w"], "/w"),
    ],
)
def test_the_bucket_on_the_command_line(argv: list[str], context: str) -> None:
    values = parse_flags("executor", argv, {})
    assert context_place(values, values.text("context")) == context
