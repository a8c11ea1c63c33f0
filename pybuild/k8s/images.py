"""A file of many images, and the order in which they can be built.

    defaults: {rung: restricted, cache: true}
    images:
      base:
        context: ./base
        tags: [registry.example.com/team/base:1]
      app:
        context: ./app
        tags: [registry.example.com/team/app:1]
        needs: [base]
        build-args: {BASE: "${base}"}

`${base}` is the reference, by digest, of what was built as `base`, and makes `app` need it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from pybuild.errors import PybuildError
from pybuild.k8s.document import YamlMissing
from pybuild.k8s.errors import BadImagesFile, ImageSkipped

FIELDS = ("context", "tags", "needs", "build-args", "dockerfile", "target", "platform", "flags")
_TEXTS, _LISTS = ("context", "dockerfile", "target"), ("tags", "needs", "platform", "flags")
_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
_LAST_WORDS_SECONDS = 0.3
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?").fullmatch


class Image(Struct, frozen=True):
    """One entry of the file. `needs` holds those that are named in values too."""

    name: str
    context: str
    tags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    build_args: tuple[tuple[str, str], ...] = ()
    dockerfile: str = ""
    target: str = ""
    platform: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def with_references(self, built: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The build arguments with `${name}` replaced by what was built."""
        return tuple(
            (key, _REFERENCE.sub(lambda found: built[found[1]], value))
            for key, value in self.build_args
        )


def read_images(text: str, file: str) -> tuple[Image, ...]:
    """The images, those that others need first. Raises BadImagesFile, YamlMissing."""
    try:
        import yaml
    except ImportError as error:
        raise YamlMissing("there is no PyYAML to read the file of images with") from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        shown = " ".join(str(error).split())
        raise BadImagesFile(f"{file} is no YAML: {shown}") from error
    whole = _mapping(value, file, ("defaults", "images"))
    defaults = _mapping(whole.get("defaults") or {}, f"{file}: defaults", FIELDS)
    entries = whole.get("images")
    if not isinstance(entries, dict) or not entries:
        raise BadImagesFile(f"{file} has no images", hint="images: {app: {context: ., tags: […]}}")
    images = [_image(str(name), entry, defaults, file) for name, entry in entries.items()]
    return in_order(images, file)


def _mapping(value: object, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadImagesFile(f"{where} is no mapping")
    for key in value:
        if key not in known:
            import difflib

            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            raise BadImagesFile(f"{where}: {key!r} is not known", hint=hint)
    return value


def _image(name: str, entry: object, defaults: Mapping[str, Any], file: str) -> Image:
    where = f"{file}: {name}"
    if not _NAME(name):
        raise BadImagesFile(f"{where} is no name", hint="lower case letters, digits and dashes")
    fields = {**defaults, **_mapping(entry, where, FIELDS)}
    texts = {key: _text(fields.get(key, ""), f"{where}: {key}") for key in _TEXTS}
    lists = {key: _texts(fields.get(key, ()), f"{where}: {key}") for key in _LISTS}
    arguments = fields.get("build-args") or {}
    if not isinstance(arguments, dict):
        raise BadImagesFile(f"{where}: build-args is no mapping")
    pairs = tuple((str(key), _text(value, f"{where}: {key}")) for key, value in arguments.items())
    if not lists["tags"]:
        raise BadImagesFile(f"{where} has no tags", hint="tags: [registry/repository:tag]")
    named = [found for _, value in pairs for found in _REFERENCE.findall(value)]
    return Image(
        name,
        texts["context"] or ".",
        lists["tags"],
        tuple(dict.fromkeys((*lists["needs"], *named))),
        pairs,
        texts["dockerfile"],
        texts["target"],
        lists["platform"],
        lists["flags"],
    )


def _text(value: object, where: str) -> str:
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        raise BadImagesFile(f"{where} is no text")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise BadImagesFile(f"{where} is no list")
    return tuple(_text(one, where) for one in value)


def in_order(images: list[Image], file: str) -> tuple[Image, ...]:
    """Each after all that it needs, else in the order of the file. Raises BadImagesFile."""
    by_name = {image.name: image for image in images}
    for image in images:
        for need in image.needs:
            if need not in by_name:
                raise BadImagesFile(f"{file}: {image.name} needs {need}, which is not there")
    done: dict[str, Image] = {}
    left = list(images)
    while left:
        ready = [image for image in left if all(need in done for need in image.needs)]
        if not ready:
            names = ", ".join(image.name for image in left)
            raise BadImagesFile(f"{file}: {names} need each other", hint="cut the circle")
        done |= {image.name: image for image in ready[:1]}
        left.remove(ready[0])
    return tuple(done.values())


class Built(Struct, frozen=True):
    """What became of an image: its reference by digest, or why there is none."""

    reference: str
    error: PybuildError | None = None


def build_all(
    images: tuple[Image, ...],
    build: Callable[[Image, Mapping[str, str]], str],
    *,
    limit: int,
    stopped: threading.Event,
) -> dict[str, Built]:
    """Builds all, at most `limit` at a time, each once what it needs is there.

    `build` gives the reference of an image, and is given those of what is built; its errors end
    what needs that image, and leave the others alone. After `stopped` nothing is started any more
    and nothing waited for.
    """
    results: dict[str, Built] = {}
    running: set[str] = set()
    threads: list[threading.Thread] = []
    mistakes: list[BaseException] = []
    changed = threading.Condition()

    def work(image: Image, known: Mapping[str, str]) -> None:
        try:
            result = Built(build(image, known))
        except PybuildError as error:
            result = Built("", error)
        except BaseException as error:  # a mistake of ours: raised where it is seen
            mistakes.append(error)
            raise
        with changed:
            results[image.name] = result
            running.discard(image.name)
            changed.notify()

    with changed:
        while len(results) < len(images) and not stopped.is_set():
            for image in images:
                if image.name in results or image.name in running:
                    continue
                lost = next((n for n in image.needs if n in results and results[n].error), "")
                if lost:
                    skipped = ImageSkipped(f"{image.name} was not built: it needs {lost}")
                    results[image.name] = Built("", skipped)
                elif len(running) < limit and all(need in results for need in image.needs):
                    running.add(image.name)
                    known = {name: one.reference for name, one in results.items()}
                    thread = threading.Thread(target=work, args=(image, known), daemon=True)
                    thread.start()
                    threads.append(thread)
            if len(results) < len(images):
                changed.wait(0.2)
            if mistakes:
                raise mistakes[0]
    if stopped.is_set():
        # Not for their ends: for a line that one may just be writing. The interpreter must not end
        # under a thread that holds a stream's lock.
        for thread in threads:
            thread.join(_LAST_WORDS_SECONDS)
    with changed:
        return dict(results)
