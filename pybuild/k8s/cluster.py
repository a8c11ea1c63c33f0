"""One namespace of a cluster, through the official client; objects are JSON as the API has it.

The client's own exceptions end here: what callers meet are our errors, and `Broken` where a
connection or an answer went wrong in a way that trying again may mend.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from msgspec import Struct

from pybuild.k8s.errors import (
    BuildUnknown,
    ClusterError,
    ClusterUnknown,
    ClusterUnreachable,
    ContextNotSent,
    KubernetesMissing,
    PodLost,
)
from pybuild.k8s.explain import refusal

Object = dict[str, Any]
CONNECT_SECONDS, ANSWER_SECONDS = 10, 30
_ACCOUNT_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
SILENCE_SECONDS = 120  # of a log, after which the connection may be dead
_STDIN, _STDERR, _ERROR = 0, 2, 3  # channels of the websocket, v4 and v5.channel.k8s.io
_HALF_CLOSE = "v5.channel.k8s.io"
_SETTLE_SECONDS = 1.0
_CHUNK = 1 << 15
GONE, CONFLICT, MISSING = 410, 409, 404


class Broken(Exception):
    """A connection or an answer that may be better the next time."""


class Gone(Exception):
    """The server has forgotten the resource version that a watch should go on from: list again."""


class Access(Struct, frozen=True):
    """Where the cluster is and who we are there; "" is what kubectl would take."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""


class Cluster:
    """A namespace. Not for several threads at once: `another` makes one for each."""

    def __init__(self, configuration: Any, namespace: str) -> None:
        from kubernetes import client

        self._configuration = configuration
        self.namespace = namespace
        api = client.ApiClient(configuration)
        self._batch = client.BatchV1Api(api)
        self._core = client.CoreV1Api(api)

    def another(self) -> Cluster:
        return Cluster(self._configuration, self.namespace)

    # --- jobs -----------------------------------------------------------------------------------

    def create_job(self, job: Object) -> Object:
        """Safe to repeat, since the name is ours: a Job that is there already is the one made by
        the call whose answer was lost."""
        try:
            return self._object(self._batch.create_namespaced_job, self.namespace, job)
        except _AlreadyThere:
            return self.job(job["metadata"]["name"])

    def job(self, name: str) -> Object:
        try:
            return self._object(self._batch.read_namespaced_job, name, self.namespace)
        except _NotThere as error:
            raise BuildUnknown(f"there is no build {name} in {self.namespace}") from error

    def jobs(self, selector: str) -> list[Object]:
        found = self._object(
            self._batch.list_namespaced_job, self.namespace, label_selector=selector
        )
        return list(found.get("items") or ())

    def delete_job(self, name: str) -> bool:
        """With its Pods; False if it was not there."""
        try:
            self._object(
                self._batch.delete_namespaced_job,
                name,
                self.namespace,
                propagation_policy="Background",
            )
        except _NotThere:
            return False
        return True

    # --- pods -----------------------------------------------------------------------------------

    def create_pod(self, pod: Object) -> Object:
        return self._object(self._core.create_namespaced_pod, self.namespace, pod)

    def delete_pod(self, name: str) -> None:
        try:
            self._object(self._core.delete_namespaced_pod, name, self.namespace,
                         grace_period_seconds=0)  # fmt: skip
        except _NotThere:
            return

    def pods(self, selector: str) -> tuple[list[Object], str]:
        """The Pods, and the resource version to watch from."""
        found = self._object(self._core.list_namespaced_pod, self.namespace,
                             label_selector=selector)  # fmt: skip
        return list(found.get("items") or ()), found.get("metadata", {}).get("resourceVersion", "")

    def pod(self, name: str) -> Object:
        try:
            return self._object(self._core.read_namespaced_pod, name, self.namespace)
        except _NotThere as error:
            raise PodLost(f"the Pod {name} is gone") from error

    def log_so_far(self, pod: str) -> str:
        """What a Pod has written. Raises Broken, also where it has not started."""
        try:
            with _translated():
                answer: Any = self._core.read_namespaced_pod_log(
                    pod, self.namespace, _preload_content=False,
                    _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                )  # fmt: skip
                return bytes(answer.data).decode(errors="replace")
        except _NotThere as error:
            raise Broken(str(error)) from error

    def watch_pods(self, selector: str, version: str, seconds: int) -> Iterator[tuple[str, Object]]:
        """Changes since `version`, as the kind of change and the Pod, for about so many seconds.

        Raises Gone, Broken.
        """
        from kubernetes import watch

        stream: Any = watch.Watch

        with _translated():
            for event in stream().stream(
                self._core.list_namespaced_pod,
                self.namespace,
                label_selector=selector,
                resource_version=version,
                timeout_seconds=seconds,
                allow_watch_bookmarks=True,
                _request_timeout=(CONNECT_SECONDS, seconds + ANSWER_SECONDS),
            ):
                yield event["type"], event["raw_object"]

    def events(self, name: str) -> list[Object]:
        """What was told of an object, oldest first; nothing where we may not see it."""
        try:
            found = self._object(self._core.list_namespaced_event, self.namespace,
                                 field_selector=f"involvedObject.name={name}")  # fmt: skip
        except ClusterError:
            return []
        items = list(found.get("items") or ())
        return sorted(items, key=lambda one: str(one.get("lastTimestamp") or ""))

    def log(self, pod: str, container: str) -> Iterator[bytes]:
        """The whole log and what is written to it from now on, in pieces; each line has its time
        before it. Raises Broken, also where the Pod is gone."""
        try:
            with _translated():
                answer: Any = self._core.read_namespaced_pod_log(
                    pod, self.namespace, container=container, follow=True, timestamps=True,
                    _preload_content=False, _request_timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
                )  # fmt: skip
                try:
                    yield from answer.stream(_CHUNK, decode_content=True)
                finally:
                    answer.close()
                    answer.release_conn()
        except _NotThere as error:
            raise Broken(str(error)) from error

    def attach(self, pod: str, container: str) -> Attached:
        """A way into a container's standard input. Raises Broken."""
        from kubernetes.stream import stream

        # A client of its own: the call puts a websocket in the place of its transport meanwhile.
        # With standard error, though nobody reads it here: a runtime that has no output to hand out
        # ends the connection before the input has arrived.
        try:
            with _translated():
                socket = stream(
                    self.another()._core.connect_get_namespaced_pod_attach, pod, self.namespace,
                    container=container, stdin=True, stdout=False, stderr=True, tty=False,
                    _preload_content=False, binary=True,
                )  # fmt: skip
        except _NotThere as error:
            raise Broken(str(error)) from error
        return Attached(socket)

    # --- secrets --------------------------------------------------------------------------------

    def secret(self, name: str) -> Object | None:
        try:
            return self._object(self._core.read_namespaced_secret, name, self.namespace)
        except _NotThere:
            return None

    def put_secret(self, secret: Object) -> None:
        """Makes the Secret, or gives the one that is there this content."""
        try:
            self._object(self._core.create_namespaced_secret, self.namespace, secret)
        except _AlreadyThere:
            name = secret["metadata"]["name"]
            self._object(self._core.replace_namespaced_secret, name, self.namespace, secret)

    def _object(self, call: Any, *arguments: Any, **options: Any) -> Object:
        with _translated():
            answer = call(
                *arguments,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                **options,
            )
            value: Object = json.loads(answer.data)
            return value


class Attached:
    """A websocket to a container's standard input; what comes back is read and dropped."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.sent = 0
        self._over = threading.Event()
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()

    def send(self, chunks: Iterable[bytes]) -> None:
        """All of it, and the end of the input. Raises ContextNotSent."""
        from websocket import WebSocketException

        try:
            for chunk in chunks:
                for start in range(0, len(chunk), _CHUNK):
                    piece = chunk[start : start + _CHUNK]
                    self._socket.write_channel(_STDIN, piece)
                    self.sent += len(piece)
            if self._socket.subprotocol == _HALF_CLOSE:
                self._socket.close_channel(_STDIN)
            else:  # only with the connection does the input end: the container has `stdinOnce`
                time.sleep(_SETTLE_SECONDS)
                self.close()
        except (OSError, WebSocketException) as error:
            raise ContextNotSent(
                f"the connection to the build's Pod broke after {self.sent} bytes of the context",
                hint="does a proxy end long connections? a git context needs none",
            ) from error

    def settle(self) -> None:
        """Waits a moment, so that what is on its way arrives before the connection ends."""
        time.sleep(_SETTLE_SECONDS)

    def close(self) -> None:
        from websocket import WebSocketException

        self._over.set()  # first: a socket may not be closed while another thread waits on it
        self._drainer.join()
        with suppress(OSError, WebSocketException):
            self._socket.close(timeout=1)

    def _drain(self) -> None:
        from websocket import WebSocketException

        with suppress(OSError, WebSocketException):
            while self._socket.is_open() and not self._over.is_set():
                self._socket.update(timeout=0.2)
                self._socket.read_channel(_STDERR)
                self._socket.read_channel(_ERROR)


class _NotThere(Exception):
    pass


class _AlreadyThere(Exception):
    pass


def connect(access: Access, environment: Mapping[str, str]) -> Cluster:
    """As kubectl finds its cluster: a kubeconfig, else the service account of the Pod that this
    runs in. Raises KubernetesMissing, ClusterUnknown."""
    try:
        import kubernetes.config
        from kubernetes import client
        from kubernetes.config.config_exception import ConfigException
    except ImportError as error:
        raise KubernetesMissing("the Python client of Kubernetes is not there") from error
    config: Any = kubernetes.config  # its functions have no types
    named = access.kubeconfig or environment.get("KUBECONFIG", "")
    configuration = client.Configuration()
    namespace = ""
    try:
        if not named and not access.context and "KUBERNETES_SERVICE_HOST" in environment:
            config.load_incluster_config(client_configuration=configuration)
            with open(_ACCOUNT_NAMESPACE) as file:  # noqa: PTH123
                namespace = file.read().strip()
        else:
            chosen = {"config_file": named or None, "context": access.context or None}
            config.load_kube_config(client_configuration=configuration, persist_config=False,
                                    **chosen)  # fmt: skip
            namespace = _namespace_of(config, chosen)
    except (ConfigException, OSError, ValueError) as error:
        raise ClusterUnknown(f"no cluster is known here: {_words(error)}") from error
    return Cluster(configuration, access.namespace or namespace or "default")


def _namespace_of(config: Any, chosen: Mapping[str, str | None]) -> str:
    contexts, active = config.list_kube_config_contexts(chosen["config_file"])
    if chosen["context"]:
        active = next(one for one in contexts if one["name"] == chosen["context"])
    return str((active or {}).get("context", {}).get("namespace", ""))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _translated() -> Iterator[None]:
    """The client's exceptions as ours."""
    import urllib3.exceptions
    from kubernetes.client.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        raise _of_answer(error) from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise Broken(_words(error)) from error


def _of_answer(error: Any) -> Exception:
    status, message = int(error.status or 0), _message(error)
    if status == MISSING:
        return _NotThere(message)
    if status == CONFLICT:
        return _AlreadyThere(message)
    if status == GONE or "too old resource version" in message:
        return Gone(message)
    if status in (0, 429) or status >= 500:
        handshake = re.search(r"Handshake status (\d+)", message)  # of the websocket's library
        if handshake and int(handshake[1]) in (401, 403):
            return refusal(message, int(handshake[1]))
        return Broken(f"{status} {message}")
    if status == 400 and "is waiting to start" in message:
        return Broken(message)
    return refusal(message, status)


def _message(error: Any) -> str:
    """What the API server says (a Status object), else what the client says."""
    try:
        body = json.loads(error.body or "")
        return str(body.get("message") or error.reason)
    except (ValueError, AttributeError, TypeError):
        return str(error.reason or error.body or error)


def unreachable(error: Broken, seconds: float) -> ClusterUnreachable:
    return ClusterUnreachable(f"the cluster has not answered for {seconds:.0f} s: {error}")
