"""From the Dockerfile to the plan: target, needed stages, expanded steps."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from pybuild.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Instruction,
    Label,
    Onbuild,
    Run,
    ShellForm,
    Stage,
    Workdir,
)
from pybuild.dockerfile.parser import parse_trigger
from pybuild.dockerfile.words import expand
from pybuild.errors import InputError, NotCarriedOut, PybuildError, Source, without_passwords
from pybuild.image.config import DEFAULT_PATH, ImageConfig
from pybuild.image.platform import Platform, parse_platform
from pybuild.image.reference import BadReference, parse_reference
from pybuild.plan.expansion import PROXIES, Scope, expanded, platform_args
from pybuild.plan.metadata import apply_metadata, argv_of, shown
from pybuild.plan.mounts import plan_mount
from pybuild.plan.steps import (
    Action,
    BaseImage,
    CopyAction,
    CopyOrigin,
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    ImageRequest,
    InlineFile,
    MakeDirectory,
    Origin,
    Plan,
    RunAction,
    StagePlan,
    Step,
)


class UnknownTarget(InputError):
    """The target names no stage of the Dockerfile."""

    code = "unknown-target"


class BadStageReference(InputError):
    """FROM or --from names a stage that can't be used there: itself, a circle, or no stage."""

    code = "bad-stage-reference"


class BadDestination(InputError):
    """A file can't be put where COPY, ADD or WORKDIR wants it."""

    code = "bad-destination"
    advice = "name another destination, or remove what is there in a RUN before"


class PlanRequest(Struct, frozen=True):
    """What the plan depends on besides the Dockerfile and the base images."""

    build_args: Mapping[str, str]
    target: str
    platform: Platform
    build_platform: Platform
    labels: tuple[tuple[str, str], ...] = ()
    also: tuple[str, ...] = ()  # further stages to build; the image is that of `target`


def images_needed(
    dockerfile: Dockerfile, request: PlanRequest, known: Mapping[ImageRequest, BaseImage]
) -> tuple[ImageRequest, ...]:
    """The images that have to be looked up before the plan can be made, as far as can be told.

    Call it again with more known images until nothing is missing: a base's ONBUILD triggers may
    name further ones.
    """
    planner = _Planner(dockerfile, request, known)
    planner.reach()
    return tuple(planner.missing)


def make_plan(
    dockerfile: Dockerfile, request: PlanRequest, images: Mapping[ImageRequest, BaseImage]
) -> Plan:
    """Raises InputError (with the place) for what can't be carried out."""
    planner = _Planner(dockerfile, request, images)
    stages = planner.reach()
    if planner.missing:
        raise ValueError(f"images not looked up: {planner.missing}")
    used = [
        origin.request
        for stage in stages
        for origin in (stage.origin, *stage.takes)
        if isinstance(origin, FromImage)
    ]
    return Plan(
        stages,
        planner.target,
        request.platform,
        tuple((wanted, images[wanted]) for wanted in dict.fromkeys(used)),
        planner.warnings(),
        planner.also,
    )


def _find_target(dockerfile: Dockerfile, target: str) -> int:
    if not target:
        return len(dockerfile.stages) - 1
    for stage in reversed(dockerfile.stages):
        if stage.name and stage.name == target.lower():
            return stage.index
    names = [stage.name for stage in dockerfile.stages if stage.name]
    near = difflib.get_close_matches(target.lower(), names, 1)
    hint = (
        f"did you mean {near[0]}?" if near else f"stages with a name: {', '.join(names) or 'none'}"
    )
    raise UnknownTarget(f"the Dockerfile has no stage {target!r}", hint=hint)


class _Planner:
    """Plans stages on demand, starting from the target."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        request: PlanRequest,
        images: Mapping[ImageRequest, BaseImage],
    ) -> None:
        self.dockerfile = dockerfile
        self.request = request
        self.images = images
        self.target = _find_target(dockerfile, request.target)
        self.also = tuple(_find_target(dockerfile, name) for name in request.also)
        self.missing: dict[ImageRequest, None] = {}
        self.declared: set[str] = set()
        self.notes: list[str] = []
        self.scopes: dict[int, Scope] = {}
        self.plans: dict[int, StagePlan] = {}
        self.automatic = platform_args(
            request.build_platform, request.platform, request.target.lower()
        )
        self.globals = self._global_args()

    def _global_args(self) -> dict[str, str]:
        values = {
            name: self.request.build_args.get(name, text) for name, text in self.automatic.items()
        }
        for arg in self.dockerfile.meta_args:
            for name, default in arg.pairs:
                self.declared.add(name)
                given = self.request.build_args.get(name)
                if given is not None:
                    values[name] = given
                elif default is not None:
                    values[name] = self._expand(default, values, arg.source)
        return values

    def _expand(self, text: str, variables: Mapping[str, str], source: Source) -> str:
        try:
            return expand(text, variables, self.dockerfile.escape)
        except PybuildError as error:
            raise error.at(source) from error.__cause__

    def reach(self) -> tuple[StagePlan, ...]:
        """The needed stages in order; what is missing of images is in `missing` then."""
        order: list[StagePlan] = []
        for number in (self.target, *self.also):
            self._visit(number, (), order)
        return tuple(order)

    def _visit(self, number: int, path: tuple[int, ...], order: list[StagePlan]) -> None:
        if number in path:
            circle = " → ".join(self._name(at) for at in (*path[path.index(number) :], number))
            raise BadStageReference(
                f"these stages need each other: {circle}",
                source=self.dockerfile.stages[number].origin.source,
            )
        if any(stage.number == number for stage in order):
            return
        origin = self._stage_origin(self.dockerfile.stages[number])
        if isinstance(origin, FromStage):
            self._visit(origin.stage, (*path, number), order)
        stage = self._plan_stage(number, origin)
        if stage is None:
            return
        for needed in stage.needs:
            self._visit(needed, (*path, number), order)
        order.append(stage)

    def _name(self, number: int) -> str:
        return self.dockerfile.stages[number].name or str(number)

    # A stage's base

    def _stage_origin(self, stage: Stage) -> Origin:
        source = stage.origin.source
        name = self._expand(stage.origin.image, self.globals, source)
        if not name:
            raise BadReference(
                f"FROM {stage.origin.image}: the base's name is empty",
                hint="give the ARG a default above the first FROM, or a --build-arg",
                source=source,
            )
        if name == "scratch":
            return FromScratch()
        for earlier in reversed(self.dockerfile.stages[: stage.index]):
            if earlier.name and earlier.name == name.lower():
                return FromStage(earlier.index)
        if "$" in stage.origin.image:
            self._check_filled_in(name, stage)
        return FromImage(ImageRequest(name, self._platform(stage)))

    def _check_filled_in(self, name: str, stage: Stage) -> None:
        try:
            parse_reference(name)
        except BadReference as error:
            raise BadReference(
                error.message,
                hint=f"FROM {stage.origin.image} reads so once its variables are filled in; one "
                "without a value needs a default above the first FROM, or a --build-arg",
                source=stage.origin.source,
            ) from None

    def _platform(self, stage: Stage) -> Platform:
        if not stage.origin.platform:
            return self.request.platform
        text = self._expand(stage.origin.platform, self.globals, stage.origin.source)
        try:
            return parse_platform(text)
        except PybuildError as error:
            raise error.at(stage.origin.source) from None

    def _base(self, number: int, origin: Origin) -> tuple[ImageConfig, Scope] | None:
        """The config and variables a stage starts with; None while they are not known."""
        if isinstance(origin, FromStage):
            if origin.stage not in self.plans:
                return None
            scope = self.scopes[origin.stage]
            return self.plans[origin.stage].config, scope
        if isinstance(origin, FromScratch):
            platform = self._platform(self.dockerfile.stages[number])
            config = ImageConfig(platform, env=(("PATH", DEFAULT_PATH),), working_dir="/")
        else:
            image = self.images.get(origin.request)
            if image is None:
                self.missing[origin.request] = None
                return None
            config = image.config
            if "PATH" not in dict(config.env):
                config = config.with_env([("PATH", DEFAULT_PATH)])
        return config, Scope(dict(config.env), {})

    # A stage's steps

    def _plan_stage(self, number: int, origin: Origin) -> StagePlan | None:
        if number in self.plans:
            return self.plans[number]
        stage = self.dockerfile.stages[number]
        base = self._base(number, origin)
        if base is None:
            return None
        config, scope = base
        triggers = tuple(parse_trigger(text, stage.origin.source) for text in config.on_build)
        maker = _StepMaker(self, number, replace(config, on_build=()), scope)
        for instruction in (*triggers, *stage.instructions):
            try:
                maker.add(instruction)
            except PybuildError as error:
                raise error.at(instruction.source) from error.__cause__
        if number == self.target and self.request.labels:
            maker.relabel(self.request.labels, stage.origin.source)
        plan = StagePlan(
            number,
            stage.name or str(number),
            origin,
            replace(config, on_build=()),
            config.platform,
            tuple(maker.steps),
            stage.origin.source,
        )
        self.plans[number], self.scopes[number] = plan, maker.scope
        return plan

    def copy_origin(self, name: str, number: int, platform: Platform) -> CopyOrigin:
        """What --from names: a stage by name or number, else an image."""
        if not name:
            return FromContext()
        for stage in reversed(self.dockerfile.stages):
            if stage.name and stage.name == name.lower():
                if stage.index == number:
                    raise BadStageReference(f"stage {name} can't take files from itself")
                return FromStage(stage.index)
        if name.isdecimal():
            if int(name) >= len(self.dockerfile.stages) or int(name) == number:
                raise BadStageReference(f"--from={name} is no other stage of this Dockerfile")
            return FromStage(int(name))
        if name == "scratch":
            raise BadStageReference("--from=scratch has nothing to copy")
        request = ImageRequest(name, platform)
        if request not in self.images:
            self.missing[request] = None
        return FromImage(request)

    def warnings(self) -> tuple[str, ...]:
        known = self.declared | set(self.automatic) | PROXIES | {"SOURCE_DATE_EPOCH"}
        names = [name for name in self.request.build_args if name not in known]
        unused = [f"build arg {name} is declared by no ARG that was reached" for name in names]
        return (*self.notes, *unused)


class _StepMaker:
    """Adds up one stage's config, variables and steps, instruction by instruction."""

    def __init__(self, planner: _Planner, number: int, config: ImageConfig, scope: Scope) -> None:
        self.planner = planner
        self.number = number
        self.config = config
        self.scope = scope
        self.steps: list[Step] = []
        self.cmd_is_set = False

    def add(self, instruction: Instruction) -> None:
        ready = expanded(instruction, self.scope, self.planner.dockerfile.escape)
        action: Action | None = None
        match ready:
            case Arg():
                text = self._arg(ready)
            case Run():
                action, text = self._run(ready)
            case Copy() | Add():
                action = self._copy(ready)
                text = _copy_text(ready)
            case Workdir():
                path = posixpath.normpath(posixpath.join("/", self.config.working_dir, ready.path))
                path = "/" + path.lstrip("/")
                self.config = replace(self.config, working_dir=path)
                action = MakeDirectory(path, self.config.user) if path != "/" else None
                text = f"WORKDIR {path}"
            case _:
                self.config = apply_metadata(self.config, ready)
                text = self._settle_metadata(ready)
        self.steps.append(Step(len(self.steps), instruction, action, self.config, text))

    def relabel(self, labels: tuple[tuple[str, str], ...], source: Source) -> None:
        """Labels from the command line come last, on the target only."""
        self.add(Label(labels, source=source))

    def _settle_metadata(self, ready: Instruction) -> str:
        match ready:
            case Env():
                self.scope = self.scope.with_env(ready.pairs)
                return "ENV " + _pairs_text(ready.pairs)
            case Label():
                return "LABEL " + _pairs_text(ready.pairs)
            case Cmd():
                self.cmd_is_set = True
                return "CMD " + shown(self.config.cmd or ())
            case Entrypoint():
                if not self.cmd_is_set:
                    self.config = replace(self.config, cmd=None)
                return "ENTRYPOINT " + shown(self.config.entrypoint or ())
            case Onbuild():
                return "ONBUILD " + ready.text
            case _:
                return " ".join(ready.source.text.split())

    def _arg(self, arg: Arg) -> str:
        words = []
        for name, default in arg.pairs:
            name = self.planner._expand(name, self.scope.variables, arg.source)
            self.planner.declared.add(name)
            value = self.planner.request.build_args.get(name)
            if value is None and default is not None:
                value = self.planner._expand(default, self.scope.variables, arg.source)
            if value is None:
                value = self.planner.globals.get(name)
            self.scope = self.scope.with_arg(name, value)
            words.append(name if value is None else f"{name}={value}")
        return "ARG " + " ".join(words)

    def _run(self, run: Run) -> tuple[RunAction, str]:
        if run.security not in ("", "sandbox"):
            raise NotCarriedOut(f"RUN --security={run.security} is not carried out")
        if run.devices:
            raise NotCarriedOut("RUN --device is not carried out yet")
        number, platform = self.number, self.config.platform

        def origin_of(name: str) -> CopyOrigin:
            return self.planner.copy_origin(name, number, platform)

        argv, inline = self._command(run)
        given = self.planner.request.build_args
        proxies = tuple((name, given[name]) for name in sorted(PROXIES) if name in given)
        visible = tuple((name, value) for name, value in self.scope.variables.items())
        action = RunAction(
            argv=argv,
            env=visible,
            proxies=tuple(pair for pair in proxies if pair[0] not in self.scope.variables),
            user=self.config.user,
            cwd=self.config.working_dir or "/",
            network=run.network or "default",
            mounts=tuple(
                plan_mount(mount, self.config.working_dir, origin_of) for mount in run.mounts
            ),
            script=inline,
        )
        args = [f"{name}={value}" for name, value in self.scope.args.items() if name not in PROXIES]
        prefix = f"|{len(args)} {' '.join(args)} " if args else ""
        return action, f"RUN {prefix}{' '.join(argv)} # pybuild"

    def _command(self, run: Run) -> tuple[tuple[str, ...], InlineFile | None]:
        """A here-document with a #! line is a file that is executed; else the shell runs it."""
        if not isinstance(run.command, ShellForm):
            return argv_of(run.command, self.config), None
        if run.program is None:
            return argv_of(ShellForm(run.script), self.config), None
        path = f"/dev/pipes/{run.program.name}"
        return argv_of(ShellForm(path), self.config), InlineFile(path, run.program.data)

    def _copy(self, copy: Copy | Add) -> CopyAction:
        cwd = self.config.working_dir or "/"
        destination = posixpath.normpath(posixpath.join("/", cwd, copy.destination))
        destination = "/" + destination.lstrip("/")
        as_folder = copy.destination.endswith(("/", "/.")) or copy.destination in (".", "..", "")
        if as_folder and destination != "/":
            destination += "/"
        if len(copy.sources) + len(copy.heredocs) > 1 and not destination.endswith("/"):
            raise BadDestination(
                "with several sources the destination has to be a folder",
                hint=f"write {copy.destination}/",
            )
        action = CopyAction(
            origin=FromContext(),
            sources=copy.sources,
            inline=tuple(InlineFile(file.name, file.data) for file in copy.heredocs),
            destination=destination,
            chown=copy.chown,
            chmod=copy.chmod,
            link=copy.link,
            exclude=copy.exclude,
        )
        if isinstance(copy, Copy):
            origin = self.planner.copy_origin(copy.from_, self.number, self.config.platform)
            return replace(action, origin=origin, parents=copy.parents)
        return replace(
            action,
            sources=tuple(source for source in copy.sources if not is_url(source)),
            urls=tuple(source for source in copy.sources if is_url(source)),
            unpack=copy.unpack,
            checksum=copy.checksum,
            keep_git_dir=copy.keep_git_dir,
            is_add=True,
        )


def is_url(source: str) -> bool:
    """What ADD downloads: http, https and git addresses."""
    lowered = source.lower()
    return lowered.startswith(("http://", "https://", "git://", "git@", "ssh://"))


def _pairs_text(pairs: tuple[tuple[str, str], ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs)


def _copy_text(copy: Copy | Add) -> str:
    name = "ADD" if isinstance(copy, Add) else "COPY"
    flags = [f"--from={copy.from_}"] if isinstance(copy, Copy) and copy.from_ else []
    flags += [f"--chown={copy.chown}"] if copy.chown else []
    flags += [f"--chmod={copy.chmod}"] if copy.chmod else []
    flags += ["--link"] if copy.link else []
    files = [f"<<{file.name}" for file in copy.heredocs]
    sources = (without_passwords(source) for source in copy.sources)
    return " ".join([name, *flags, *sources, *files, copy.destination]) + " # pybuild"
