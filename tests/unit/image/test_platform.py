from __future__ import annotations

import pytest

from pybuild.image.platform import BadPlatform, Platform, parse_platform


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("Linux/ARM", Platform("linux", "arm", "v7")),
        ("aarch64", Platform("linux", "arm64")),
        ("s390x", Platform("linux", "s390x")),
        ("linux/some-new-machine", Platform("linux", "some-new-machine")),
    ],
)
def test_spellings(text: str, expected: Platform) -> None:
    assert parse_platform(text) == expected


@pytest.mark.parametrize(
    "text", ["", "linux", "banana", "linux/", "/amd64", "a/b/c/d", "linux/a b"]
)
def test_mistakes(text: str) -> None:
    with pytest.raises(BadPlatform, match="is no platform"):
        parse_platform(text)
