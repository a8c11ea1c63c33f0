"""A RUN's command: who runs it, in which environment, with which files of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.isolation.command import Network, RunCommand, RunMount
from pybuild.rootfs.ids import lookup_user

if TYPE_CHECKING:
    from pybuild.executor.mounts import RunFiles
    from pybuild.executor.state import StageState
    from pybuild.executor.workspace import Workspace
    from pybuild.plan.steps import RunAction


def make_command(
    action: RunAction, state: StageState, workspace: Workspace, files: RunFiles
) -> RunCommand:
    """Raises UnknownUser and UnknownGroup. HOME is the user's own unless ENV or ARG sets it."""
    passwd, group = state.read_file("etc/passwd"), state.read_file("etc/group")
    ids = lookup_user(action.user, passwd, group)
    # Container runtimes name a process's own group among its supplementary ones.
    ids = replace(ids, groups=tuple(sorted({ids.gid, *ids.groups})))
    env = dict(action.proxies) | dict(action.env) | dict(files.env)
    env.setdefault("HOME", ids.home or "/")
    mounts = files.mounts
    if action.script is not None:
        script = workspace.new_spool() / "script"
        script.write_bytes(action.script.content.encode("utf-8", "surrogateescape"))
        script.chmod(0o755)
        mounts = (
            *mounts,
            RunMount("file", action.script.name, script, read_only=True, private=True),
        )
    network = Network.NONE if action.network == "none" else Network.HOST
    return RunCommand(action.argv, tuple(env.items()), action.cwd, ids, mounts, network)
