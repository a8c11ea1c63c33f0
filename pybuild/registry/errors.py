"""What a registry can refuse, one code each. `problem.py` chooses which one an answer is."""

from __future__ import annotations

from pybuild.errors import InputError, RegistryError


class RegistryUnreachable(RegistryError):
    """No conversation came about: name not found, refused, timed out, or broken off each time."""

    code = "registry-unreachable"
    advice = "check the network, and any proxy between here and the registry"


class CertificateNotTrusted(RegistryError):
    """The registry's TLS certificate is not signed by a known authority, expired, or another's."""

    code = "certificate-not-trusted"


class Unauthorized(RegistryError):
    """The registry wants credentials and none were found, or those found were not accepted."""

    code = "unauthorized"


class PushDenied(RegistryError):
    """The credentials were understood, but do not allow a push to this repository."""

    code = "push-denied"


class PullDenied(RegistryError):
    """The credentials were understood, but do not allow a pull from this repository."""

    code = "pull-denied"


class ManifestUnknown(RegistryError):
    """The repository has no such tag or digest."""

    code = "manifest-unknown"


class RepositoryUnknown(RegistryError):
    """The registry has no such repository, and does not make one by itself."""

    code = "repository-unknown"


class BlobUnknown(RegistryError):
    """The manifest names a blob that the repository does not hold."""

    code = "blob-unknown"


class RateLimited(RegistryError):
    """The registry asked to slow down (429) for longer than the build may wait."""

    code = "rate-limited"


class RegistryBroken(RegistryError):
    """The registry failed (5xx), each time it was tried."""

    code = "registry-broken"


class RequestRefused(RegistryError):
    """The registry answered with something that the distribution specification does not foresee."""

    code = "request-refused"


class TagImmutable(RegistryError):
    """The tag exists, and the registry lets nobody move it."""

    code = "tag-immutable"
    advice = "push another tag, or give --push-ignore-immutable-tag-errors"


class DeleteRefused(RegistryError):
    """The registry deletes nothing, or not for these credentials."""

    code = "delete-refused"


class PlatformUnknown(RegistryError):
    """The index holds no image for the platform that is asked for."""

    code = "platform-unknown"


class BrokenConfig(InputError):
    """A Docker config.json, or DOCKER_AUTH_CONFIG, is no valid configuration."""

    code = "docker-config-broken"
    advice = "`docker login` writes such a file; check how the secret was made"


class BadCertificateFile(InputError):
    """A file given as a registry's CA or client certificate can't be used."""

    code = "bad-certificate-file"


class BadProxy(InputError):
    """HTTP_PROXY or HTTPS_PROXY names a proxy that can't be used."""

    code = "bad-proxy"


class PushIncomplete(RegistryError):
    """The image was pushed to some of its destinations, and not to others."""

    code = "push-incomplete"
