"""`pybuild idle`: what a Pod's container runs while commands are executed in it."""

from __future__ import annotations

import os
import signal

from pybuild.cli.account import name_this_user


def idle() -> int:
    """Waits for TERM or INT and ends at once, which ends a container whose main process this is.
    Meanwhile it takes note of children that ended: orphans come to a container's first process."""
    if os.getpid() == 1:
        name_this_user(os.environ)
    awaited = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    # Blocked, not handled: the first process of a container has no default actions, and a signal
    # that comes before sigwait must not be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while True:
        _reap()
        if signal.sigwait(awaited) != signal.SIGCHLD:
            return 0


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return  # none is left
