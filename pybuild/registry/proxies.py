"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

NO_PROXY is read as Go's programs do, kaniko among them: `*`, a name with all below it, `.name`
for those below it alone, an address, a network as `10.0.0.0/8`, and each with `:port`.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from pybuild.registry.errors import BadProxy
from pybuild.registry.options import is_loopback, split_host

_PORTS = {"http": 80, "https": 443}


def find_proxy(scheme: str, host: str, environment: Mapping[str, str]) -> SplitResult | None:
    """The proxy for `host` or `host:port`; None for none. Raises BadProxy.

    This machine and link-local addresses (a cloud's metadata server) never go through one.
    """
    url = next(
        (
            environment[name]
            for kind in (scheme, "all")
            for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY")
            if environment.get(name)
        ),
        "",
    )
    if not url or is_loopback(host) or _is_link_local(host):
        return None
    rules = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    name, port = split_host(host)
    if bypasses(rules, name, port or _PORTS[scheme]):
        return None
    return _parsed(url)


def _parsed(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        usable = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    shown = parts.hostname or "the proxy"
    if not usable:
        raise BadProxy("HTTP_PROXY or HTTPS_PROXY is no address", hint="http://host:port")
    if parts.scheme != "http":
        raise BadProxy(
            f"{shown} is to be reached by {parts.scheme}://, which this program does not speak",
            hint="name a proxy as http://host:port; what passes through it is still encrypted",
        )
    return parts


def bypasses(rules: str, name: str, port: int) -> bool:
    """Whether NO_PROXY exempts this host; `name` is in lower case, without brackets."""
    return any(_matches(rule.strip().lower(), name, port) for rule in rules.split(","))


def _matches(rule: str, name: str, port: int) -> bool:
    if not rule:
        return False
    if rule == "*":
        return True
    from ipaddress import ip_address, ip_network

    try:
        address = ip_address(name)
    except ValueError:
        address = None
    if "/" in rule:
        try:
            return address is not None and address in ip_network(rule, strict=False)
        except ValueError:
            return False
    if rule.count(":") > 1 and not rule.startswith("["):  # an IPv6 address without port
        wanted, wanted_port = rule, None
    else:
        wanted, wanted_port = split_host(rule)
    if wanted_port is not None and wanted_port != port:
        return False
    if address is not None:
        try:
            return ip_address(wanted) == address
        except ValueError:
            return False
    wanted = wanted.removeprefix("*")
    if wanted.startswith("."):
        return name.endswith(wanted)
    return name == wanted or name.endswith(f".{wanted}")


def _is_link_local(host: str) -> bool:
    name = split_host(host)[0]
    return name.startswith("169.254.") or name in ("fd00:ec2::254", "metadata.google.internal")
