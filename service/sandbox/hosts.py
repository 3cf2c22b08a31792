"""Refuse requests that a web page may have forged.

The sandbox listens on loopback without a password, where every page in the developer's browser can reach it.
What can go wrong: a page posts a form or `text/plain` to `/sandbox/*`, which needs no preflight (CSRF); a
page's host name resolves to 127.0.0.1, so that its scripts may read the answers (DNS rebinding). `Origin` and
`Content-Type` reveal the first, `Host` the second.
"""

from collections.abc import Container
from contextlib import suppress
from ipaddress import ip_address

from litestar.types import Scope

from service.sandbox.errors import DubError
from service.sandbox.web import header, method_of

JSON = "application/json"
# Dub's own name is accepted for clients that reach the sandbox through a hosts file or a proxy.
_ALWAYS = frozenset({"localhost", "api.dub.co"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def check_host(host: str, hosts: Container[str], domains: Container[str]) -> None:
    """Raise a 403 unless `host` is this machine, one of `hosts`, or a link's domain.

    Any IP address is accepted: in DNS rebinding, a page sends its own name, and phones and emulators use
    addresses (10.0.2.2, 192.168.1.5). A missing host is also accepted, because browsers always send one.
    """
    if not host or host in _ALWAYS or host.endswith(".localhost") or host in hosts or host in domains:
        return
    with suppress(ValueError):
        ip_address(host)
        return
    raise DubError("forbidden", f"the sandbox does not answer for the host {host!r}: see --allow-host")


def check_control(scope: Scope) -> None:
    """Raise a 403 for a control request of another origin, and a 415 for a body not declared as JSON."""
    origin = header(scope, b"origin")
    if origin and origin.partition("://")[2] != header(scope, b"host"):
        raise DubError("forbidden", f"a page of {origin} may not control the sandbox")
    declared = header(scope, b"content-type").partition(";")[0].strip().lower()
    if method_of(scope) in _WITH_BODY and declared != JSON:
        raise DubError("unsupported_media_type", f"expected Content-Type: {JSON}")
