"""ADD of an address: http and https, with a checksum where one is asked for."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from pybuild.errors import Cancelled
from pybuild.events import (
    EventSink,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
)
from pybuild.executor.errors import ChecksumMismatch, DownloadFailed
from pybuild.executor.repository import is_repository

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pybuild.executor.workspace import Workspace
    from pybuild.plan.steps import CopyAction

_TIMEOUT_SECONDS = 60
_TRIES = 3


class Download(Struct, frozen=True):
    """`name` is what the file is called in a folder; `mtime_ns` what the server says, else 0."""

    path: Path
    name: str
    mtime_ns: int
    digest: str


def download_all(
    action: CopyAction,
    workspace: Workspace,
    sink: EventSink,
    *,
    cancelled: threading.Event,
) -> tuple[Download, ...]:
    """The files behind the addresses of an ADD, in their order; not the repositories."""
    return tuple(
        download(url, action, workspace, sink, cancelled=cancelled)
        for url in action.urls
        if not is_repository(url)
    )


def download(
    url: str,
    action: CopyAction,
    workspace: Workspace,
    sink: EventSink,
    *,
    cancelled: threading.Event,
) -> Download:
    """Raises DownloadFailed, ChecksumMismatch and Cancelled."""
    parts = urlsplit(url)
    name = unquote(parts.path.rpartition("/")[2])
    if not name and not action.destination.endswith("/"):
        name = "index"  # the destination names the file
    if not name or "/" in name or name in (".", ".."):
        raise DownloadFailed(
            f"ADD {_shown(url)}: the address names no file",
            hint="name the file in the destination, without a slash at its end",
        )
    path = workspace.new_spool() / "download"
    return _unless(cancelled, lambda: _fetch(url, name, action.checksum, path, sink))


def _unless(cancelled: threading.Event, action: Callable[[], Download]) -> Download:
    """The result of `action`, which may wait for a server; Cancelled without waiting for it."""
    import threading
    from concurrent.futures import Future, wait

    future: Future[Download] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    while not wait((future,), 0.1).done:
        if cancelled.is_set():
            raise Cancelled("the download is not wanted any more")
    return future.result()


def _shown(url: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _fetch(url: str, name: str, checksum: str, path: Path, sink: EventSink) -> Download:
    import os

    import requests

    from pybuild.registry.https import https_session

    started, label = time.monotonic(), _shown(url)
    for attempt in range(1, _TRIES + 1):
        try:
            with (
                https_session(os.environ) as session,
                session.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response,
            ):
                if response.status_code >= 500 and attempt < _TRIES:
                    time.sleep(attempt)
                    continue
                if response.status_code != 200:
                    raise DownloadFailed(
                        f"ADD {label}: the server answers {response.status_code} {response.reason}",
                        hint="check the address; one that wants a password needs another way",
                    )
                size = int(response.headers.get("Content-Length") or 0)
                sink(TransferStarted(label, TransferKind.DOWNLOAD, label, size))
                hasher, done = sha256(), 0
                with path.open("wb") as file:
                    for chunk in response.iter_content(1 << 18):
                        file.write(chunk)
                        hasher.update(chunk)
                        done += len(chunk)
                        sink(TransferProgress(label, done))
                digest = f"sha256:{hasher.hexdigest()}"
                if checksum and checksum != digest:
                    raise ChecksumMismatch(
                        f"ADD {label}: the file has {digest}, --checksum asks for {checksum}",
                        hint="the file behind the address has changed, or the checksum is mistyped",
                    )
                seconds = time.monotonic() - started
                outcome = TransferOutcome.DONE
                sink(TransferFinished(label, TransferKind.DOWNLOAD, label, outcome, done, seconds))
                return Download(path, name, _modified(response.headers), digest)
        except requests.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DownloadFailed(
                    f"ADD {label}: the server's certificate is not trusted",
                    hint="name its authority in SSL_CERT_FILE, or mount it into /kaniko/ssl/certs",
                ) from error
            if attempt == _TRIES:
                raise DownloadFailed(
                    f"ADD {label}: {_why(error)} (tried {attempt} times)",
                    hint="check the address, the network and the proxy settings",
                ) from error
            time.sleep(attempt)
    raise DownloadFailed(f"ADD {label}: no answer")


def _why(error: BaseException) -> str:
    """The system's own word for what went wrong; what libraries wrap it in may hold the address
    with its password."""
    inner: BaseException | None = error
    while inner is not None:
        reason = getattr(inner, "reason", None)
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        nested = next((arg for arg in inner.args if isinstance(arg, BaseException)), None)
        inner = reason if isinstance(reason, BaseException) else nested or inner.__context__
    return type(error).__name__


def _modified(headers: object) -> int:
    text = getattr(headers, "get")("Last-Modified")  # noqa: B009
    if not text:
        return 0
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (TypeError, ValueError):
        return 0
