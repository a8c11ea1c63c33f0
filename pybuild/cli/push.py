"""kaniko's `executor push`: an image that lies in a file or folder goes to registries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import NoDestination, UnexpectedArgument
from pybuild.cli.flags.flag import PUSH
from pybuild.cli.options import registry as registry_options
from pybuild.cli.options import result as result_options
from pybuild.cli.parse import Values, parse_flags
from pybuild.errors import InputError
from pybuild.events import EventSink, Level, Notice

if TYPE_CHECKING:
    from pybuild.cli.session import Stop
    from pybuild.image.image import Image


class ImageChanged(InputError):
    """What is to be pushed is not what was built."""

    code = "image-changed"
    advice = "something wrote to it since; build it again"


def push_command(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Pushes the archive or OCI layout named; the exit status."""
    from pybuild.cli.build import reporting
    from pybuild.cli.session import reported

    values = parse_flags(PUSH, argv, environment, positionals=1)
    if values.help:
        import sys

        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(PUSH))
        return 0
    if not values.positional:
        raise UnexpectedArgument(
            "executor push needs the image to push",
            hint="the path of an archive (docker save) or of an OCI layout",
        )
    if not values.many("destination"):
        raise NoDestination(
            "at least one --destination is required",
            hint="give --destination=registry/repository:tag",
        )
    with reporting(values, environment) as (sink, stop):
        return reported(sink, stop, lambda: push_image(values, environment, sink, stop))


def push_image(
    values: Values,
    environment: Mapping[str, str],
    sink: EventSink,
    stop: Stop,
    *,
    expected: str = "",
) -> int:
    """Pushes the archive or layout that the values name; the exit status. Raises ImageChanged,
    before anything is pushed, where its digest is not the one `expected`."""
    from pybuild.cli.build import work_parent
    from pybuild.executor.background import Background
    from pybuild.executor.uploads import Uploads
    from pybuild.executor.workspace import Workspace
    from pybuild.registry.client import Client

    destinations = result_options.destinations(values, needed=False)
    options = registry_options.registry_options(values, environment)
    for note in values.notes:
        sink(Notice(Level.INFO, note))
    with ExitStack() as stack:
        workspace = Workspace.create(work_parent(values, environment))
        stack.callback(workspace.remove)
        path = Path(values.positional[0])
        image = _image(path, workspace.new_spool())
        found = str(image.manifest.digest)
        if expected not in ("", found):
            raise ImageChanged(f"{path} holds {found}, and what was built is {expected}")
        keychain = registry_options.keychain(values, environment)
        stack.callback(keychain.close)
        stop.when_asked(keychain.close)
        client = Client(options, keychain, sink)
        stack.callback(client.close)
        stop.when_asked(client.close)
        background = Background(stop.asked)
        stack.callback(background.close)
        uploads = Uploads(client, destinations, background, sink)
        uploads.check()
        uploads.finish(image)
    return 0


def _image(path: Path, folder: Path) -> Image:
    if path.is_dir():
        from pybuild.store.layout import Layout

        return Layout(path).image()
    from pybuild.executor.image_archive import read_archive

    return read_archive(path, folder)
