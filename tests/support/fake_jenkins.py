"""A controller that answers in the shapes of a real one: queue items, progressive logs, crumbs that
belong to a session, refusals, redirects after an action, and a restart in the middle."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

USER, TOKEN = "ann", "11aa22bb"
FINE = "Jenkinsfile successfully validated.\n"
WRONG = (
    "Errors encountered validating Jenkinsfile:\n"
    "WorkflowScript: 3: Expected a step @ line 3, column 5.\n"
    "       steps {}\n       ^\n\n"
)


@dataclass
class FakeBuild:
    number: int
    queue: int
    log: bytes = b""
    result: str = "SUCCESS"
    parts: int = 3  # requests for its log that it takes to write it
    asked: int = 0
    stopped: bool = False

    @property
    def running(self) -> bool:
        return self.asked < self.parts and not self.stopped


@dataclass
class FakeJob:
    parameters: list[str] = field(default_factory=list)
    buildable: bool = True
    folder: bool = False
    builds: list[FakeBuild] = field(default_factory=list)
    log: bytes = b"Started by user ann\r\nbuilding \xe2\x98\x83\r\nFinished: SUCCESS\r\n"
    result: str = "SUCCESS"


class FakeJenkins:
    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}  # by the path of the address: job/team/job/shop
        self.queue: dict[int, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, form
        self.away: Callable[[str, str], bool] = lambda _method, _path: False
        self.crumbs = True
        self.crumb = 0  # of the session that holds now
        self.polls_in_queue = 2
        self.forgets_items = False
        self.answer = FINE
        self.url = ""
        self.lock = threading.Lock()

    def restart(self) -> None:
        """Sessions, and with them crumbs, are lost."""
        self.crumb += 1


class _Handler(BaseHTTPRequestHandler):
    jenkins: FakeJenkins
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle("GET", {})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._handle("POST", {k: v[0] for k, v in parse_qs(raw, keep_blank_values=True).items()})

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _handle(self, method: str, form: dict[str, str]) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self.jenkins.lock:
            self.jenkins.requests.append((method, self.path, form))
            if self.jenkins.away(method, path):
                self._send(503, b"<h1>Please wait while Jenkins is getting ready to work</h1>")
                return
            known = base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {known}":
                self._send(403, b"<html>Authentication required</html>")
                return
            if path == "crumbIssuer/api/json":
                self._crumb()
            elif method == "POST" and not self._crumbed():
                self._send(403, b"<html>403 No valid crumb was included in the request</html>")
            else:
                self._route(method, path, query, form)

    def _crumb(self) -> None:
        if not self.jenkins.crumbs:
            self._send(404, b"")
            return
        crumb = f"c{self.jenkins.crumb}"
        body = {"crumb": crumb, "crumbRequestField": "Jenkins-Crumb"}
        self._json(body, {"Set-Cookie": f"JSESSIONID={crumb}; Path=/; HttpOnly"})

    def _crumbed(self) -> bool:
        crumb = f"c{self.jenkins.crumb}"
        sent = self.headers.get("Jenkins-Crumb"), self.headers.get("Cookie", "")
        return not self.jenkins.crumbs or (sent[0] == crumb and f"JSESSIONID={crumb}" in sent[1])

    def _route(self, method: str, path: str, query: dict[str, str], form: dict[str, str]) -> None:
        jenkins = self.jenkins
        if path == "pipeline-model-converter/validate" and method == "POST":
            self._send(200, jenkins.answer.encode() if form.get("jenkinsfile") else b"")
        elif path == "queue/cancelItem" and method == "POST":
            jenkins.queue.pop(int(form["id"]), None)
            self._send(404, b"")  # as Jenkins does
        elif found := re.fullmatch(r"queue/item/(\d+)/api/json", path):
            self._item(int(found[1]))
        else:
            self._job(method, path, query, form)

    def _item(self, number: int) -> None:
        item = self.jenkins.queue.get(number)
        if item is None:
            self._send(404, b"")
            return
        item["polls"] += 1
        job = item["job"]
        if item.get("cancelled"):
            self._json({"_class": "hudson.model.Queue$LeftItem", "cancelled": True, "why": None})
        elif item["polls"] <= self.jenkins.polls_in_queue:
            self._json({"_class": "hudson.model.Queue$BlockedItem",
                        "why": "Waiting for next available executor"})  # fmt: skip
        else:
            if not item.get("number"):
                item["number"] = len(job.builds) + 1
                job.builds.append(FakeBuild(item["number"], number, job.log, job.result))
            if self.jenkins.forgets_items:
                self.jenkins.queue.pop(number)
                self._send(404, b"")
                return
            self._json({"_class": "hudson.model.Queue$LeftItem", "cancelled": False, "why": None,
                        "executable": {"number": item["number"]}})  # fmt: skip

    def _job(self, method: str, path: str, query: dict[str, str], form: dict[str, str]) -> None:
        for place in sorted(self.jenkins.jobs, key=len, reverse=True):
            if path.startswith(f"{place}/"):
                self._of_job(method, self.jenkins.jobs[place], path[len(place) + 1 :], query, place)
                return
        self._send(404, b"<html>Not Found</html>")

    def _of_job(
        self, method: str, job: FakeJob, rest: str, query: dict[str, str], place: str
    ) -> None:
        if rest == "api/json":
            self._about(job)
        elif rest in ("build", "buildWithParameters") and method == "POST":
            if (rest == "build") == bool(job.parameters):
                self._send(400, b"<html>Nothing is submitted</html>")
                return
            number = 40 + len(self.jenkins.queue)
            self.jenkins.queue[number] = {"job": job, "polls": 0}
            self._send(201, b"", {"Location": f"{self.jenkins.url}/queue/item/{number}/"})
        elif found := re.fullmatch(r"(\d+|lastBuild)(?:/(.*))?", rest):
            build = job.builds[-1] if found[1] == "lastBuild" and job.builds else next(
                (one for one in job.builds if str(one.number) == found[1]), None
            )  # fmt: skip
            if build is None:
                self._send(404, b"")
            else:
                self._of_build(method, build, found[2] or "", query, place)
        else:
            self._send(404, b"")

    def _about(self, job: FakeJob) -> None:
        if job.folder:
            self._json({"_class": "com.cloudbees.hudson.plugins.folder.Folder",
                        "jobs": [{"name": "shop"}]})  # fmt: skip
            return
        definitions = [{"name": name} for name in job.parameters]
        waiting = [(n, i) for n, i in self.jenkins.queue.items()
                   if i["job"] is job and not i.get("number")]  # fmt: skip
        item = {"id": waiting[0][0], "why": "no executor"} if waiting else None
        self._json({
            "_class": "org.jenkinsci.plugins.workflow.job.WorkflowJob",
            "buildable": job.buildable, "queueItem": item,
            "property": [{}, {"parameterDefinitions": definitions}] if definitions else [],
            "builds": [{"number": b.number, "queueId": b.queue} for b in reversed(job.builds)],
        })  # fmt: skip

    def _of_build(
        self, method: str, build: FakeBuild, rest: str, query: dict[str, str], place: str
    ) -> None:
        if rest == "logText/progressiveText":
            build.asked = min(build.asked + 1, build.parts)
            ready = len(build.log) * build.asked // build.parts
            start = int(query.get("start", 0))
            more = {"X-More-Data": "true"} if build.running else {}
            self._send(200, build.log[start:ready], {"X-Text-Size": str(ready), **more},
                       "text/plain;charset=utf-8")  # fmt: skip
        elif rest == "stop" and method == "POST":
            build.stopped, build.result = True, "ABORTED"
            self._send(302, b"", {"Location": f"{self.jenkins.url}/{place}/{build.number}/"})
        elif rest == "api/json":
            url = f"{self.jenkins.url}/{place}/{build.number}/"
            self._json({"number": build.number, "url": url,
                        "building": build.running, "timestamp": 1_700_000_000_000,
                        "duration": 0 if build.running else 1500, "queueId": build.queue,
                        "result": None if build.running else build.result,
                        "description": None})  # fmt: skip
        else:
            self._send(200, b"<html>a page</html>")

    def _json(self, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(body).encode(), headers, "application/json;charset=utf-8")

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        kind: str = "text/html;charset=utf-8",
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "X-Jenkins": "2.426.2",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running(certificate: tuple[Path, Path] | None = None) -> Iterator[FakeJenkins]:
    """On a free loopback port; over TLS with (certificate, key)."""
    jenkins = FakeJenkins()
    handler = type("Handler", (_Handler,), {"jenkins": jenkins})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if certificate else "http"
    jenkins.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield jenkins
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
