"""What programs have to be told where every file belongs to one ordinary user: for a RUN only."""

from __future__ import annotations

from pathlib import Path

Pairs = tuple[tuple[str, str], ...]


def with_settings(env: Pairs, folder: Path) -> Pairs:
    """The environment, with git told to trust folders whatever their owner, and apt not to become
    another user, by a file in `folder`. What the image or the Dockerfile says of both stays right.
    """
    known = dict(env)
    settings = folder / "apt.conf"
    text = 'APT::Sandbox::User "root";\n'
    if known.get("APT_CONFIG"):
        text = f'#include "{known["APT_CONFIG"]}";\n{text}'  # apt.conf(5)
    settings.write_text(text)
    known["APT_CONFIG"] = str(settings)
    count = known.get("GIT_CONFIG_COUNT", "") or "0"
    if count.isascii() and count.isdigit():  # else git refuses it anyway: git(1)
        known[f"GIT_CONFIG_KEY_{int(count)}"] = "safe.directory"
        known[f"GIT_CONFIG_VALUE_{int(count)}"] = "*"
        known["GIT_CONFIG_COUNT"] = str(int(count) + 1)
    return tuple(known.items())
