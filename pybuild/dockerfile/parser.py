"""A Dockerfile as typed instructions, grouped into stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pybuild.dockerfile import instructions as ins
from pybuild.dockerfile.errors import (
    BadFlag,
    BadHeredoc,
    BadStageName,
    BadSubstitution,
    BadTrigger,
    DockerfileError,
    DockerfileSyntax,
    NoStage,
    UnknownInstruction,
    WrongArguments,
    nearest,
)
from pybuild.dockerfile.flags import Flags, parse_duration, read_flags
from pybuild.dockerfile.heredoc import Heredoc, parse_heredoc
from pybuild.dockerfile.lexer import SPACE
from pybuild.dockerfile.mounts import parse_mount
from pybuild.dockerfile.nodes import Lint, Node, ParsedFile, parse_nodes
from pybuild.errors import Source

__all__ = ["Node", "ParsedFile", "parse", "parse_nodes", "parse_trigger", "read_node"]

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*\Z")
_RESERVED_STAGE_NAMES = ("context", "scratch")
_SHORTEST_INTERVAL = 1_000_000  # nanoseconds
_LIKE_JSON = re.compile(r"""\[(["']|\s*(["'])[^"']*\2\s*,|[^\s\[,]+,\s)""")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)


def parse(text: str, *, file: str = "Dockerfile") -> ins.Dockerfile:
    """Reads a whole Dockerfile. Raises a DockerfileError with file, lines and text of the cause."""
    _refuse_binary(text, file)
    parsed = parse_nodes(text, file)
    warnings = list(parsed.warnings)
    meta_args: list[ins.Arg] = []
    stages: list[tuple[ins.From, list[ins.Instruction]]] = []
    for node in parsed.nodes:
        instruction = read_node(node)
        warnings += _lint_command(node)
        if isinstance(instruction, ins.From):
            warnings += _lint_stage(instruction, [origin.name for origin, _ in stages])
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ins.Arg):
            meta_args.append(instruction)
        else:
            raise NoStage(
                "no build stage in current context",
                hint="only ARG may stand before the first FROM",
                source=node.source,
            )
    if not stages:
        raise NoStage("the Dockerfile has no FROM", hint="add one", source=parsed.nodes[-1].source)
    return ins.Dockerfile(
        file=file,
        escape=parsed.escape,
        directives=parsed.directives,
        meta_args=tuple(meta_args),
        stages=tuple(
            ins.Stage(index, origin.name, origin, tuple(body))
            for index, (origin, body) in enumerate(stages)
        ),
        warnings=tuple(warnings),
    )


def _refuse_binary(text: str, file: str) -> None:
    """No path, argument or variable can hold a NUL; a file that has some is no text, or UTF-16."""
    place = text.find("\0")
    if place < 0:
        return
    number = text.count("\n", 0, place) + 1
    line = text.splitlines()[number - 1] if number < 1000 else ""
    raise DockerfileSyntax(
        "the line holds a NUL character",
        hint="save the file as UTF-8 text",
        source=Source(file, number, number, line[:200]),
    )


def parse_trigger(text: str, source: Source) -> ins.Instruction:
    """An ONBUILD text out of a base image's config; errors point at `source`, the FROM."""
    try:
        nodes = parse_nodes(text, source.file).nodes
        if len(nodes) != 1:
            raise BadTrigger(f"an ONBUILD trigger is one instruction, not {len(nodes)}: {text!r}")
        return _trigger(nodes[0], source)
    except (DockerfileError, BadSubstitution) as error:
        error.source = source
        raise


def read_node(node: Node) -> ins.From | ins.Instruction:
    """One instruction, checked; raises a DockerfileError at the node's place."""
    try:
        return _instruction(node, node.source)
    except (DockerfileError, BadSubstitution) as error:
        raise error.at(node.source) from None


def _instruction(node: Node, source: Source) -> ins.From | ins.Instruction:
    build = _BUILDERS.get(node.name)
    if build is None:
        near = nearest(node.keyword, _BUILDERS).upper()
        raise UnknownInstruction(
            f"unknown instruction: {node.keyword}",
            hint=f"did you mean {near}?" if near else "known are " + ", ".join(_BUILDERS).upper(),
        )
    return build(node, read_flags(node.name, node.flags), source)


def _lint_stage(origin: ins.From, earlier: list[str]) -> list[Lint]:
    found: list[Lint] = []
    if origin.name and origin.name in earlier:
        message = f"the stage name {origin.name!r} is given twice; the later stage hides the first"
        found.append(Lint("duplicate-stage-name", message, origin.source))
    if origin.name in _RESERVED_STAGE_NAMES:
        message = f"the stage name {origin.name!r} is reserved"
        found.append(Lint("reserved-stage-name", message, origin.source))
    return found


def _lint_command(node: Node) -> list[Lint]:
    """A test of the shell has a blank after its bracket, and no comma after its first word."""
    command = node.child or node
    if command.json or command.name not in ("cmd", "entrypoint", "run", "healthcheck"):
        return []
    if not command.args or not _LIKE_JSON.match(command.args[-1]):
        return []
    message = "looks like a JSON array but is none; it runs in a shell"
    return [Lint("malformed-json", f"{command.name.upper()} {message}", node.source)]


def _need(node: Node, least: int, message: str) -> None:
    if len(node.args) < least:
        raise WrongArguments(f"{node.name.upper()} requires {message}")


def _only(node: Node) -> str:
    if len(node.args) != 1:
        raise WrongArguments(f"{node.name.upper()} requires exactly one argument")
    return node.args[0]


def _from(node: Node, flags: Flags, source: Source) -> ins.From:
    args = node.args
    name = ""
    if len(args) == 3 and args[1].lower() == "as":
        name = args[2].lower()
        if not _STAGE_NAME.match(name):
            raise BadStageName(
                f"invalid name for build stage: {args[2]!r}",
                hint="start with a letter; go on with letters, digits, '-', '_' and '.'",
            )
    elif len(args) != 1:
        raise WrongArguments(
            "FROM requires either one or three arguments", hint="write FROM image AS name"
        )
    return ins.From(args[0], flags.text("platform"), name, source)


def _arg(node: Node, _flags: Flags, source: Source) -> ins.Arg:
    _need(node, 1, "at least one argument")
    pairs: list[tuple[str, str | None]] = []
    for word in node.args:
        name, equals, value = word.partition("=")
        if not name:
            raise WrongArguments("ARG names can not be blank")
        pairs.append((name, value if equals else None))
    return ins.Arg(tuple(pairs), source)


def _pairs(node: Node) -> tuple[tuple[str, str], ...]:
    _need(node, 1, "at least one argument")
    pairs = tuple(zip(node.args[::3], node.args[1::3], strict=True))
    if not all(name for name, _ in pairs):
        raise WrongArguments(f"{node.name.upper()} names can not be blank")
    return pairs


def _env(node: Node, _flags: Flags, source: Source) -> ins.Env:
    return ins.Env(_pairs(node), source)


def _label(node: Node, _flags: Flags, source: Source) -> ins.Label:
    return ins.Label(_pairs(node), source)


def _maintainer(node: Node, _flags: Flags, source: Source) -> ins.Maintainer:
    return ins.Maintainer(_only(node), source)


def _workdir(node: Node, _flags: Flags, source: Source) -> ins.Workdir:
    return ins.Workdir(_only(node), source)


def _user(node: Node, _flags: Flags, source: Source) -> ins.User:
    return ins.User(_only(node), source)


def _stopsignal(node: Node, _flags: Flags, source: Source) -> ins.Stopsignal:
    return ins.Stopsignal(_only(node), source)


def _expose(node: Node, _flags: Flags, source: Source) -> ins.Expose:
    _need(node, 1, "at least one argument")
    return ins.Expose(node.args, source)


def _volume(node: Node, _flags: Flags, source: Source) -> ins.Volume:
    _need(node, 1, "at least one argument")
    paths = tuple(path.strip(SPACE) for path in node.args)
    if not all(paths):
        raise WrongArguments("VOLUME specified can not be an empty string")
    return ins.Volume(paths, source)


def _command(node: Node) -> ins.Command:
    if node.json:
        return ins.ExecForm(node.args)
    return ins.ShellForm(node.args[0] if node.args else "")


def _cmd(node: Node, _flags: Flags, source: Source) -> ins.Cmd:
    return ins.Cmd(_command(node), source)


def _entrypoint(node: Node, _flags: Flags, source: Source) -> ins.Entrypoint:
    return ins.Entrypoint(_command(node), source)


def _shell(node: Node, _flags: Flags, source: Source) -> ins.Shell:
    _need(node, 1, "at least one argument")
    if not node.json:
        raise WrongArguments(
            "SHELL requires the arguments to be in JSON form",
            hint='write SHELL ["/bin/sh", "-c"]',
        )
    return ins.Shell(node.args, source)


def _run(node: Node, flags: Flags, source: Source) -> ins.Run:
    _need(node, 1, "at least one argument")
    network = _one_of(flags, "network", ("default", "none", "host"))
    security = _one_of(flags, "security", ("sandbox", "insecure"))
    return ins.Run(
        command=_command(node),
        heredocs=node.heredocs,
        mounts=tuple(parse_mount(value) for value in flags.texts("mount")),
        network=network,
        security=security,
        devices=flags.texts("device"),
        source=source,
    )


def _one_of(flags: Flags, name: str, known: tuple[str, ...]) -> str:
    value = flags.text(name)
    if flags.texts(name) and value not in known:
        raise BadFlag(f"--{name}={value} is not supported", hint="known are " + ", ".join(known))
    return value


def _copied(node: Node) -> tuple[tuple[str, ...], str, tuple[Heredoc, ...]]:
    """Source paths, destination, and the here-documents among the sources."""
    instruction = node.name.upper()
    if len(node.args) < 2:
        raise WrongArguments(
            f"{instruction} requires at least two arguments",
            hint="name the destination after the sources",
        )
    *words, destination = node.args
    if node.json:
        return tuple(words), destination, ()
    if parse_heredoc(destination) is not None:
        raise BadHeredoc(f"{instruction} can't have a here-document as its destination")
    by_name = {heredoc.name: heredoc for heredoc in node.heredocs}
    sources: list[str] = []
    heredocs: list[Heredoc] = []
    for word in words:
        start = parse_heredoc(word)
        if start is None:
            sources.append(word)
        elif start.name in by_name:
            heredocs.append(by_name[start.name])
    if len(heredocs) != len(node.heredocs):
        raise BadHeredoc(
            f"{instruction} takes a here-document only as one word",
            hint="write <<NAME without blanks",
        )
    return tuple(sources), destination, tuple(heredocs)


def _copy(node: Node, flags: Flags, source: Source) -> ins.Copy:
    sources, destination, heredocs = _copied(node)
    return ins.Copy(
        sources=sources,
        destination=destination,
        heredocs=heredocs,
        from_=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=bool(flags.switch("link")),
        parents=bool(flags.switch("parents")),
        exclude=flags.texts("exclude"),
        source=source,
    )


def _add(node: Node, flags: Flags, source: Source) -> ins.Add:
    sources, destination, heredocs = _copied(node)
    return ins.Add(
        sources=sources,
        destination=destination,
        heredocs=heredocs,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=bool(flags.switch("link")),
        keep_git_dir=bool(flags.switch("keep-git-dir")),
        checksum=flags.text("checksum"),
        exclude=flags.texts("exclude"),
        unpack=flags.switch("unpack"),
        source=source,
    )


def _healthcheck(node: Node, flags: Flags, source: Source) -> ins.Healthcheck:
    _need(node, 1, "at least one argument")
    kind, *command = node.args
    match kind.upper():
        case "NONE" if command:
            raise WrongArguments("HEALTHCHECK NONE takes no arguments")
        case "NONE":
            test: tuple[str, ...] = ("NONE",)
        case "CMD" if not command:
            raise WrongArguments("missing command after HEALTHCHECK CMD")
        case "CMD":
            test = ("CMD" if node.json else "CMD-SHELL", *command)
        case _:
            raise WrongArguments(f"unknown type {kind!r} in HEALTHCHECK", hint="write CMD or NONE")
    return ins.Healthcheck(
        test=test,
        interval=_interval(flags, "interval"),
        timeout=_interval(flags, "timeout"),
        start_period=_interval(flags, "start-period"),
        start_interval=_interval(flags, "start-interval"),
        retries=_retries(flags.text("retries")),
        source=source,
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    try:
        nanoseconds = parse_duration(text)
    except ValueError:
        raise BadFlag(f"--{name}={text} is no duration", hint="write 30s or 1m30s") from None
    if nanoseconds and nanoseconds < _SHORTEST_INTERVAL:
        raise BadFlag(f"--{name}={text} cannot be less than 1ms")
    return nanoseconds


def _retries(text: str) -> int:
    if not re.fullmatch(r"([+-]?[0-9]{1,10})?", text) or not -1 < int(text or "0") < 1 << 31:
        raise BadFlag(f"--retries={text} is no count", hint="write a number, 0 for the default")
    return int(text or "0")


def _onbuild(node: Node, _flags: Flags, source: Source) -> ins.Onbuild:
    if node.child is None:
        raise WrongArguments("ONBUILD requires at least one argument")
    child = node.child
    # Triggers are kept as text, so here-documents are put back below their line.
    text = _ONBUILD.sub("", node.line, count=1).rstrip(SPACE)
    text += "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    whole = Node(
        name=child.name,
        keyword=child.keyword,
        flags=child.flags,
        args=child.args,
        json=child.json,
        heredocs=node.heredocs,
        child=child.child,
        line=child.line,
        source=source,
    )
    return ins.Onbuild(text, _trigger(whole, source), source)


def _trigger(node: Node, source: Source) -> ins.Instruction:
    if node.name in ("onbuild", "from", "maintainer"):
        raise BadTrigger(f"{node.name.upper()} isn't allowed as an ONBUILD trigger")
    instruction = _instruction(node, source)
    assert not isinstance(instruction, ins.From)
    return instruction


_BUILDERS: Mapping[str, Callable[[Node, Flags, Source], ins.From | ins.Instruction]] = {
    "from": _from,
    "run": _run,
    "copy": _copy,
    "add": _add,
    "env": _env,
    "arg": _arg,
    "workdir": _workdir,
    "user": _user,
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "label": _label,
    "expose": _expose,
    "volume": _volume,
    "shell": _shell,
    "healthcheck": _healthcheck,
    "stopsignal": _stopsignal,
    "onbuild": _onbuild,
    "maintainer": _maintainer,
}
