"""An embedded Dub, to develop and test against.

`create_sandbox` builds it; `front` routes requests; `redirect` and `opens` record clicks, `leads` and `sales`
record conversions of them, and `events` lists them. Tests control it through `faults`, `clock` and `calls`.
It imports nothing else from `service`, so that a mistake in shared code cannot hide from a test.
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
    """Import a public name at its first use, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
