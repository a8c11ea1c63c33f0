"""From a stage's layers to an image."""

from __future__ import annotations

import pytest

from pybuild.executor.assemble import assemble, too_many_layers
from pybuild.executor.stack import LayerOrigin, StackLayer
from pybuild.image.config import ImageConfig
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.image import Image
from pybuild.image.layer import Layer
from pybuild.image.media_type import OCI_LAYER, Family
from tests.support.plans import AMD64


def image_of(count: int) -> Image:
    digests = [digest_of(b"%d" % number) for number in range(count)]
    stack = tuple(
        StackLayer(
            Layer(Descriptor(OCI_LAYER, digest, 1), digest, lambda: iter(())),
            digest,
            LayerOrigin.NEW,
            "",
            lambda: None,
        )
        for digest in digests
    )
    config = ImageConfig(AMD64, diff_ids=tuple(digests))
    return assemble(config, stack, [], family=Family.OCI, squash=False)


@pytest.mark.parametrize(
    ("count", "own", "warning"),
    [
        pytest.param(127, 127, "", id="as many as engines take"),
        pytest.param(
            128,
            100,
            "the image has 128 layers, 100 of them not of its base: engines such as Docker refuse "
            "more than 127; --single-snapshot makes one of those of this build",
            id="one more",
        ),
        pytest.param(
            129,
            1,
            "the image has 129 layers, 1 of them not of its base: engines such as Docker refuse "
            "more than 127",
            id="nothing to gather",
        ),
    ],
)
def test_an_image_that_engines_refuse_is_told_of(count: int, own: int, warning: str) -> None:
    assert too_many_layers(image_of(count), own) == warning
