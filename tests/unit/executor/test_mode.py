"""--chmod."""

from __future__ import annotations

import pytest

from pybuild.executor.errors import BadMode
from pybuild.executor.mode import change_mode, check_mode


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        pytest.param("755", 0o600, 0o755, id="octal"),
        pytest.param("0644", 0o600, 0o644, id="leading-zero"),
        pytest.param("4711", 0o600, 0o4711, id="setuid"),
        pytest.param("u+x", 0o644, 0o744, id="add"),
        pytest.param("+x", 0o644, 0o755, id="everybody"),
        pytest.param("a-w", 0o666, 0o444, id="remove"),
        pytest.param("go=", 0o755, 0o700, id="set-to-nothing"),
        pytest.param("u=rwx,g=rx,o=", 0o000, 0o750, id="several"),
        pytest.param("u+s,+t", 0o755, 0o5755, id="special"),
        pytest.param("a+X", 0o644, 0o644, id="conditional-execute-not-there"),
        pytest.param("a+X", 0o744, 0o755, id="conditional-execute-there"),
        pytest.param("u+r-w", 0o200, 0o400, id="two-actions"),
    ],
)
def test_change(text: str, mode: int, expected: int) -> None:
    assert change_mode(text, mode, is_directory=False) == expected


def test_a_folder_takes_the_conditional_execute() -> None:
    assert change_mode("a+X", 0o644, is_directory=True) == 0o755


@pytest.mark.parametrize("text", ["", "8", "99999", "u", "u~x", "x+r", "77777"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(BadMode):
        check_mode(text)
