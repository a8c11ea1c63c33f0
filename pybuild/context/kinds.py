"""The ways a build context is written, as values. Pure.

kaniko's forms, and Docker's beside them: `-` for standard input, a git repository with a fragment.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

from msgspec import Struct

from pybuild.context.errors import ContextUnknown
from pybuild.context.git_url import is_git_url, without_password

# What kaniko takes where a bucket is named without an object.
_DEFAULT_OBJECT = "context.tar.gz"
_AZURE = re.compile(
    r"(?P<account>[a-z0-9-]{3,30})\.blob\."
    r"(?P<cloud>core\.windows\.net|core\.chinacloudapi\.cn|core\.cloudapi\.de"
    r"|core\.usgovcloudapi\.net|storage\.azure\.net)"
)
_CHECKSUM = re.compile(r"(?P<algorithm>sha256|sha384|sha512)[:=](?P<hex>[0-9a-fA-F]+)")
_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}


class Folder(Struct, frozen=True):
    path: str


class Archive(Struct, frozen=True):
    """A tar on disk, whatever it is compressed with."""

    path: str


class Stdin(Struct, frozen=True):
    """A tar on standard input; `may_be_dockerfile`: or a Dockerfile, without any other file."""

    may_be_dockerfile: bool = False


class Repository(Struct, frozen=True):
    url: str


class Address(Struct, frozen=True):
    """A tar behind an http or https address. `checksum` is what its bytes must have, as
    `sha256:…`, or ""."""

    url: str
    checksum: str = ""


class Bucket(Struct, frozen=True):
    """An object of S3 (`s3`) or Google Cloud Storage (`gs`)."""

    scheme: str
    name: str
    key: str


class AzureBlob(Struct, frozen=True):
    """`query` is the shared access signature that the address brings, or ""."""

    account: str
    cloud: str  # the host after "blob."
    container: str
    blob: str
    query: str = ""
    checksum: str = ""


Kind = Folder | Archive | Stdin | Repository | Address | Bucket | AzureBlob


def parse_context(text: str) -> Kind:
    """Raises ContextUnknown for a form that there is none of, or one that names nothing."""
    if text == "-" or text == "tar://stdin":
        return Stdin(may_be_dockerfile=text == "-")
    if is_git_url(text):
        return Repository(text)
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if found is None:
        return Folder(text or ".")
    scheme, rest = found[1].lower(), text[found.end() :]
    if scheme == "dir":
        return Folder(rest or ".")
    if scheme == "tar":
        if not rest:
            raise ContextUnknown("tar:// names no archive", hint="tar://context.tar.gz")
        return Archive(rest)
    if scheme in ("s3", "gs"):
        return _bucket(scheme, rest)
    if scheme in ("http", "https"):
        return _address(text)
    raise ContextUnknown(
        f"there is no kind of context {found[0]}",
        hint="give a folder, dir://, tar://, s3://, gs://, https://, "
        "git://host/repository.git#ref or https://host/repository.git#ref:folder",
    )


def with_bucket(context: str, bucket: str) -> str:
    """kaniko's old --bucket: it names the context, of Google's storage where no other is said;
    a folder that was named is left alone."""
    if not bucket or (context and "://" not in context):
        return context
    return bucket if "://" in bucket else f"gs://{bucket}"


def _bucket(scheme: str, rest: str) -> Bucket:
    name, _, key = rest.partition("/")
    if not name:
        raise ContextUnknown(
            f"{scheme}:// names no bucket", hint=f"{scheme}://bucket/folder/context.tar.gz"
        )
    return Bucket(scheme, name, key or _DEFAULT_OBJECT)


def _address(text: str) -> Address | AzureBlob:
    parts = urlsplit(text)
    shown = without_password(text.partition("?")[0].partition("#")[0])
    if not parts.hostname:
        raise ContextUnknown(f"the context {shown} names no host")
    checksum = ""
    if parts.fragment:
        checksum = _checksum(parts.fragment, shown)
    azure = _AZURE.fullmatch(parts.netloc.lower())
    if azure:
        container, _, blob = unquote(parts.path).lstrip("/").partition("/")
        if not blob:
            raise ContextUnknown(
                f"the context {shown} names no blob",
                hint=f"https://{parts.hostname}/container/context.tar.gz",
            )
        return AzureBlob(azure["account"], azure["cloud"], container, blob, parts.query, checksum)
    plain = urlunsplit((parts.scheme.lower(), parts.netloc, parts.path, parts.query, ""))
    return Address(plain, checksum)


def _checksum(fragment: str, shown: str) -> str:
    found = _CHECKSUM.fullmatch(fragment)
    if not found or len(found["hex"]) != _HEX_DIGITS[found["algorithm"]]:
        raise ContextUnknown(
            f"the part behind '#' of the context {shown} is no checksum",
            hint="…#sha256=HEX checks an archive; the address of a git repository ends in .git",
        )
    return f"{found['algorithm']}:{found['hex'].lower()}"
