"""kaniko's `warmer`: fetches base images into the cache folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.flags.flag import WARMER
from pybuild.cli.session import guarded

if TYPE_CHECKING:
    from pybuild.cache.warmer import Warmer, WarmResult
    from pybuild.cli.parse import Values
    from pybuild.cli.session import Stop
    from pybuild.events import EventSink, Notice
    from pybuild.image.platform import Platform


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _main(words))


def _main(argv: Sequence[str]) -> int:
    from pybuild import __version__
    from pybuild.cli.parse import parse_flags

    if argv[:1] in (["version"], ["--version"]):
        sys.stdout.write(f"pybuild {__version__}\n")
        return 0
    values = parse_flags(WARMER, argv, os.environ)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(WARMER))
        return 0
    from pybuild.cli.session import Stop, reported
    from pybuild.report.open import open_report

    kind, level = values.text("log-format"), values.text("verbosity")
    stamps = "clock" if values.switch("log-timestamp") else "seconds"
    with (
        Stop().on_signals() as stop,
        open_report(kind, sys.stderr, level, timestamps=stamps, environment=os.environ) as sink,
    ):
        return reported(sink, stop, lambda: _warm(values, os.environ, sink, stop))


def _warm(values: Values, environment: Mapping[str, str], sink: EventSink, stop: Stop) -> int:
    """0 where at least one image is in the folder now, as kaniko has it."""
    from datetime import timedelta

    from pybuild.cache.images import ImageFolder
    from pybuild.cache.warmer import Outcome, Warmer
    from pybuild.cli.errors import NothingToWarm, NothingWarmed
    from pybuild.cli.options import registry, source
    from pybuild.events import Level, Notice
    from pybuild.registry.client import Client
    from pybuild.store.errors import writing

    if not values.many("image") and not values.text("dockerfile"):
        raise NothingToWarm(
            "you must select at least one image to cache, or a Dockerfile to find them in",
            hint="--image=REFERENCE, or --dockerfile=PATH",
        )
    for note in values.notes:
        sink(Notice(Level.INFO, note))
    folder = Path(values.text("cache-dir"))
    with ExitStack() as stack:
        keychain = registry.keychain(values, environment)
        client = Client(registry.registry_options(values, environment), keychain, sink)
        for part in (keychain, client):
            stack.callback(part.close)
            stop.when_asked(part.close)
        warmer = Warmer(
            ImageFolder(folder),
            client,
            sink,
            force=values.switch("force"),
            ttl=timedelta(seconds=values.seconds("cache-ttl")),
            is_cancelled=stop.asked.is_set,
        )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            results = _results(values, environment, warmer, source.platform(values))
    for result in results:
        sink(_told(result, folder))
    if all(result.outcome is Outcome.FAILED for result in results):
        raise NothingWarmed(
            f"failed to warm any of the given images: all {len(results)} of them"
            if len(results) > 1
            else f"failed to warm any of the given images: {results[0].name}",
            hint="the warnings above say why, image by image",
        )
    return 0


def _results(
    values: Values, environment: Mapping[str, str], warmer: Warmer, platform: Platform
) -> Sequence[WarmResult]:
    from pybuild.cache.warmer import bases_of
    from pybuild.cli.errors import NothingToWarm
    from pybuild.cli.options import source
    from pybuild.context.find import find_dockerfile
    from pybuild.context.open import ContextOptions
    from pybuild.dockerfile.parser import parse
    from pybuild.plan.make import PlanRequest
    from pybuild.plan.steps import ImageRequest

    found = [warmer.resolve(ImageRequest(name, platform)) for name in values.many("image")]
    if values.text("dockerfile"):
        here = Path.cwd()
        options = ContextOptions(here, environment=environment)
        text = find_dockerfile(values.text("dockerfile"), here, here, options, lambda _: None)
        dockerfile = parse(text.text, file=text.file)
        request = PlanRequest(
            source.build_args(values, environment), "", platform, source.machine_platform(), ()
        )
        found += bases_of(dockerfile, request, warmer.resolve)
        if not found:
            raise NothingToWarm(f"no stage of {text.file} starts from an image")
    return warmer.keep(found)


def _told(result: WarmResult, folder: Path) -> Notice:
    """The line that says what became of an image."""
    from pybuild.cache.warmer import Outcome
    from pybuild.events import Level, Notice
    from pybuild.report.text import bytes_text

    if result.outcome is Outcome.FAILED:
        error = result.error
        why = "" if error is None else error.message + (f"; {error.hint}" if error.hint else "")
        return Notice(Level.WARNING, f"{result.name} is not warmed: {why}", code="not-warmed")
    what = f"{result.name} {result.digest} ({bytes_text(result.size)})"
    did = "kept in" if result.outcome is Outcome.FETCHED else "is already in"
    return Notice(Level.INFO, f"{what} {did} {folder}")
