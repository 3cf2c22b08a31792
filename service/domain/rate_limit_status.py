"""Whether a request may cost something; what is answered from memory never asks."""

from typing import Literal, Protocol

from msgspec import Struct

By = Literal["key", "address"]


class Standing(Struct, frozen=True, gc=False):
    """How much is left in the window that is over first, and for how many seconds it lasts."""

    limit: int
    remaining: int
    reset_s: float


class Admission(Protocol):
    """One request's way in."""

    standing: Standing | None

    async def enter(self, ip: str | None) -> None:
        """Count the request, which comes from this address; raises ``RateLimited``."""
        ...


class Gate(Protocol):
    """Where every request gets its way in."""

    def name_of(self, key: bytes) -> bytes:
        """Return what a key is counted under."""
        ...

    def admission(self, app: str, key_name: bytes, *, by_address: bool) -> Admission:
        """Return the way in of one request with this key of this app."""
        ...

    async def failed(self, ip: str | None) -> None:
        """Count an authentication that failed; raises ``RateLimited``."""
        ...
