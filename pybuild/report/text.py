"""Events as lines of text. Pure: no clock, no stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum

from msgspec import Struct

from pybuild.events import (
    NO_CACHE,
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Event,
    ImagePushed,
    Level,
    Notice,
    StageFinished,
    StageSkipped,
    StageStarted,
    StageSummary,
    StepCached,
    StepFinished,
    StepStarted,
    TransferFinished,
    TransferKind,
    TransferOutcome,
    TransferStarted,
)

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|[PX^_][^\x1b]*(?:\x1b\\)?"  # device control and other strings
    r"|[ -/]*[0-~])"
)
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_LINE_END = re.compile(rb"\r*\n|\r+")
_BYTES = re.compile(r"[\udc80-\udcff]")
_TEXT_LINES = 12  # of a long instruction, in an error
_LINE_LENGTH = 400  # of one of its lines


class Severity(IntEnum):
    """kaniko's levels, fewer; a report shows what is at least as severe as its own."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @property
    def word(self) -> str:
        return self.name.lower()


_LEVELS = {Level.DEBUG: Severity.DEBUG, Level.INFO: Severity.INFO, Level.WARNING: Severity.WARNING}
_VERBS = {
    TransferKind.PULL: "pulled",
    TransferKind.PUSH: "pushed",
    TransferKind.CACHE_READ: "read from the cache",
    TransferKind.CACHE_WRITE: "written to the cache",
    TransferKind.CONTEXT: "fetched",
    TransferKind.DOWNLOAD: "downloaded",
}
_OUTCOMES = {
    TransferOutcome.MOUNTED: "mounted from another repository",
    TransferOutcome.EXISTS: "there already",
    TransferOutcome.FAILED: "failed",
}


def severity_of(verbosity: str) -> Severity:
    """The least severe thing that kaniko's `--verbosity` word lets through."""
    names = {"trace": "DEBUG", "warn": "WARNING", "fatal": "ERROR", "panic": "ERROR"}
    return Severity[names.get(verbosity, verbosity.upper())]


class Line(Struct, frozen=True):
    """One line of log; `prefix` names stage and step, "" where it belongs to none."""

    severity: Severity
    prefix: str
    text: str

    def __str__(self) -> str:
        return f"{self.prefix} {self.text}" if self.prefix else self.text


class Describer:
    """Puts events into words; remembers the stages' names, which most events leave out."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._steps: dict[int, int] = {}

    def prefix(self, stage: int, step: int | None = None) -> str:
        """`[build 2/4]`, as BuildKit has it; `[build]` for the stage as a whole."""
        name = stage_title(self._names.get(stage) or str(stage))
        if step is None:
            return f"[{name}]"
        count = self._steps.get(stage, 0)
        return f"[{name} {step + 1}/{count}]" if count else f"[{name} {step + 1}]"

    def lines(self, event: Event) -> tuple[Line, ...]:
        """What a line log says about an event; the output of RUN comes from `OutputLines`."""
        match event:
            case Notice(level, message, _):
                return tuple(Line(_LEVELS[level], "", part) for part in message.splitlines())
            case BuildStarted():
                return _build_started(event)
            case StageStarted(stage, name, base, first, steps):
                self._names[stage], self._steps[stage] = name or str(stage), steps
                prefix = self.prefix(stage, 0 if first else None)
                return (Line(Severity.INFO, prefix, f"FROM {base}"),)
            case StageFinished(stage, name, seconds):
                text = f"finished in {duration(seconds)}"
                return (Line(Severity.INFO, self.prefix(stage), text),)
            case StageSkipped(stage, name):
                self._names[stage] = name or str(stage)
                text = "skipped: all that is taken from it is in the cache"
                return (Line(Severity.INFO, self.prefix(stage), text),)
            case StepStarted(stage, step, text, _, reason):
                # Without a cache the reason is the same for all, and nothing to look into.
                why = f" ({reason})" if reason not in ("", NO_CACHE) else ""
                return (Line(Severity.INFO, self.prefix(stage, step), one_line(text) + why),)
            case StepCached(stage, step, text, _, _, size):
                how = f"{one_line(text)} (cached{f', {bytes_text(size)}' if size else ''})"
                return (Line(Severity.INFO, self.prefix(stage, step), how),)
            case StepFinished(stage, step, _, _, seconds, size):
                layer = f", layer of {bytes_text(size)}" if size else ""
                text = f"done in {duration(seconds)}{layer}"
                return (Line(Severity.INFO, self.prefix(stage, step), text),)
            case TransferStarted(_, _, label, size):
                text = f"{label}: started{f', {bytes_text(size)}' if size else ''}"
                return (Line(Severity.DEBUG, "", text),)
            case TransferFinished():
                return (transfer_line(event),)
            case ImagePushed(reference, digest, _):
                return (Line(Severity.INFO, "", f"pushed {reference} {digest}"),)
            case BuildFinished():
                return tuple(Line(Severity.INFO, "", text) for text in summary(event))
            case BuildFailed():
                return tuple(Line(Severity.ERROR, "", text) for text in failure(event))
            case _:
                return ()


def stage_title(name: str) -> str:
    """A stage without a name is called by its number, which alone would read like a step's."""
    return f"stage-{name}" if name.isdecimal() else name


def _build_started(event: BuildStarted) -> tuple[Line, ...]:
    steps = f"{event.steps} step{'' if event.steps == 1 else 's'}"
    stages = f"{len(event.stages)} stage{'' if len(event.stages) == 1 else 's'}"
    text = f"building {event.dockerfile} in {event.context}: {stages}, {steps}"
    why = f"isolation {event.isolation}{f': {event.reason}' if event.reason else ''}"
    return Line(Severity.INFO, "", text), Line(Severity.INFO, "", why)


class OutputLines:
    """Cuts what RUNs write into lines, each (stage, step, stream) apart.

    A carriage return ends a line too, so that nothing of what was written is lost: a terminal would
    write over it, and a progress bar becomes a line a state.
    """

    def __init__(self, longest: int = 16384) -> None:
        self._open: dict[tuple[int, int, int], bytes] = {}
        self._longest = longest

    def feed(self, stage: int, step: int, stream: int, data: bytes) -> list[str]:
        """The lines that are finished now, decoded, without line ends."""
        key = (stage, step, stream)
        *done, rest = _split(self._open.pop(key, b"") + data)
        if len(rest) > self._longest:
            done.append(rest)
            rest = b""
        if rest:
            self._open[key] = rest
        return [_shown(line) for line in done]

    def flush(
        self, stage: int | None = None, step: int | None = None
    ) -> list[tuple[int, int, str]]:
        """The unfinished lines of a step, or of all: (stage, step, text)."""
        keys = [key for key in self._open if stage is None or key[:2] == (stage, step)]
        return [(key[0], key[1], _shown(self._open.pop(key))) for key in sorted(keys)]


def _split(text: bytes) -> list[bytes]:
    """The lines, the last unfinished. A carriage return at the end of that may still be half of a
    line end, so it stays; one that stands at the start of a line ends nothing."""
    if b"\r" not in text:
        return text.split(b"\n")
    body = text.rstrip(b"\r")
    lines, start = [], 0
    for end in _LINE_END.finditer(body):
        if end[0].endswith(b"\n") or end.start() > start:
            lines.append(body[start : end.start()])
        start = end.end()
    return [*lines, body[start:] + (b"\r" if len(body) < len(text) else b"")]


def _shown(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def harmless(text: str) -> str:
    """Without escape sequences, other control characters made visible: nothing that a RUN or a
    file name holds can move the cursor, set a title, or fake lines of the log."""
    if text.isprintable():
        return text
    text = _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", _ESCAPES.sub("", text))
    # Lone surrogates are the bytes of names that are no UTF-8, and no stream takes them.
    text = _BYTES.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


def colours_only(text: str) -> str:
    """As `harmless`, but colours stay, switched off at the end."""
    if "\x1b" not in text:
        return harmless(text)
    parts, end = [], 0
    for found in _COLOURS.finditer(text):
        parts += [harmless(text[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*parts, harmless(text[end:]), "\x1b[0m"])


def one_line(text: str) -> str:
    """An instruction as one line of at most 200 characters, continuation marks taken out."""
    flat = " ".join(part.strip().removesuffix("\\").strip() for part in text.splitlines())
    return flat if len(flat) <= 200 else flat[:199] + "…"


def transfer_line(event: TransferFinished) -> Line:
    """One that failed is no news: the error, or the warning that replaces it, comes right after."""
    failed = event.outcome is TransferOutcome.FAILED
    severity = Severity.DEBUG if failed else Severity.INFO
    how = _OUTCOMES.get(event.outcome) or _VERBS[event.kind]
    amount = f" {bytes_text(event.size)}" if event.size else ""
    speed = f" in {duration(event.seconds)}" if event.outcome is TransferOutcome.DONE else ""
    return Line(severity, "", f"{event.label}: {how}{amount}{speed}")


def summary(event: BuildFinished) -> Iterator[str]:
    """The closing lines: what came out, how big, from where, and how long each stage took."""
    for reference in event.references:
        yield f"image   {reference}"
    yield f"digest  {event.digest}"
    yield f"size    {bytes_text(event.size)}, {layers_text(event)}"
    for path in event.outputs:
        yield f"wrote   {path}"
    for stage in event.stages:
        yield f"stage   {stage_title(stage.name)}: {stage_text(stage)}"
    yield f"time    {duration(event.seconds)}"


def layers_text(event: BuildFinished) -> str:
    """`5 layers: 3 of the base, 1 new, 1 cached; 1 pushed, 4 mounted`"""
    layers = event.layers
    if not layers:
        return "no layer"
    origins = {"base": "of the base", "new": "new", "cached": "cached"}
    parts = _counts([origins.get(layer.origin, layer.origin) for layer in layers])
    outcomes = _counts([_PUSHED.get(layer.outcome, layer.outcome) for layer in layers])
    count = f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"
    return f"{count}: {parts}" + (f"; {outcomes}" if outcomes else "")


_PUSHED = {"pushed": "pushed", "mounted": "mounted", "exists": "there already", "": ""}


def _counts(words: list[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words) if word)


def stage_text(stage: StageSummary) -> str:
    if stage.skipped:
        return "skipped, all cached"
    return f"{duration(stage.seconds)}, {stage.steps_run} run, {stage.steps_cached} cached"


def failure(event: BuildFailed) -> Iterator[str]:
    """`error[code]: message`, the place with its text, and what to do."""
    first, *more = event.message.splitlines() or [""]
    yield f"error[{event.code}]: {_cut(first, 5 * _LINE_LENGTH)}"
    yield from (f"  {line}" for line in more)
    if event.file and event.line:
        yield f"  at {event.file}:{event.line}"
        lines = event.text.splitlines()
        width = len(str(event.line + len(lines)))
        for number, text in enumerate(lines[:_TEXT_LINES], event.line):
            yield f"  {number:>{width}} | {_cut(text, _LINE_LENGTH)}"
        if len(lines) > _TEXT_LINES:
            yield f"  {'':>{width}} | … {len(lines) - _TEXT_LINES} more lines"
    elif event.file:
        yield f"  at {event.file}"
    if event.hint:
        yield f"hint: {event.hint}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def bytes_text(size: float) -> str:
    """`512 B`, `3.1 kB`, `45.6 MB`: units of 1000, as registries count."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """`0.3 s`, `12.4 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
