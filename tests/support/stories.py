"""Builds as events, for the report: one that went well, one that failed, one that means harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pybuild.events import (
    NO_CACHE,
    BasesFound,
    BaseSummary,
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Event,
    ImageDescribed,
    ImagePushed,
    LayerContent,
    LayerSummary,
    Level,
    Notice,
    PathSize,
    SoftwareSummary,
    StageFinished,
    StageSkipped,
    StageStarted,
    StageSummary,
    StepCached,
    StepFinished,
    StepStarted,
    TransferFinished,
    TransferKind,
    TransferOutcome,
)
from pybuild.report.html.story import Gatherer, Story

Timed = tuple[float, Event]
BEGAN = "2026-03-14T09:26:53Z"


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


def told(events: list[Timed], ended: float, title: str = "") -> Story:
    """The story of these events, each at its second."""
    now = 0.0
    gatherer = Gatherer(title, BEGAN, "pybuild 1.0", lambda: now)
    for at, event in events:
        now = at
        gatherer.take(event)
    now = ended
    return gatherer.story()


REFERENCE = "registry.example.com/shop/orders:1.4.2"
PLANNED = BuildStarted(
    "/home/jenkins/agent/workspace/orders",
    "Dockerfile",
    "namespace",
    "this container may make its own namespaces",
    ("deps", "build", "lint", "final"),
    9,
)
BASES = BasesFound(
    "linux/amd64",
    (
        BaseSummary(
            "docker.io/library/maven:3.9-eclipse-temurin-21",
            digest("7"),
            "mirror.example.com/library/maven",
            "linux/amd64",
            198_400_000,
            9,
        ),
        BaseSummary(
            "docker.io/library/eclipse-temurin:21-jre",
            digest("9"),
            "docker.io/library/eclipse-temurin",
            "linux/amd64",
            92_310_000,
            3,
        ),
    ),
)
MAVEN = "RUN --mount=type=cache,target=/root/.m2 \\\n    mvn -B -o package -DskipTests"


def _pull(label: str, size: int, seconds: float) -> TransferFinished:
    return TransferFinished(label, TransferKind.PULL, label, TransferOutcome.DONE, size, seconds)


def _push(label: str, outcome: TransferOutcome, size: int, seconds: float) -> TransferFinished:
    return TransferFinished(label, TransferKind.PUSH, label, outcome, size, seconds)


GOOD: list[Timed] = [
    (0.4, BASES),
    (0.5, PLANNED),
    (0.5, StageSkipped(2, "lint")),
    (0.5, StageStarted(0, "deps", "docker.io/library/maven:3.9-eclipse-temurin-21")),
    (0.6, StepCached(0, 1, "WORKDIR /src", 3, digest("1"), 120)),
    (0.6, StepCached(0, 2, "COPY pom.xml .", 4, digest("2"), 2_300)),
    (0.7, StepCached(0, 3, "RUN mvn -B dependency:go-offline", 5, digest("3"), 81_000_000)),
    (0.7, StageFinished(0, "deps", 0.2)),
    (0.7, StageStarted(1, "build", "deps")),
    (0.8, StageStarted(3, "3", "docker.io/library/eclipse-temurin:21-jre")),
    (0.9, StepStarted(1, 0, "COPY src src", 8, "not in the cache")),
    (2.9, _pull("layer 777777777777", 61_000_000, 2.0)),
    (3.6, _pull("layer 888888888888", 81_000_000, 2.6)),
    (3.7, StepFinished(1, 0, "COPY src src", 8, 0.4, 410_000)),
    (3.7, StepStarted(1, 1, MAVEN, 9, "a step before it runs")),
    (21.4, StepFinished(1, 1, MAVEN, 9, 17.7, 44_100_000)),
    (21.4, StageFinished(1, "build", 20.7)),
    (0.9, StepCached(3, 1, "RUN useradd --system app", 13, digest("4"), 3_400)),
    (21.4, StepStarted(3, 2, "COPY --from=build /src/target/orders.jar /app/", 14,
                       "what it takes from build has changed")),
    (22.3, StepFinished(3, 2, "COPY --from=build /src/target/orders.jar /app/", 14, 0.9,
                        39_800_000)),
    (22.3, StageFinished(3, "3", 21.5)),
    (22.4, ImageDescribed(
        (
            LayerContent(digest("a"), True, 78_100_000, 3_310, 0, (
                PathSize("/usr/lib/x86_64-linux-gnu", 38_200_000, 612),
                PathSize("/usr/share", 17_400_000, 1_730),
                PathSize("/usr/bin", 9_800_000, 410))),
            LayerContent(digest("b"), False),
            LayerContent(digest("c"), True, 3_900, 4, 0, (PathSize("/etc", 3_900, 4),)),
            LayerContent(digest("d"), True, 43_900_000, 1, 2, (
                PathSize("/app/orders.jar", 43_900_000, 1),)),
        ),
        SoftwareSummary(
            "Ubuntu 24.04.1 LTS", 243,
            (("deb", 131), ("maven", 112)),
            (("Apache-2.0", 96), ("GPL-2.0-or-later", 41), ("MIT", 33), ("EPL-2.0", 12)),
            9, 0),
    )),
    (22.6, _push("layer aaaaaaaaaaaa", TransferOutcome.MOUNTED, 29_700_000, 0.1)),
    (22.6, _push("layer bbbbbbbbbbbb", TransferOutcome.EXISTS, 62_600_000, 0.1)),
    (24.8, _push("layer dddddddddddd", TransferOutcome.DONE, 39_800_000, 2.4)),
    (24.9, Notice(Level.WARNING, "Dockerfile:9: `as` and `FROM` are of different case",
                  "FromAsCasing")),
    (25.0, ImagePushed(REFERENCE, digest("f"), 1_800)),
    (25.1, BuildFinished(
        (REFERENCE, "registry.example.com/shop/orders:latest"), digest("f"), 132_100_000,
        (
            LayerSummary(digest("a"), 29_700_000, "base", "mounted", ""),
            LayerSummary(digest("b"), 62_600_000, "base", "exists", ""),
            LayerSummary(digest("c"), 3_400, "cached", "pushed",
                         "|1 TOKEN=hunter2 /bin/sh -c useradd --system app"),
            LayerSummary(digest("d"), 39_800_000, "new", "pushed",
                         "COPY /src/target/orders.jar /app/ # buildkit"),
        ),
        (
            StageSummary("deps", 0.2, 0, 3, False), StageSummary("build", 20.7, 2, 0, False),
            StageSummary("lint", 0.0, 0, 2, True), StageSummary("3", 21.5, 1, 1, False),
        ),
        25.1, ("reports/sbom.spdx.json", "reports/report.html"),
    )),
]  # fmt: skip

FAILED: list[Timed] = [
    *GOOD[:14],
    (0.9, StepStarted(1, 1, MAVEN, 9, NO_CACHE)),
    (9.0, BuildFailed(
        "run-failed", "`mvn -B -o package -DskipTests` ended with status 1",
        "the last lines above say what it found", "Dockerfile", 9, MAVEN, 1)),
]  # fmt: skip

EVIL = "<script>alert(1)</script>\"' onload=x \x1b[2J\u202e\ud800\ufffe]]>--&"
HOSTILE: list[Timed] = [
    (0.1, BuildStarted(f"https://user:hunter2@example.com/{EVIL}", EVIL, EVIL, EVIL, (EVIL,), 1)),
    (0.1, BasesFound(EVIL, (BaseSummary(EVIL, EVIL, EVIL, EVIL, 1, 1),))),
    (0.2, StageStarted(0, EVIL, EVIL)),
    (0.2, StepStarted(0, 0, EVIL, 1, EVIL)),
    (0.3, StepFinished(0, 0, EVIL, 1, 0.1, 5)),
    (0.3, StageFinished(0, EVIL, 0.1)),
    (0.3, Notice(Level.WARNING, EVIL, EVIL)),
    (0.3, ImageDescribed(
        (LayerContent(EVIL, True, 5, 1, 1, (PathSize(EVIL, 5, 1),)),),
        SoftwareSummary(EVIL, 1, ((EVIL, 1),), ((EVIL, 1),), 1, 1))),
    (0.3, ImagePushed(EVIL, EVIL, 1)),
    (0.4, BuildFinished((EVIL,), EVIL, 5, (LayerSummary(EVIL, 5, EVIL, EVIL, EVIL),), (), 0.4,
                        (EVIL,))),
    (0.4, BuildFailed(EVIL, EVIL, EVIL, EVIL, 1, EVIL, 1)),
]  # fmt: skip

STORIES: dict[str, Callable[[], Story]] = {
    "built": lambda: told(GOOD, 25.1, REFERENCE),
    "failed": lambda: told(FAILED, 9.0, REFERENCE),
    "hostile": lambda: told(HOSTILE, 0.5, EVIL),
    "nothing": lambda: told([], 0.0),
}


def stories() -> Iterator[tuple[str, Story]]:
    return ((name, make()) for name, make in STORIES.items())
