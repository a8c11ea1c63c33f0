"""Which proxy a request goes through."""

from __future__ import annotations

import pytest

from pybuild.registry.errors import BadProxy
from pybuild.registry.proxies import bypasses, find_proxy

PROXY = {"HTTPS_PROXY": "http://p:8080"}


@pytest.mark.parametrize(
    ("rules", "name", "port", "expected"),
    [
        ("", "a.io", 443, False),
        ("*", "a.io", 443, True),
        ("a.io", "a.io", 443, True),
        ("a.io", "x.a.io", 443, True),
        ("a.io", "xa.io", 443, False),
        (".a.io", "x.a.io", 443, True),
        (".a.io", "a.io", 443, False),
        ("*.a.io", "x.a.io", 443, True),
        ("A.io , b.io", "b.io", 443, True),
        ("A.IO", "a.io", 443, True),
        ("a.io:5000", "a.io", 5000, True),
        ("a.io:5000", "a.io", 443, False),
        ("10.0.0.0/8", "10.2.3.4", 443, True),
        ("10.0.0.0/8", "11.2.3.4", 443, False),
        ("10.0.0.0/8", "ten.example", 443, False),
        ("10.1.2.3/8", "10.9.9.9", 443, True),
        ("10.0.0.1", "10.0.0.1", 443, True),
        ("10.0.0.1:5000", "10.0.0.1", 5000, True),
        ("10.0.0.1:5000", "10.0.0.1", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("fd00::1", "fd00:0::1", 443, True),
        ("[fd00::1]:5000", "fd00::1", 5000, True),
        ("[fd00::1]:5000", "fd00::1", 443, False),
        ("nonsense/99, a.io", "a.io", 443, True),
        ("nonsense/99", "10.0.0.1", 443, False),
    ],
)
def test_no_proxy(rules: str, name: str, port: int, expected: bool) -> None:
    assert bypasses(rules, name, port) is expected


@pytest.mark.parametrize(
    ("scheme", "host", "environment", "expected"),
    [
        ("https", "a.io", PROXY, "p:8080"),
        ("http", "a.io", PROXY, None),
        ("http", "a.io", {"http_proxy": "p:8080"}, "p:8080"),
        ("http", "a.io", {"ALL_PROXY": "p:8080"}, "p:8080"),
        ("https", "a.io", {"https_proxy": "http://small:1", **PROXY}, "small:1"),
        ("https", "a.io", {"HTTPS_PROXY": ""}, None),
        ("https", "a.io:5000", {**PROXY, "NO_PROXY": "a.io:5000"}, None),
        ("https", "a.io", {**PROXY, "no_proxy": "a.io:443"}, None),
        ("https", "10.1.1.1:5000", {**PROXY, "NO_PROXY": "10.0.0.0/8"}, None),
        ("https", "localhost:5000", PROXY, None),
        ("https", "127.0.0.1:5000", PROXY, None),
        ("http", "169.254.169.254", {"http_proxy": "http://p:8080"}, None),
        ("http", "metadata.google.internal", {"http_proxy": "http://p:8080"}, None),
    ],
)
def test_which_proxy(
    scheme: str, host: str, environment: dict[str, str], expected: str | None
) -> None:
    found = find_proxy(scheme, host, environment)
    assert (found.netloc if found else None) == expected


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("socks5://me:s3cret@p:1080", "socks5://"),
        ("https://me:s3cret@p", "https://"),
        ("http://me:s3cret@p:many", "no address"),
        ("http://", "no address"),
    ],
)
def test_a_proxy_that_can_t_be_used(url: str, part: str) -> None:
    with pytest.raises(BadProxy, match=part) as caught:
        find_proxy("https", "a.io", {"HTTPS_PROXY": url})
    assert "s3cret" not in caught.value.message + caught.value.hint
