"""Who `executor login` logs in."""

from __future__ import annotations

from pybuild.cli.flags.flag import LOGIN, Group, switch, text

LOGIN_FLAGS = (
    text("username", Group.LOGIN, "the user's name", "NAME", short="u", commands=(LOGIN,)),
    text(
        "password",
        Group.LOGIN,
        "the password, which whoever sees the list of processes can read",
        "PASSWORD",
        short="p",
        commands=(LOGIN,),
    ),
    switch(
        "password-stdin",
        Group.LOGIN,
        "read the password from standard input",
        commands=(LOGIN,),
    ),
)
