"""A headless Chromium, driven over its debugging protocol, and a server with Jenkins' policy."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

POLICY = "sandbox; default-src 'none'; img-src 'self'; style-src 'self'"
_SECONDS = 30.0


def is_available() -> bool:
    return shutil.which("chromium") is not None


class Visit:
    """What a page did while it was looked at: answers by path, and all that was complained of."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.complaints: list[str] = []
        self.values: dict[str, Any] = {}
        self.picture = b""


class Browser:
    """One tab. Every method waits for its answer; what arrives meanwhile is kept as an event."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(json.loads(self._socket.recv()))

    def visit(
        self, url: str, *, width: int, theme: str, questions: dict[str, str] | None = None
    ) -> Visit:
        """Opens a page; `questions` are expressions whose values are asked of it."""
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.call(f"{domain}.enable")
        self.call("Network.setCacheDisabled", cacheDisabled=True)
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")
        visit = Visit()
        for name, expression in (questions or {}).items():
            visit.values[name] = self._value(expression)
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        visit.picture = base64.b64decode(shot["data"])
        self._read_events(visit)
        return visit

    def _value(self, expression: str) -> Any:
        # The page may run no script of its own; this is the debugger's.
        tree = self.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        world = self.call("Page.createIsolatedWorld", frameId=tree)["executionContextId"]
        answer = self.call("Runtime.evaluate", expression=expression, contextId=world,
                           returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def _read_events(self, visit: Visit) -> None:
        for event in self.events:
            parameters = event["params"]
            match event["method"]:
                case "Network.responseReceived":
                    response = parameters["response"]
                    visit.statuses[response["url"]] = response["status"]
                case "Network.requestWillBeSent":
                    visit.statuses.setdefault(parameters["request"]["url"], 0)
                case "Network.loadingFailed" | "Audits.issueAdded" | "Runtime.exceptionThrown":
                    visit.complaints.append(json.dumps(parameters))
                case "Log.entryAdded":
                    visit.complaints.append(parameters["entry"]["text"])
                case "Runtime.consoleAPICalled":
                    visit.complaints.append(json.dumps(parameters["args"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Started with a profile of its own, and ended by its id."""
    import websocket

    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking",
             "--hide-scrollbars", "--remote-debugging-port=0", "--remote-allow-origins=*",
             f"--user-data-dir={folder}", "about:blank"]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    try:
        port = _port(folder / "log", process)
        import urllib.request

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=_SECONDS) as answer:
            tabs = json.load(answer)
        tab = next(tab for tab in tabs if tab["type"] == "page")
        socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=_SECONDS,
                                             http_no_proxy=["127.0.0.1"])  # fmt: skip
        try:
            yield Browser(socket)
        finally:
            socket.close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(f"chromium did not start:\n{log.read_text()}")


@contextmanager
def jenkins_artifacts(folder: Path, policy: str = POLICY) -> Iterator[str]:
    """Serves a folder as Jenkins serves artifacts; gives the address of its root."""

    class Artifacts(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def end_headers(self) -> None:
            self.send_header("Content-Security-Policy", policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            super().end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Artifacts)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
