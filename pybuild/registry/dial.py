"""Connecting to a host, directly or by a proxy's CONNECT, in a way that can be given up."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from typing import Any
from urllib.parse import SplitResult

from pybuild.registry.errors import RegistryUnreachable


def dial(address: tuple[str, int], seconds: float, closed: threading.Event) -> socket.socket:
    """A connection to the first address of a name that takes one, blocking, with `seconds` as its
    timeout; given up as soon as `closed` is set. Raises OSError."""
    failure: OSError = OSError(f"{address[0]} has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            _connect(sock, place, seconds, closed)
            sock.settimeout(seconds)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _connect(sock: socket.socket, place: Any, seconds: float, closed: threading.Event) -> None:
    status = sock.connect_ex(place)
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while status == errno.EINPROGRESS:
        if closed.is_set():
            raise OSError("it was ended")
        if time.monotonic() > deadline:
            raise TimeoutError("it timed out")
        if poll.poll(100):
            status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status:
        raise OSError(status, os.strerror(status))


def open_tunnel(sock: socket.socket, target: tuple[str, int], proxy: SplitResult) -> None:
    """Has the proxy pass bytes on to the target (RFC 9110, 9.3.6)."""
    name = f"[{target[0]}]" if ":" in target[0] else target[0]
    lines = [f"CONNECT {name}:{target[1]} HTTP/1.1", f"Host: {name}:{target[1]}"]
    lines += proxy_authorization(proxy)
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        # One byte at a time: what follows the head belongs to TLS.
        part = sock.recv(1)
        if not part:
            break
        answer += part
    words = answer.split(b"\r\n")[0].split(b" ")
    if len(words) < 2 or words[1] != b"200":
        status = b" ".join(words[1:]).decode("latin-1") or "nothing"
        raise RegistryUnreachable(
            f"the proxy {proxy.hostname} answered {status} when asked for {name}:{target[1]}",
            hint="check HTTPS_PROXY, or name the registry in NO_PROXY",
        )


def proxy_authorization(proxy: SplitResult) -> list[str]:
    if proxy.username is None:
        return []
    from base64 import b64encode
    from urllib.parse import unquote

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}"]
