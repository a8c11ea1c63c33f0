"""From a stage's layers to an image: config with history, manifest, or one layer out of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pybuild.executor.stack import LayerOrigin, Stack, StackLayer, chain_of
from pybuild.executor.state import StageState
from pybuild.image.config import History, ImageConfig
from pybuild.image.descriptor import Annotations, Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.image import Image
from pybuild.image.layer import Layer, chain_id
from pybuild.image.manifest import make_manifest
from pybuild.image.media_type import DOCKER_CONFIG, OCI_CONFIG, Family, in_family
from pybuild.layer.changes import Change
from pybuild.plan.steps import Step
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import Tree

if TYPE_CHECKING:
    from pybuild.executor.ignored import IgnoredPaths
    from pybuild.executor.workspace import Workspace
    from pybuild.layer.pack import PackOptions

_COMMENT = "pybuild"
_MOST_LAYERS = 127  # Docker's: as many as its overlay2 driver can stack


def assemble(
    config: ImageConfig,
    stack: Stack,
    steps: Iterable[tuple[Step, StackLayer | None]],
    *,
    family: Family,
    squash: bool,
    annotations: Annotations = (),
    finish_config: Callable[[bytes], bytes] = bytes,
) -> Image:
    """`config` has the base's history and diff IDs; `steps` are all that came on top, in order,
    each with the layer it gave. Layers of another family keep their bytes and change their media
    type. `finish_config` may add to the config as JSON."""
    for step, layer in steps:
        line = History(
            config.created, step.created_by, _COMMENT, empty_layer=layer is None or squash
        )
        if layer is None or squash:
            config = config.with_history(line)
        else:
            config = config.with_layer(layer.layer.diff_id, line)
    if squash and len(stack) > len(config.diff_ids):
        config = config.with_layer(
            stack[-1].layer.diff_id, History(config.created, stack[-1].created_by, _COMMENT)
        )
    raw = finish_config(config.to_json())
    media_type = OCI_CONFIG if family is Family.OCI else DOCKER_CONFIG
    descriptor = Descriptor(media_type, digest_of(raw), len(raw))
    layers = tuple(_in_family(layer.layer, family) for layer in stack)
    blobs = (layer.descriptor for layer in layers)
    manifest = make_manifest(descriptor, blobs, family, annotations=annotations)
    return Image(config, raw, manifest, layers)


def _in_family(layer: Layer, family: Family) -> Layer:
    media_type = in_family(layer.descriptor.media_type, family)
    return replace(layer, descriptor=replace(layer.descriptor, media_type=media_type))


def too_many_layers(image: Image, own: int) -> str:
    """A warning about an image that engines don't take, or ""; `own` of its layers are not of the
    base."""
    count = len(image.layers)
    if count <= _MOST_LAYERS:
        return ""
    cure = "; --single-snapshot makes one of those of this build" if own > 1 else ""
    return (
        f"the image has {count} layers, {own} of them not of its base: "
        f"engines such as Docker refuse more than {_MOST_LAYERS}{cure}"
    )


def squashed(
    state: StageState,
    base: Stack,
    workspace: Workspace,
    options: PackOptions,
    ignored: IgnoredPaths,
) -> Stack:
    """The base and one layer with all that the stage changed but what is ignored; the base alone if
    nothing did."""
    from pybuild.executor.stage import read_file
    from pybuild.layer.pack import pack_layer

    below, tree = _tree(state, base), state.tree()
    changes = _difference(state, below, tree, ignored)
    packed = pack_layer(changes, workspace.new_blob(), options)
    if packed.empty:
        return base
    layer = Layer(packed.descriptor, packed.diff_id, lambda: read_file(packed.path))
    chain = chain_id(chain_of(base), packed.diff_id)
    text = "all steps in one layer"
    return (*base, StackLayer(layer, chain, LayerOrigin.NEW, text, lambda: None))


def _tree(state: StageState, base: Stack) -> Tree:
    return Tree(state.tree().layers[: len(base)])


def _difference(
    state: StageState, below: Tree, tree: Tree, ignored: IgnoredPaths
) -> Iterator[Change]:
    """What has to be said on top of `below` to get `tree`."""
    touched = {
        entry.path
        for index in tree.layers[len(below.layers) :]
        for entry in index.entries()
        if entry.path and not ignored.covers(entry.path)
    }
    for path in list(touched):
        while (path := path.rpartition("/")[0]) and path not in touched:
            touched.add(path)
    hidden = {
        entry.path
        for index in tree.layers[len(below.layers) :]
        for entry in index.entries()
        if entry.opaque
    }
    for path in hidden:
        touched.update(gone for gone in _gone(path, below, tree) if not ignored.covers(gone))
    entries: list[tuple[str, Entry | None]] = [
        (path, tree.lookup(path)) for path in sorted(touched)
    ]
    contents = state.files(
        path
        for path, entry in entries
        if entry is not None and entry.kind is Kind.FILE and entry.size
    )
    removed = ""
    for path, entry in entries:
        if entry is not None:
            place = contents.get(path)
            yield Change(entry, str(place) if place else None)
        elif below.lookup(path) is not None and not (removed and path.startswith(removed)):
            removed = path + "/"
            yield Change(Entry(path, Kind.WHITEOUT))


def _gone(path: str, below: Tree, tree: Tree) -> Iterator[str]:
    """What `below` has in a folder that was replaced, and `tree` has no more."""
    for child in below.children(path):
        if tree.lookup(child.path) is None:
            yield child.path
