"""`pybuild manifest create`: one reference for images of several platforms."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pybuild.cli.flags.flag import MANIFEST
from pybuild.cli.parse import Values, parse_flags
from pybuild.cli.session import Stop, reported
from pybuild.events import EventSink, ImagePushed, Level, Notice

MOST_SOURCES = 1000


def manifest(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status. Raises UnknownCommand for another word than `create`."""
    from pybuild.cli.build import reporting
    from pybuild.cli.errors import NoDestination, UnexpectedArgument, UnknownCommand

    if argv and argv[0] not in ("create", "--help", "-h"):
        raise UnknownCommand(f"pybuild manifest has no command {argv[0]!r}", hint="create")
    values = parse_flags(MANIFEST, argv[1:], environment, positionals=MOST_SOURCES)
    if values.help or not argv or argv[0] != "create":
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(MANIFEST))
        return 0
    if not values.many("destination"):
        raise NoDestination("the index needs a name", hint="--tag=registry/repository:tag")
    if not values.positional:
        raise UnexpectedArgument(
            "pybuild manifest create needs images",
            hint="pybuild manifest create --tag=REFERENCE IMAGE...; by digest best of all",
        )
    with reporting(values, environment) as (sink, stop):
        return reported(sink, stop, lambda: create(values, environment, sink, stop))


def create(values: Values, environment: Mapping[str, str], sink: EventSink, stop: Stop) -> int:
    """Pushes the index of the images that the values name; the exit status."""
    from pybuild.cli.options.registry import keychain, registry_options
    from pybuild.cli.options.result import destinations, image_annotations
    from pybuild.cli.outputs import digest_target
    from pybuild.image.reference import parse_reference
    from pybuild.output.files import write_digest_file
    from pybuild.output.index import find_members, index_of, push_index
    from pybuild.registry.client import Client

    targets = destinations(values, needed=False)
    sources = [parse_reference(text) for text in values.positional]
    digest_file = digest_target(values, "digest-file")
    keys = keychain(values, environment)
    client = Client(registry_options(values, environment), keys, sink)
    stop.when_asked(keys.close)
    stop.when_asked(client.close)
    with client:
        try:
            members = find_members(client, sources)
            index = index_of(members, image_annotations(values))
            push_index(client, members, index, targets)
        finally:
            keys.close()
    write_digest_file(digest_file, str(index.digest))
    for member in members:
        platform = member.entry.platform
        sink(Notice(Level.INFO, f"{platform or 'any platform'}: {member.source}"))
    for target in targets:
        sink(ImagePushed(str(target), str(index.digest), len(index.raw)))
    if values.switch("quiet"):
        sys.stdout.write(f"{index.digest}\n")
    return 0
