"""A piece of software that an image holds, and its package URL."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct


class Package(Struct, frozen=True, order=True):
    """`kind` is the type of a package URL ("deb", "apk", "rpm", "pypi", "npm", "maven", "golang");
    `licenses` are texts as the package states them; `place` is the file that tells of it, absolute
    in the image."""

    kind: str
    name: str
    version: str
    namespace: str = ""
    qualifiers: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()
    place: str = ""

    @property
    def url(self) -> str:
        """Its package URL (purl-spec, PURL-SPECIFICATION.rst): qualifiers sorted by key."""
        parts = [self.kind]
        if self.namespace:
            parts += (_quoted(part) for part in self.namespace.split("/") if part)
        text = "pkg:" + "/".join([*parts, _quoted(self.name)])
        if self.version:
            text += "@" + _quoted(self.version)
        shown = [f"{key}={_quoted(value)}" for key, value in sorted(self.qualifiers) if value]
        return text + ("?" + "&".join(shown) if shown else "")


class Distribution(Struct, frozen=True):
    """What os-release(5) says: `id` such as "debian", `version` such as "12"."""

    id: str = ""
    version: str = ""
    name: str = ""

    @property
    def qualifier(self) -> str:
        """For the `distro` of a package URL."""
        return f"{self.id}-{self.version}" if self.id and self.version else self.id


def _quoted(text: str) -> str:
    return quote(text, safe=".-_~:")
