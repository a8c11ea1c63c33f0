"""Typed instructions. Texts are as written: variables are replaced when the build is planned."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from pybuild.dockerfile.heredoc import Heredoc, parse_heredoc
from pybuild.dockerfile.mounts import MountSpec
from pybuild.dockerfile.nodes import Lint
from pybuild.errors import Source


class ShellForm(Struct, frozen=True):
    """A command for the shell of the stage."""

    text: str


class ExecForm(Struct, frozen=True):
    """A command and its arguments, run without a shell (JSON array)."""

    args: tuple[str, ...]


Command = ShellForm | ExecForm


class From(Struct, frozen=True):
    """`image` may be another stage's name; `name` is lower case, "" if none."""

    image: str
    platform: str
    name: str
    source: Source


class Arg(Struct, frozen=True):
    """Name and default, None where no default is given."""

    pairs: tuple[tuple[str, str | None], ...]
    source: Source


class Env(Struct, frozen=True):
    """Variables for the later instructions and the image; values may be quoted."""

    pairs: tuple[tuple[str, str], ...]
    source: Source


class Label(Struct, frozen=True):
    """Pairs for the image config; values may be quoted."""

    pairs: tuple[tuple[str, str], ...]
    source: Source


class Maintainer(Struct, frozen=True):
    """The old way to name an author."""

    name: str
    source: Source


class Run(Struct, frozen=True):
    """`network` is default, none or host; `security` sandbox or insecure ("" if not given)."""

    command: Command
    heredocs: tuple[Heredoc, ...]
    mounts: tuple[MountSpec, ...]
    network: str
    security: str
    devices: tuple[str, ...]
    source: Source

    @property
    def script(self) -> str:
        """What the shell gets to run; "" for the exec form.

        `RUN <<EOF` runs the here-document itself; of any other line the shell reads the line with
        its here-documents below it.
        """
        if isinstance(self.command, ExecForm):
            return ""
        text = self.command.text
        if not self.heredocs:
            return text
        if self._is_one_heredoc():
            return self.heredocs[0].data
        return text + "".join(f"\n{doc.content}{doc.name}" for doc in self.heredocs)

    @property
    def program(self) -> Heredoc | None:
        """The here-document to put into a file and to execute, as it starts with `#!`."""
        if self._is_one_heredoc() and self.heredocs[0].data.startswith("#!"):
            return self.heredocs[0]
        return None

    def _is_one_heredoc(self) -> bool:
        return (
            isinstance(self.command, ShellForm)
            and bool(self.heredocs)
            and parse_heredoc(self.command.text) is not None
        )


class Copy(Struct, frozen=True):
    """`heredocs` are sources too; `from_` is a stage's name or number, or an image, or ""."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...]
    from_: str
    chown: str
    chmod: str
    link: bool
    parents: bool
    exclude: tuple[str, ...]
    source: Source


class Add(Struct, frozen=True):
    """`unpack` is None where it was not given: local archives are unpacked, fetched ones not."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...]
    chown: str
    chmod: str
    link: bool
    keep_git_dir: bool
    checksum: str
    exclude: tuple[str, ...]
    unpack: bool | None
    source: Source


class Workdir(Struct, frozen=True):
    """Relative to the working directory so far."""

    path: str
    source: Source


class User(Struct, frozen=True):
    """`user`, `user:group`, names or numbers."""

    user: str
    source: Source


class Expose(Struct, frozen=True):
    """`port`, `port/protocol` or `low-high/protocol`, not checked here."""

    ports: tuple[str, ...]
    source: Source


class Volume(Struct, frozen=True):
    """Paths that the runtime keeps outside the container."""

    paths: tuple[str, ...]
    source: Source


class Cmd(Struct, frozen=True):
    """The default arguments, or the default command."""

    command: Command
    source: Source


class Entrypoint(Struct, frozen=True):
    """The command that CMD's words are arguments of."""

    command: Command
    source: Source


class Shell(Struct, frozen=True):
    """What runs the shell form from here on."""

    args: tuple[str, ...]
    source: Source


class Healthcheck(Struct, frozen=True):
    """`test` as in an image config: ("NONE",), ("CMD", …) or ("CMD-SHELL", text).

    Times are nanoseconds; 0 stands for the runtime's default.
    """

    test: tuple[str, ...]
    interval: int
    timeout: int
    start_period: int
    start_interval: int
    retries: int
    source: Source


class Stopsignal(Struct, frozen=True):
    """A signal's name or number, not checked here."""

    signal: str
    source: Source


class Onbuild(Struct, frozen=True):
    """`text` is what the image config keeps; `instruction` the same, read."""

    text: str
    instruction: Instruction
    source: Source


Instruction = (
    Arg
    | Env
    | Label
    | Maintainer
    | Run
    | Copy
    | Add
    | Workdir
    | User
    | Expose
    | Volume
    | Cmd
    | Entrypoint
    | Shell
    | Healthcheck
    | Stopsignal
    | Onbuild
)


class Stage(Struct, frozen=True):
    """From one FROM to the next; `name` is lower case, "" if none."""

    index: int
    name: str
    origin: From
    instructions: tuple[Instruction, ...]


class Dockerfile(Struct, frozen=True):
    """A whole file; `meta_args` are the ARGs before the first FROM."""

    file: str
    escape: str
    directives: Mapping[str, str]
    meta_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[Lint, ...]
