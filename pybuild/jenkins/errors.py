"""What can go wrong between us and a controller."""

from __future__ import annotations

from pybuild.errors import InputError, PybuildError


class ControllerError(PybuildError):
    """The Jenkins controller answered in a way that nothing can be made of."""

    code = "jenkins"


class ControllerUnreachable(ControllerError):
    """The Jenkins controller can't be reached, or was away for longer than --patience."""

    code = "jenkins-unreachable"


class ControllerRefused(ControllerError):
    """The Jenkins controller does not let this user do it, or does not know the user."""

    code = "jenkins-refused"
    advice = (
        "set JENKINS_USER_ID and JENKINS_API_TOKEN (or --token-file), and check the user's "
        "permissions: Job/Read, Job/Build, Job/Cancel"
    )


class JobUnknown(ControllerError):
    """There is no job or build of that name on the controller, or this user may not see it."""

    code = "jenkins-unknown"
    advice = "folders are part of the name: team/shop/main; a branch's slash is %2F"


class NotBuildable(ControllerError):
    """What is named can't be built: a folder, or a job that is disabled."""

    code = "jenkins-not-buildable"


class BadParameter(InputError):
    """The job has no parameter of that name."""

    code = "jenkins-parameter"


class QueueItemGone(ControllerError):
    """The build left the controller's queue without having begun."""

    code = "jenkins-cancelled"


class WaitedTooLong(ControllerError):
    """The build did not end in the time that --timeout gives; it goes on."""

    code = "jenkins-timeout"


class JenkinsMissing(InputError):
    """The Python client of Jenkins is not installed."""

    code = "jenkins-missing"
    advice = "pip install 'pybuild[jenkins]'"


class CredentialsUnusable(InputError):
    """The file with the API token can't be read, or no controller is named."""

    code = "jenkins-credentials"
