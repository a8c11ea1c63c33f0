"""How registries are reached."""

from __future__ import annotations

from pybuild.cli.flags.flag import CACHES, PUSHING, REACHING, Group, many, number, pairs, switch

REGISTRY_FLAGS = (
    switch("insecure", Group.REGISTRY, "push over plain HTTP", commands=(*PUSHING, *CACHES)),
    switch("insecure-pull", Group.REGISTRY, "pull over plain HTTP", commands=REACHING),
    many(
        "insecure-registry",
        Group.REGISTRY,
        "plain HTTP for this registry",
        "HOST",
        commands=REACHING,
    ),
    switch(
        "skip-tls-verify",
        Group.REGISTRY,
        "push without checking certificates",
        commands=(*PUSHING, *CACHES),
    ),
    switch(
        "skip-tls-verify-pull",
        Group.REGISTRY,
        "pull without checking certificates",
        commands=REACHING,
    ),
    many(
        "skip-tls-verify-registry",
        Group.REGISTRY,
        "no certificate check for this registry",
        "HOST",
        commands=REACHING,
    ),
    pairs(
        "registry-certificate",
        Group.REGISTRY,
        "an authority to trust for this registry",
        "HOST=FILE",
        commands=REACHING,
    ),
    pairs(
        "registry-client-cert",
        Group.REGISTRY,
        "a client certificate and its key for this registry",
        "HOST=CERT,KEY",
        commands=REACHING,
    ),
    many(
        "registry-mirror",
        Group.REGISTRY,
        "ask this registry before Docker Hub",
        "HOST[/PREFIX]",
        environment="KANIKO_REGISTRY_MIRROR",
        commands=REACHING,
    ),
    many(
        "registry-map",
        Group.REGISTRY,
        "ask another registry first; several parted by ';'",
        "HOST=HOST[/PREFIX]",
        environment="KANIKO_REGISTRY_MAP",
        commands=REACHING,
    ),
    switch(
        "skip-default-registry-fallback",
        Group.REGISTRY,
        "never ask the registry itself when a mirror lacks the image",
        commands=REACHING,
    ),
    number(
        "push-retry",
        Group.REGISTRY,
        "how often a failed request of a push is tried again, at least 4",
        default="0",
    ),
    number(
        "image-download-retry", Group.REGISTRY, "the same for pulls", default="0", commands=PUSHING
    ),
    switch(
        "skip-push-permission-check",
        Group.REGISTRY,
        "do not try before the build whether the push is allowed",
    ),
    switch(
        "push-ignore-immutable-tag-errors",
        Group.REGISTRY,
        "a tag that exists and may not be moved is no failure",
    ),
    many(
        "credential-helpers",
        Group.REGISTRY,
        "which of env, google, ecr, acr, gitlab give credentials besides the configuration files; "
        "all if not given, none if empty",
        "NAMES",
        commands=PUSHING,
    ),
)
