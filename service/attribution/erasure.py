"""Forgets an install, everywhere: a person may ask for it."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from service.attribution.delayed_matching import DelayedMatching
from service.attribution.recent_erasures import RecentErasures
from service.domain.device_identity import Identity
from service.domain.errors import StoreFailed
from service.domain.models import App
from service.domain.ports import Erasable, ErasableOpens


class ErasedCounts(Struct, frozen=True):
    """How much was removed: remembered answers, claimed clicks, outbox entries."""

    answers: int
    claims: int
    outbox: int


class InstallErasure:
    """Forgets installs under every name that they have had."""

    def __init__(
        self,
        *,
        identity: Identity,
        attempts_s: DelayedMatching,
        opens: ErasableOpens,
        claims: Erasable,
        entries: Erasable,
        erasures: RecentErasures,
        unix_time: Callable[[], float],
        scrub: Callable[[], Awaitable[None]],
    ) -> None:
        self._erasures = erasures
        self._unix_time = unix_time
        self._scrub = scrub  # removes deleted rows from the database's own files
        self._identity = identity
        self._looks = attempts_s
        self._opens = opens
        self._claims = claims
        self._entries = entries

    async def forget(self, app: App, install_id: str) -> ErasedCounts:
        """Forget an install of this app; an unknown one is nothing to forget. Raises ``StoreFailed``.

        Its opens go last: if this fails half-way, a retry still finds the outbox entries by their ids.
        """
        devices = self._identity.devices(app.name, install_id)
        await self._erasures.add(devices, self._unix_time())
        forgotten = await self._forget(devices)
        await self._scrub()
        return forgotten

    async def sweep(self, device: str) -> None:
        """Delete what an open that was under way left behind; never raises: a later erasure finds it, too."""
        with contextlib.suppress(StoreFailed):
            await self._forget([device])

    async def _forget(self, devices: Sequence[str]) -> ErasedCounts:
        open_ids = await self._opens.ids(devices)
        await self._looks.forget(open_ids)
        outbox = await self._entries.forget([*devices, *open_ids])
        claims = await self._claims.forget(devices)
        answers = await self._opens.forget(devices)
        return ErasedCounts(answers, claims, outbox)
