"""What is built: context, Dockerfile, arguments."""

from __future__ import annotations

from pybuild.cli.flags.flag import ALL, EXECUTOR, PULLING, Group, many, pairs, text

SOURCE_FLAGS = (
    text(
        "context",
        Group.SOURCE,
        "the build context: a folder, tar://, git://, https://, s3://, gs://, Azure, - (stdin)",
        "PATH|URL",
        short="c",
        default="/workspace/",
        commands=ALL,
    ),
    text(
        "context-sub-path",
        Group.SOURCE,
        "a folder inside the context that is used as context",
        "PATH",
        commands=ALL,
    ),
    text(
        "bucket",
        Group.SOURCE,
        "the old way to name a context in a bucket: NAME[/OBJECT] is gs://, another has its prefix",
        "BUCKET",
        short="b",
        commands=(EXECUTOR,),
    ),
    text(
        "dockerfile",
        Group.SOURCE,
        "the Dockerfile: in the working folder, else in the context; an address; - (stdin)",
        "PATH|URL",
        short="f",
        docker=("file",),
        default="Dockerfile",
        commands=ALL,
    ),
    many(
        "target",
        Group.SOURCE,
        "the stage to build, the last one if not given; of several, also parted by commas, all are "
        "built and the first is the image",
        "STAGE",
        commands=ALL,
    ),
    many(
        "build-arg",
        Group.SOURCE,
        "a build argument; without a value, the variable of that name",
        "NAME[=VALUE]",
        commands=ALL,
    ),
    many("label", Group.SOURCE, "a label for the image", "KEY=VALUE", commands=ALL),
    text(
        "custom-platform",
        Group.SOURCE,
        "the platform to build for; this machine's if not given",
        "OS/ARCH",
        docker=("platform",),
        old=("customPlatform",),
        commands=PULLING,
    ),
    many(
        "secret",
        Group.SOURCE,
        "a secret for RUN --mount=type=secret; without src and env, the variable ID or the file ID",
        "id=ID[,src=FILE][,env=VAR]",
        commands=ALL,
    ),
    pairs(
        "git",
        Group.SOURCE,
        "for a git context: branch, depth, recurse-submodules, single-branch, insecure-skip-tls",
        "KEY=VALUE",
        commands=ALL,
    ),
)
