"""RUN --mount as planned: targets absolute, what is not said filled in.

The rules are BuildKit's: a target is relative to WORKDIR, a cache without an id is called what its
target is written as, and owner and mode of a cache count only where its first content is not named.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from pybuild.dockerfile.errors import BadMount
from pybuild.dockerfile.mounts import MountSpec
from pybuild.errors import NotCarriedOut
from pybuild.plan.steps import CopyOrigin, FromScratch, MountOrigin, PlannedMount

SECRETS = "/run/secrets"


def plan_mount(spec: MountSpec, cwd: str, origin_of: Callable[[str], CopyOrigin]) -> PlannedMount:
    """`spec` is expanded; `origin_of` says what a from= that is not "scratch" names, and gives the
    context for none. Raises BadMount, NotCarriedOut for a type that is not, and what `origin_of`
    raises."""
    match spec.type:
        case "bind":
            return _planned(spec, cwd, _origin(spec, origin_of))
        case "cache":
            return _plan_cache(spec, cwd, origin_of)
        case "tmpfs":
            return _planned(spec, cwd, None)
        case "secret":
            return _plan_secret(spec, cwd)
        case _:
            raise NotCarriedOut(
                f"RUN --mount=type={spec.type} is not carried out",
                hint="hand a key in as a secret: --mount=type=secret, and --secret id=…,src=…",
            )


def _origin(spec: MountSpec, origin_of: Callable[[str], CopyOrigin]) -> MountOrigin:
    return FromScratch() if spec.from_.lower() == "scratch" else origin_of(spec.from_)


def _plan_cache(spec: MountSpec, cwd: str, origin_of: Callable[[str], CopyOrigin]) -> PlannedMount:
    origin = _origin(spec, origin_of) if spec.from_ else FromScratch()
    source = _inside(spec.source)
    owned = not source and (spec.uid, spec.gid, spec.mode) != (None, None, None)
    return _planned(
        spec,
        cwd,
        FromScratch() if owned else origin,
        id=spec.id or posixpath.normpath(spec.target or "."),
        sharing=spec.sharing,
        uid=(spec.uid or 0) if owned else 0,
        gid=(spec.gid or 0) if owned else 0,
        mode=0o755 if spec.mode is None or not owned else spec.mode,
    )


def _plan_secret(spec: MountSpec, cwd: str) -> PlannedMount:
    """In a variable, a file, or both: a file without a target lies below /run/secrets, unless the
    secret has a variable."""
    identity = spec.source or spec.id or posixpath.basename(spec.target)
    target = spec.target
    if not target and not spec.env:
        target = f"{SECRETS}/{posixpath.basename(identity)}"
    return PlannedMount(
        type="secret",
        target=_absolute(target, cwd) if target else "",
        origin=None,
        read_only=True,
        id=identity,
        required=spec.required,
        env=spec.env,
        uid=spec.uid or 0,
        gid=spec.gid or 0,
        mode=0o400 if spec.mode is None else spec.mode,
    )


def _planned(
    spec: MountSpec,
    cwd: str,
    origin: MountOrigin | None,
    *,
    id: str = "",
    sharing: str = "",
    uid: int = 0,
    gid: int = 0,
    mode: int = 0,
) -> PlannedMount:
    return PlannedMount(
        type=spec.type,
        target=_absolute(spec.target, cwd),
        origin=origin,
        source=_inside(spec.source) if origin is not None else "",
        read_only=spec.read_only,
        size=spec.size or 0,
        id=id,
        sharing=sharing,
        uid=uid,
        gid=gid,
        mode=mode,
    )


def _absolute(target: str, cwd: str) -> str:
    path = "/" + posixpath.normpath(posixpath.join("/", cwd, target)).lstrip("/")
    if path == "/":
        raise BadMount(
            "--mount can't take the place of the whole root", hint="name a target= below it"
        )
    return path


def _inside(source: str) -> str:
    """Relative to the root without slashes at its ends."""
    return posixpath.normpath("/" + source).lstrip("/")
