"""What can go wrong between here and a build's end in a cluster."""

from __future__ import annotations

from pybuild.errors import HostUnsupported, InputError, PybuildError


class KubernetesMissing(HostUnsupported):
    """Talking to a cluster needs the Python client of Kubernetes, which is not installed."""

    code = "kubernetes-missing"
    advice = "pip install 'pybuild[kubernetes]'; the builder's own image leaves it out"


class ClusterError(PybuildError):
    """The cluster did not do what was asked of it."""

    code = "cluster"


class ClusterUnknown(InputError):
    """There is no kubeconfig, or not the context in it that was asked for."""

    code = "cluster-unknown"
    advice = "name them with --kubeconfig and --kube-context; in a Pod, it needs a service account"


class ClusterUnreachable(ClusterError):
    """The API server can't be reached, or does not answer any more."""

    code = "cluster-unreachable"
    advice = "is the address in the kubeconfig right, and does `kubectl get pods` work from here?"


class ClusterForbidden(ClusterError):
    """The cluster knows us, or does not, and does not let us do what is asked."""

    code = "cluster-forbidden"


class PodSecurityDenied(ClusterError):
    """The namespace enforces a level of Pod Security that the build's Pod does not pass."""

    code = "pod-security-denied"


class QuotaExceeded(ClusterError):
    """The namespace's quota or limits leave no room for the build's Pod."""

    code = "quota-exceeded"


class ObjectRefused(ClusterError):
    """The cluster does not take a manifest as it is."""

    code = "manifest-refused"


class BuildUnknown(InputError):
    """There is no build of that name in the namespace."""

    code = "build-unknown"
    advice = "`pybuild k8s ls` lists the builds of the namespace, --namespace names another one"


class SecretInTheWay(InputError):
    """There is a Secret of that name already, which can't become one of registry credentials."""

    code = "secret-in-the-way"


class CredentialsUnusable(InputError):
    """What was given are no credentials that a Pod could use."""

    code = "credentials-unusable"


class PodUnschedulable(ClusterError):
    """No node can take the build's Pod."""

    code = "pod-unschedulable"


class PodNotStarted(ClusterError):
    """The build's Pod did not start in the time that it was given."""

    code = "pod-not-started"


class ImagePullFailed(ClusterError):
    """The node can't pull the builder's image."""

    code = "image-pull-failed"


class VolumeMissing(ClusterError):
    """A Secret, claim or other volume that the build's Pod mounts is not there."""

    code = "volume-missing"


class ContainerRefused(ClusterError):
    """The node can't start the builder's container."""

    code = "container-refused"


class OutOfMemory(ClusterError):
    """The builder's container went over its memory limit, and the kernel ended it."""

    code = "out-of-memory"

    @property
    def exit_status(self) -> int:
        return 137


class PodEvicted(ClusterError):
    """The node took the Pod away, for it used too much storage or the node ran short of something.

    Its log is gone with it.
    """

    code = "pod-evicted"


class PodLost(ClusterError):
    """The build's Pod or Job is gone, without an end that the cluster tells of."""

    code = "pod-lost"


class DeadlineExceeded(ClusterError):
    """The build took longer than its Job may."""

    code = "deadline-exceeded"


class BuildFailedInPod(ClusterError):
    """The builder ended with a status other than 0, which becomes the exit status; its log has the
    reason."""

    code = "build-failed"

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status

    @property
    def exit_status(self) -> int:
        return self.status


class ContextNotSent(ClusterError):
    """The context could not be streamed into the build's Pod."""

    code = "context-not-sent"


class TemplateUnknown(InputError):
    """There is no manifest of that name, or the manifests are not installed."""

    code = "template-unknown"


class BadImagesFile(InputError):
    """A file of images says something that is not understood, or names what is not there."""

    code = "bad-images-file"


class ImageSkipped(ClusterError):
    """An image was not built, since one that it needs could not be."""

    code = "image-skipped"
