"""Which controller is asked, and how a job's build is followed."""

from __future__ import annotations

from functools import partial

from pybuild.cli.flags import flag as flags
from pybuild.cli.flags.flag import (
    JENKINS_CANCEL,
    JENKINS_CHECK,
    JENKINS_STATUS,
    JENKINS_TRIGGER,
    Group,
    Kind,
)

_ALL = (JENKINS_TRIGGER, JENKINS_STATUS, JENKINS_CANCEL, JENKINS_CHECK)
_text = partial(flags.text, group=Group.JENKINS, kaniko=False, commands=_ALL)
_switch = partial(flags.switch, group=Group.JENKINS, kaniko=False)
_duration = partial(_text, kind=Kind.DURATION, value="TIME")

JENKINS_FLAGS = (
    _text("url", help="the controller's address", value="URL", environment="JENKINS_URL"),
    _text(
        "user",
        help="who asks; also JENKINS_USER, or netrc",
        value="NAME",
        short="u",
        environment="JENKINS_USER_ID",
    ),
    _text(
        "token-file",
        help="a file with the user's API token, which else JENKINS_API_TOKEN, JENKINS_TOKEN or "
        "netrc gives",
        value="FILE",
        environment="JENKINS_TOKEN_FILE",
    ),
    _text(
        "certificate",
        help="authorities that the controller's certificate is checked with, as PEM",
        value="FILE",
        environment="JENKINS_CERTIFICATE",
    ),
    _duration(
        "patience",
        help="how long the controller may be away, for a restart for instance",
        default="10m",
    ),
    flags.pairs(
        "param",
        Group.JENKINS,
        "a parameter of the job; NAME=@FILE takes a file's text",
        "NAME=VALUE",
        short="p",
        commands=(JENKINS_TRIGGER,),
        kaniko=False,
    ),
    _switch("detach", help="do not wait for the build", commands=(JENKINS_TRIGGER,)),
    _switch("no-log", help="wait, and show no log", commands=(JENKINS_TRIGGER,)),
    _duration(
        "timeout",
        help="how long to wait for the end; the build goes on after that",
        default="24h",
        commands=(JENKINS_TRIGGER,),
    ),
    _switch(
        "json",
        help="write the build as a JSON object to standard output; the log goes to standard error",
        commands=(JENKINS_TRIGGER, JENKINS_STATUS),
    ),
)
