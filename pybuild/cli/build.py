"""Wires one build: flags and environment to the services, the executor, and the files asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pybuild.cli.options import build as build_options
from pybuild.cli.options import cache as cache_options
from pybuild.cli.options import registry as registry_options
from pybuild.cli.options import result as result_options
from pybuild.cli.options import secrets as secrets_options
from pybuild.cli.options import source as source_options
from pybuild.cli.parse import Values
from pybuild.cli.session import Stop, reported
from pybuild.errors import Source
from pybuild.events import (
    EventSink,
    Level,
    Notice,
)

if TYPE_CHECKING:
    from pybuild.context.find import DockerfileFound
    from pybuild.dockerfile.patterns import Patterns
    from pybuild.executor.prepare import Prepared
    from pybuild.executor.request import BuildRequest, OpenIsolation, Services
    from pybuild.executor.state import StageSource
    from pybuild.image.image import Image
    from pybuild.isolation.turns import Waiting
    from pybuild.registry.options import RegistryOptions

# What kaniko's images have, so that a build there stays within one folder; `work` is for ordinary
# users, who must not be able to write to the other.
KANIKO_FOLDERS = (Path("/kaniko"), Path("/kaniko/work"))


class Lookup(Enum):
    """Where a Dockerfile is looked for: as kaniko (and Docker for one that is named), or not."""

    WORKING_FOLDER_FIRST = "working-folder-first"
    CONTEXT_ONLY = "context-only"


class Job(Struct, frozen=True):
    """One build as it was asked for."""

    values: Values
    context: str
    lookup: Lookup
    environment: Mapping[str, str]


def build_command(
    values: Values, context: str, lookup: Lookup, environment: Mapping[str, str]
) -> int:
    """Builds and pushes, or with --dryrun only prints the plan; the exit status."""
    if "dryrun" in values.texts and values.switch("dryrun"):
        return plan_command(values, context, lookup, environment)
    job = Job(values, context, lookup, environment)
    with reporting(values, environment) as (sink, stop):
        return reported(sink, stop, lambda: build_job(job, sink, stop))


def plan_command(
    values: Values, context: str, lookup: Lookup, environment: Mapping[str, str]
) -> int:
    """Prints the plan on standard output; changes nothing."""
    job = Job(values, context, lookup, environment)
    quiet = "warn" if "verbosity" not in values.given else values.text("verbosity")
    with reporting(values, environment, verbosity=quiet) as (sink, stop):
        return reported(sink, stop, lambda: plan_job(job, sink, stop))


def _plan_teller(job: Job, sink: EventSink) -> Callable[[Prepared], None]:
    """What hears of the plan of a build that is about to begin: who reads it, and the page."""
    printed = "print-plan" in job.values.texts and job.values.switch("print-plan")

    def tell(prepared: Prepared) -> None:
        if printed:
            _print_plan(job, prepared, asked=job.values.switch("cache"))
        if page_folder(job.values):
            from pybuild.cli.report import bases_found

            sink(bases_found(prepared))

    return tell


@contextmanager
def reporting(
    values: Values, environment: Mapping[str, str], *, verbosity: str = ""
) -> Iterator[tuple[EventSink, Stop]]:
    """Where events go, as the flags of the log say, and what signals set."""
    from pybuild.report.open import open_report

    quiet = "quiet" in values.texts and values.switch("quiet")
    level = "error" if quiet else verbosity or values.text("verbosity")
    stamps = "clock" if values.switch("log-timestamp") else "seconds"
    kind = values.text("log-format")
    with (
        Stop().on_signals() as stop,
        open_report(kind, sys.stderr, level, timestamps=stamps, environment=environment) as sink,
    ):
        if folder := page_folder(values):
            from pybuild.cli.report import with_page

            names = values.many("destination")
            yield with_page(sink, Path(folder), names[0] if names else ""), stop
        else:
            yield sink, stop


def page_folder(values: Values) -> str:
    """Where --report wants its page; "" where none is wanted, or the command knows none."""
    return values.text("report") if "report" in values.texts else ""


def build_job(job: Job, sink: EventSink, stop: Stop) -> int:
    """Builds, writes the outputs, pushes, and closes with BuildFinished; the exit status."""
    from pybuild.cli.outputs import DIGEST_FILES, Sboms, outputs
    from pybuild.executor.build import build

    with _prepared(job, sink, stop) as (request, services):
        files = outputs(job.values, request.destinations, job.environment)
        sboms = Sboms(result_options.sbom_request(job.values), request, services)

        page = page_folder(job.values)

        def before_push(image: Image, read: Callable[[], StageSource]) -> tuple[str, ...]:
            written = (*files.write_image(image), *sboms.write(image, read))
            if not page:
                return written
            from pybuild.cli.report import image_described, page_path

            sink(image_described(read(), sboms.found))
            return (*written, page_path(page))

        result = build(request, services, before_push)
        sboms.attach(result.image)
        files.write_digests(result)
        told = (job.values.text(name) for name in DIGEST_FILES if job.values.text(name))
        written = tuple(dict.fromkeys((*result.summary.outputs, *told)))
        sink(replace(result.summary, outputs=written))
    if "quiet" in job.values.texts and job.values.switch("quiet"):
        sys.stdout.write(f"{result.summary.digest}\n")
    return 0


def plan_job(job: Job, sink: EventSink, stop: Stop) -> int:
    """Prints the plan; the exit status."""
    from pybuild.executor.prepare import prepare

    with _prepared(job, sink, stop) as (request, services):
        _print_plan(job, prepare(request, services), asked=services.cache is not None)
    return 0


def _print_plan(job: Job, prepared: Prepared, *, asked: bool) -> None:
    """As text, or as one JSON object where the log is JSON; `asked`: there is a cache."""
    fit, view = prepared.fit if asked else None, prepared.view
    if job.values.text("log-format") == "json":
        import json

        from pybuild.plan.render import plan_value

        text = json.dumps(plan_value(prepared.plan, keys=prepared.keys, fit=fit, view=view)) + "\n"
    else:
        from pybuild.plan.render import render

        text = render(prepared.plan, keys=prepared.keys, fit=fit, view=view)
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _prepared(job: Job, sink: EventSink, stop: Stop) -> Iterator[tuple[BuildRequest, Services]]:
    """All that a build is given; undone at the end, in the opposite order."""
    from pybuild.cli.turn import among_others
    from pybuild.context.directory import DirectoryContext
    from pybuild.context.find import find_dockerfile
    from pybuild.context.open import open_context
    from pybuild.dockerfile.parser import parse
    from pybuild.executor.mount_cache import MountCaches
    from pybuild.executor.request import BuildRequest, Services
    from pybuild.executor.workspace import Workspace
    from pybuild.registry.client import Client

    values, environment = job.values, job.environment
    needs_destination = "tar-path" in values.texts  # `plan` has no outputs, and needs none
    destinations = result_options.destinations(values, needed=needs_destination)
    places = cache_options.cache_places(values, destinations)
    registries = registry_options.registry_options(values, environment)
    epoch = result_options.epoch(values, environment)
    targets = source_options.targets(values)
    compression = result_options.compression(values, epoch)
    for note in values.notes:
        sink(Notice(Level.INFO, note))
    with ExitStack() as stack:
        what = ", ".join(map(str, destinations)) or f"a build of {job.context}"
        turn = stack.enter_context(among_others(what, sink, stop.asked))
        workspace = Workspace.create(work_parent(values, environment))
        stack.callback(workspace.remove)
        turn.announce(leave=(workspace.root,))
        fetched = source_options.context_options(
            values,
            workspace.root / "context",
            environment,
            stop.asked,
            when_cancelled=stop.when_asked,
            web=registries,
        )
        where = source_options.context_place(values, job.context)
        for note in source_options.without_effect(values, where):
            sink(Notice(Level.INFO, note))
        root = stack.enter_context(open_context(where, fetched, sink))
        turn.announce(keep=(root, *_kept(job)))
        found = find_dockerfile(
            values.text("dockerfile"),
            root,
            Path.cwd() if job.lookup is Lookup.WORKING_FOLDER_FIRST else None,
            fetched,
            sink,
        )
        dockerfile = parse(found.text, file=found.file)
        for lint in dockerfile.warnings:
            place = f"{found.file}:{lint.source.line}"
            sink(Notice(Level.WARNING, f"{place}: {lint.message}", code=lint.rule))
        keychain = registry_options.keychain(values, environment)
        stack.callback(keychain.close)
        stop.when_asked(keychain.close)

        def make_client(options: RegistryOptions) -> Client:
            made = Client(options, keychain, sink)
            stack.callback(made.close)
            stop.when_asked(made.close)
            return made

        client, platform = make_client(registries), source_options.platform(values)
        hurried = partial(make_client, cache_options.hurried(registries))
        cache = cache_options.layer_cache(values, places, client, hurried, platform, sink)
        request = BuildRequest(
            dockerfile,
            DirectoryContext(root, _patterns(found)),
            source_options.build_args(values, environment),
            platform,
            source_options.machine_platform(),
            compression,
            target=targets[0],
            also=targets[1:],
            labels=source_options.labels(values),
            destinations=destinations,
            push=not values.switch("no-push"),
            single_snapshot=values.switch("single-snapshot"),
            epoch=epoch,
            fidelity=_fidelity(values),
            parallel=build_options.parallel(values),
            ignored=build_options.ignored_paths(values),
            materialize="materialize" in values.texts and values.switch("materialize"),
            snapshot_seconds=build_options.snapshot_seconds(environment),
            on_plan=_plan_teller(job, sink),
            family=result_options.family(values),
            annotations=result_options.image_annotations(values),
            kept=cache_options.kept(values),
            inline_cache=places.inline,
        )
        services = Services(
            client,
            cache_options.bases(values, client, sink),
            workspace,
            _isolation_opener(job, root, turn.waiting),
            cache,
            cache_options.indexes(values, cache, sink),
            sink,
            stop.asked,
            MountCaches(_mount_caches(job)),
            fetched,
            secrets_options.secrets(values, environment),
        )
        yield request, services


def _fidelity(values: Values) -> str:
    """For a plan, that of the build which the same command would be with the usual flags."""
    from pybuild.isolation.fidelity import expected_fidelity

    return expected_fidelity(values.text("isolation") if "isolation" in values.texts else "auto")


def _patterns(found: DockerfileFound) -> Patterns | None:
    if not found.ignore:
        return None
    from pybuild.dockerfile.errors import BadPattern
    from pybuild.dockerfile.patterns import Patterns, parse_ignore_file

    lines = parse_ignore_file(found.ignore)
    try:
        return Patterns(lines) if lines else None
    except BadPattern as error:
        raise error.at(_place_of_pattern(found)) from None


def _place_of_pattern(found: DockerfileFound) -> Source | None:
    """The first line of the ignore file that is malformed by itself."""
    from pybuild.dockerfile.errors import BadPattern
    from pybuild.dockerfile.patterns import Patterns, parse_ignore_file

    for number, text in enumerate(found.ignore.splitlines(), 1):
        try:
            Patterns(parse_ignore_file(text))
        except BadPattern:
            return Source(found.ignore_file, number, number, text)
    return None


def _isolation_opener(job: Job, context: Path, waiting: Waiting) -> OpenIsolation:
    """Chooses the isolation when the first RUN needs one."""
    from pybuild.executor.workspace import Workspace
    from pybuild.isolation.command import Isolation

    def open_isolation(workspace: Workspace, /) -> tuple[Isolation, str]:
        from pybuild.isolation.select import Wishes, choose

        wishes = Wishes(
            candidates=_volumes(job, context),
            keep=(workspace.root, context, *_kept(job)),
            discard=workspace.discard,
            allow_root_path=job.values.switch("allow-root-path"),
            force=job.values.switch("force"),
            waiting=waiting,
        )
        isolation = choose(job.values.text("isolation"), workspace.roots, wishes)
        return isolation, isolation.reason

    return open_isolation


def work_parent(values: Values, environment: Mapping[str, str]) -> Path:
    """Where the build's own folder is made: what --kaniko-dir says, kaniko's folder where there is
    one, else the folder for temporary files."""
    import tempfile

    named = values.text("kaniko-dir") if "kaniko-dir" in values.texts else ""
    if named:
        return Path(named)
    for folder in KANIKO_FOLDERS:
        if os.access(folder, os.W_OK):
            return folder
    return Path(environment.get("TMPDIR") or tempfile.gettempdir())


def _volumes(job: Job, context: Path) -> tuple[Path, ...]:
    """Folders that may lie on a volume, as overlay's upper directory has to; never the context."""
    named = [job.values.text("cache-dir"), job.environment.get("TMPDIR", ""), "/workspace", "/tmp"]
    found = [Path(name) for name in named if name] + [context.parent, Path.cwd().parent]
    return tuple(
        path
        for path in dict.fromkeys(found)
        if path != Path("/")
        and not path.resolve().is_relative_to(context.resolve())
        and os.access(path, os.W_OK)
    )


def _mount_caches(job: Job) -> Path:
    return cache_options.mount_caches(job.values, work_parent(job.values, job.environment))


def _kept(job: Job) -> Iterator[Path]:
    """What a build in place must leave alone, beside the workspace and the context."""
    from pybuild.cli.outputs import OUTPUT_FLAGS

    values, environment = job.values, job.environment
    for name in OUTPUT_FLAGS:
        file = values.text(name) if name in values.texts else ""  # `plan` has no outputs
        if file and not file.startswith("https://"):
            yield Path(file).absolute().parent
    named = [environment.get(name, "") for name in ("DOCKER_CONFIG", "BUILDER_OUTPUT")]
    named += [values.text("cache-dir"), *cache_options.layer_folders(values)]
    yield from (Path(name) for name in named if name and Path(name).exists())
    yield _mount_caches(job)
    yield Path.home() / ".docker"
    yield Path.cwd()
