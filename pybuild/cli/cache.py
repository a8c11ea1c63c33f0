"""`pybuild cache ls` and `pybuild cache prune`: what caches hold, and what of it goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.cli.errors import BadFlag, NoCache, UnknownCommand
from pybuild.cli.flags.flag import CACHE_LS, CACHE_PRUNE

if TYPE_CHECKING:
    from pybuild.cache.inventory import Item, Policy, Stock
    from pybuild.cli.parse import Values
    from pybuild.cli.session import Stop
    from pybuild.events import EventSink

_DEFAULT = Path("/cache")
_UNITS = {"": 1, "B": 1, "K": 1000, "KB": 1000, "M": 1000**2, "MB": 1000**2, "G": 1000**3,
          "GB": 1000**3, "T": 1000**4, "TB": 1000**4, "KI": 1 << 10, "KIB": 1 << 10,
          "MI": 1 << 20, "MIB": 1 << 20, "GI": 1 << 30, "GIB": 1 << 30, "TI": 1 << 40,
          "TIB": 1 << 40}  # fmt: skip


def cache_command(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The words after `pybuild cache`. Raises UnknownCommand, and what the flags raise."""
    command = f"cache {argv[0]}" if argv else "cache"
    if command not in (CACHE_LS, CACHE_PRUNE):
        from pybuild.cli.help import command_help

        if not argv or argv[0] in ("-h", "--help", "help"):
            sys.stdout.write(f"{command_help(CACHE_LS)}\n{command_help(CACHE_PRUNE)}")
            return 0
        raise UnknownCommand(f"pybuild has no command {command!r}", hint="cache ls or cache prune")
    from pybuild.cli.parse import parse_flags
    from pybuild.cli.session import Stop, reported
    from pybuild.report.open import open_report

    values = parse_flags(command, argv[1:], environment)
    if values.help:
        from pybuild.cli.help import command_help

        sys.stdout.write(command_help(command))
        return 0
    policy = None if command == CACHE_LS else _policy(values)
    stamps = "clock" if values.switch("log-timestamp") else "seconds"
    kind, level = values.text("log-format"), values.text("verbosity")
    with (
        Stop().on_signals() as stop,
        open_report(kind, sys.stderr, level, timestamps=stamps, environment=environment) as sink,
    ):
        return reported(sink, stop, lambda: _run(values, policy, environment, sink, stop))


def parse_size(text: str) -> int:
    """Bytes of `500MB`, `1.5G`, `2GiB` or a plain number. Raises BadFlag."""
    import re

    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise BadFlag(f"--keep-size can't be {text!r}", hint="such as 500MB, 10GB or 20GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _policy(values: Values) -> Policy:
    from pybuild.cache.inventory import Policy

    def duration(name: str) -> timedelta | None:
        return timedelta(seconds=values.seconds(name)) if name in values.given else None

    size = parse_size(values.text("keep-size")) if values.text("keep-size") else None
    policy = Policy(duration("older-than"), duration("unused-for"), size, values.switch("all"))
    if policy == Policy():
        raise BadFlag(
            "pybuild cache prune does not know what is to go",
            hint="--older-than=720h, --unused-for=168h, --keep-size=10GB or --all",
        )
    return policy


def _run(
    values: Values,
    policy: Policy | None,
    environment: Mapping[str, str],
    sink: EventSink,
    stop: Stop,
) -> int:
    from pybuild.cache.inventory import doomed

    with ExitStack() as stack:
        shown: list[tuple[Stock, Sequence[Item]]] = []
        for stock in _stocks(values, environment, sink, stop, stack):
            items = stock.items()
            if policy is not None:
                items = doomed(items, policy, datetime.now(UTC))
                if items and not values.switch("dry-run"):
                    items = _removed(stock, items, sink)
            shown.append((stock, items))
    write = _json if values.text("format") == "json" else _table
    for line in write(shown):
        sys.stdout.write(f"{line}\n")
    return 0


def _removed(stock: Stock, items: Sequence[Item], sink: EventSink) -> Sequence[Item]:
    from pybuild.cache.stocks import RepositoryStock
    from pybuild.events import Level, Notice

    gone = stock.remove(items)
    if len(gone) < len(items):
        told = f"{len(items) - len(gone)} of {stock.name} stay, since a build uses them right now"
        sink(Notice(Level.WARNING, told, code="cache-in-use"))
    if isinstance(stock, RepositoryStock) and gone:
        told = "a registry gives the space back when it next collects what nothing names"
        sink(Notice(Level.INFO, told))
    return gone


def _stocks(
    values: Values, environment: Mapping[str, str], sink: EventSink, stop: Stop, stack: ExitStack
) -> Iterator[Stock]:
    """Raises NoCache where none is named, or a folder is none."""
    from pybuild.cache.stocks import FolderStock, LayoutStock, RepositoryStock
    from pybuild.cli.options import registry
    from pybuild.cli.options.cache import place
    from pybuild.events import Level, Notice
    from pybuild.registry.client import Client

    def waits() -> None:
        sink(Notice(Level.INFO, "a build or warmer writes to the cache: waiting for it to end"))

    folders = [Path(text) for text in values.many("cache-dir")]
    places = [place("cache-repo", text) for text in values.many("cache-repo")]
    if not folders and not places:
        if not _DEFAULT.is_dir():
            raise NoCache(
                "no cache is named", hint="--cache-repo=REPOSITORY, or --cache-dir=FOLDER"
            )
        folders = [_DEFAULT]
    for folder in folders:
        yield FolderStock(_existing(folder), waits)
    client: Client | None = None
    for found in places:
        if isinstance(found, Path):
            yield LayoutStock(_existing(found), waits)
            continue
        if client is None:
            keychain = registry.keychain(values, environment)
            client = Client(registry.registry_options(values, environment), keychain, sink)
            for part in (keychain, client):
                stack.callback(part.close)
                stop.when_asked(part.close)
        yield RepositoryStock(client, found)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise NoCache(f"there is no folder {folder}", hint="is its volume mounted?")
    return folder


def _table(shown: Sequence[tuple[Stock, Sequence[Item]]]) -> Iterator[str]:
    from pybuild.cache.inventory import total_size
    from pybuild.report.text import bytes_text

    now = datetime.now(UTC)
    for stock, items in shown:
        yield f"{stock.name}: {len(items)} entries, {bytes_text(total_size(items))}"
        if items:
            yield f"{'KIND':<6} {'CREATED':>8} {'USED':>8} {'SIZE':>9}  NAME"
        for item in items:
            ages = (_age(item.created, now), _age(item.used, now))
            yield (
                f"{item.kind.value:<6} {ages[0]:>8} {ages[1]:>8} {bytes_text(item.size):>9}  "
                f"{item.name}"
            )


def _json(shown: Sequence[tuple[Stock, Sequence[Item]]]) -> Iterator[str]:
    """An object a line."""
    import json

    for stock, items in shown:
        for item in items:
            body = {
                "cache": stock.name,
                "kind": item.kind.value,
                "id": item.id,
                "name": item.name,
                "size": item.size,
                "created": item.created.isoformat() if item.created else None,
                "used": item.used.isoformat() if item.used else None,
            }
            yield json.dumps(body)


def _age(then: datetime | None, now: datetime) -> str:
    if then is None:
        return "-"
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
