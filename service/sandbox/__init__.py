"""An embedded Dub: small enough to start in a test, true enough to test against.

`create_sandbox` builds it; `front` decides what a request is; `redirect` and `opens` make clicks, `leads`
and `sales` follow from them, `events` reads them back; `faults`, `clock` and `calls` are a test's levers.
It imports nothing else of `service`, so that a test against it is never a test of one mistake by another.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.sandbox.app import create_sandbox
    from service.sandbox.domains import SandboxDomain
    from service.sandbox.limits import SandboxSettings
    from service.sandbox.links import SandboxLink

__all__ = ["SandboxDomain", "SandboxLink", "SandboxSettings", "create_sandbox"]

_HOMES = {
    "create_sandbox": "app",
    "SandboxDomain": "domains",
    "SandboxSettings": "limits",
    "SandboxLink": "links",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the command line mounts `command` and needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
