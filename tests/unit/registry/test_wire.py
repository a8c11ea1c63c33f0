from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.registry.wire import BadReply, Body, Reply, Wire

HEAD = b"GET / HTTP/1.1\r\n\r\n"


class Exchange:
    """A wire whose other end is played by `server`."""

    def __init__(self, server: Callable[[socket.socket], None], timeout: float = 5) -> None:
        ours, theirs = socket.socketpair()
        self.over: list[Wire] = []
        self.wire = Wire(ours, timeout, self.over.append)
        self._thread = threading.Thread(target=self._serve, args=(server, theirs), daemon=True)
        self._thread.start()

    def _serve(self, server: Callable[[socket.socket], None], end: socket.socket) -> None:
        with end:
            server(end)

    def ask(self, method: str = "GET", body: Body = b"") -> Reply:
        return self.wire.exchange(method, HEAD, body)


def answering(*parts: bytes) -> Callable[[socket.socket], None]:
    def serve(end: socket.socket) -> None:
        end.recv(65536)
        for part in parts:
            end.sendall(part)

    return serve


def cut_into(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


ANSWERS = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True, id="length"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n"
        b"Trailer: x\r\n\r\n",
        b"hello",
        True,
        id="chunked",
    ),
    pytest.param(b"HTTP/1.1 200\r\n\r\nhello", b"hello", False, id="until-the-end"),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n",
        b"",
        True,
        id="continue-first",
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", True, id="no-content"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"hi",
        False,
        id="close",
    ),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False, id="http-1.0"),
]


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(("answer", "body", "reusable"), ANSWERS)
def test_an_answer(answer: bytes, body: bytes, reusable: bool, size: int) -> None:
    exchange = Exchange(answering(*cut_into(answer, size)))
    assert exchange.ask().read(100) == body
    assert exchange.wire.reusable is reusable
    assert exchange.over == [exchange.wire]


def test_repeated_headers_are_joined_and_names_lower_case() -> None:
    answer = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nwww-authenticate:Bearer\r\n\r\n"
    reply = Exchange(answering(answer)).ask("HEAD")
    assert (reply.status, reply.reason) == (401, "No")
    assert reply.header("www-authenticate") == "Basic, Bearer"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x46", id="a-tls-alert"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="half-a-head"),
        pytest.param(b"HTTP/1.1 x\r\n\r\n", id="no-status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="negative-length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi", id="two-lengths"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", id="cut"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", id="chunk-size"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello", id="chunk-too-long"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + b"x" * 200, id="too-long"),
    ],
)
def test_a_broken_answer(answer: bytes) -> None:
    exchange = Exchange(answering(answer))
    with pytest.raises(BadReply):
        exchange.ask().read(100)
        pytest.fail("it was taken")
    assert exchange.over in ([], [exchange.wire])


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    exchange = Exchange(answering(data))
    try:
        exchange.ask().read(1000)
    except (BadReply, ConnectionError):
        pass
    finally:
        exchange.wire.close()


def test_what_came_before_a_break_is_given_out() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    exchange = Exchange(answering(answer, b"x" * 1000))
    size = 0
    with pytest.raises(BadReply):
        for chunk in exchange.ask().chunks():
            size += len(chunk)
    assert size == 1000


def test_silence_ends_at_the_deadline() -> None:
    silent = threading.Event()
    exchange = Exchange(lambda end: silent.wait(5) and None, timeout=0.1)
    with pytest.raises(TimeoutError):
        exchange.ask()
    silent.set()


def test_a_head_that_drips_ends_at_the_deadline_too() -> None:
    def drip(end: socket.socket) -> None:
        end.recv(65536)
        try:
            for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500:
                end.sendall(bytes([letter]))
                threading.Event().wait(0.01)
        except OSError:
            pass

    with pytest.raises(TimeoutError):
        Exchange(drip, timeout=0.2).ask()


def test_an_answer_before_the_end_of_the_body_stops_the_upload() -> None:
    def refuse(end: socket.socket) -> None:
        end.recv(65536)
        end.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        over.wait(20)

    over = threading.Event()

    def body() -> Iterator[bytes]:
        for number in range(1000):
            assert number < 100, "it went on sending"
            threading.Event().wait(0.01)
            yield b"x" * 1000

    exchange = Exchange(refuse)
    assert exchange.ask("PUT", body()).status == 413
    over.set()
    assert not exchange.wire.reusable


def test_a_server_that_answers_and_stops_reading_is_heard() -> None:
    def refuse(end: socket.socket) -> None:
        end.recv(65536)
        threading.Event().wait(0.3)  # by now the line is full
        end.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        over.wait(20)

    over = threading.Event()
    exchange = Exchange(refuse, timeout=10)
    started = time.monotonic()
    assert exchange.ask("PUT", iter([bytes(16 << 20)])).status == 401
    assert time.monotonic() - started < 5
    over.set()
