"""`pybuild k8s run` and `logs`: builds as Jobs, followed from here."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from msgspec.structs import replace

from pybuild.cli.errors import BadFlag, FlagsContradict, NoDestination
from pybuild.cli.flags.flag import BUILD, K8S_RUN, MANIFEST, Kind
from pybuild.cli.flags.k8s import is_for_a_pod
from pybuild.cli.flags.table import FLAGS
from pybuild.cli.k8s import cluster_of, one_word, patiently, templates
from pybuild.cli.k8s_context import is_local, local_stream
from pybuild.cli.parse import Values, parse_flags, parted
from pybuild.cli.session import Stop, failed_event, reported, tell
from pybuild.errors import Interrupted, PybuildError, without_passwords
from pybuild.events import EventSink, ImagePushed, Level, Notice
from pybuild.k8s.cluster import Broken, Cluster
from pybuild.k8s.errors import BuildUnknown, ClusterError, ImageSkipped
from pybuild.k8s.follow import Chunks, Follower, Patience
from pybuild.k8s.images import Image, build_all, read_images
from pybuild.k8s.jobs import STREAMED, Build, build_job, index_job, short_name
from pybuild.k8s.templates import Values as Filled
from pybuild.k8s.templates import template_text

T = TypeVar("T")
_ARCHITECTURES = ("amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64")


def run(values: Values, environment: Mapping[str, str]) -> int:
    """Builds one image, or those of a file; the exit status."""
    with _report(values, environment) as (sink, stop):
        status = reported(sink, stop, lambda: _run(values, environment, sink, stop))
    if stop.number:
        leave(status)
    return status


def logs(values: Values, environment: Mapping[str, str], name: str) -> int:
    """Shows a build's log; with --follow to its end, with its exit status."""
    cluster = cluster_of(values, environment)
    with Stop().on_signals() as stop:
        patiently(lambda: cluster.job(name))
        if not values.switch("follow"):
            return _log_so_far(cluster, name)
        follower = Follower(
            cluster,
            name,
            line=Lines("", stop.asked),
            sink=_quietly,
            stopped=stop.asked,
            patience=Patience(start=1e9),
        )
        try:
            outcome = in_thread(lambda: follower.follow(None), stop)
        except Interrupted as error:
            tell(error)
            leave(error.exit_status)
    if outcome.error is not None:
        raise outcome.error
    return 0


def leave(status: int) -> NoReturn:
    """Ends the program under its threads, which may wait for the cluster for minutes: where the
    interpreter takes them down itself, a native frame of the client's libraries aborts it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _log_so_far(cluster: Cluster, name: str) -> int:
    pods, _ = patiently(lambda: cluster.pods(f"job-name={name}"))
    if not pods:
        raise BuildUnknown(f"{name} has no Pod yet", hint="--follow waits for it")
    newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    text = patiently(lambda: cluster.log_so_far(newest["metadata"]["name"]))
    sys.stdout.write(text)
    return 0


def _quietly(event: object) -> None:
    if isinstance(event, Notice):
        sys.stderr.write(f"{event.message}\n")


@contextmanager
def _report(values: Values, environment: Mapping[str, str]) -> Iterator[tuple[EventSink, Stop]]:
    """The Pod's log goes between our own lines, so there is no picture of progress to disturb."""
    from pybuild.report.open import open_report

    kind = values.text("log-format")
    kind = "plain" if kind in ("auto", "progress") else kind
    with (
        Stop().on_signals() as stop,
        open_report(kind, sys.stderr, values.text("verbosity"), environment=environment) as sink,
    ):
        yield sink, stop


class Lines:
    """Writes lines of one build's log, with its name before each where there are several; nothing
    after `stopped`."""

    _lock = threading.Lock()

    def __init__(self, prefix: str, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._prefix = f"{prefix} | " if prefix else ""

    def __call__(self, line: str) -> None:
        from pybuild.report.text import colours_only

        if self._stopped.is_set():
            return
        with Lines._lock:
            sys.stderr.write(f"{self._prefix}{colours_only(line)}\n")
            sys.stderr.flush()


def in_thread(action: Callable[[], T], stop: Stop) -> T:
    """The result of an action that may wait for long where no signal reaches it; the signal's
    error once one came."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # whatever it is, it is raised again below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if stop.asked.is_set():
            thread.join(0.3)  # it may be writing a line
            raise stop.error()
    if errors:
        raise errors[0]
    return results[0]


def _run(values: Values, environment: Mapping[str, str], sink: EventSink, stop: Stop) -> int:
    from pybuild.cli.k8s import _read

    file = values.text("file-of-images")
    runner = Runner(values, environment, sink, stop)
    if not file:
        context = one_word(values, "context", ".")
        image = Image(values.text("name") or _named(values), context, values.many("destination"),
                      (), (), values.text("dockerfile"), "", values.many("platform"))  # fmt: skip
        images: tuple[Image, ...] = (image,)
    else:
        if values.positional or values.many("destination"):
            raise FlagsContradict("--file-of-images brings contexts and tags of its own")
        base = Path(file).parent if file != "-" else Path()
        images = tuple(
            replace(one, context=str(base / one.context)) if is_local(one.context) else one
            for one in read_images(_read(file), file)
        )
    if values.switch("detach") and (len(images) > 1 or len(runner.platforms(images[0])) > 1):
        raise FlagsContradict(
            "--detach leaves one Job alone; several need somebody who puts them together"
        )
    try:
        results = build_all(images, runner.build, limit=max(values.number("limit"), 1),
                            stopped=stop.asked)  # fmt: skip
    finally:
        runner.clean_up()
    if stop.asked.is_set():
        raise stop.error()
    return _told(images, {name: (one.reference, one.error) for name, one in results.items()}, sink)


def _told(
    images: tuple[Image, ...],
    results: Mapping[str, tuple[str, PybuildError | None]],
    sink: EventSink,
) -> int:
    """Tells how each ended; the exit status of the first that failed by itself."""
    failures = [(image, results[image.name][1]) for image in images if results[image.name][1]]
    for image in images:
        reference, _ = results[image.name]
        if reference and len(images) > 1:
            sink(Notice(Level.INFO, f"{image.name}: {reference}"))
    if not failures:
        return 0
    if len(images) == 1:
        assert failures[0][1] is not None
        raise failures[0][1]
    status = 0
    for image, error in failures:
        assert error is not None
        event = failed_event(error)
        sink(replace(event, message=f"{image.name}: {event.message}"))
        if not isinstance(error, ImageSkipped):
            status = status or error.exit_status
    return status or 1


def _named(values: Values) -> str:
    tags = values.many("destination")
    return short_name(tags[0]) if tags else "image"


class Runner:
    """Makes Jobs of images, follows them, and removes them."""

    def __init__(
        self, values: Values, environment: Mapping[str, str], sink: EventSink, stop: Stop
    ) -> None:
        self._values = values
        self._environment = environment
        self._sink = sink
        self._stop = stop
        self._several = bool(values.text("file-of-images"))
        self._text = template_text(templates(values), f"kubernetes/{values.text('rung')}-job")
        self._cluster = cluster_of(values, environment)
        self._made: list[str] = []
        start = values.seconds("start-timeout")
        self._patience = Patience(start=start) if start > 0 else Patience()

    def platforms(self, image: Image) -> tuple[str, ...]:
        """The architectures that an image is built for; ("",) for that of any node."""
        found = []
        for text in parted(image.platform or self._values.many("platform"), ","):
            system, _, architecture = text.rpartition("/")
            if system not in ("", "linux") or architecture not in _ARCHITECTURES:
                raise BadFlag(f"--platform can't be {text!r}", hint="such as linux/arm64")
            found.append(architecture)
        return tuple(dict.fromkeys(found)) or ("",)

    def build(self, image: Image, built: Mapping[str, str]) -> str:
        """Builds an image on all its platforms; its reference by digest, or its Job's name if it
        was left alone."""
        flags = self._flags(image, built)
        no_push = any(flag.startswith("--no-push") for flag in flags)
        if not image.tags and not no_push:
            raise NoDestination("the image needs a name", hint="--tag=registry/repository:tag")
        chunks, context, dockerfile = self._context(image)
        filled = self._filled(image, context, dockerfile, flags)
        platforms = self.platforms(image)
        if len(platforms) == 1:
            return self._one(self._build_of(image.name, filled, platforms[0]), chunks, image)
        digests = self._each(image, filled, platforms, chunks)
        if no_push:
            return ""
        sources = tuple(f"{_repository(image.tags[0])}@{digest}" for digest in digests)
        build = self._build_of(f"{image.name}-index", filled, "")
        insecure = tuple(flag for flag in flags if _is_of_manifest(flag))
        job = index_job(self._text, build, sources, insecure)
        return self._followed(job, None, f"{image.name} index", image)

    def _each(
        self, image: Image, filled: Filled, platforms: tuple[str, ...], chunks: Chunks | None
    ) -> list[str]:
        """The digest of each platform's image, built side by side."""

        def on(platform: Image, _: Mapping[str, str]) -> str:
            tags = tuple(_for_platform(tag, platform.name) for tag in image.tags[:1])
            own = self._build_of(f"{image.name}-{platform.name}",
                                 replace(filled, destinations=tags), platform.name)  # fmt: skip
            return self._one(own, chunks, image, f"{image.name} {platform.name}")

        each = tuple(Image(name, "", ()) for name in platforms)
        results = build_all(each, on, limit=len(each), stopped=self._stop.asked)
        if self._stop.asked.is_set():
            raise self._stop.error()
        for result in results.values():
            if result.error is not None:
                raise result.error
        return [results[name].reference.rpartition("@")[2] for name in platforms]

    def _build_of(self, name: str, filled: Filled, platform: str) -> Build:
        values = self._values
        return Build(
            f"build-{name}-{secrets.token_hex(3)}",
            filled,
            platform,
            int(values.seconds("deadline")) if values.text("deadline") else 0,
            values.text("service-account"),
            values.text("pull-secret"),
            values.many("mount-secret"),
        )

    def _filled(
        self, image: Image, context: str, dockerfile: str, flags: tuple[str, ...]
    ) -> Filled:
        values = self._values
        return Filled(
            image=values.text("image"),
            context=context,
            destinations=image.tags,
            dockerfile=dockerfile,
            cache_repo=values.text("cache-repo") or _cache_of(image),
            secret=values.text("registry-secret"),
            git_secret=values.text("git-secret"),
            claim=values.text("claim"),
            memory=values.text("memory"),
            cpu=values.text("cpu"),
            storage=values.text("storage"),
            name=image.name,
            flags=flags,
        )

    def _context(self, image: Image) -> tuple[Chunks | None, str, str]:
        if not is_local(image.context):
            return None, image.context, image.dockerfile
        chunks, dockerfile = local_stream(image.context, image.dockerfile)
        return chunks, STREAMED, dockerfile

    def _flags(self, image: Image, built: Mapping[str, str]) -> tuple[str, ...]:
        """The builder's own flags, as `pybuild build` would read them."""
        found = list(builder_flags(self._values, self._environment))
        if image.target:
            found.append(f"--target={image.target}")
        found += (f"--build-arg={key}={value}" for key, value in image.with_references(built))
        if image.flags:
            found += builder_flags(parse_flags(K8S_RUN, image.flags, {}), self._environment)
        return tuple(found)

    # --- one Job --------------------------------------------------------------------------------

    def _one(self, build: Build, chunks: Chunks | None, image: Image, shown: str = "") -> str:
        return self._followed(build_job(self._text, build), chunks, shown, image)

    def _followed(
        self, job: dict[str, object], chunks: Chunks | None, shown: str, image: Image
    ) -> str:
        """Creates a Job and follows it; the reference of what it pushed."""
        prefix = shown or (image.name if self._several else "")
        cluster = self._cluster.another()
        name = str(job["metadata"]["name"])  # type: ignore[index]
        self._made.append(name)
        patiently(lambda: cluster.create_job(job))
        where = f"Job {name} in namespace {cluster.namespace}"
        self._sink(Notice(Level.INFO, f"{prefix}: {where}" if prefix else where))
        follower = Follower(cluster, name, line=Lines(prefix, self._stop.asked), sink=self._sink,
                            stopped=self._stop.asked, patience=self._patience)  # fmt: skip
        try:
            if self._values.switch("detach"):
                if chunks is not None:
                    follower.feed_only(chunks)
                self._made.remove(name)
                sys.stdout.write(f"{name}\n")
                return name
            outcome = follower.follow(chunks)
        finally:
            follower.close()
        self._remove(name, cluster)
        if outcome.error is not None:
            raise outcome.error
        if not outcome.digest or not image.tags:
            return ""
        arguments = job_arguments(job)
        tags = [word.partition("=")[2] for word in arguments
                if word.startswith(("--destination=", "--tag="))]  # fmt: skip
        reference = f"{_repository(tags[0])}@{outcome.digest}"
        for tag in tags:
            self._sink(ImagePushed(tag, outcome.digest, 0))
        return reference

    def _remove(self, name: str, cluster: Cluster) -> None:
        if self._values.switch("keep"):
            self._made.remove(name)
            return
        try:
            patiently(partial(cluster.delete_job, name))
        except ClusterError as error:
            self._sink(Notice(Level.WARNING, f"Job {name} is left: {error.message}"))
        self._made.remove(name)

    def clean_up(self) -> None:
        """Removes what is left of Jobs: of builds that failed before their end, or were stopped."""
        if self._values.switch("keep") and not self._stop.asked.is_set():
            return
        cluster = self._cluster.another()
        for name in tuple(self._made):
            try:
                cluster.delete_job(name)
            except (Broken, ClusterError) as error:
                text = without_passwords(str(error))
                self._sink(Notice(Level.WARNING, f"Job {name} is left in the cluster: {text}"))


def job_arguments(job: Mapping[str, object]) -> list[str]:
    """The arguments of a Job's builder."""
    pod = job["spec"]["template"]["spec"]  # type: ignore[index]
    return list(pod["containers"][0]["args"])


def builder_flags(values: Values, environment: Mapping[str, str]) -> Iterator[str]:
    """What of a command line is for the builder, in the form that it takes."""
    names = ("destination", "dockerfile", "log-format", "cache-repo")
    for flag in FLAGS:
        if BUILD not in flag.commands or not is_for_a_pod(flag) or flag.name in names:
            continue
        if flag.name not in values.given:
            continue
        for text in values.many(flag.name):
            value = text
            if flag.name == "build-arg" and "=" not in text:
                if text not in environment:
                    continue
                value = f"{text}={environment[text]}"
            bare = flag.kind is Kind.BOOLEAN and value == "true"
            yield f"--{flag.name}" if bare else f"--{flag.name}={value}"
    if "cache-repo" in values.given and values.text("rung") != "cache-pvc":
        yield f"--cache-repo={values.text('cache-repo')}"
    if values.text("log-format") in ("json", "text", "color"):
        yield f"--log-format={values.text('log-format')}"


def _is_of_manifest(flag: str) -> bool:
    name = flag.removeprefix("--").partition("=")[0]
    return any(one.name == name and MANIFEST in one.commands and BUILD in one.commands
               for one in FLAGS if one.name not in ("annotation", "destination"))  # fmt: skip


def _repository(tag: str) -> str:
    from pybuild.image.reference import parse_reference

    return parse_reference(tag).name


def _for_platform(tag: str, architecture: str) -> str:
    """Where one platform's image goes on its way into an index: tag and architecture."""
    from pybuild.image.reference import parse_reference

    reference = parse_reference(tag)
    return f"{reference.name}:{reference.tag or 'latest'}-{architecture}"


def _cache_of(image: Image) -> str:
    return f"{_repository(image.tags[0])}/cache" if image.tags else ""
