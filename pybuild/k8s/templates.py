"""The manifests of pod-templates/ with one's values in place of what stands there.

The text is edited where a value stands, so that comments and layout stay. They are the only
description of a build's Pod that there is: `run` and `doctor` take theirs from here too.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

import pybuild
from pybuild.errors import InputError
from pybuild.k8s.document import YamlMissing
from pybuild.k8s.errors import TemplateUnknown

if TYPE_CHECKING:
    import yaml

IMAGE = "registry.example.com/pybuild/executor"
CONTEXT = "git://git.example.com/team/app.git#refs/heads/main"
DESTINATION = "registry.example.com/team/app:1.0"
CACHE_REPO = "registry.example.com/team/app/cache"
SECRET, GIT_SECRET, CLAIM = "dockercred", "gitcred", "pybuild-cache"
_HOST = "registry.example.com"
_PREFIX = "build-app-"
_DESTINATION_FLAG = "--destination="

Path_ = tuple[str | int, ...]


class Values(Struct, frozen=True):
    """What replaces the placeholders; "" leaves what stands there.

    `image` without a tag keeps the template's, which says what kind of builder it needs. `flags`
    are further arguments of the builder.
    """

    image: str = ""
    context: str = ""
    destinations: tuple[str, ...] = ()
    dockerfile: str = ""
    cache_repo: str = ""
    secret: str = ""
    git_secret: str = ""
    claim: str = ""
    memory: str = ""
    cpu: str = ""
    storage: str = ""
    name: str = ""
    flags: tuple[str, ...] = ()


def templates_folder() -> Path:
    """Beside the package in a checkout, below the installation's data elsewhere.

    Raises TemplateUnknown.
    """
    places = (
        Path(pybuild.__file__).parents[1] / "pod-templates",
        Path(sysconfig.get_path("data"), "share/pybuild/pod-templates"),
    )
    for place in places:
        if (place / "kubernetes").is_dir():
            return place
    raise TemplateUnknown(
        "the manifests are not installed beside this program",
        hint="name the folder pod-templates of a checkout with --templates",
    )


def template_names(folder: Path) -> tuple[str, ...]:
    """Every manifest, as `kubernetes/default-job`."""
    found = folder.glob("*/*.yaml")
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in found))


def template_text(folder: Path, name: str) -> str:
    """A manifest by its whole name, or without its folder where that is enough.

    Raises TemplateUnknown.
    """
    names = template_names(folder)
    short = name.removesuffix(".yaml")
    wanted = [one for one in names if short in (one, one.partition("/")[2])]
    if len(wanted) == 1:
        return (folder / f"{wanted[0]}.yaml").read_text()
    if wanted:
        raise TemplateUnknown(f"there are several called {name}", hint=", ".join(wanted))
    import difflib

    near = difflib.get_close_matches(short, [one.partition("/")[2] for one in names], 1)
    hint = f"did you mean {near[0]}?" if near else ", ".join(names)
    raise TemplateUnknown(f"there is no manifest called {name}", hint=hint)


def load(text: str) -> dict[str, Any]:
    """The one object of a manifest. Raises YamlMissing."""
    import yaml

    value: dict[str, Any] = yaml.safe_load(text)
    return value


def render(text: str, values: Values) -> str:
    """A manifest's text with the values in it. Raises YamlMissing, InputError."""
    try:
        import yaml
    except ImportError as error:
        raise YamlMissing("there is no PyYAML to read manifests with") from error
    edits: list[tuple[int, int, str]] = []
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        for path, node in _scalars(document, ()):
            new = _edited(path, node, values, text)
            if new is not None:
                edits.append((node.start_mark.index, node.end_mark.index, new))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _scalars(node: yaml.Node | None, path: Path_) -> Iterator[tuple[Path_, yaml.ScalarNode]]:
    import yaml

    if isinstance(node, yaml.ScalarNode):
        yield path, node
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _scalars(item, (*path, number))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, (*path, str(key.value)))


def _edited(path: Path_, node: yaml.ScalarNode, values: Values, text: str) -> str | None:
    """The new text of a scalar, None where it stays."""
    old = str(node.value)
    if node.style in ("|", ">"):
        block = text[node.start_mark.index : node.end_mark.index]
        host = values.destinations[0].split("/")[0] if values.destinations else _HOST
        new_block = block.replace(_HOST, host)
        return None if new_block == block else new_block
    if old == f"{_DESTINATION_FLAG}{DESTINATION}" and path[-2:-1] == ("args",):
        words = [f"{_DESTINATION_FLAG}{one}" for one in values.destinations] or [old]
        between = "\n" + " " * (node.start_mark.column - 2) + "- "
        return between.join(_shown(word) for word in (*words, *values.flags))
    new = _by_place(path, old, values) or _by_text(old, values)
    return None if new == old else _shown(new)


def _by_place(path: Path_, old: str, values: Values) -> str:
    """The value of a field that is known by where it stands; "" for any other."""
    keys = tuple(key for key in path if isinstance(key, str))
    ends: dict[tuple[str, ...], str] = {
        ("limits", "memory"): values.memory,
        ("requests", "cpu"): values.cpu,
        ("emptyDir", "sizeLimit"): values.storage,
        ("secret", "secretName"): values.secret if old == SECRET else "",
        ("secretKeyRef", "name"): values.git_secret if old == GIT_SECRET else "",
        ("persistentVolumeClaim", "claimName"): values.claim if old == CLAIM else "",
        ("metadata", "generateName"): f"build-{values.name}-" if values.name else "",
        ("metadata", "name"): {SECRET: values.secret, CLAIM: values.claim}.get(old, ""),
    }
    if keys[-2:] == ("requests", "memory") and values.memory:
        return smaller(old, values.memory)
    if keys[-2:] == ("metadata", "name") and old.startswith(_PREFIX[:-1]) and values.name:
        return f"build-{values.name}"
    return ends.get(keys[-2:], "")


def _by_text(old: str, values: Values) -> str:
    """The value with every placeholder in it replaced."""
    new = old
    if values.image and new.startswith(f"{IMAGE}:"):
        tagged = "@" in values.image or ":" in values.image.rpartition("/")[2]
        new = values.image if tagged else f"{values.image}:{new.removeprefix(f'{IMAGE}:')}"
    if values.destinations:
        new = new.replace(DESTINATION, values.destinations[0])
    if values.cache_repo:
        new = new.replace(CACHE_REPO, values.cache_repo)
    if values.context:
        new = new.replace(CONTEXT, values.context)
    if values.dockerfile and new == "--dockerfile=Dockerfile":
        new = f"--dockerfile={values.dockerfile}"
    return new


_PLAIN = re.compile(r"[A-Za-z0-9_./-][A-Za-z0-9_./:@=+#~%-]*").fullmatch


def _shown(value: str) -> str:
    """A scalar as YAML, in quotes wherever it might be read as something else."""
    import yaml

    plain = _PLAIN(value) and ": " not in value and not value.endswith(":") and "#" not in value[:1]
    if plain and value != "-" and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def smaller(one: str, other: str) -> str:
    """The smaller of two amounts of memory, so that no request goes over its limit."""
    return one if _amount(one) <= _amount(other) else other


def _amount(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMG]|[KMG]i|)", text)
    if found is None:
        raise InputError(f"{text!r} is no amount of memory", hint="such as 512Mi or 4Gi")
    return float(found[1]) * _UNITS[found[2]]
