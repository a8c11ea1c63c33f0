"""Platforms: what an image runs on (OCI image-spec, image-index.md, "platform")."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pybuild.errors import InputError

# Go's names for what uname and users call it.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
    "i686": "386",
    "powerpc64le": "ppc64le",
}
# What may stand alone, as in containerd: any other word is more likely a mistake than a machine.
_KNOWN = frozenset(("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64",
                    "s390x", *_ARCHITECTURES))  # fmt: skip


class BadPlatform(InputError):
    """A platform is not of the form os/architecture[/variant]."""

    code = "bad-platform"


class Platform(Struct, frozen=True):
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def normalized(platform: Platform) -> Platform:
    """One spelling for what is the same: x86_64 is amd64, arm64/v8 is arm64, arm is arm/v7."""
    architecture = _ARCHITECTURES.get(platform.architecture, platform.architecture)
    variant = platform.variant
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    if architecture == "arm":
        default = "v6" if platform.architecture == "armel" else "v7"
        variant = {"": default, "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    if architecture == "amd64" and variant == "v1":
        variant = ""
    return Platform(platform.os, architecture, variant, platform.os_version)


def parse_platform(text: str) -> Platform:
    """Reads `os/arch[/variant]`, or `arch` alone for Linux. Raises BadPlatform."""
    parts = text.strip().lower().split("/")
    lone = len(parts) == 1
    if len(parts) > 3 or not all(map(_is_word, parts)) or (lone and parts[0] not in _KNOWN):
        raise BadPlatform(
            f"{text!r} is no platform", hint="write it as os/architecture, such as linux/amd64"
        )
    if lone:
        parts = ["linux", *parts]
    return normalized(Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else ""))


def _is_word(text: str) -> bool:
    return text.replace("_", "").replace("-", "").replace(".", "").isalnum()


def platform_of_machine(machine: str) -> Platform:
    """The platform of a Linux kernel's `uname -m`."""
    variant = "v7" if machine.startswith("armv7") else "v6" if machine.startswith("armv6") else ""
    architecture = "arm" if variant else machine
    return normalized(Platform("linux", architecture, variant))


def choose(candidates: Iterable[Platform | None], wanted: Platform) -> int | None:
    """The position of the candidate that fits best: exact first, then the nearest older variant
    of the same architecture; None where nothing fits."""
    wanted = normalized(wanted)
    best: tuple[int, int] | None = None
    for position, candidate in enumerate(candidates):
        if candidate is None:
            continue
        rank = _rank(normalized(candidate), wanted)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, position)
    return None if best is None else best[1]


def _rank(candidate: Platform, wanted: Platform) -> int | None:
    if (candidate.os, candidate.architecture) != (wanted.os, wanted.architecture):
        return None
    if wanted.os_version and candidate.os_version != wanted.os_version:
        return None
    if candidate.variant == wanted.variant:
        return 0
    offered, needed = _variant_number(candidate.variant), _variant_number(wanted.variant)
    if candidate.architecture == "arm" and offered > needed:
        return None
    if candidate.architecture == "amd64" and offered > max(needed, 1):
        return None
    return 1 + abs(needed - offered)


def _variant_number(variant: str) -> int:
    digits = variant.lstrip("v").split(".")[0]
    return int(digits) if digits.isdigit() else 0
