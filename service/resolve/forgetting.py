"""Forgets an install, everywhere: a person may ask for it."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from service.resolve.identity import Identity
from service.resolve.model import App
from service.resolve.ports import Memory


class Forgotten(Struct, frozen=True):
    """How much was removed: answers that were remembered, clicks that were claimed, what was owed to Dub."""

    answers: int
    claims: int
    outbox: int


class Opens(Protocol):
    """Where opens are kept."""

    async def forget(self, devices: Sequence[str]) -> list[str]:
        """Forget a device's opens, and return their ids; raises ``StoreFailed``."""
        ...


class Kept(Protocol):
    """Where claims or entries are kept."""

    async def forget(self, devices: Sequence[str]) -> int:
        """Forget what is a device's, and return how much; raises ``StoreFailed``."""
        ...


class Forgetting:
    """Forgets installs under every name that they have had."""

    def __init__(
        self, *, identity: Identity, memory: Memory, opens: Opens, claims: Kept, entries: Kept
    ) -> None:
        self._identity = identity
        self._memory = memory
        self._opens = opens
        self._claims = claims
        self._entries = entries

    async def forget(self, app: App, install_id: str) -> Forgotten:
        """Forget an install of this app; an unknown one is nothing to forget. Raises ``StoreFailed``."""
        devices = self._identity.devices(app.name, install_id)
        outbox = await self._entries.forget(devices)
        claims = await self._claims.forget(devices)
        open_ids = await self._opens.forget(devices)
        self._memory.forget(frozenset(open_ids))
        return Forgotten(len(open_ids), claims, outbox)
