"""The names at the top of a root in which none can be made or removed.

An ordinary user can't write to a container's `/`. An agent image that is made for it has *folders*
there that this user may fill, and *links* into the folder LINKS, where the user can make what an
image has under that name, be it a folder, a link or a file. Paths of the image are found on disk,
and the other way round, by their first name alone.
"""

from __future__ import annotations

from msgspec import Struct

LINKS = ".root"


class Tops(Struct, frozen=True):
    folders: frozenset[str]
    links: frozenset[str]

    def has(self, path: str) -> bool:
        """Whether a path of an image can be on disk, as far as its first name goes."""
        top = path.partition("/")[0]
        return top in self.folders or top in self.links

    def on_disk(self, path: str) -> str:
        """Where a path of the image (relative, no slash in front) lies below the root; "" is the
        root itself."""
        return f"{LINKS}/{path}" if path.partition("/")[0] in self.links else path

    def in_image(self, path: str) -> str:
        """The opposite: what a path on disk is called in the image."""
        return path.removeprefix(f"{LINKS}/")
