"""The plan as a value: stages in order, each with its steps, everything expanded."""

from __future__ import annotations

from msgspec import Struct

from pybuild.dockerfile.instructions import Instruction
from pybuild.errors import Source, without_passwords
from pybuild.image.config import ImageConfig
from pybuild.image.digest import Digest
from pybuild.image.platform import Platform


class ImageRequest(Struct, frozen=True):
    """An image that FROM, COPY --from or a mount names; the platform is the one wanted."""

    name: str
    platform: Platform


class BaseImage(Struct, frozen=True):
    """What the plan has to know of an image: nothing of its layers' content."""

    digest: Digest  # of its manifest
    config: ImageConfig


class FromContext(Struct, frozen=True):
    """COPY and ADD of paths of the build context."""


class FromStage(Struct, frozen=True):
    stage: int


class FromImage(Struct, frozen=True):
    request: ImageRequest


class FromScratch(Struct, frozen=True):
    """The empty base."""


Origin = FromStage | FromImage | FromScratch
CopyOrigin = FromContext | FromStage | FromImage
MountOrigin = CopyOrigin | FromScratch


class InlineFile(Struct, frozen=True):
    """A here-document that becomes a file; `name` is relative."""

    name: str
    content: str


class PlannedMount(Struct, frozen=True):
    """One RUN --mount. `target` is absolute, and empty only for a secret that is in a variable
    alone. `origin` and `source` (relative to its root) are what a bind shows and what a cache holds
    at first; `uid`, `gid` and `mode` those of a secret, or of a cache that is empty at first."""

    type: str  # "bind", "cache", "tmpfs" or "secret"
    target: str
    origin: MountOrigin | None
    source: str = ""
    read_only: bool = False
    id: str = ""  # of a cache or secret
    sharing: str = ""  # of a cache: "shared", "private" or "locked"
    required: bool = False
    env: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = 0
    size: int = 0  # of a tmpfs in bytes; 0: no limit


class RunAction(Struct, frozen=True):
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]  # all that the command sees, less HOME and proxies
    proxies: tuple[tuple[str, str], ...]  # given at build time; in no key and no history
    user: str
    cwd: str
    network: str  # "default", "none" or "host"
    mounts: tuple[PlannedMount, ...] = ()
    script: InlineFile | None = None  # a here-document with a #! line, mounted at its name


class CopyAction(Struct, frozen=True):
    """COPY and ADD. `destination` is absolute and keeps a slash at its end."""

    origin: CopyOrigin
    sources: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    destination: str
    chown: str
    chmod: str
    link: bool
    exclude: tuple[str, ...]
    parents: bool = False
    # ADD alone:
    urls: tuple[str, ...] = ()  # http(s) and git
    unpack: bool | None = False  # True: archives are unpacked, False: never; None: local ones only
    checksum: str = ""
    keep_git_dir: bool = False
    is_add: bool = False

    @property
    def stands_alone(self) -> bool:
        """Whether the layer is the same on any parent: --link, and no owner to look up in it."""
        parts = [part for part in self.chown.split(":") if part]
        return self.link and all(part.isascii() and part.isdigit() for part in parts)


class MakeDirectory(Struct, frozen=True):
    """WORKDIR: the folder exists afterwards; what had to be made belongs to `user`."""

    path: str
    user: str


Action = RunAction | CopyAction | MakeDirectory


class Step(Struct, frozen=True):
    """One instruction. `action` is None where only the config changes; `config` is the state
    after it, without this build's history and layers."""

    number: int
    instruction: Instruction
    action: Action | None
    config: ImageConfig
    created_by: str

    @property
    def source(self) -> Source:
        return self.instruction.source

    @property
    def text(self) -> str:
        """As it stands in the Dockerfile, on one line and without passwords."""
        return without_passwords(" ".join(self.source.text.split()))

    @property
    def stands_alone(self) -> bool:
        """Whether its layer is the same on any parent."""
        return isinstance(self.action, CopyAction) and self.action.stands_alone

    @property
    def origins(self) -> tuple[MountOrigin, ...]:
        """What COPY, or each mount that has files from somewhere, takes from; in order."""
        if isinstance(self.action, CopyAction):
            return (self.action.origin,)
        mounts = self.action.mounts if isinstance(self.action, RunAction) else ()
        return tuple(mount.origin for mount in mounts if mount.origin is not None)

    @property
    def takes(self) -> tuple[FromStage | FromImage, ...]:
        """The stages and images it takes files from, each once."""
        found = (one for one in self.origins if isinstance(one, FromStage | FromImage))
        return tuple(dict.fromkeys(found))


class StagePlan(Struct, frozen=True):
    """One stage; `number` is its place in the Dockerfile and its identity."""

    number: int
    name: str  # the name it was given, or its number
    origin: Origin
    base_config: ImageConfig
    platform: Platform
    steps: tuple[Step, ...]
    source: Source

    @property
    def config(self) -> ImageConfig:
        return self.steps[-1].config if self.steps else self.base_config

    @property
    def file_steps(self) -> tuple[Step, ...]:
        """The steps that may change files."""
        return tuple(step for step in self.steps if step.action is not None)

    @property
    def places(self) -> dict[int, int]:
        """What stands for each step in the log, by its number, counted as BuildKit does: FROM is
        the first where it names an image, and what changes only the config has none."""
        steps = enumerate(self.file_steps, self.first_place)
        return {step.number: place for place, step in steps}

    @property
    def first_place(self) -> int:
        return int(isinstance(self.origin, FromImage))

    @property
    def place_count(self) -> int:
        return self.first_place + len(self.file_steps)

    @property
    def takes(self) -> tuple[FromStage | FromImage, ...]:
        """The stages and images that its steps take files from."""
        return tuple(origin for step in self.steps for origin in step.takes)

    @property
    def needs(self) -> tuple[int, ...]:
        """The stages it starts from or takes files from."""
        found = [self.origin.stage] if isinstance(self.origin, FromStage) else []
        found += [origin.stage for origin in self.takes if isinstance(origin, FromStage)]
        return tuple(sorted(set(found)))


class Plan(Struct, frozen=True):
    """The needed stages in an order in which each comes after what it needs."""

    stages: tuple[StagePlan, ...]
    target: int
    platform: Platform
    images: tuple[tuple[ImageRequest, BaseImage], ...]
    warnings: tuple[str, ...] = ()
    also: tuple[int, ...] = ()  # further stages that were asked for

    def stage(self, number: int) -> StagePlan:
        return next(stage for stage in self.stages if stage.number == number)

    @property
    def target_stage(self) -> StagePlan:
        return self.stage(self.target)

    def image(self, request: ImageRequest) -> BaseImage:
        return next(image for wanted, image in self.images if wanted == request)
