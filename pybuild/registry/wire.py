"""One HTTP/1.1 connection (RFC 9112): a request out, a reply in, bodies as streams.

The standard library's client parses each reply's head with the mail package and loads TLS also
for plain HTTP: 20 ms of start-up, a tenth of what a small build may take. It also can't see an
answer that comes while a body is still being sent, which a refused upload of gigabytes needs.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

_BUFFER = 256 << 10  # what comes is gathered up to this; TLS hands out 16 KiB at most
_ONE_SEND = 64 << 10  # a body up to this goes out together with the head
_HEAD_LIMIT = 256 << 10

Body = bytes | Iterator[bytes]


class BadReply(Exception):
    """What came back is no HTTP, or less than was announced."""


class AnswerTooLong(BadReply):
    """The body is longer than anything that was asked for can be."""


class Reply:
    """The head of an answer, and its body, which has to be read or closed."""

    def __init__(
        self,
        status: int,
        reason: str,
        headers: dict[str, str],
        *,
        chunks: Iterator[bytes],
        done: Callable[[bool], None],
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers  # names in lower case; repeated ones joined by ", "
        self._chunks = chunks
        self._done: Callable[[bool], None] | None = done

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def chunks(self) -> Iterator[bytes]:
        """The body; raises OSError or BadReply where it breaks off. Closes itself at the end."""
        whole = False
        try:
            yield from self._chunks
            whole = True
        finally:
            self._finish(whole)

    def read(self, limit: int) -> bytes:
        """The whole body; raises BadReply when it is longer than `limit`."""
        parts: list[bytes] = []
        size = 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                self._finish(False)
                raise AnswerTooLong(f"the answer is longer than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def close(self) -> None:
        """Ends the exchange; an unread body costs the connection."""
        self._finish(False)

    def _finish(self, whole: bool) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(whole)


class Wire:
    """A connected socket. One exchange at a time; `reusable` says whether another may follow."""

    def __init__(
        self, sock: socket.socket, timeout_seconds: float, over: Callable[[Wire], None]
    ) -> None:
        self._sock = sock
        self._timeout = timeout_seconds
        self._over = over  # told when an exchange is over; `reusable` says if one may follow
        self._ahead = b""  # read from the socket, not used yet
        self.reusable = True

    def is_stale(self) -> bool:
        """Whether an idle connection was ended by the other side (or sent what nobody asked)."""
        return bool(self._ahead) or self._readable()

    def exchange(self, method: str, head: bytes, body: Body) -> Reply:
        """Sends a request and takes the head of its final answer.

        Raises OSError when the connection breaks, BadReply when it speaks no HTTP.
        """
        self._sock.settimeout(self._timeout)
        try:
            self._send(head, body)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses may have answered before it stopped listening.
            self.reusable = False
            if not (self._ahead or self._readable()):
                raise
        return self._receive(method)

    def close(self) -> None:
        self.reusable = False
        with suppress(OSError):
            self._sock.close()

    def abort(self) -> None:
        """Wakes whichever thread is waiting on this connection; safe from another thread."""
        self.reusable = False
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _send(self, head: bytes, body: Body) -> None:
        if isinstance(body, bytes):
            if len(body) < _ONE_SEND:
                self._sock.sendall(head + body)
                return
            body = iter((body,))
        self._sock.sendall(head)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        for chunk in body:
            if not self._send_chunk(poll, memoryview(chunk)):
                self.reusable = False  # the rest of the body is still owed
                return

    def _send_chunk(self, poll: select.poll, rest: memoryview) -> bool:
        """False where the other side has answered before it was all sent. It may well have
        stopped reading by then, so a send must never wait without listening."""
        while rest:
            ready = poll.poll(self._timeout * 1000)
            if not ready:
                raise TimeoutError("the other side takes no more")
            events = ready[0][1]
            if events & ~select.POLLOUT and self._answered_early():
                return False
            if events & select.POLLOUT:
                rest = rest[self._sock.send(rest[:_BUFFER]) :]
        return True

    def _readable(self) -> bool:
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # closed meanwhile
            return True

    def _answered_early(self) -> bool:
        # Over TLS a session ticket makes the socket readable too: only real bytes count.
        self._sock.settimeout(0)
        try:
            self._ahead = self._sock.recv(_BUFFER)
        except OSError as error:
            if isinstance(error, BlockingIOError) or "WantRead" in type(error).__name__:
                return False
            raise
        finally:
            self._sock.settimeout(self._timeout)
        return True

    def _receive(self, method: str) -> Reply:
        deadline = time.monotonic() + self._timeout
        while True:
            status, reason, headers, version = _parse_head(self._read_head(deadline))
            if status >= 200:
                break
        self._sock.settimeout(self._timeout)
        options = headers.get("connection", "").lower()
        if "close" in options or (version == "HTTP/1.0" and "keep-alive" not in options):
            self.reusable = False
        if method == "HEAD" or status in (204, 304):
            return self._empty(status, reason, headers)
        if "chunked" in headers.get("transfer-encoding", "").lower():
            chunks = self._chunked()
        elif "content-length" in headers:
            length = _length(headers["content-length"])
            if not length:
                return self._empty(status, reason, headers)
            chunks = self._exactly(length)
        else:
            self.reusable = False
            chunks = self._until_end()
        return Reply(status, reason, headers, chunks=chunks, done=self._body_done)

    def _empty(self, status: int, reason: str, headers: dict[str, str]) -> Reply:
        self._body_done(True)
        return Reply(status, reason, headers, chunks=iter(()), done=lambda _: None)

    def _body_done(self, whole: bool) -> None:
        if not whole:
            self.close()
        self._over(self)

    def _read_head(self, deadline: float) -> bytes:
        data = self._ahead
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _HEAD_LIMIT:
                raise BadReply("the head of the answer does not end")
            if data and not b"HTTP/".startswith(data[:5]) and not data.startswith(b"HTTP/"):
                raise BadReply("the answer is no HTTP")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self._sock.settimeout(left)
            part = self._sock.recv(_BUFFER)
            if not part:
                raise BadReply("the connection was closed before an answer came")
            data += part
        self._ahead = data[end + 4 :]
        return data[:end]

    def _exactly(self, count: int) -> Iterator[bytes]:
        if self._ahead and count:
            part, self._ahead = self._ahead[:count], self._ahead[count:]
            count -= len(part)
            yield part
        if not count:
            return
        view = memoryview(bytearray(min(count, _BUFFER)))
        while count:
            want = min(count, len(view))
            filled = 0
            broken: Exception | None = None
            while filled < want:
                try:
                    got = self._sock.recv_into(view[filled:want])
                except OSError as error:
                    broken = error
                    break
                if not got:
                    broken = BadReply(f"the connection was closed {count - filled} bytes early")
                    break
                filled += got
            # What did arrive counts, so that a resumed download gets on even over a bad line.
            if filled:
                yield bytes(view[:filled])
            if broken is not None:
                raise broken
            count -= filled

    def _chunked(self) -> Iterator[bytes]:
        while True:
            line = self._line().partition(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError:
                raise BadReply(f"a chunk's size is {line[:20]!r}") from None
            if size == 0:
                break
            yield from self._exactly(size)
            if self._line():
                raise BadReply("a chunk is longer than announced")
        while self._line():  # trailers
            pass

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) > _HEAD_LIMIT:
                raise BadReply("a line of the answer does not end")
            part = self._sock.recv(_BUFFER)
            if not part:
                raise BadReply("the connection was closed in the middle of an answer")
            self._ahead += part
        line, self._ahead = self._ahead[:end], self._ahead[end + 2 :]
        return line

    def _until_end(self) -> Iterator[bytes]:
        if self._ahead:
            yield self._ahead
            self._ahead = b""
        while part := self._sock.recv(_BUFFER):
            yield part


def _parse_head(head: bytes) -> tuple[int, str, dict[str, str], str]:
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
        raise BadReply("the answer is no HTTP")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():  # folded lines are obsolete (RFC 9112, 5.2)
            raise BadReply("a header of the answer is broken")
        key = name.lower()
        value = value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return int(code), reason.strip(), headers, version


def _length(text: str) -> int:
    # A length that is repeated has to be the same each time (RFC 9112, 6.3).
    values = {part.strip() for part in text.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()):
        raise BadReply(f"the answer's Content-Length is {text[:40]!r}")
    return int(value)
