"""An image as a whole."""

from __future__ import annotations

from msgspec import Struct

from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import Descriptor
from pybuild.image.layer import Layer
from pybuild.image.manifest import Manifest


class Image(Struct, frozen=True):
    """`raw_config` is what `manifest.config` names; `layers` are in the manifest's order."""

    config: ImageConfig
    raw_config: bytes
    manifest: Manifest
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of config and layers as stored."""
        return self.manifest.config.size + sum(layer.descriptor.size for layer in self.layers)

    @property
    def descriptor(self) -> Descriptor:
        return self.manifest.descriptor
