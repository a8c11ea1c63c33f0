"""Variables of kaniko that are taken note of and change nothing."""

from __future__ import annotations

from collections.abc import Mapping

# What each of kaniko's switches turns on is always done here, but for those in _NEVER.
SWITCHES = frozenset(str.split("""
FF_KANIKO_BUILDKIT_ARG_ENV_PRECEDENCE FF_KANIKO_CACHE_LOOKAHEAD FF_KANIKO_CACHE_PROBE_AFTER_MISS
FF_KANIKO_CHOWN_ON_IMPLICIT_DIRS FF_KANIKO_CLEAN_KANIKO_DIR FF_KANIKO_COPY_AS_ROOT
FF_KANIKO_COPY_CHMOD_ON_IMPLICIT_DIRS FF_KANIKO_DEPRECATE_INTER_STAGE_RESTORE
FF_KANIKO_DISABLE_HTTP2 FF_KANIKO_EXPAND_HEREDOC FF_KANIKO_HASH_DIR_FRAMING
FF_KANIKO_IGNORE_CACHED_MANIFEST FF_KANIKO_INFER_CROSS_STAGE_CACHE_KEY
FF_KANIKO_NO_PROPAGATE_ANNOTATIONS FF_KANIKO_OCI_SCRATCH_BASE FF_KANIKO_OCI_STAGES
FF_KANIKO_OCI_WARMER FF_KANIKO_PRECOMPILE_DOCKERIGNORE FF_KANIKO_PRESERVE_HARDLINKS
FF_KANIKO_PRESERVE_MOUNTED_PATHS FF_KANIKO_RELATIVE_LINK_TARGETS
FF_KANIKO_REPRODUCIBLE_PRESERVE_BASE_LAYERS FF_KANIKO_RESOLVE_CACHE_KEY
FF_KANIKO_ROLLING_CACHE_KEY FF_KANIKO_RUN_HONOR_GROUP FF_KANIKO_RUN_MOUNT_BIND
FF_KANIKO_RUN_MOUNT_CACHE FF_KANIKO_RUN_MOUNT_SECRET FF_KANIKO_RUN_VIA_TINI
FF_KANIKO_SCOPED_DOCKERIGNORE FF_KANIKO_SECUREJOIN_EXTRACTION FF_KANIKO_SHARED_BASE_CACHE
FF_KANIKO_SKIP_CACHED_STAGES FF_KANIKO_SKIP_RELABEL_RECOMPRESS FF_KANIKO_SKIP_WRITE_WHITEOUTS
FF_KANIKO_SQUASH_STAGES FF_KANIKO_UNTAR_SKIP_ROOT FF_KANIKO_VOLUME_SKIP_MKDIR
FF_KANIKO_WARMER_CACHE_LOCK
"""))  # fmt: skip
_NEVER = {
    "FF_KANIKO_OCI_SCRATCH_BASE": "FROM scratch gives Docker's manifest, --image-format=oci OCI's",
}
IDLE = {
    "KANIKO_TELEMETRY_ENDPOINT": "nothing is ever sent anywhere",
    "KANIKO_TELEMETRY_OMIT_DOCKERFILE": "nothing is ever sent anywhere",
    "KANIKO_IGNORE_ASSERTIONS": "a mistake of the builder always ends the build",
    "BENCHMARK_FILE": "--log-format=json tells the time of each step",
}
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


def notes_of(environment: Mapping[str, str]) -> list[str]:
    """One line for each variable that asks for something else than what happens."""
    notes = [
        f"{name} changes nothing here: {why}" for name, why in IDLE.items() if environment.get(name)
    ]
    for name in sorted(name for name in environment if name.startswith("FF_KANIKO_")):
        value = environment[name]
        lowered = value.lower()
        if name not in SWITCHES:
            notes.append(f"{name} is not known, and changes nothing")
        elif name in _NEVER:
            if lowered in _TRUE:
                notes.append(f"{name}={value} changes nothing here: {_NEVER[name]}")
        elif lowered in _FALSE:
            notes.append(f"{name}={value} changes nothing here: what it turns off is always done")
    return notes
