"""The image config (OCI image-spec, config.md; Docker adds Healthcheck, OnBuild and Shell)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from pybuild.image.descriptor import BadManifest, Json, as_list, as_object, as_text
from pybuild.image.digest import Digest, parse_digest
from pybuild.image.platform import Platform

Pairs = tuple[tuple[str, str], ...]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")


class History(Struct, frozen=True):
    """One line of history; `created` is RFC 3339 text or empty."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, object]:
        pairs: list[tuple[str, object]] = [
            ("created", self.created),
            ("created_by", self.created_by),
            ("author", self.author),
            ("comment", self.comment),
            ("empty_layer", self.empty_layer),
        ]
        return {key: value for key, value in pairs if value}


class Healthcheck(Struct, frozen=True):
    """`test` is ("NONE",), ("CMD", …) or ("CMD-SHELL", text); times are nanoseconds, 0: default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    def to_json(self) -> dict[str, object]:
        body: dict[str, object] = {"Test": list(self.test)} if self.test else {}
        numbers = (
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
            ("Retries", self.retries),
        )
        return body | {key: value for key, value in numbers if value}


class ImageConfig(Struct, frozen=True):
    """What a container made from the image starts with, and what its layers are."""

    platform: Platform
    user: str = ""
    env: Pairs = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""
    labels: Pairs = ()  # in the order they were set
    exposed_ports: tuple[str, ...] = ()  # "80/tcp", sorted
    volumes: tuple[str, ...] = ()  # sorted
    stop_signal: str = ""
    shell: tuple[str, ...] = ()  # empty: the default
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    args_escaped: bool = False
    author: str = ""
    created: str = ""
    history: tuple[History, ...] = ()
    diff_ids: tuple[Digest, ...] = ()

    def environment(self) -> dict[str, str]:
        return dict(self.env)

    def with_env(self, pairs: Iterable[tuple[str, str]]) -> ImageConfig:
        return replace(self, env=merged(self.env, pairs))

    def with_labels(self, pairs: Iterable[tuple[str, str]]) -> ImageConfig:
        return replace(self, labels=merged(self.labels, pairs))

    def with_layer(self, diff_id: Digest, history: History) -> ImageConfig:
        return replace(self, diff_ids=(*self.diff_ids, diff_id), history=(*self.history, history))

    def with_history(self, history: History) -> ImageConfig:
        return replace(self, history=(*self.history, history))

    def to_json(self) -> bytes:
        """The same value always gives the same bytes."""
        body: dict[str, object] = {"created": self.created} if self.created else {}
        if self.author:
            body["author"] = self.author
        body |= {"architecture": self.platform.architecture, "os": self.platform.os}
        if self.platform.os_version:
            body["os.version"] = self.platform.os_version
        if self.platform.variant:
            body["variant"] = self.platform.variant
        body["config"] = self._container()
        body["rootfs"] = {"type": "layers", "diff_ids": [str(digest) for digest in self.diff_ids]}
        body["history"] = [line.to_json() for line in self.history]
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogateescape"
        )

    def _container(self) -> dict[str, object]:
        fields: list[tuple[str, object]] = [
            ("User", self.user),
            ("ExposedPorts", {port: {} for port in self.exposed_ports}),
            ("Env", [f"{name}={value}" for name, value in self.env]),
            ("Entrypoint", _array(self.entrypoint)),
            ("Cmd", _array(self.cmd)),
            ("Healthcheck", self.healthcheck.to_json() if self.healthcheck else None),
            ("ArgsEscaped", self.args_escaped),
            ("Volumes", {volume: {} for volume in self.volumes}),
            ("WorkingDir", self.working_dir),
            ("OnBuild", list(self.on_build)),
            ("Labels", dict(self.labels)),
            ("StopSignal", self.stop_signal),
            ("Shell", list(self.shell)),
        ]
        kept = ("Entrypoint", "Cmd")  # an empty list there is a statement, absence is none
        return {key: value for key, value in fields if value or (key in kept and value is not None)}

    @staticmethod
    def from_json(raw: bytes) -> ImageConfig:
        """Raises BadManifest when the text is no config."""
        try:
            body = as_object(json.loads(raw), "the image config")
        except (ValueError, RecursionError) as error:
            raise BadManifest(f"the image config is no JSON: {error}") from error
        inner = as_object(body.get("config") or {}, "config")
        rootfs = as_object(body.get("rootfs") or {}, "rootfs")
        platform = Platform(
            as_text(body.get("os") or "linux", "os"),
            as_text(body.get("architecture") or "", "architecture"),
            as_text(body.get("variant") or "", "variant"),
            as_text(body.get("os.version") or "", "os.version"),
        )
        return ImageConfig(
            platform=platform,
            user=_text(inner, "User"),
            env=tuple(_pair(item) for item in as_list(inner.get("Env"), "Env")),
            entrypoint=_strings(inner.get("Entrypoint"), "Entrypoint"),
            cmd=_strings(inner.get("Cmd"), "Cmd"),
            working_dir=_text(inner, "WorkingDir"),
            labels=_labels(inner.get("Labels")),
            exposed_ports=_keys(inner.get("ExposedPorts"), "ExposedPorts"),
            volumes=_keys(inner.get("Volumes"), "Volumes"),
            stop_signal=_text(inner, "StopSignal"),
            shell=_strings(inner.get("Shell"), "Shell") or (),
            healthcheck=_healthcheck(inner.get("Healthcheck")),
            on_build=_strings(inner.get("OnBuild"), "OnBuild") or (),
            args_escaped=bool(inner.get("ArgsEscaped")),
            author=_text(body, "author"),
            created=_text(body, "created"),
            history=tuple(_history(item) for item in as_list(body.get("history"), "history")),
            diff_ids=tuple(
                parse_digest(as_text(item, "diff_ids"))
                for item in as_list(rootfs.get("diff_ids"), "diff_ids")
            ),
        )


def merged(old: Pairs, new: Iterable[tuple[str, str]]) -> Pairs:
    """The new values take the places of the old; new names come last."""
    return tuple((dict(old) | dict(new)).items())


def _array(value: tuple[str, ...] | None) -> list[str] | None:
    return None if value is None else list(value)


def _text(body: Json, key: str) -> str:
    return as_text(body.get(key) or "", key)


def _strings(value: object, what: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):  # written so by some old tools
        return (value,)
    return tuple(as_text(item, what) for item in as_list(value, what))


def _pair(item: object) -> tuple[str, str]:
    name, _, value = as_text(item, "Env").partition("=")
    return name, value


def _labels(value: object) -> Pairs:
    labels: Mapping[str, object] = as_object(value or {}, "Labels")
    return tuple((key, as_text(text, "Labels")) for key, text in labels.items())


def _keys(value: object, what: str) -> tuple[str, ...]:
    return tuple(sorted(as_object(value or {}, what)))


def _number(body: Json, key: str) -> int:
    value = body.get(key) or 0
    if not isinstance(value, int):
        raise BadManifest(f"{key} is no number")
    return value


def _healthcheck(value: object) -> Healthcheck | None:
    if not value:
        return None
    body = as_object(value, "Healthcheck")
    return Healthcheck(
        _strings(body.get("Test"), "Test") or (),
        _number(body, "Interval"),
        _number(body, "Timeout"),
        _number(body, "StartPeriod"),
        _number(body, "StartInterval"),
        _number(body, "Retries"),
    )


def _history(value: object) -> History:
    body = as_object(value, "history")
    return History(
        _text(body, "created"),
        _text(body, "created_by"),
        _text(body, "comment"),
        _text(body, "author"),
        bool(body.get("empty_layer")),
    )
