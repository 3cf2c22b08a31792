"""An embedded Dub: small enough to start in a test, true enough to test against.

`create_sandbox` builds it; `front` decides what a request is; `redirect` and `opens` make clicks, `leads`
and `sales` follow from them, `events` reads them back; `faults`, `clock` and `calls` are a test's levers.
It imports nothing else of `service`, so that a test against it is never a test of one mistake by another.
"""

from service.sandbox.app import create_sandbox
from service.sandbox.limits import SandboxSettings
from service.sandbox.links import SandboxLink

__all__ = ["SandboxLink", "SandboxSettings", "create_sandbox"]
