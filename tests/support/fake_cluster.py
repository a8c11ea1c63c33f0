"""An API server of ours on loopback: what `pybuild k8s` needs of one, in the real shapes.

Jobs get a Pod, and what happens to the Pod is a script: a function that is given the Pod and plays
kubelet. Faults can be planted: watches that break or are answered 410 Gone, logs that are cut in
the middle of a line, answers 500, refusals. Shapes are those of Kubernetes 1.33 (Status objects,
watch events, `kubectl logs --timestamps`, websocket channels v4 and v5).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import queue
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
TOKEN = "token-of-a-test"
POD_SECURITY = (
    'pods "{name}" is forbidden: violates PodSecurity "restricted:latest": '
    'allowPrivilegeEscalation != false (container "kaniko" must set '
    "securityContext.allowPrivilegeEscalation=false), runAsNonRoot != true"
)
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refusal(Exception):
    """What a request is answered with instead: a Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Object:
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": self.message, "reason": self.reason, "code": self.code}  # fmt: skip


@dataclass
class Pod:
    """A Pod and its container. Scripts call these."""

    cluster: FakeCluster
    name: str
    lines: list[bytes] = field(default_factory=list)
    log_over: bool = False
    stdin: queue.Queue[bytes | None] = field(default_factory=queue.Queue)
    stamp: int = 0

    @property
    def object(self) -> Object:
        return self.cluster.objects["pods"][self.name]

    @property
    def spec(self) -> Object:
        spec: Object = self.object["spec"]
        return spec

    def schedule(self) -> None:
        self.object["spec"]["nodeName"] = "node-1"
        scheduled = {"type": "PodScheduled", "status": "True"}
        self.status(phase="Pending", conditions=[scheduled])

    def waiting(self, reason: str, message: str = "") -> None:
        self.status(containers={"waiting": {"reason": reason, "message": message}})

    def run(self) -> None:
        self.schedule()
        self.status(phase="Running", containers={"running": {"startedAt": now()}})

    def write(self, text: str, *, end: str = "\n", at: str = "") -> None:
        with self.cluster.changed:
            self.stamp += 1
            stamp = at or f"2026-01-02T03:04:{self.stamp // 100:02}.{self.stamp % 100:09}Z"
            self.lines.append(f"{stamp} {text}{end}".encode())
            self.cluster.changed.notify_all()

    def end(self, code: int, message: str = "", reason: str = "") -> None:
        reason = reason or ("Completed" if code == 0 else "Error")
        state = {"exitCode": code, "reason": reason, "message": message, "finishedAt": now()}
        self.status(phase="Failed" if code else "Succeeded", containers={"terminated": state})
        with self.cluster.changed:
            self.log_over = True
            self.cluster.changed.notify_all()
        self.cluster.job_over(self.object["metadata"]["labels"]["job-name"], failed=code != 0)

    def evict(self, message: str) -> None:
        self.status(phase="Failed", reason="Evicted", message=message, containers={})
        with self.cluster.changed:
            self.log_over = True
            self.lines.clear()
            self.cluster.changed.notify_all()
        self.cluster.job_over(self.object["metadata"]["labels"]["job-name"], failed=True)

    def event(self, reason: str, message: str) -> None:
        self.cluster.event(self.name, reason, message)

    def read_stdin(self, timeout: float = 30) -> bytes:
        """All of standard input, to its end."""
        data = b""
        while (piece := self.stdin.get(timeout=timeout)) is not None:
            data += piece
        return data

    def status(self, containers: Object | None = None, **fields: Any) -> None:
        with self.cluster.changed:
            status = self.object.setdefault("status", {})
            status |= fields
            if containers is not None:
                container = self.object["spec"]["containers"][0]
                state = {"name": container["name"], "image": container["image"],
                         "state": containers, "ready": "running" in containers,
                         "restartCount": 0}  # fmt: skip
                status["containerStatuses"] = [state]
            self.cluster.touch("MODIFIED", self.object)


Script = Callable[[Pod], None]


def succeed(pod: Pod) -> None:
    """The shortest build."""
    pod.run()
    pod.write("built")
    pod.end(0, f"sha256:{hashlib.sha256(pod.name.encode()).hexdigest()}")


class FakeCluster:
    """One namespace or more; `objects` by kind and name. `script` gives each Job's Pod its life."""

    def __init__(self, script: Callable[[Object], Script]) -> None:
        self.script = script
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.objects: dict[str, dict[str, Object]] = {
            kind: {} for kind in ("jobs", "pods", "secrets", "events")
        }
        self.pods: dict[str, Pod] = {}
        self.history: list[tuple[int, str, Object]] = []
        self.deleted: list[str] = []
        self.requests: list[str] = []
        self.created: list[Object] = []
        self.faults: dict[str, list[Any]] = {}  # kind of request → what happens to the next ones
        self.refuse_pods: Callable[[Object], str | None] = lambda _: None
        self.protocols = ("v5.channel.k8s.io", "v4.channel.k8s.io")
        self.oldest = 0  # watches from before are answered 410
        self.controller = True
        self.address = ""

    # --- state ----------------------------------------------------------------------------------

    def touch(self, kind: str, item: Object) -> None:
        with self.changed:
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, kind, copy.deepcopy(item)))
            self.changed.notify_all()

    def event(self, name: str, reason: str, message: str) -> None:
        item = {"metadata": {"name": f"{name}.{len(self.objects['events'])}"}, "reason": reason,
                "message": message, "type": "Warning", "lastTimestamp": now(),
                "involvedObject": {"name": name}}  # fmt: skip
        with self.changed:
            self.objects["events"][item["metadata"]["name"]] = item  # type: ignore[index]

    def add_pod(self, template: Object, job: str) -> None:
        """As the Job controller does it."""
        name = f"{job}-{len(self.pods):05}"
        refused = self.refuse_pods(template)
        if refused:
            self.event(job, "FailedCreate", f"Error creating: {refused.format(name=name)}")
            return
        labels = {**template.get("metadata", {}).get("labels", {}), "job-name": job}
        metadata = {"name": name, "uid": f"uid-{name}", "labels": labels,
                    "creationTimestamp": now()}  # fmt: skip
        self._start({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                     "spec": copy.deepcopy(template["spec"]), "status": {"phase": "Pending"}},
                    self.objects["jobs"][job])  # fmt: skip

    def _start(self, item: Object, owner: Object) -> None:
        with self.changed:
            name = item["metadata"]["name"]
            self.objects["pods"][name] = item
            pod = self.pods[name] = Pod(self, name)
            self.touch("ADDED", item)
        threading.Thread(target=self.script(owner), args=(pod,), daemon=True).start()

    def job_over(self, name: str, *, failed: bool) -> None:
        with self.changed:
            job = self.objects["jobs"].get(name)
            if job is None or not self.controller:
                return
            reason = {"reason": "BackoffLimitExceeded"} if failed else {}
            condition = {"type": "Failed" if failed else "Complete", "status": "True"} | reason
            job["status"] = {"conditions": [condition]}

    def fault(self, kind: str, *what: Any) -> None:
        self.faults.setdefault(kind, []).extend(what)

    def next_fault(self, kind: str) -> Any:
        with self.changed:
            planted = self.faults.get(kind)
            return planted.pop(0) if planted else None

    # --- what is asked --------------------------------------------------------------------------

    def create(self, kind: str, namespace: str, body: Object) -> Object:
        metadata = body.setdefault("metadata", {})
        if "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}x7k2p"
        with self.changed:
            if metadata["name"] in self.objects[kind]:
                raise Refusal(409, "AlreadyExists", f'{kind} "{metadata["name"]}" already exists')
            if kind == "pods" and (refused := self.refuse_pods(body)):
                raise Refusal(403, "Forbidden", refused.format(name=metadata["name"]))
            metadata |= {"uid": f"uid-{metadata['name']}", "namespace": namespace,
                         "creationTimestamp": now()}  # fmt: skip
            self.created.append(copy.deepcopy(body))
            if kind == "pods":
                metadata["labels"] = {"job-name": "", **metadata.get("labels", {})}
                self._start(body | {"status": {"phase": "Pending"}}, body)
                return body
            self.objects[kind][metadata["name"]] = body
            if kind == "jobs":
                body["status"] = {}
                self.add_pod(body["spec"]["template"], metadata["name"])
        return body

    def delete(self, kind: str, name: str) -> Object:
        with self.changed:
            if self.objects[kind].pop(name, None) is None:
                raise Refusal(404, "NotFound", f'{kind} "{name}" not found')
            self.deleted.append(name)
            gone = [one for one in self.objects["pods"].values()
                    if one["metadata"]["labels"].get("job-name") == name]  # fmt: skip
            for item in gone if kind == "jobs" else ():
                del self.objects["pods"][item["metadata"]["name"]]
                self.pods[item["metadata"]["name"]].log_over = True
                self.touch("DELETED", item)
        return {"kind": "Status", "status": "Success"}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _matches(item: Object, query: dict[str, list[str]]) -> bool:
    for part in filter(None, query.get("labelSelector", [""])[0].split(",")):
        key, _, value = part.partition("=")
        if item["metadata"].get("labels", {}).get(key) != value:
            return False
    for part in filter(None, query.get("fieldSelector", [""])[0].split(",")):
        key, _, value = part.partition("=")
        found: Any = item
        for word in key.split("."):
            found = found.get(word, {})
        if found != value:
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def cluster(self) -> FakeCluster:
        return self.server.cluster

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, value: Object, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        found = re.fullmatch(
            r"/(?:api/v1|apis/batch/v1)/namespaces/([^/]+)/(\w+)(?:/([^/]+))?(?:/(log|attach))?",
            parts.path,
        )
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        self.cluster.requests.append(f"{self.command} {self.path}")
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            if found is None:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            self._dispatch(found[1], found[2], found[3], found[4], query, body)
        except Refusal as refusal:
            self._answer(refusal.status(), refusal.code)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _dispatch(
        self,
        namespace: str,
        kind: str,
        name: str | None,
        part: str | None,
        query: dict[str, list[str]],
        body: Object,
    ) -> None:
        cluster = self.cluster
        watch = query.get("watch", [""])[0].lower() == "true"
        what = part or ("watch" if watch else f"{self.command} {kind}")
        planted = cluster.next_fault(what)
        if isinstance(planted, Refusal):
            raise planted
        if planted == "drop":
            self.close_connection = True
            self.connection.close()
            return None
        if kind not in cluster.objects:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if part == "log" and name:
            return self._log(cluster.pods[name], query, planted)
        if part == "attach" and name:
            return self._attach(cluster.pods[name], planted)
        if watch:
            return self._watch(query, planted)
        if self.command == "POST":
            return self._answer(cluster.create(kind, namespace, body), 201)
        if name is None:
            with cluster.changed:
                items = [one for one in cluster.objects[kind].values() if _matches(one, query)]
                listed = {"kind": "List", "items": copy.deepcopy(items),
                          "metadata": {"resourceVersion": str(cluster.version)}}  # fmt: skip
            return self._answer(listed)
        if self.command == "DELETE":
            return self._answer(cluster.delete(kind, name))
        if name not in cluster.objects[kind]:
            raise Refusal(404, "NotFound", f'{kind} "{name}" not found')
        if self.command == "PUT":
            cluster.objects[kind][name] = body
        return self._answer(cluster.objects[kind][name])

    # --- streams --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _break(self) -> None:
        """In the middle of a chunk."""
        self.wfile.write(b"40\r\nhalf of it")
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def _watch(self, query: dict[str, list[str]], planted: Any) -> None:
        cluster = self.cluster
        version = int(query.get("resourceVersion", ["0"])[0] or 0)
        until = time.monotonic() + float(query.get("timeoutSeconds", ["60"])[0])
        self._begin()
        if planted == "gone" or version < cluster.oldest:
            text = f"too old resource version: {version} ({cluster.version})"
            status = Refusal(410, "Expired", text).status()
            self._chunk(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        elif planted == "break":
            self._break()
            return
        else:
            mark = {"kind": "Pod", "metadata": {"resourceVersion": str(max(version, 1))}}
            self._chunk(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
            while (left := until - time.monotonic()) > 0:
                with cluster.changed:
                    new = [one for one in cluster.history if one[0] > version]
                    if not new:
                        cluster.changed.wait(min(left, 0.2))
                for number, kind, item in new:
                    version = number
                    if _matches(item, query):
                        event = {"type": kind, "object": item}
                        self._chunk(json.dumps(event).encode() + b"\n")
        self.wfile.write(b"0\r\n\r\n")

    def _log(self, pod: Pod, query: dict[str, list[str]], planted: Any) -> None:
        """`planted`: after how many lines the connection breaks, within the next one; or, as
        `("end", n)`, ends as if all were well."""
        follow = query.get("follow", [""])[0].lower() == "true"
        stamps = query.get("timestamps", [""])[0].lower() == "true"
        state = pod.object.get("status", {}).get("containerStatuses", [{}])[0].get("state", {})
        if not ("running" in state or "terminated" in state):
            text = f'container "kaniko" in pod "{pod.name}" is waiting to start: ContainerCreating'
            raise Refusal(400, "BadRequest", text)
        self._begin()
        most = planted[1] if isinstance(planted, tuple) else planted
        sent = 0
        while True:
            with self.cluster.changed:
                if len(pod.lines) <= sent and follow and not pod.log_over:
                    self.cluster.changed.wait(0.2)
                new = pod.lines[sent:]
                over = pod.log_over
            for line in new:
                text = line if stamps else line.partition(b" ")[2]
                if most is not None and sent == most:
                    self._chunk(text[: len(text) // 2])
                    if not isinstance(planted, tuple):
                        self._break()
                        return
                    self.wfile.write(b"0\r\n\r\n")
                    return
                self._chunk(text)
                sent += 1
            if not new and (over or not follow):
                break
        self.wfile.write(b"0\r\n\r\n")

    def _attach(self, pod: Pod, planted: Any) -> None:
        """`planted`: after how many bytes the connection is cut."""
        offered = [one.strip() for one in self.headers["Sec-WebSocket-Protocol"].split(",")]
        protocol = next(one for one in self.cluster.protocols if one in offered)
        key = self.headers["Sec-WebSocket-Key"]
        accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.send_header("Sec-WebSocket-Protocol", protocol)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        received, over = 0, False
        for data in self._frames():
            if data[0] == 255 and protocol.startswith("v5"):
                pod.stdin.put(None)
                over = True
                self._frame(2, b"\xff\x00")
            elif data[0] == 0 and not over:
                received += len(data) - 1
                pod.stdin.put(data[1:])
                if isinstance(planted, int) and received > planted:
                    self.connection.shutdown(2)
                    break
        if not over:  # stdinOnce
            pod.stdin.put(None)

    def _frames(self) -> Iterator[bytes]:
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            opcode, size = head[0] & 15, head[1] & 127
            if size == 126:
                (size,) = struct.unpack(">H", self.rfile.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.rfile.read(8))
            mask = self.rfile.read(4)
            masked = self.rfile.read(size)
            if len(masked) < size:
                return
            whole = int.from_bytes(masked, "big") ^ int.from_bytes(
                (mask * (size // 4 + 1))[:size], "big"
            )
            if opcode == 8:
                self._frame(8, b"")
                return
            if opcode in (1, 2) and size:
                yield whole.to_bytes(size, "big")

    def _frame(self, opcode: int, data: bytes) -> None:
        self.wfile.write(bytes((0x80 | opcode, len(data))) + data)
        self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    cluster: FakeCluster


@contextmanager
def running_cluster(
    folder: Path, script: Callable[[Object], Script] = lambda _: succeed
) -> Iterator[FakeCluster]:
    """Serves a cluster on a free port; `folder`/kubeconfig leads to it."""
    cluster = FakeCluster(script)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.cluster = cluster
    cluster.address = f"http://127.0.0.1:{server.server_address[1]}"
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig(cluster.address)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()


def kubeconfig(address: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "me", "namespace": "builds"}}
        ],
        "current-context": "test",
    }
